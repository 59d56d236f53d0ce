"""How long a block is, how many blocks are timed, and what number stands for them.

A block is `steps` updates between two clock reads. Its step time is its duration over its steps. The process's step
time is the 25 % quantile of its undisturbed blocks: on shared machines it spreads least between processes.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from harness.measuring.clocks import Clock

QUANTILE = 0.25

MAX_STEPS = 2**40


@dataclass(frozen=True)
class Rule:
    """When a block is long enough, and when there are enough of them.

    block_ns: a block takes at least this long; reading the clock (some 50 ns) is nothing against it.
    max_steps: or has this many updates: 100 ns each, where a plain C loop at batch 1 takes 80.
    warm_up_ns: blocks are run and thrown away for this long first.
    min_blocks: at least so many are timed, however long they take.
    relative_width: stop when the 95 % interval of the quantile is narrower than this share of it.
    budget_ns: stop when the timed blocks have taken this long.
    """

    block_ns: int = 10_000_000
    max_steps: int = 100_000
    warm_up_ns: int = 200_000_000
    min_blocks: int = 30
    relative_width: float = 0.005
    budget_ns: int = 1_500_000_000


@dataclass
class Samples:
    """The timed blocks of one process.

    steps: updates per block. blocks_ns: the duration of each. disturbed: whether there is evidence that something else
    used the machine during it. stop_rule: `relative_width` or `budget`, whichever ended the timing.
    """

    steps: int
    blocks_ns: list[int] = field(default_factory=list)
    disturbed: list[bool] = field(default_factory=list)
    stop_rule: str = ""

    def undisturbed_ns(self) -> list[int]:
        """Durations of the undisturbed blocks; of all where those are less than a quarter, and none can be chosen."""
        quiet = [block for block, loud in zip(self.blocks_ns, self.disturbed, strict=True) if not loud]
        return quiet if 4 * len(quiet) >= len(self.blocks_ns) else self.blocks_ns

    def step_ns(self, quantile: float = QUANTILE) -> float:
        """Nanoseconds per update at this quantile of the undisturbed blocks."""
        return quantile_of(self.undisturbed_ns(), quantile) / self.steps


def block_steps(run: Callable[[int], Any], clock: Clock, rule: Rule, most: int | None = None) -> int:
    """Return how many updates make a block of `rule.block_ns`, by doubling a pilot; at most `most`.

    run(steps) makes that many updates and waits for the device.
    """

    def timed(steps: int) -> int:
        start = clock()
        run(steps)
        return clock() - start

    steps = 1
    while True:
        if most is not None and steps >= most:
            return most
        taken = timed(steps)
        if taken >= rule.block_ns:
            # Once may have been a stall: only what is long twice is long.
            taken = min(taken, timed(steps))
            if taken >= rule.block_ns:
                return steps
        elif taken <= 0 and steps > MAX_STEPS:
            raise RuntimeError("the clock stands still")
        # Straight to the length aimed at once the clock says something; the first calls are slow and say too much.
        growth = rule.block_ns / taken * 1.1 if taken > rule.block_ns / 10 else 2
        steps = math.ceil(steps * min(max(growth, 1.1), 10))


def sample(
    run: Callable[[], Any],
    steps: int,
    clock: Clock,
    rule: Rule,
    disturbances: Callable[[], int],
    before: Callable[[int], None] = lambda _index: None,
    after: Callable[[int], None] = lambda _index: None,
) -> Samples:
    """Time blocks by the rule; raises RuntimeError when the clock stands still.

    run() makes one block and waits for the device. disturbances() counts evidence so far; a block over which it grew
    is disturbed. before(index) and after(index) are called around each block, outside the clock reads.
    """
    samples = Samples(steps)
    spent = 0
    while not samples.stop_rule:
        index = len(samples.blocks_ns)
        before(index)
        evidence = disturbances()
        start = clock()
        run()
        taken = clock() - start
        samples.disturbed.append(disturbances() != evidence)
        samples.blocks_ns.append(taken)
        after(index)
        spent += taken
        if len(samples.blocks_ns) < rule.min_blocks:
            continue
        if spent <= 0:
            raise RuntimeError("the clock stands still")
        if interval_width(samples.undisturbed_ns()) <= rule.relative_width:
            samples.stop_rule = "relative_width"
        elif spent >= rule.budget_ns:
            samples.stop_rule = "budget"
    return samples


def interval_width(values: Sequence[int], quantile: float = QUANTILE) -> float:
    """Width of the distribution-free 95 % interval of a quantile, relative to it; infinite where it has no end.

    The ranks are n·q ± 1.96·√(n·q·(1-q)), the normal approximation of the binomial.
    """
    count = len(values)
    centre, half = count * quantile, 1.96 * math.sqrt(count * quantile * (1 - quantile))
    low, high = math.floor(centre - half), math.ceil(centre + half)
    if low < 0 or high >= count:
        return math.inf
    ordered = sorted(values)
    middle = quantile_of(ordered, quantile)
    return (ordered[high] - ordered[low]) / middle if middle > 0 else math.inf


def quantile_of(values: Sequence[float], quantile: float) -> float:
    """Return a quantile by linear interpolation between order statistics, as numpy's default does."""
    ordered = sorted(values)
    place = quantile * (len(ordered) - 1)
    low = math.floor(place)
    high = min(low + 1, len(ordered) - 1)
    return ordered[low] + (place - low) * (ordered[high] - ordered[low])
