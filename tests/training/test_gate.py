from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from harness.plan.outcome import CaseEnded, Outcome
from harness.training import gate
from harness.training.contract import Problem, Updates
from harness.training.engines.autograd import Autograd
from harness.training.engines.manual import Manual
from harness.training.gate import GATE_UPDATES, TimedBlock, check_block, check_updates, copied, load
from harness.training.loading import load_workload
from harness.training.mistakes.update import GradientsNotCleared
from harness.training.rules import LAYER_RULES, LinearRule
from harness.training.trial import Trial, begin, problem_of
from tests.mistakes import ALL, places_of

CPU = torch.device("cpu")


def case(workload: str, batch_size: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> tuple[Problem, Trial]:
    loaded = load_workload(workload)
    return problem_of(loaded, batch_size, CPU, dtype), begin(loaded, batch_size, seed, CPU, dtype)


def checked(engine: Any, problem: Problem, trial: Trial) -> float:
    updates = engine.prepare(problem, 20)
    updates.load(trial.parameters)
    return check_updates(problem, updates, *trial.batches(GATE_UPDATES))


class Wrapped:
    """Autograd whose updates go through a function of the test's."""

    def __init__(self, inner: Updates) -> None:
        self.inner = inner

    def load(self, parameters: Mapping[str, Tensor]) -> None:
        self.inner.load(parameters)

    def __call__(self, inputs: Tensor, targets: Tensor) -> Tensor:
        return self.inner(inputs, targets)

    def parameters(self) -> dict[str, Tensor]:
        return self.inner.parameters()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("engine", [Manual(), Autograd()])
@pytest.mark.parametrize("batch_size", [10, 100, 1000, 10_000])
@pytest.mark.parametrize("workload", ["line", "line_deep"])
def test_an_honest_engine_passes(workload: str, batch_size: int, engine: Any, dtype: torch.dtype) -> None:
    for seed in range(10 if batch_size <= 1000 else 2):
        problem, trial = case(workload, batch_size, seed, dtype)
        assert 0 < checked(engine, problem, trial) <= 1


@pytest.mark.parametrize(
    ("mistake", "workload", "batch_size"),
    [(mistake, *place) for mistake in ALL for place in places_of(mistake)],
    ids=lambda value: getattr(value, "__name__", str(value)),
)
def test_every_mistake_is_caught_on_every_seed(workload: str, batch_size: int, mistake: Any) -> None:
    for seed in range(5 if batch_size <= 100 else 2):
        problem, trial = case(workload, batch_size, seed)
        with pytest.raises(CaseEnded) as ended:
            checked(mistake(), problem, trial)
        assert ended.value.outcome is Outcome.WRONG_GRADIENT
        assert "off by" in ended.value.reason
        assert "limit" in ended.value.reason


def test_a_mistake_that_shows_late_is_named_with_its_update_and_tensor() -> None:
    problem, trial = case("line", 100)
    with pytest.raises(CaseEnded, match=r"^update 2: (0|2)\.(weight|bias)\[") as ended:
        checked(GradientsNotCleared(), problem, trial)
    assert "\n" not in ended.value.reason


def test_a_loss_that_is_not_that_of_the_batch_is_caught() -> None:
    class Flattering(Wrapped):
        def __call__(self, inputs: Tensor, targets: Tensor) -> Tensor:
            return super().__call__(inputs, targets) * 0.999

    problem, trial = case("line", 100)
    updates = Flattering(Autograd().prepare(problem, 1))
    updates.load(trial.parameters)
    with pytest.raises(CaseEnded, match="update 1: loss is"):
        check_updates(problem, updates, *trial.batches(3))


def test_a_weight_that_is_no_number_is_caught() -> None:
    class Broken(Wrapped):
        def parameters(self) -> dict[str, Tensor]:
            return {name: torch.full_like(value, torch.nan) for name, value in super().parameters().items()}

    problem, trial = case("line", 100)
    updates = Broken(Autograd().prepare(problem, 1))
    updates.load(trial.parameters)
    with pytest.raises(CaseEnded):
        check_updates(problem, updates, *trial.batches(1))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda _weights: {}, "no parameter 0.weight"),
        (lambda weights: {name: value.double() for name, value in weights.items()}, "torch.float64"),
        (lambda weights: {name: value.flatten() for name, value in weights.items()}, r"\[10\]"),
    ],
)
def test_weights_must_be_what_the_model_has(change: Any, said: str) -> None:
    class Odd(Wrapped):
        def parameters(self) -> dict[str, Tensor]:
            return dict(change(super().parameters()))

    problem, trial = case("line", 100)
    updates = Odd(Autograd().prepare(problem, 1))
    updates.load(trial.parameters)
    with pytest.raises(CaseEnded, match=said):
        check_updates(problem, updates, *trial.batches(1))


def test_losses_must_be_one_per_update() -> None:
    class Mean(Wrapped):
        def __call__(self, inputs: Tensor, targets: Tensor) -> Tensor:
            return super().__call__(inputs, targets).mean()

    problem, trial = case("line", 100)
    updates = Mean(Autograd().prepare(problem, 1))
    updates.load(trial.parameters)
    with pytest.raises(CaseEnded, match=r"shape \[\]"):
        check_updates(problem, updates, *trial.batches(1))


def test_training_that_diverges_is_not_blamed_on_the_engine() -> None:
    problem, trial = case("line", 100)
    wild = Problem(problem.template, problem.loss, 1e30, problem.batch_size)
    with pytest.raises(CaseEnded, match="diverges") as ended:
        checked(Autograd(), wild, trial)
    assert ended.value.outcome is Outcome.NOT_CONVERGED


def timed(workload: str, batch_size: int, steps: int) -> tuple[Problem, Updates, Tensor, Tensor, TimedBlock]:
    problem, trial = case(workload, batch_size)
    updates = Manual().prepare(problem, 20)
    load(updates, trial.parameters)
    inputs, targets = trial.batches(steps)
    losses = updates(inputs, targets).clone()
    end = {name: value.clone() for name, value in updates.parameters().items()}
    return problem, updates, inputs, targets, TimedBlock(trial.parameters, losses, end)


@pytest.mark.parametrize(("workload", "batch_size"), [("line", 100), ("line_deep", 10), ("line_deep", 1000)])
def test_a_timed_block_that_did_its_work_passes(workload: str, batch_size: int) -> None:
    check_block(*timed(workload, batch_size, 200))


@pytest.mark.parametrize("skipped", [0, 7, 19, 20, 50, 150])
def test_an_update_skipped_in_a_timed_block_is_caught_wherever_it_is(skipped: int) -> None:
    problem, updates, inputs, targets, block = timed("line_deep", 10, 200)
    load(updates, block.start)
    honest = updates(inputs[:skipped], targets[:skipped]).clone() if skipped else inputs.new_empty(0)
    rest = updates(inputs[skipped + 1 :], targets[skipped + 1 :]).clone()
    losses = torch.cat([honest, block.losses[skipped : skipped + 1], rest])
    cheat = TimedBlock(block.start, losses, block.end)
    with pytest.raises(CaseEnded, match="while timed") as ended:
        check_block(problem, updates, inputs, targets, cheat)
    assert ended.value.outcome is Outcome.REJECTED


def at_kink(trial: Trial, unit: int, point: int, off: float) -> Trial:
    """The trial with the kink of a unit of the first layer so far from a point of the first batch, in roundings."""
    weight, bias = list(trial.parameters)[:2]
    parameters = {name: value.clone() for name, value in trial.parameters.items()}
    there = -parameters[weight][unit, 0] * trial.batches(1)[0][0, point, 0]
    parameters[bias][unit] = there + off * torch.finfo(torch.float32).eps * abs(there)
    return replace(trial, parameters=parameters)


class OnTheOtherSide(Wrapped):
    """Where it begins at a kink, it begins as if a few roundings beside it; in calls of many alone, or in all."""

    def __init__(self, inner: Updates, here: Trial, there: Trial, *, only_many: bool) -> None:
        super().__init__(inner)
        self.here, self.there, self.only_many = here.parameters, there.parameters, only_many

    def __call__(self, inputs: Tensor, targets: Tensor) -> Tensor:
        now = self.inner.parameters()
        begins = all(torch.equal(now[name], value) for name, value in self.here.items())
        if begins and not (self.only_many and len(inputs) == 1):
            self.inner.load(self.there)
        return super().__call__(inputs, targets)


@pytest.mark.parametrize("only_many", [True, False])
@pytest.mark.parametrize("off", [2, -2])
@pytest.mark.parametrize(
    ("workload", "batch_size", "seed", "unit", "point"),
    [("line", 100, 10, 7, 0), ("line", 100, 0, 5, 99), ("line", 10, 6, 6, 9), ("line_deep", 10, 1, 9, 3)],
)
def test_a_point_within_rounding_of_a_kink_may_be_on_either_side(
    workload: str, batch_size: int, seed: int, unit: int, point: int, off: float, only_many: bool
) -> None:
    problem, trial = case(workload, batch_size, seed)
    here, there = (at_kink(trial, unit, point, side) for side in (off, -off))
    plain = Manual().prepare(problem, 20)
    updates = OnTheOtherSide(Manual().prepare(problem, 20), here, there, only_many=only_many)
    inputs, targets, block = block_of(updates, here, 60)
    mine = block_of(plain, here, 60)[2].losses
    assert ((block.losses - mine).abs() / mine)[:GATE_UPDATES].max() > 0.04
    check_block(problem, updates, inputs, targets, block)
    load(updates, here.parameters)
    losses = [updates(inputs[:30], targets[:30]).clone(), updates(inputs[31:], targets[31:]).clone()]
    skips = TimedBlock(here.parameters, torch.cat([losses[0], losses[0][-1:], losses[1]]), copied(updates.parameters()))
    with pytest.raises(CaseEnded, match=r"while timed|not those of a timed block"):
        check_block(problem, updates, inputs, targets, skips)


def test_losses_without_the_weights_that_belong_to_them_are_caught() -> None:
    problem, updates, inputs, targets, block = timed("line", 100, 40)
    lazy = TimedBlock(block.start, block.losses, block.start)
    with pytest.raises(CaseEnded, match=r"ends with 0\.weight off"):
        check_block(problem, updates, inputs, targets, lazy)


def test_a_timed_block_returns_one_loss_per_update() -> None:
    problem, updates, inputs, targets, block = timed("line", 100, 40)
    short = TimedBlock(block.start, block.losses[:30], block.end)
    with pytest.raises(CaseEnded, match=r"40 updates return losses of shape \[30\]"):
        check_block(problem, updates, inputs, targets, short)


def test_a_loss_that_is_no_number_is_caught_in_a_timed_block() -> None:
    problem, updates, inputs, targets, block = timed("line", 100, 40)
    for step, outcome in ((2, Outcome.REJECTED), (35, Outcome.NOT_CONVERGED)):
        losses = block.losses.clone()
        losses[step] = torch.nan
        with pytest.raises(CaseEnded) as ended:
            check_block(problem, updates, inputs, targets, TimedBlock(block.start, losses, block.end))
        assert ended.value.outcome is outcome


def test_a_perfect_fit_is_no_reason_to_reject() -> None:
    """Near a loss of 0 only rounding is left, and honest engines differ in all of it."""
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(1, 1))
    problem = Problem(model, torch.nn.MSELoss(), 0.45, 100)
    inputs = torch.linspace(-1, 1, 100).reshape(1, 100, 1).expand(100, 100, 1)
    targets = 2 * inputs + 1
    updates = Autograd().prepare(problem, 20)
    start = {name: value.clone() for name, value in updates.parameters().items()}
    losses = updates(inputs, targets)
    assert losses[-1] < 1e-10
    check_block(problem, updates, inputs, targets, TimedBlock(start, losses, updates.parameters()))


def test_an_engine_that_does_not_load_is_caught() -> None:
    class Stuck(Wrapped):
        def load(self, parameters: Mapping[str, Tensor]) -> None: ...

    problem, trial = case("line", 100, seed=3)
    with pytest.raises(CaseEnded, match=r"load does not load: 0\.weight"):
        load(Stuck(Autograd().prepare(problem, 1)), trial.parameters)


# Calls of many updates that are another thing than calls of one


class HalfGradient(LinearRule):
    """Casts the gradient of its outputs to half precision and back."""

    def backward(self, delta: Tensor, learning_rate: float) -> Tensor:
        return super().backward(delta.to(torch.float16).to(delta.dtype), learning_rate)


class InHalf(Manual):
    layer_rules = {**LAYER_RULES, torch.nn.Linear: HalfGradient}


class Unrolled(Wrapped):
    """Makes `unroll` updates at a time by one engine, and what is left of a call by another."""

    def __init__(self, inner: Updates, many: Updates, unroll: int = 2) -> None:
        super().__init__(inner)
        self.many, self.unroll = many, unroll

    def __call__(self, inputs: Tensor, targets: Tensor) -> Tensor:
        whole = len(inputs) // self.unroll * self.unroll
        losses = []
        if whole:
            self.many.load(self.inner.parameters())
            losses.append(self.many(inputs[:whole], targets[:whole]).clone())
            self.inner.load(self.many.parameters())
        if whole < len(inputs):
            losses.append(self.inner(inputs[whole:], targets[whole:]).clone())
        return torch.cat(losses)


def block_of(updates: Updates, trial: Trial, steps: int) -> tuple[Tensor, Tensor, TimedBlock]:
    load(updates, trial.parameters)
    inputs, targets = trial.batches(steps)
    losses = updates(inputs, targets).clone()
    end = {name: value.clone() for name, value in updates.parameters().items()}
    return inputs, targets, TimedBlock(trial.parameters, losses, end)


@pytest.mark.parametrize("steps", [5, 40, 47, 48, 250])
@pytest.mark.parametrize(("workload", "batch_size"), [("line", 100), ("line_deep", 10), ("line_deep", 1000)])
def test_an_honest_engine_whose_calls_of_many_take_other_kernels_passes(
    workload: str, batch_size: int, steps: int
) -> None:
    for seed in range(3):
        problem, trial = case(workload, batch_size, seed)
        updates = Unrolled(Manual().prepare(problem, 20), Autograd().prepare(problem, 20), unroll=8)
        check_block(problem, updates, *block_of(updates, trial, steps))


@pytest.mark.parametrize(
    ("workload", "batch_size", "steps", "missed"),
    [("line", 100, 40, 0), ("line", 100, 200, 0), ("line_deep", 10, 40, 1), ("line_deep", 10, 200, 0)],
)
def test_gradients_in_half_precision_in_calls_of_many_alone_are_caught(
    workload: str, batch_size: int, steps: int, missed: int
) -> None:
    """In one block of a hundred they do less than a point at its kink may; a process has four that are checked."""
    caught = []
    for seed in range(6):
        problem, trial = case(workload, batch_size, seed)
        updates = Unrolled(Manual().prepare(problem, 20), InHalf().prepare(problem, 20), unroll=2)
        load(updates, trial.parameters)
        check_updates(problem, updates, *trial.batches(GATE_UPDATES))  # one by one it is honest
        try:
            check_block(problem, updates, *block_of(updates, trial, steps))
        except CaseEnded as ended:
            caught.append(ended.outcome)
    assert caught.count(Outcome.REJECTED) >= 6 - missed


def test_one_update_between_two_calls_of_many_shows_half_precision_and_nothing_honest() -> None:
    for steps in (2, 5):  # later the gradients are small, and so is what their precision changes
        problem, trial = case("line_deep", 10)
        honest = Unrolled(Manual().prepare(problem, 20), Autograd().prepare(problem, 20), unroll=2)
        gate._check_last_update(problem, honest, *block_of(honest, trial, steps))
        wrong = InHalf().prepare(problem, 20)
        with pytest.raises(CaseEnded, match=f"{steps + 1} updates are not those of a timed block and one more"):
            gate._check_last_update(problem, wrong, *block_of(wrong, trial, steps))


def test_work_that_is_left_out_in_the_block_and_in_its_replay_alike_is_caught_in_single_updates() -> None:
    problem, trial = case("line", 100)
    updates = InHalf().prepare(problem, 20)
    inputs, targets, block = block_of(updates, trial, 20)  # later, gradients are too small to tell
    with pytest.raises(CaseEnded, match=r"while timed, update \d+ of a block is wrong: \d") as ended:
        check_block(problem, updates, inputs, targets, block)
    assert ended.value.outcome is Outcome.REJECTED


def test_a_block_of_fewer_updates_than_are_checked_singly_is_checked_in_all() -> None:
    problem, trial = case("line", 100)
    for steps in (1, 3, 8):
        updates = Manual().prepare(problem, 20)
        check_block(problem, updates, *block_of(updates, trial, steps))
        wrong = InHalf().prepare(problem, 20)
        with pytest.raises(CaseEnded):
            check_block(problem, wrong, *block_of(wrong, trial, steps))


def test_the_updates_of_a_block_that_are_checked_singly_are_others_each_time() -> None:
    problem, trial = case("line", 100)
    honest, seen = Manual().prepare(problem, 20), set()

    class WrongOnce(Wrapped):
        """Makes one single update of the replay wrong, and is caught where that one was chosen."""

        calls = 0

        def __call__(self, inputs: Tensor, targets: Tensor) -> Tensor:
            losses = super().__call__(inputs, targets)
            if len(inputs) == 1:
                self.calls += 1
                if self.calls == 3:
                    weights = {name: value * (1 + 3e-6) for name, value in self.inner.parameters().items()}
                    self.inner.load(weights)
            return losses

    for _ in range(60):
        updates = WrongOnce(honest)
        arguments = block_of(updates, trial, 24)
        try:
            check_block(problem, updates, *arguments)
        except CaseEnded as ended:
            seen.add("a block is wrong" in ended.reason)
        else:
            seen.add(None)
    assert True in seen  # it was chosen once: a third of the updates are
    assert len(seen) > 1  # and another time it was not
