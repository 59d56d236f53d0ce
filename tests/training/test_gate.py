from collections.abc import Mapping
from typing import Any

import pytest
import torch
from torch import Tensor

from harness.plan.outcome import CaseEnded, Outcome
from harness.training.contract import Problem, Updates
from harness.training.engines.autograd import Autograd
from harness.training.engines.manual import Manual
from harness.training.gate import GATE_UPDATES, TimedBlock, check_block, check_updates, load
from harness.training.loading import load_workload
from harness.training.trial import Trial, begin, problem_of
from tests.mistakes import ALL, GradientsNotCleared

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


@pytest.mark.parametrize("mistake", ALL, ids=lambda mistake: mistake.__name__)
@pytest.mark.parametrize("batch_size", [10, 100, 10_000])
@pytest.mark.parametrize("workload", ["line", "line_deep"])
def test_every_mistake_is_caught_on_every_seed(workload: str, batch_size: int, mistake: Any) -> None:
    for seed in range(10 if batch_size <= 100 else 2):
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
