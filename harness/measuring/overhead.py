"""What an update takes whatever its work: the calls that Python makes for it, and its time on a batch of one point."""

import sys
from collections.abc import Callable
from dataclasses import replace
from types import FrameType
from typing import Any

from torch import Tensor

from harness.measuring.ceilings import BUDGET_NS, Ceilings, least_ns
from harness.measuring.clocks import Clock, thread_ns
from harness.measuring.work import work_of
from harness.training.contract import Engine, Problem, Updates
from harness.training.trial import Trial

# Updates on one point in one call, as blocks have many.
STEPS = 20
# An update on one point is nothing but overhead where its own floor is less than this share of it: engines that do not
# keep what they compute in registers move weights some five times as often.
NEXT_TO_NOTHING = 0.05


def calls_per_step(updates: Updates, inputs: Tensor, targets: Tensor) -> float:
    """Return the calls of functions, its own and those of C, that Python makes for one update more in a call.

    inputs, targets: at least two batches. 0 for an engine that loops over them elsewhere.
    """

    def calls(steps: int) -> int:
        batches = inputs[:steps], targets[:steps]
        updates(*batches)  # some compile for a number of steps that they did not see yet
        return count_calls(lambda: updates(*batches))

    return float(max(0, calls(2) - calls(1)))


def count_calls(run: Callable[[], object]) -> int:
    """Return how many calls of functions Python makes in this thread while run() runs, a few of this function's too."""
    count = 0

    def heard(_frame: FrameType, event: str, _argument: Any) -> None:
        nonlocal count
        count += event in ("call", "c_call")

    before = sys.getprofile()
    sys.setprofile(heard)
    try:
        run()
    finally:
        sys.setprofile(before)
    return count


def one_point_ns(
    engine: Engine, problem: Problem, trial: Trial, ceilings: Ceilings, *, clock: Clock = thread_ns
) -> float | None:
    """Return what an update of this engine takes at least on a batch of one point, on a CPU.

    clock: that of the thread: one point is nothing to share with other threads, and a neighbour's work is no overhead.
    None where that is not next to no work, as the weights alone are much to move.
    """
    inputs, targets = (points[:1].expand(STEPS, *points[:1].shape) for points in (trial.inputs, trial.targets))
    alone = replace(problem, batch_size=1)
    updates = engine.prepare(alone, STEPS)
    updates.load(trial.parameters)
    taken_ns = least_ns(lambda: updates(inputs, targets), clock, BUDGET_NS, lambda: None) / STEPS
    work = work_of(alone, inputs[0], targets[0])
    return taken_ns if ceilings.floor_ns(work) <= NEXT_TO_NOTHING * taken_ns else None
