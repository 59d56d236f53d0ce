"""Leaves out of pairs those of which a side was disturbed from beginning to end: its time is the neighbour's.

`running.again` measures such a process again; where the neighbour stays, its time is kept, and the row says so. Whether
a pair is left out hangs on that evidence alone, never on its times, so that nothing is chosen by what it would say.

What an arm disturbs itself is its own: all pairs stay where one side has more such processes than by chance, or where
they are many.
"""

import re

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import special

from harness.comparing.rule import Array
from harness.measuring.sampling import ENOUGH_BLOCKS
from harness.running.again import PASSING, QUIET_SHARE

# The columns of `measurements` that tell.
EVIDENCE = ("blocks", "blocks_disturbed", "disturbances")
# Of a case's pairs; where more are disturbed, they are what this machine is.
MOST_LEFT_OUT = 1 / 2
# The chance at which two sides that are alike are taken for such as are not.
ONE_SIDED = 0.01
_TOLD = re.compile(r"([a-z][a-z ]*?) (\d+)(?:, |$)")

Mask = NDArray[np.bool_]


def throughout(measurements: pd.DataFrame) -> Mask:
    """Return of each row whether hardly a block of it was undisturbed, mostly by what comes from elsewhere.

    False in all rows of a table without the columns EVIDENCE.
    """
    if not set(EVIDENCE) <= set(measurements):
        return np.zeros(len(measurements), dtype=bool)
    blocks, disturbed = (measurements[name].to_numpy(dtype=float, na_value=np.nan) for name in EVIDENCE[:2])
    found: Mask = (disturbed > 0) & (blocks - disturbed < np.fmax(ENOUGH_BLOCKS, QUIET_SHARE * blocks))
    found[found] = [_passing(str(text)) for text in measurements["disturbances"][found]]
    return found


def pairs_left_out(base: Array, new: Array, base_disturbed: Mask, new_disturbed: Mask) -> Mask:
    """Return which pairs of logs `[..., cases, rounds]` are left out; disturbed: by side, of the same shape."""
    pairs = np.isfinite(base) & np.isfinite(new)
    out = pairs & (base_disturbed | new_disturbed)
    only_base = (out & ~new_disturbed).sum(axis=-1)
    only_new = (out & ~base_disturbed).sum(axis=-1)
    many = out.sum(axis=-1) > MOST_LEFT_OUT * pairs.sum(axis=-1)
    own = _one_sided(only_base, only_new) | _one_sided(only_base.sum(axis=-1), only_new.sum(axis=-1))[..., None]
    return np.asarray(out & ~(many | own)[..., None])


def _one_sided(one: NDArray[np.int64], other: NDArray[np.int64]) -> Mask:
    """Return whether two counts differ by more than chance, by the sign test."""
    chance = 2 * special.bdtr(np.minimum(one, other), one + other, 0.5)
    return np.asarray(chance < ONE_SIDED)


def _passing(told: str) -> bool:
    """Whether most of what disturbed blocks comes from elsewhere and may be over: `slow core 124, preempted 9`."""
    counts = {name: int(count) for name, count in _TOLD.findall(told)}
    return 2 * sum(counts.get(name, 0) for name in PASSING) > sum(counts.values())
