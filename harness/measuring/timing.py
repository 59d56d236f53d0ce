"""Times an engine's updates in blocks and checks that the timed blocks did the work."""

import functools
import random
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from harness.measuring import probes
from harness.measuring.clocks import Clock, synchronizer
from harness.measuring.sampling import Rule, block_steps, sample
from harness.plan.outcome import CaseEnded, Outcome
from harness.training.contract import Problem, Updates
from harness.training.gate import TimedBlock, check_block, check_updates, load
from harness.training.trial import Trial

# Of the first `min_blocks`, which are always timed; which ones, the engine cannot know.
CHECKED_BLOCKS = 2


@dataclass(frozen=True)
class TimedUpdates:
    """The blocks of one process and what is needed to check them.

    inputs, targets: the batches of every block, [steps, batch, …]. checked: blocks to be held against the reference.
    finite: whether all losses of all blocks are finite. facts: what goes into the record.
    """

    inputs: Tensor
    targets: Tensor
    checked: list[TimedBlock]
    finite: bool
    facts: dict[str, Any]


def time_updates(problem: Problem, updates: Updates, trial: Trial, clock: Clock, rule: Rule) -> TimedUpdates:
    """Size blocks by a pilot, warm up, and time them.

    Every block begins with weights that no other block began with – the trial's, scaled by within 1 % of 1 – so that
    no block's work can be known beforehand, and none begins where training has come to rest.
    """
    synchronize = synchronizer(problem.device)
    batches = functools.cache(trial.batches)

    def run(steps: int) -> None:
        updates(*batches(steps))
        synchronize()

    steps = block_steps(run, clock, rule, min(rule.max_steps, trial.max_steps() or rule.max_steps))
    inputs, targets = batches(steps)
    batches.cache_clear()
    start = clock()
    while clock() - start < rule.warm_up_ns:
        updates(inputs, targets)
        synchronize()

    chance = random.Random()  # noqa: S311 - hides the choice from the engine, not from an attacker
    chosen = set(chance.sample(range(rule.min_blocks), CHECKED_BLOCKS))
    checked: list[TimedBlock] = []
    begun: dict[str, Tensor] = {}
    losses = torch.empty(0)

    def before(_index: int) -> None:
        nonlocal begun
        scale = 1 + chance.uniform(-0.01, 0.01)
        begun = {name: value * scale for name, value in trial.parameters.items()}
        load(updates, begun)
        synchronize()

    def block() -> None:
        nonlocal losses
        losses = updates(inputs, targets)
        synchronize()

    finite: list[Tensor] = []

    def after(index: int) -> None:
        finite.append(losses.isfinite().all())
        if index in chosen:
            end = {name: value.detach().clone() for name, value in updates.parameters().items()}
            checked.append(TimedBlock(begun, losses.detach().clone(), end))

    faults = probes.minor_faults()
    samples = sample(block, steps, clock, rule, probes.involuntary_switches, before, after)
    facts = {
        "step_ns": samples.step_ns(),
        "step_median_ns": samples.step_ns(0.5),
        "step_min_ns": samples.step_ns(0.0),
        "block_steps": steps,
        "blocks_ns": samples.blocks_ns,
        "blocks": len(samples.blocks_ns),
        "blocks_disturbed": sum(samples.disturbed),
        "disturbed": [index for index, loud in enumerate(samples.disturbed) if loud],
        "stop_rule": samples.stop_rule,
        "minor_faults_per_step": (probes.minor_faults() - faults) / (steps * len(samples.blocks_ns)),
    }
    return TimedUpdates(inputs, targets, checked, all(bool(value) for value in finite), facts)


def check_timed(problem: Problem, updates: Updates, timed: TimedUpdates) -> float:
    """Check what was timed and one update more, from the final weights; raises CaseEnded.

    Returns the share of its limit that the error of that update has.
    """
    share = check_updates(problem, updates, timed.inputs[:1], timed.targets[:1])
    for block in timed.checked:
        check_block(problem, updates, timed.inputs, timed.targets, block)
    if not timed.finite:
        raise CaseEnded(Outcome.NOT_CONVERGED, "training leaves the finite numbers while timed")
    return share
