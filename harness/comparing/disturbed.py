"""Leaves out pairs of which a side was disturbed from beginning to end: its time is the neighbour's.

`running.again` measures such a process again; where the neighbour stays, its time is kept, and the row says so. The
first processes of a session do not know yet how fast a core can be, so that is judged here once more, by what is the
fastest of all. Whether a pair is left out hangs on such evidence alone, never on its times, so that nothing is chosen
by what it would say.

What an arm disturbs itself is its own: all pairs stay where one side has more such processes than by chance; and where
chance hides that, nothing is called the same without them. Where more than half of the pairs are so, they stay as well,
and nothing is decided unless nearly always both sides were: by simulation of 54 cases and 10 rounds, where a third of
all processes meet a neighbour, 15 % of tables would have a false change.
"""

from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import special

from harness.comparing.rule import Array
from harness.measuring.core import SLOW_CORE
from harness.measuring.sampling import ENOUGH_BLOCKS
from harness.running.again import PASSING, QUIET_SHARE

# The columns of `measurements` that tell.
EVIDENCE = ("blocks", "blocks_disturbed", "disturbances")
# Of a case's pairs.
MOST_LEFT_OUT = 1 / 2
# Of a case's pairs, where a neighbour is there all the time, so many may have met it on one side alone.
MOST_MIXED = 1 / 10
# The chances at which two sides that are alike are taken for such as are not, in the whole table, and for such as might
# not be.
ONE_SIDED, DOUBTFUL = 0.005, 0.1

Mask = NDArray[np.bool_]


@dataclass(frozen=True)
class LeftOut:
    """Masks of pairs `[..., cases, rounds]` with a side that was disturbed throughout: left out, and kept all the same.

    doubtful: of each case, whether one side might have more of them by itself. spoilt: whether a neighbour came and
    went so often that its times tell nothing.
    """

    out: Mask
    kept: Mask
    doubtful: Mask
    spoilt: Mask


def throughout(measurements: pd.DataFrame, fast_ns: float) -> Mask:
    """Return of each row whether hardly a block of it was undisturbed, mostly by what comes from elsewhere.

    By its blocks, or as its core was slow against that of the session's fastest process, which took fast_ns for the
    fixed work of `measuring.core`. False in all rows of a table without the columns EVIDENCE.
    """
    if not set(EVIDENCE) <= set(measurements):
        return np.zeros(len(measurements), dtype=bool)
    blocks, disturbed = (measurements[name].to_numpy(dtype=float, na_value=np.nan) for name in EVIDENCE[:2])
    found: Mask = (disturbed > 0) & (blocks - disturbed < np.fmax(ENOUGH_BLOCKS, QUIET_SHARE * blocks))
    found[found] = [_may_pass(str(text)) for text in measurements["disturbances"][found]]
    slow: Mask = measurements["core_ns"].to_numpy(dtype=float, na_value=np.nan) > SLOW_CORE * fast_ns
    return found | slow


def left_out(base: Array, new: Array, base_disturbed: Mask, new_disturbed: Mask) -> LeftOut:
    """Return which pairs of logs `[..., cases, rounds]` are left out; disturbed: by side, of the same shape."""
    pairs = np.isfinite(base) & np.isfinite(new)
    either = pairs & (base_disturbed | new_disturbed)
    sides = ((either & ~new_disturbed).sum(axis=-1), (either & ~base_disturbed).sum(axis=-1))
    of_case, of_all = _chance(*sides), _chance(*(side.sum(axis=-1) for side in sides))[..., None]
    own = (of_case < ONE_SIDED / base.shape[-2]) | (of_all < ONE_SIDED)
    count = pairs.sum(axis=-1)
    many = either.sum(axis=-1) > MOST_LEFT_OUT * count
    out = either & ~(many | own)[..., None]
    spoilt = many & ~own & (sum(sides) > MOST_MIXED * count)
    return LeftOut(out, either & ~out, out.any(axis=-1) & (np.minimum(of_case, of_all) < DOUBTFUL), spoilt)


def _chance(one: NDArray[np.int64], other: NDArray[np.int64]) -> Array:
    """Return the chance of counts that differ as much, by the sign test."""
    return np.asarray(2 * special.bdtr(np.minimum(one, other), one + other, 0.5))


def _may_pass(told: str) -> bool:
    """Whether most of what disturbed blocks comes from elsewhere and may be over: `slow core 124, preempted 9`."""
    counts = {
        name: int(count) for name, _, count in (part.rpartition(" ") for part in told.split(", ")) if count.isdecimal()
    }
    return 2 * sum(counts.get(name, 0) for name in PASSING) > sum(counts.values())
