"""The gate: before an engine is timed and again afterwards, it is held against the float64 reference.

(a) `check_updates`: twenty updates, each checked from the engine's own state. One is not enough: activations that are
stale and gradients that were not cleared show only from the second on.
(b) `check_block`: blocks that were timed, against a free reference trajectory over their first updates, and as a whole
against the engine's own updates made one by one, some of which are checked as in (a). Where the two are not the same to
the last bit, the whole block is held against the reference, within what rounding does to it.
"""

import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from harness.plan.outcome import CaseEnded, Outcome
from harness.training import ranks
from harness.training.contract import Problem, Updates
from harness.training.reference import Expected, expected_update, float64_model, trained_freely
from harness.training.together import Together
from harness.training.tolerances import TOLERANCES
from harness.training.trial import each

GATE_UPDATES = 20
# Single updates of a timed block that are checked as those of the gate.
SINGLE_UPDATES = 8
# An engine that unrolls may take another graph for the last updates of a call: a few units of rounding, in units of the
# gate's limit. A gradient cast to fp16 shows as 40.
CALLS_OF_MANY = 4.0
# What weights may differ by however stable training is: so many roundings of what they are stored in, or the so many-th
# part of one of what they are multiplied in.
STORED = 16.0
# The error that rounding makes is the largest so many updates before and after.
NEARBY = 20
# Updates of a block that are held against the reference where it is not that of single updates to the last bit.
REFERENCE_UPDATES = 1000
# Ways that rounding may go which are tried before a block is called wrong (`reference.trained_freely`), and how many
# times as far as by those that take another side of kinks it may be off: once, and what chance leaves out. In float32
# one honest block of `line` in 60,000 is further off than trajectories are, over a kink within its first updates. Of
# 400 that take other kernels than single updates (1,000 updates of `line`, 600 of `line_deep`) 5 were further off than
# by the first way, 1 by all. Gradients cast to float16 in such blocks still show in 119 of 120.
ROUNDINGS = 8
OTHER_SIDES = 2.0


def check_updates(problem: Problem, updates: Updates, inputs: Tensor, targets: Tensor) -> float:
    """Make one update per batch from the engine's present weights and check each; inputs [steps, batch, features].

    Returns the largest error seen, as a share of its limit. Raises CaseEnded: `wrong_gradient`, naming update, tensor,
    error and limit, or `not_converged` when the reference itself leaves the numbers of the dtype.
    """
    model = float64_model(problem)
    worst, together = 0.0, Together()
    for step, (batch, target) in enumerate(zip(inputs, targets, strict=True), start=1):
        before = _snapshot(updates, problem)
        expected = _expected(model, problem, step, before, batch, target)
        losses = updates(batch.unsqueeze(0), target.unsqueeze(0))
        with ranks.together():
            worst = max(worst, _check_loss(step, losses, expected))
            after = _snapshot(updates, problem)
            worst = max(worst, _check_parameters(step, after, expected))
        if problem.mixed:  # else the limits of each weight say all that those of all together do
            together.add(before, after, expected)
        ranks.check_same(after, f"update {step}: ")
    if len(inputs) < GATE_UPDATES or not problem.mixed:
        return worst
    with ranks.together():
        return max(worst, together.check(problem))


def _expected(
    model: nn.Module, problem: Problem, step: int, before: Mapping[str, Tensor], batch: Tensor, target: Tensor
) -> Expected:
    """Return the reference update, or raise CaseEnded (`not_converged`) where it leaves the numbers of the dtype."""
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
    return expected


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
    with ranks.together():
        if block.losses.shape != (len(inputs),):
            raise CaseEnded(
                Outcome.REJECTED,
                f"while timed, {len(inputs)} updates return losses of shape {list(block.losses.shape)}",
            )
        _check_trajectory(problem, block, inputs, targets)
        if not block.losses.isfinite().all():
            raise CaseEnded(Outcome.NOT_CONVERGED, "training leaves the finite numbers while timed")
    ranks.check_same(block.end, "while timed, ", Outcome.REJECTED)
    losses, end = _made_singly(problem, updates, inputs, targets, block.start)
    same = torch.equal(block.losses, losses) and all(torch.equal(block.end[name], value) for name, value in end.items())
    if all(ranks.told_all(same)):
        return
    with ranks.together():
        _check_rounding(problem, inputs, targets, block, losses, end)
    _check_last_update(problem, updates, inputs, targets, block)


def _made_singly(
    problem: Problem, updates: Updates, inputs: Tensor, targets: Tensor, start: Mapping[str, Tensor]
) -> tuple[Tensor, dict[str, Tensor]]:
    """Make the updates of a timed block one by one; return their losses [steps] and the weights they end with.

    Some, chosen by chance, are checked as `check_updates` does: an engine could leave out the same work in both. The
    weights are looked at after every update, so that none can tell which.
    """
    load(updates, start)
    model = float64_model(problem)
    # Not by torch's or Python's generator: an engine may seed those.
    checked = set(ranks.chance().sample(range(len(inputs)), min(SINGLE_UPDATES, len(inputs))))
    losses = []
    now = updates.parameters()
    singles = zip(each(inputs.unsqueeze(1)), each(targets.unsqueeze(1)), strict=True)
    for step, (batch, target) in enumerate(singles):
        expected = None
        if step in checked:
            expected = _expected(model, problem, step + 1, copied(now), batch[0], target[0])
        losses.append(updates(batch, target).detach().clone())
        now = updates.parameters()
        if expected is not None:
            with ranks.together():
                _check_single(step + 1, losses[-1], copied(now), expected)
    return torch.cat(losses), copied(now)


def _check_single(step: int, losses: Tensor, after: Mapping[str, Tensor], expected: Expected) -> None:
    """Check one update of a timed block, made once more; raises CaseEnded (`rejected`)."""
    try:
        _check_loss(step, losses, expected)
        _check_parameters(step, after, expected)
    except CaseEnded as ended:
        reason = ended.reason.removeprefix(f"update {step}: ")
        raise CaseEnded(Outcome.REJECTED, f"while timed, update {step} of a block is wrong: {reason}") from ended


def _check_rounding(
    problem: Problem,
    inputs: Tensor,
    targets: Tensor,
    block: TimedBlock,
    losses: Tensor,
    end: Mapping[str, Tensor],
) -> None:
    """Check that a block differs from the same updates made one by one, and from the reference, only by rounding.

    What rounding does to it is measured (`_moved_by_rounding`): where training is unstable that is much, elsewhere a
    few units.
    """
    count = min(len(inputs), REFERENCE_UPDATES)
    clean, right = trained_freely(problem, inputs[:count], targets[:count], block.start)
    tolerance = TOLERANCES[problem.precision]
    unit = tolerance.roundings * tolerance.eps
    stored = max(STORED * torch.finfo(problem.dtype).eps, tolerance.eps / STORED)

    def fault(moved: _Moved) -> str:
        allowed = moved.losses + unit * clean.abs()
        # Beyond, the engine's own updates are the measure: an error grows and shrinks there as it did before.
        loose = tolerance.trajectory * (losses.abs() + losses[0].abs()) + allowed.max()
        found = _off_by("the float64 reference has", block.losses[:count], clean, allowed)
        found = found or _off_by("the same updates made one by one give", block.losses, losses.double(), loose)
        for name, value in (right if count == len(inputs) else end).items():
            gap = (block.end[name] - value).abs().max().item()
            least = tolerance.roundings * stored * (1 + value.abs().max().item())
            limit = max(moved.weights[name], least)
            if not found and not gap <= limit:
                found = (
                    f"a block ends with {name} off by {gap:.1e} from the same updates made one by one, "
                    f"limit {limit:.1e}"
                )
        return found

    ways = _moved_by_rounding(problem, inputs[:count], targets[:count], block.start, clean, right, range(ROUNDINGS))
    _reject_unless_rounding(fault, ways)


@dataclass(frozen=True)
class _Moved:
    """How far rounding may move a block: its losses [steps], and the furthest of each parameter's values, by name."""

    losses: Tensor
    weights: Mapping[str, float]


def _moved_by_rounding(
    problem: Problem,
    inputs: Tensor,
    targets: Tensor,
    start: Mapping[str, Tensor],
    clean: Tensor,
    right: Mapping[str, Tensor],
    ways: range,
) -> Iterator[_Moved]:
    """Yield how far a block may be moved, by one of the ways more that rounding may go each time (`trained_freely`).

    clean, right: losses [steps] and weights of the reference, which is trained once more for each way.
    """
    losses, weights = torch.zeros_like(clean), dict.fromkeys(right, 0.0)
    # In mixed precision the first way has all that others could have.
    for rounding in range(ways.start, 1) if problem.mixed else ways:
        times = OTHER_SIDES if rounding else TOLERANCES[problem.precision].roundings
        noisy, off = trained_freely(problem, inputs, targets, start, rounding=rounding)
        # At single updates the two may meet by chance.
        nearby = functional.max_pool1d((noisy - clean).abs()[None], 2 * NEARBY + 1, stride=1, padding=NEARBY)[0]
        losses = torch.maximum(losses, times * nearby)
        weights = {
            name: max(weights[name], times * (off[name] - value).abs().max().item()) for name, value in right.items()
        }
        yield _Moved(losses, weights)


def _reject_unless_rounding(fault: Callable[[_Moved], str], ways: Iterable[_Moved]) -> None:
    """Raise CaseEnded (`rejected`) where there is a fault by all the ways that rounding may go."""
    found = ""
    for moved in ways:
        found = fault(moved)
        if not found:
            return
    raise CaseEnded(Outcome.REJECTED, f"while timed, {found}")


def _off_by(what: str, timed: Tensor, wanted: Tensor, allowed: Tensor) -> str:
    """Return which is the first loss of a block [steps] that is further off than allowed, or nothing."""
    error = (timed.double() - wanted).abs()
    wrong = ~(error <= allowed)
    if not wrong.any():
        return ""
    step = int(wrong.int().argmax())
    return (
        f"the loss of update {step + 1} is {timed[step].item():.7g}; {what} {wanted[step].item():.7g}: off by "
        f"{error[step].item():.1e}, limit {allowed[step].item():.1e}"
    )


def _check_last_update(problem: Problem, updates: Updates, inputs: Tensor, targets: Tensor, block: TimedBlock) -> None:
    """Check one update between two calls of many, for engines whose calls of one are another thing.

    The block's batches and one more, from the same weights, must end one right update after the block: whatever is less
    precise in calls of many shows here as clearly as in the gate.
    """
    load(updates, block.start)
    updates(_one_more(inputs), _one_more(targets))
    expected = expected_update(float64_model(problem), problem, block.end, inputs[0], targets[0])
    with ranks.together():
        share, fault = _worst_fault(_snapshot(updates, problem), expected)
        if share > CALLS_OF_MANY:
            raise CaseEnded(
                Outcome.REJECTED, f"{len(inputs) + 1} updates are not those of a timed block and one more: {fault}"
            )


def _one_more(batches: Tensor) -> Tensor:
    """Return batches [steps, …] with the first once more at the end; an expanded batch stays expanded."""
    if batches.stride(0) == 0:
        return batches[:1].expand(len(batches) + 1, *batches.shape[1:])
    return torch.cat([batches, batches[:1]])


def load(updates: Updates, parameters: Mapping[str, Tensor]) -> None:
    """Load weights and check that they are there; raises CaseEnded (`wrong_gradient`) when they are not."""
    updates.load(parameters)
    check_loaded(updates.parameters(), parameters)


def check_loaded(now: Mapping[str, Tensor], parameters: Mapping[str, Tensor]) -> None:
    """Check that the engine's weights now are those that it was to load; raises CaseEnded (`wrong_gradient`)."""
    with ranks.together():
        for name, value in parameters.items():
            if name not in now or not torch.equal(now[name], value):
                raise CaseEnded(Outcome.WRONG_GRADIENT, f"load does not load: {name} is not what was to be loaded")


def _check_trajectory(problem: Problem, block: TimedBlock, inputs: Tensor, targets: Tensor) -> None:
    """Hold a block's first losses against float64 updates from its start that never look at the engine again.

    What is further off than trajectories are may still be a point on the other side of a ReLU's kink.
    """
    model, tolerance = float64_model(problem), TOLERANCES[problem.precision]
    inputs, targets, timed = inputs[:GATE_UPDATES], targets[:GATE_UPDATES], block.losses[:GATE_UPDATES]
    parameters: Mapping[str, Tensor] = block.start
    expected, limits = [], []
    for batch, target in zip(inputs, targets, strict=True):
        reference = expected_update(model, problem, parameters, batch, target)
        expected.append(reference.loss)
        limits.append(reference.loss_limit)
        parameters = reference.parameters
    clean = torch.stack(expected)
    allowed = tolerance.trajectory * clean.abs() + torch.stack(limits)

    def fault(moved: _Moved) -> str:
        what = "the float64 reference, trained freely from the same weights, has"
        return _off_by(what, timed, clean, allowed + moved.losses)

    ways = _moved_by_rounding(problem, inputs, targets, block.start, clean, parameters, range(1, ROUNDINGS))
    _reject_unless_rounding(fault, itertools.chain([_Moved(torch.zeros_like(clean), {})], ways))


def _snapshot(updates: Updates, problem: Problem) -> dict[str, Tensor]:
    """Copy the engine's weights, checking that they are what the contract says."""
    weights = copied(updates.parameters())
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


def copied(parameters: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return weights that no later update changes."""
    return {name: value.detach().clone() for name, value in parameters.items()}


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
    share, fault = _worst_fault(after, expected)
    if share > 1:
        raise CaseEnded(Outcome.WRONG_GRADIENT, f"update {step}: {fault}")
    return share


def _worst_fault(after: Mapping[str, Tensor], expected: Expected) -> tuple[float, str]:
    """Return the largest error of any weight as a share of its limit; where it is above, say where it is."""
    worst, at, place = 0.0, "", 0
    for name, wanted in expected.parameters.items():
        error = (after[name].double() - wanted).abs()
        # A value that is no number is off by more than any limit.
        share = torch.nan_to_num(error / expected.limits[name].clamp_min(1e-300), nan=torch.inf)
        largest = share.max().item()
        if largest > worst:
            worst, at, place = largest, name, int(share.argmax())
    if worst <= 1:  # to say where takes as long as to look
        return worst, ""
    wanted = expected.parameters[at]
    index = torch.unravel_index(torch.tensor(place), wanted.shape)
    return worst, (
        f"{at}[{', '.join(str(int(axis)) for axis in index)}] is {after[at][index].item():.7g}, the float64 reference "
        f"{wanted[index].item():.7g}: off by {(after[at].double() - wanted).abs()[index].item():.1e}, "
        f"limit {expected.limits[at][index].item():.1e}"
    )
