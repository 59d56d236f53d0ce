"""How long a block is, how many blocks are timed, and what number stands for them.

A block is `steps` updates between two clock reads. Its step time is its duration over its steps. The process's step
time is the 25 % quantile of its undisturbed blocks: on shared machines it spreads least between processes.
"""

import math
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from harness.measuring.clocks import Clock
from harness.measuring.evidence import Evidence

QUANTILE = 0.25

MAX_STEPS = 2**40

# Fewer undisturbed blocks than this have no quantile to speak of; then all blocks are used, and the row says so.
ENOUGH_BLOCKS = 8


class StopRule(StrEnum):
    """What ended the timing.

    relative_width: the interval of the quantile is narrow. plateau: it does not get narrower any more. budget: the
    undisturbed blocks have taken the time there is. disturbed: so have the blocks that were timed again.
    """

    RELATIVE_WIDTH = "relative_width"
    PLATEAU = "plateau"
    BUDGET = "budget"
    DISTURBED = "disturbed"


@dataclass(frozen=True)
class Rule:
    """When a block is long enough, and when there are enough of them.

    block_ns: a block takes at least this long; reading the clock (some 50 ns) is nothing against it.
    max_steps: or has this many updates, since blocks that are checked are made once more, update by update: at 50 ns
        each, the least there is, still 1.5 ms.
    warm_up_ns: blocks are run and thrown away for this long first.
    min_blocks: at least so many are timed, however long they take.
    relative_width: stop when the 95 % interval of the quantile is narrower than this share of it.
    budget_ns: stop when the undisturbed blocks have taken this long.
    patience: a disturbed block is timed again, until all blocks together have taken this many times the budget.
    """

    block_ns: int = 10_000_000
    max_steps: int = 30_000
    warm_up_ns: int = 200_000_000
    min_blocks: int = 30
    relative_width: float = 0.005
    budget_ns: int = 1_500_000_000
    patience: float = 2.0


@dataclass
class Samples:
    """The timed blocks of one process.

    steps: updates per block. blocks_ns: the duration of each. disturbances: what is known to have disturbed it, empty
    for nothing. stop_rule: what ended the timing.
    """

    steps: int
    blocks_ns: list[int] = field(default_factory=list)
    disturbances: list[str] = field(default_factory=list)
    stop_rule: StopRule | None = None

    def undisturbed(self) -> list[int]:
        """Return which blocks count: the undisturbed ones, or all where fewer than ENOUGH_BLOCKS are."""
        quiet = [index for index, reason in enumerate(self.disturbances) if not reason]
        return quiet if len(quiet) >= ENOUGH_BLOCKS else list(range(len(self.blocks_ns)))

    def step_ns(self, quantile: float = QUANTILE) -> float:
        """Nanoseconds per update at this quantile of the blocks that count."""
        return quantile_of([self.blocks_ns[index] for index in self.undisturbed()], quantile) / self.steps

    def disturbed_by(self) -> dict[str, int]:
        """Return how many blocks each kind of disturbance hit, the most frequent first."""
        return dict(Counter(reason for reason in self.disturbances if reason).most_common())


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
    evidence: Evidence,
    before: Callable[[int], None] = lambda _index: None,
    after: Callable[[int, int], None] = lambda _index, _taken_ns: None,
    announce: Callable[[str, int], None] = lambda _at, _taken_ns: None,
    agreed: Callable[[int, str], tuple[int, str]] = lambda taken_ns, disturbance: (taken_ns, disturbance),
) -> Samples:
    """Time blocks by the rule; raises RuntimeError when the clock stands still or runs backwards.

    run() makes one block and waits for the device. evidence says what disturbed it. announce(`begin`, 0)
    and announce(`end`, taken_ns) are called right around it, before(index) and after(index, taken_ns) around all that.
    agreed(taken_ns, disturbance) is what counts of it, where several processes have made the block together.
    """
    samples = Samples(steps)
    widths: dict[int, float] = {}
    while samples.stop_rule is None:
        index = len(samples.blocks_ns)
        before(index)
        announce("begin", 0)
        evidence.begin()
        start = clock()
        run()
        taken = clock() - start
        disturbance = evidence.end(taken)
        announce("end", taken)
        taken, disturbance = agreed(taken, evidence.afterwards() or disturbance)
        samples.disturbances.append(disturbance)
        samples.blocks_ns.append(taken)
        after(index, taken)
        if taken < 0:
            raise RuntimeError("the clock runs backwards")
        samples.stop_rule = _stop(samples, rule, widths)
    return samples


def _stop(samples: Samples, rule: Rule, widths: dict[int, float]) -> StopRule | None:
    """Return what ends the timing now, if anything; `widths` keeps the interval's width at each number of blocks."""
    if len(samples.blocks_ns) < rule.min_blocks:
        return None
    spent = sum(samples.blocks_ns)
    if spent <= 0:
        raise RuntimeError("the clock stands still")
    quiet = [taken for taken, reason in zip(samples.blocks_ns, samples.disturbances, strict=True) if not reason]
    if len(quiet) >= rule.min_blocks:
        width = widths[len(quiet)] = interval_width(quiet)
        if width <= rule.relative_width:
            return StopRule.RELATIVE_WIDTH
        # Of independent blocks, four times as many halve it. Asked after every block, chance says yes in a fifth to a
        # third of all processes (simulated); asked after 120, 240, 480, …, in 1 to 5 %.
        times, rest = divmod(len(quiet), 4 * rule.min_blocks)
        doubled = times and not rest and not times & (times - 1)
        if doubled and width > 0.9 * widths.get(len(quiet) // 4, math.inf):
            return StopRule.PLATEAU
        if sum(quiet) >= rule.budget_ns:
            return StopRule.BUDGET
    return StopRule.DISTURBED if spent >= rule.patience * rule.budget_ns else None


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
