"""Takes out of paired step times what the core's own clock did to them.

A turbo clock, and a neighbour on the core's other hyperthread, change a core's speed by some percent from one process
to the next, and each process says by how much: a fixed piece of work (`measuring.core`) was done before and after every
block. Of 128 undisturbed processes on a rented Xeon, logs of step time and of that work correlate by 0.84, with a slope
of 0.92. So the work is a covariate (analysis of covariance): each pair's ratio is held against what it was for the
work.

What an arm itself does to the clock is its own and stays: a case whose arms differ in the work by more than chance is
left as it is.

Figures by simulation of normal logs, spread 2 % and the clock's 4 %, two cases, one of them 5 % slower, nothing known
of the machine: seen in 88 % of tables with 12 rounds and in 99.7 % with 20, where pairs as they are show it in 23 and
55 %; 0.7 % of tables without a change have one at most.
"""

from dataclasses import dataclass

import numpy as np
from scipy import special

from harness.comparing.rule import Array, clipped, moments

# Of the variance; pairs of which less is explained are left as they are. By chance, of 24 pairs, 1 in 200 has so much.
LEAST_EXPLAINED = 0.3
# The chance at which a case of arms that are alike is taken for one whose arms change the clock.
OWN_CLOCK = 0.001
FEWEST_PAIRS = 12


@dataclass(frozen=True)
class Clocked:
    """Logs `[..., cases, rounds]` of both sides without what the clock did.

    left: the share of the spread of pairs that is left, `[..., cases]`; 1 where nothing was taken out.
    """

    base: Array
    new: Array
    left: Array


def without_clock(base: Array, new: Array, base_work: Array, new_work: Array) -> Clocked:
    """Return paired logs of step times without what the logs of the fixed work explain, one slope for each table.

    All `[..., cases, rounds]`; NaN where a round has none: it explains nothing then.
    """
    ratios, work = new - base, new_work - base_work
    there = np.isfinite(ratios) & np.isfinite(work)
    ratios, work = np.where(there, ratios, np.nan), np.where(there, work, np.nan)
    explained = there.sum(axis=-1) > 1
    steady = np.where(explained[..., None], clipped(ratios), np.nan)
    own, by = _centred(steady), _centred(clipped(work))
    squares, products = (np.nansum(one * by, axis=(-2, -1)) for one in (by, own))
    pairs = there.sum(axis=(-2, -1))
    with np.errstate(divide="ignore", invalid="ignore"):
        # No clock makes an update slower than the work that knows nothing but the clock, nor faster.
        slope = np.clip(np.nan_to_num(products / squares), 0, 1)[..., None, None]
        rest = np.nansum((own - slope * by) ** 2, axis=(-2, -1)) / np.nansum(own**2, axis=(-2, -1))
        pays = (rest < 1 - LEAST_EXPLAINED) & (pairs >= FEWEST_PAIRS)
        mean, variance, count = moments(work)
        chance = 2 * special.stdtr(count - 1, -np.abs(mean) / np.sqrt(variance / count))
    whole = (np.isfinite(ratios) == np.isfinite(new - base)).all(axis=-1)  # a part of a case is not taken out
    taken = pays[..., None] & whole & explained & ~(chance < OWN_CLOCK)
    slope = np.where(taken[..., None], slope, 0)
    # Both sides are brought to the speed that they had together, so that times stay those of this machine.
    speed = np.nan_to_num((moments(base_work)[0] + moments(new_work)[0]) / 2)[..., None]
    then, now = (
        side - slope * np.where(np.isfinite(done), done - speed, 0)
        for side, done in ((base, base_work), (new, new_work))
    )
    return Clocked(then, now, np.where(taken, np.sqrt(rest)[..., None], 1.0))


def _centred(values: Array) -> Array:
    return values - moments(values)[0][..., None]
