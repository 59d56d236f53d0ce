from collections.abc import Mapping
from typing import Any

import pytest
import torch
from torch import Tensor

from harness.plan.outcome import CaseEnded, Outcome
from harness.training.contract import Problem, Updates
from harness.training.engines.autograd import Autograd
from harness.training.engines.manual import Manual
from harness.training.gate import GATE_UPDATES, check_trajectory, check_updates
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


def test_the_losses_of_timed_blocks_are_held_against_a_free_trajectory() -> None:
    problem, trial = case("line_deep", 10)
    updates = Manual().prepare(problem, 20)
    updates.load(trial.parameters)
    inputs, targets = trial.batches(GATE_UPDATES)
    losses = updates(inputs, targets)
    batches = list(zip(inputs, targets, strict=True))
    assert check_trajectory(problem, trial.parameters, batches, losses) <= 1

    skipped = losses.clone()
    skipped[7:] = losses[6:-1]
    with pytest.raises(CaseEnded, match="loss of update 8") as ended:
        check_trajectory(problem, trial.parameters, batches, skipped)
    assert ended.value.outcome is Outcome.REJECTED
    losses[2] = torch.nan
    with pytest.raises(CaseEnded, match="loss of update 3 is nan"):
        check_trajectory(problem, trial.parameters, batches, losses)
