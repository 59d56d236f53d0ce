"""The gate: before an engine is timed and again afterwards, it is held against the float64 reference.

(a) `check_updates`: twenty updates, each checked from the engine's own state. One is not enough: activations that are
stale and gradients that were not cleared show only from the second on.
(b) `check_trajectory`: the first losses of the timed blocks themselves, against a free reference trajectory.
"""

from collections.abc import Iterable, Mapping

import torch
from torch import Tensor

from harness.plan.outcome import CaseEnded, Outcome
from harness.training.contract import Problem, Updates
from harness.training.reference import TOLERANCES, Expected, expected_update, float64_model, reference_step

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


def check_trajectory(
    problem: Problem, start: Mapping[str, Tensor], batches: Iterable[tuple[Tensor, Tensor]], losses: Tensor
) -> float:
    """Check the first losses [steps] of the timed blocks, which began at `start` and took `batches` in this order.

    Each batch is inputs [batch, features] and targets [batch, outputs]. Returns the largest relative difference as a
    share of its limit; raises CaseEnded (`rejected`), naming the step: honest in the gate, but not while timed.
    """
    model = float64_model(problem)
    limit = TOLERANCES[problem.dtype].trajectory
    parameters = dict(start)
    worst = 0.0
    for step, (value, (batch, target)) in enumerate(zip(losses.tolist(), batches, strict=False), start=1):
        expected, parameters = reference_step(model, problem, parameters, batch, target)
        error = abs(value - expected.item()) / abs(expected.item())
        if not error <= limit:
            raise CaseEnded(
                Outcome.REJECTED,
                f"while timed, the loss of update {step} is {value:.6g}; the float64 reference, trained freely from "
                f"the same weights, has {expected.item():.6g}: off by {error:.1e}, limit {limit:.1e}",
            )
        worst = max(worst, error / limit)
    return worst


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
