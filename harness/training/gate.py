"""The gate: before an engine is timed and again afterwards, it is held against the float64 reference.

(a) `check_updates`: twenty updates, each checked from the engine's own state. One is not enough: activations that are
stale and gradients that were not cleared show only from the second on.
(b) `check_block`: blocks that were timed, against a free reference trajectory over their first updates, and as a whole
against the engine's own updates made one by one, which (a) has checked.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from harness.plan.outcome import CaseEnded, Outcome
from harness.training.contract import Problem, Updates
from harness.training.reference import TOLERANCES, Expected, expected_update, float64_model

GATE_UPDATES = 20


def check_updates(problem: Problem, updates: Updates, inputs: Tensor, targets: Tensor) -> float:
    """Make one update per batch from the engine's present weights and check each; inputs [steps, batch, features].

    Returns the largest error seen, as a share of its limit. Raises CaseEnded: `wrong_gradient`, naming update, tensor,
    error and limit, or `not_converged` when the reference itself leaves the numbers of the dtype.
    """
    model = float64_model(problem)
    worst = 0.0
    for step, (batch, target) in enumerate(zip(inputs, targets, strict=True), start=1):
        before = _snapshot(updates, problem)
        expected = expected_update(model, problem, before, batch, target)
        values = (expected.loss, *expected.parameters.values())
        # The sum over a batch leaves the numbers before its mean does.
        largest = torch.finfo(problem.dtype).max / problem.batch_size
        if not all((value.abs() <= largest).all() for value in values):
            raise CaseEnded(
                Outcome.NOT_CONVERGED,
                f"training diverges: with right gradients as well, update {step} leaves the numbers that "
                f"{problem.dtype} has, at learning rate {problem.learning_rate:g}",
            )
        losses = updates(batch.unsqueeze(0), target.unsqueeze(0))
        worst = max(worst, _check_loss(step, losses, expected))
        worst = max(worst, _check_parameters(step, _snapshot(updates, problem), expected))
    return worst


@dataclass(frozen=True)
class TimedBlock:
    """A block as it was timed: the weights it began and ended with, and its losses [steps]."""

    start: Mapping[str, Tensor]
    losses: Tensor
    end: Mapping[str, Tensor]


def check_block(problem: Problem, updates: Updates, inputs: Tensor, targets: Tensor, block: TimedBlock) -> None:
    """Check a timed block that took inputs [steps, batch, features] and targets [steps, batch, outputs].

    Raises CaseEnded: `rejected`, naming the update or tensor, where the engine was honest in the gate but not while
    timed; `not_converged` where its losses left the finite numbers after a right beginning.
    """
    if block.losses.shape != (len(inputs),):
        raise CaseEnded(
            Outcome.REJECTED,
            f"while timed, {len(inputs)} updates return losses of shape {list(block.losses.shape)}",
        )
    _check_trajectory(problem, block.start, zip(inputs, targets, strict=True), block.losses[:GATE_UPDATES])
    if not block.losses.isfinite().all():
        raise CaseEnded(Outcome.NOT_CONVERGED, "training leaves the finite numbers while timed")
    limit = TOLERANCES[problem.dtype].trajectory
    load(updates, block.start)
    # A perfect fit ends where only rounding is left, relative to where it began.
    floor = limit * block.losses[0].abs()
    for first in range(0, len(inputs), 256):
        steps = range(first, min(first + 256, len(inputs)))
        honest = torch.cat([updates(inputs[i : i + 1], targets[i : i + 1]).clone() for i in steps])
        timed = block.losses[first : steps.stop]
        error = (timed - honest).abs() / (honest.abs() + floor)
        if not error.max() <= limit:
            worst = int(error.argmax())
            raise CaseEnded(
                Outcome.REJECTED,
                f"while timed, the loss of update {first + worst + 1} is {timed[worst].item():.6g}; the same "
                f"updates made one by one give {honest[worst].item():.6g}: off by {error.max().item():.1e}, "
                f"limit {limit:.1e}",
            )
    for name, value in updates.parameters().items():
        gap = (block.end[name] - value).abs().max().item()
        if not gap <= limit * (1 + value.abs().max().item()):
            raise CaseEnded(
                Outcome.REJECTED,
                f"while timed, a block ends with {name} off by {gap:.1e} from the same updates made one by one",
            )


def load(updates: Updates, parameters: Mapping[str, Tensor]) -> None:
    """Load weights and check that they are there; raises CaseEnded (`wrong_gradient`) when they are not."""
    updates.load(parameters)
    now = updates.parameters()
    for name, value in parameters.items():
        if name not in now or not torch.equal(now[name], value):
            raise CaseEnded(Outcome.WRONG_GRADIENT, f"load does not load: {name} is not what was to be loaded")


def _check_trajectory(
    problem: Problem, start: Mapping[str, Tensor], batches: Iterable[tuple[Tensor, Tensor]], losses: Tensor
) -> None:
    """Hold losses against float64 updates from `start` that never look at the engine again."""
    model = float64_model(problem)
    limit = TOLERANCES[problem.dtype].trajectory
    parameters: Mapping[str, Tensor] = start
    for step, (value, (batch, target)) in enumerate(zip(losses.tolist(), batches, strict=False), start=1):
        reference = expected_update(model, problem, parameters, batch, target)
        expected, parameters = reference.loss.item(), reference.parameters
        error = abs(value - expected)
        if not error <= limit * abs(expected) + reference.loss_limit.item():
            raise CaseEnded(
                Outcome.REJECTED,
                f"while timed, the loss of update {step} is {value:.6g}; the float64 reference, trained freely from "
                f"the same weights, has {expected:.6g}: off by {error:.1e}, limit {limit * abs(expected):.1e}",
            )


def _snapshot(updates: Updates, problem: Problem) -> dict[str, Tensor]:
    """Copy the engine's weights, checking that they are what the contract says."""
    weights = {name: value.detach().clone() for name, value in updates.parameters().items()}
    for name, wanted in problem.template.named_parameters():
        if name not in weights:
            raise CaseEnded(Outcome.WRONG_GRADIENT, f"the engine returns no parameter {name}")
        if weights[name].shape != wanted.shape or weights[name].dtype != wanted.dtype:
            raise CaseEnded(
                Outcome.WRONG_GRADIENT,
                f"the engine's {name} is {weights[name].dtype} {list(weights[name].shape)}, "
                f"the model's {wanted.dtype} {list(wanted.shape)}",
            )
    return weights


def _check_loss(step: int, losses: Tensor, expected: Expected) -> float:
    if losses.shape != (1,):
        raise CaseEnded(
            Outcome.WRONG_GRADIENT, f"one update returns losses of shape {list(losses.shape)} instead of [1]"
        )
    error = abs(losses[0].item() - expected.loss.item())
    limit = expected.loss_limit.item()
    if not error <= limit:
        raise CaseEnded(
            Outcome.WRONG_GRADIENT,
            f"update {step}: loss is {losses[0].item():.7g}, the float64 reference {expected.loss.item():.7g}: "
            f"off by {error:.1e}, limit {limit:.1e}",
        )
    return error / limit if limit else 0.0


def _check_parameters(step: int, after: Mapping[str, Tensor], expected: Expected) -> float:
    worst, fault = 0.0, ""
    for name, wanted in expected.parameters.items():
        error = (after[name].double() - wanted).abs()
        # A value that is no number is off by more than any limit.
        share = torch.nan_to_num(error / expected.limits[name].clamp_min(1e-300), nan=torch.inf)
        if share.max().item() > worst:
            worst = share.max().item()
            index = torch.unravel_index(share.argmax(), share.shape)
            place = f"{name}[{', '.join(str(int(axis)) for axis in index)}]"
            fault = (
                f"update {step}: {place} is {after[name][index].item():.7g}, the float64 reference "
                f"{wanted[index].item():.7g}: off by {error[index].item():.1e}, "
                f"limit {expected.limits[name][index].item():.1e}"
            )
    if worst > 1:
        raise CaseEnded(Outcome.WRONG_GRADIENT, fault)
    return worst
