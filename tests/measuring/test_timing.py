from collections.abc import Callable, Mapping

import pytest
import torch
from torch import Tensor

from harness.measuring.clocks import monotonic_ns
from harness.measuring.sampling import Rule
from harness.measuring.timing import CHECKED_BLOCKS, check_timed, time_updates
from harness.plan.outcome import CaseEnded, Outcome
from harness.training.contract import Problem, Updates
from harness.training.engines.manual import Manual
from harness.training.loading import load_workload
from harness.training.trial import Trial, begin, problem_of

MS = 1_000_000
RULE = Rule(block_ns=2 * MS, max_steps=500, warm_up_ns=2 * MS, min_blocks=8, budget_ns=20 * MS)
CPU = torch.device("cpu")


@pytest.fixture
def case() -> tuple[Problem, Trial, Updates]:
    workload = load_workload("line")
    problem = problem_of(workload, 10, CPU, torch.float32)
    return problem, begin(workload, 10, 0, CPU, torch.float32), Manual().prepare(problem, 20)


Case = tuple[Problem, Trial, Updates]


class WhileTimed:
    """The manual engine, but calls of more than one update go through a function of the test's."""

    def __init__(self, inner: Updates, instead: Callable[[Updates, Tensor, Tensor], Tensor]) -> None:
        self.inner, self.instead = inner, instead
        self.loaded: list[Mapping[str, Tensor]] = []

    def load(self, parameters: Mapping[str, Tensor]) -> None:
        self.loaded.append(parameters)
        self.inner.load(parameters)

    def __call__(self, inputs: Tensor, targets: Tensor) -> Tensor:
        if len(inputs) == 1:
            return self.inner(inputs, targets)
        return self.instead(self.inner, inputs, targets)

    def parameters(self) -> dict[str, Tensor]:
        return self.inner.parameters()


def timed_and_checked(case: Case, instead: Callable[[Updates, Tensor, Tensor], Tensor]) -> WhileTimed:
    problem, trial, inner = case
    updates = WhileTimed(inner, instead)
    check_timed(problem, updates, time_updates(problem, updates, trial, monotonic_ns, RULE))
    return updates


def test_honest_updates_are_timed_and_pass(case: Case) -> None:
    problem, trial, updates = case
    timed = time_updates(problem, updates, trial, monotonic_ns, RULE)
    assert len(timed.checked) == CHECKED_BLOCKS
    assert timed.facts["blocks"] >= RULE.min_blocks
    assert timed.facts["step_ns"] > 0
    assert 0 <= check_timed(problem, updates, timed) <= 1


def test_no_two_blocks_begin_with_the_same_weights(case: Case) -> None:
    updates = timed_and_checked(case, lambda inner, inputs, targets: inner(inputs, targets))
    begun = [weights["0.weight"] for weights in updates.loaded[: RULE.min_blocks]]
    assert len({tuple(weight.flatten().tolist()) for weight in begun}) == RULE.min_blocks


def test_losses_in_memory_that_is_used_again_are_taken_in_time(case: Case) -> None:
    memory = torch.empty(100_000)

    def reuse(inner: Updates, inputs: Tensor, targets: Tensor) -> Tensor:
        losses = memory[: len(inputs)]
        losses.copy_(inner(inputs, targets))
        return losses

    timed_and_checked(case, reuse)


def remembered(case: Case) -> Callable[[Updates, Tensor, Tensor], Tensor]:
    kept: dict[int, Tensor] = {}

    def cheat(inner: Updates, inputs: Tensor, targets: Tensor) -> Tensor:
        if len(inputs) not in kept:
            kept[len(inputs)] = inner(inputs, targets).clone()
        return kept[len(inputs)]

    return cheat


def every_second(inner: Updates, inputs: Tensor, targets: Tensor) -> Tensor:
    return inner(inputs[::2], targets[::2]).repeat_interleave(2)[: len(inputs)]


def honest_for_twenty(inner: Updates, inputs: Tensor, targets: Tensor) -> Tensor:
    losses = torch.full((len(inputs),), 0.01)
    losses[:20] = inner(inputs[:20], targets[:20])
    return losses


def losses_alone(inner: Updates, inputs: Tensor, targets: Tensor) -> Tensor:
    before = {name: value.clone() for name, value in inner.parameters().items()}
    losses = inner(inputs, targets).clone()
    inner.load(before)
    return losses


@pytest.mark.parametrize("cheat", [every_second, honest_for_twenty, losses_alone, remembered])
def test_an_engine_that_cheats_only_while_timed_is_rejected(case: Case, cheat: Callable[..., Tensor]) -> None:
    instead = cheat(case) if cheat is remembered else cheat
    with pytest.raises(CaseEnded, match="while timed") as ended:
        timed_and_checked(case, instead)
    assert ended.value.outcome is Outcome.REJECTED
