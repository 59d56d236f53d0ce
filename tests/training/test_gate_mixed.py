"""The gate in mixed precision. A CPU multiplies in bfloat16; TF32 is emulated by `tests/rounded.py`."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from harness.plan.mistakes import MISTAKES
from harness.plan.outcome import CaseEnded, Outcome
from harness.training.contract import Problem, Updates
from harness.training.engines.autograd import Autograd, LoopUpdates
from harness.training.gate import GATE_UPDATES, TimedBlock, check_block, check_updates, load
from harness.training.loading import load_workload
from harness.training.tolerances import TOLERANCES, units
from harness.training.trial import Trial, begin, problem_of
from tests import mistakes
from tests.rounded import InCutTF32, InFloat8, InTF32, cut_to_tf32, to_float8, to_tf32

CPU = torch.device("cpu")
# What is a mistake in float32 and is not in bfloat16, and what takes several updates to show.
ALLOWED = (mistakes.GradientInLowPrecision, mistakes.ForwardInHalfPrecision)
# What shows at any batch size and depth.
STRUCTURAL = tuple(
    mistake
    for mistake in mistakes.ALL
    if mistake not in (*ALLOWED, mistakes.LearningRateOffByOnePercent) and MISTAKES[mistake.__name__].everywhere
)


class Scaled:
    """Autograd in the case's precision at a learning rate that is off."""

    def __init__(self, factor: float, engine: Any = Autograd) -> None:
        self.factor, self.engine = factor, engine

    def prepare(self, problem: Problem, steps: int) -> Updates:
        updates: Updates = self.engine().prepare(
            replace(problem, learning_rate=self.factor * problem.learning_rate), steps
        )
        return updates


class NoBiasGradient:
    """Autograd in the case's precision that leaves out the first bias."""

    def prepare(self, problem: Problem, steps: int) -> Updates:
        model = problem.model()
        dict(model.named_parameters())["0.bias"].register_hook(torch.zeros_like)
        return LoopUpdates(model, problem.forward_loss(model), problem.learning_rate)


class Plain:
    """Autograd in float32, whatever the case says."""

    def prepare(self, problem: Problem, steps: int) -> Updates:
        return Autograd().prepare(replace(problem, mixed=""), steps)


def case(mixed: str, workload: str, batch_size: int, seed: int = 0) -> tuple[Problem, Trial]:
    loaded = load_workload(workload)
    trial = begin(loaded, batch_size, seed, CPU, torch.float32)
    return problem_of(loaded, batch_size, CPU, torch.float32, mixed), trial


def checked(engine: Any, problem: Problem, trial: Trial) -> float:
    updates = engine.prepare(problem, 20)
    updates.load(trial.parameters)
    return check_updates(problem, updates, *trial.batches(GATE_UPDATES))


def test_what_emulates_a_gpu_rounds_to_its_bits() -> None:
    values = torch.tensor([1.0, 1 + 2**-10, 1 + 2**-11, 1 + 3 * 2**-11, -(1 + 2**-10 + 2**-11 + 2**-20)])
    assert to_tf32(values).tolist() == [1.0, 1 + 2**-10, 1.0, 1 + 2**-9, -(1 + 2**-9)]
    assert cut_to_tf32(values).tolist() == [1.0, 1 + 2**-10, 1.0, 1 + 2**-10, -(1 + 2**-10)]
    assert to_float8(torch.tensor([1e-5, 0.0, 300.0])).tolist() == pytest.approx([1e-5, 0.0, 300.0], rel=2**-4)
    assert to_float8(torch.tensor([1.1])).item() == 1.125


@pytest.mark.parametrize(
    ("mixed", "engine"), [("bfloat16", Autograd), ("bfloat16", Plain), ("tf32", InTF32), ("tf32", InCutTF32)]
)
@pytest.mark.parametrize("batch_size", [10, 1000])
@pytest.mark.parametrize("workload", ["line", "line_deep"])
def test_an_honest_engine_passes_and_so_does_one_that_is_more_precise(
    workload: str, batch_size: int, mixed: str, engine: Any
) -> None:
    for seed in range(3):
        share = checked(engine(), *case(mixed, workload, batch_size, seed))
        assert 0 < share < (0.05 if engine is Plain else 1)


@pytest.mark.parametrize("mistake", [*STRUCTURAL, NoBiasGradient], ids=lambda mistake: mistake.__name__)
@pytest.mark.parametrize("mixed", ["tf32", "bfloat16"])
def test_every_mistake_of_structure_is_caught_on_every_seed(mixed: str, mistake: Any) -> None:
    # At batch 100 activations that are one update old are missed on one seed in forty.
    batch_size = 10 if mistake is mistakes.StaleActivations else 100
    for workload in ("line", "line_deep"):
        for seed in range(3):
            with pytest.raises(CaseEnded) as ended:
                checked(mistake(), *case(mixed, workload, batch_size, seed))
            assert ended.value.outcome is Outcome.WRONG_GRADIENT


@pytest.mark.parametrize(
    ("mixed", "workload", "factor"),
    [("bfloat16", "line", 1.01), ("bfloat16", "line", 0.99), ("bfloat16", "line_deep", 1.05), ("tf32", "line", 1.01)],
)
def test_a_learning_rate_that_is_off_shows_in_twenty_updates_together(mixed: str, workload: str, factor: float) -> None:
    found = set()
    for seed in range(5):
        problem, trial = case(mixed, workload, 10, seed)
        with pytest.raises(CaseEnded) as ended:
            checked(Scaled(factor, Autograd if mixed == "bfloat16" else InTF32), problem, trial)
        found.add(ended.value.reason.partition(":")[0])
    if factor in (1.01, 0.99) and mixed == "bfloat16":
        assert found == {"20 updates together"}


def test_how_much_too_long_steps_are_is_said() -> None:
    with pytest.raises(CaseEnded) as ended:
        checked(Scaled(1.02), *case("bfloat16", "line", 100))
    assert ended.value.outcome is Outcome.WRONG_GRADIENT
    assert ended.value.reason.startswith("20 updates together: steps are 1.02 times as long as the float64 reference's")


@pytest.mark.parametrize("engine", ALLOWED, ids=lambda engine: engine.__name__)
def test_what_is_a_mistake_in_float32_alone_is_none_in_bfloat16(engine: Any) -> None:
    for mixed, wrong in (("", True), ("bfloat16", False)):
        problem, trial = case(mixed, "line", 100)
        if wrong:
            with pytest.raises(CaseEnded):
                checked(engine(), problem, trial)
        else:
            assert checked(engine(), problem, trial) < 1


def test_less_precision_than_the_case_says_is_caught_though_not_from_every_seed() -> None:
    """A rounding of float8 is 16 of bfloat16, and that of bfloat16 8 of TF32: a lucky seed hides that."""
    for mixed, engine in (("bfloat16", InFloat8()), ("tf32", AsBFloat16())):
        assert Outcome.WRONG_GRADIENT in (ending(engine, *case(mixed, "line", 10, seed)) for seed in range(8))


def ending(engine: Any, problem: Problem, trial: Trial) -> Outcome:
    try:
        checked(engine, problem, trial)
    except CaseEnded as ended:
        return ended.outcome
    return Outcome.OK


class AsBFloat16:
    """Multiplies in bfloat16, whatever the case says."""

    def prepare(self, problem: Problem, steps: int) -> Updates:
        return Autograd().prepare(replace(problem, mixed="bfloat16"), steps)


def test_a_weight_is_still_rounded_as_float32() -> None:
    problem, _ = case("bfloat16", "line", 100)
    unit, plain = units(problem), units(replace(problem, mixed=""))
    assert unit.weights == plain.weights == plain.sums
    assert unit.sums == pytest.approx(TOLERANCES["bfloat16"].update * 2**-7, rel=1e-3)


# Timed blocks


class InCallsOfMany:
    """One engine for single updates, another for calls of many."""

    def __init__(self, one: Updates, many: Updates) -> None:
        self.one, self.many = one, many

    def load(self, parameters: Mapping[str, Tensor]) -> None:
        self.one.load(parameters)

    def parameters(self) -> dict[str, Tensor]:
        return self.one.parameters()

    def __call__(self, inputs: Tensor, targets: Tensor) -> Tensor:
        if len(inputs) == 1:
            return self.one(inputs, targets)
        self.many.load(self.one.parameters())
        losses = self.many(inputs, targets)
        self.one.load(self.many.parameters())
        return losses


class SkipsInCallsOfMany(InCallsOfMany):
    """Leaves out every so many-th update of a call, and says the loss before again."""

    every = 2

    def __call__(self, inputs: Tensor, targets: Tensor) -> Tensor:
        losses: list[Tensor] = []
        for step in range(len(inputs)):
            left_out = step % self.every == self.every - 1
            losses.append(losses[-1] if left_out else self.one(inputs[step : step + 1], targets[step : step + 1]))
        return torch.cat(losses)


def check_block_of(problem: Problem, updates: Updates, trial: Trial, steps: int = 60) -> None:
    load(updates, trial.parameters)
    inputs, targets = trial.batches(steps)
    losses = updates(inputs, targets).clone()
    end = {name: value.clone() for name, value in updates.parameters().items()}
    check_block(problem, updates, inputs, targets, TimedBlock(trial.parameters, losses, end))


@pytest.mark.parametrize("workload", ["line", "line_deep"])
def test_a_block_passes_and_so_does_one_that_rounds_elsewhere_than_single_updates(workload: str) -> None:
    problem, trial = case("bfloat16", workload, 100)
    rounded, plain = Autograd().prepare(problem, 20), Plain().prepare(problem, 20)
    check_block_of(problem, rounded, trial)
    check_block_of(problem, InCallsOfMany(rounded, plain), trial)
    check_block_of(problem, InCallsOfMany(plain, rounded), trial)


@pytest.mark.parametrize("workload", ["line", "line_deep"])
def test_every_second_update_skipped_in_a_block_is_caught(workload: str) -> None:
    for seed in range(3):
        problem, trial = case("bfloat16", workload, 100, seed)
        one = Autograd().prepare(problem, 20)
        with pytest.raises(CaseEnded, match="while timed") as ended:
            check_block_of(problem, SkipsInCallsOfMany(one, one), trial)
        assert ended.value.outcome is Outcome.REJECTED


def test_float8_in_calls_of_many_is_caught_in_one_of_four_blocks() -> None:
    """A process has four that are checked, and every round a process."""

    def passes(seed: int) -> bool:
        problem, trial = case("bfloat16", "line", 100, seed)
        updates = InCallsOfMany(Autograd().prepare(problem, 20), InFloat8().prepare(problem, 20))
        try:
            check_block_of(problem, updates, trial)
        except CaseEnded as ended:
            return ended.outcome is not Outcome.REJECTED
        return True

    assert not all(passes(seed) for seed in range(4))
