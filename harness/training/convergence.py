"""Convergence: the same training from many seeds, by the engine itself."""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch.func import functional_call

from harness.training.contract import Problem, Updates, Workload
from harness.training.gate import load
from harness.training.trial import Trial, begin


@dataclass(frozen=True)
class SeedResult:
    """How one seed ended, after the last update.

    updates: SGD updates made. loss: of the workload's loss, over all points trained on. accuracy: 0 to 1, and r2: 1 -
    residual over total sum of squares, NaN where targets are classes; both over the same points, or over those held out
    where the workload holds some out. converged: within the workload's `max_loss` and `min_accuracy`.
    epochs_to_target: the first epoch after which it was converged, counted from 1; None if never.
    """

    seed: int
    updates: int
    loss: float
    accuracy: float
    r2: float
    converged: bool
    epochs_to_target: int | None


@dataclass(frozen=True)
class Epoch:
    """How a seed stands after an epoch, counted from 1: updates made so far; the rest as of `SeedResult`."""

    number: int
    updates: int
    loss: float
    accuracy: float
    r2: float


def train_seeds(
    workload: Workload,
    problem: Problem,
    updates: Updates,
    seeds: int,
    watch: Callable[[Sequence[Epoch]], None] = lambda _epochs: None,
) -> Iterator[SeedResult]:
    """Train from seeds 0 … seeds-1 with `updates`, one after the other, and yield how each ended.

    watch(epochs) is told how a seed stood after each of its epochs.
    """
    for seed in range(seeds):
        trial = begin(workload, problem.batch_size, seed, problem.device, problem.dtype)
        epochs = list(train_epochs(workload, problem, updates, trial))
        watch(epochs)
        yield seed_result(workload, seed, epochs)


def train_epochs(
    workload: Workload, problem: Problem, updates: Updates, trial: Trial, *, only_last: bool = False
) -> Iterator[Epoch]:
    """Train one seed with `updates` and yield how it stands after each of the workload's epochs.

    only_last: look at it after the last one alone, which takes a third of the time where models are small.
    """
    load(updates, trial.parameters)
    made = 0
    for number, (inputs, targets) in zip(range(1, workload.epochs + 1), trial.epochs(), strict=False):
        updates(inputs, targets)
        made += len(inputs)
        if number == workload.epochs or not only_last:
            yield Epoch(number, made, *evaluate(workload, problem, updates, trial))


def seed_result(workload: Workload, seed: int, epochs: Sequence[Epoch]) -> SeedResult:
    """Return how a seed ended that stood so after its epochs."""
    last = epochs[-1] if epochs else Epoch(0, 0, math.nan, math.nan, math.nan)
    reached = (epoch.number for epoch in epochs if has_converged(workload, epoch.loss, epoch.accuracy))
    return SeedResult(
        seed=seed,
        updates=last.updates,
        loss=last.loss,
        accuracy=last.accuracy,
        r2=last.r2,
        converged=has_converged(workload, last.loss, last.accuracy),
        epochs_to_target=next(reached, None),
    )


@torch.no_grad()
def evaluate(workload: Workload, problem: Problem, updates: Updates, trial: Trial) -> tuple[float, float, float]:
    """Return loss, accuracy and R² of the engine's present weights over a trial's points.

    Where points are held out, accuracy and R² are of those.
    """
    weights, targets = updates.parameters(), trial.targets
    outputs = functional_call(problem.template, weights, (trial.inputs,))
    loss = problem.loss(outputs, targets).item()
    if trial.held_out is not None:
        inputs, targets = trial.held_out
        outputs = functional_call(problem.template, weights, (inputs,))
    r2 = math.nan
    if targets.is_floating_point():
        residual, total = (outputs - targets).square().sum(), (targets - targets.mean()).square().sum()
        r2 = 1 - (residual / total).item()
    return loss, workload.accuracy(outputs, targets).item(), r2


def has_converged(workload: Workload, loss: float, accuracy: float) -> bool:
    """Return whether a seed that stands so is within the workload's bounds."""
    # A NaN compares false: a seed that diverged has not converged.
    return loss < workload.targets.max_loss and accuracy > workload.targets.min_accuracy
