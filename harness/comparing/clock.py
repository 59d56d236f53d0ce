"""Takes out of paired step times what the core's own clock did to them.

A turbo clock, and a neighbour on the core's other hyperthread, change a core's speed by some percent from one process
to the next, and each process says by how much: a fixed piece of work (`measuring.core`) was done before and after every
block. Of 128 undisturbed processes on a rented Xeon, logs of step time and of that work correlate by 0.84, with a slope
of 0.92. So the work is a covariate (analysis of covariance): each pair's ratio is held against what it was for the
work.

What an arm itself does to the clock is its own. A case whose arms differ in the work by more than chance is left as it
is; and where chance hides that, a change must be one of the ratios as they are as well, and so must be that there is
none.

How often that is wrong, and what it sees, by simulation: docs/error-rates.md.
"""

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from scipy import special

from harness.comparing.compared import Status
from harness.comparing.judge import Judged, judge
from harness.comparing.rule import Array, clipped, moments, spread

# Of the variance; pairs of which less is explained are left as they are. By chance, of 24 pairs, 1 in 170 has so much.
LEAST_EXPLAINED = 0.3
FEWEST_PAIRS = 24
FEWEST_ROUNDS = 10  # of a case: fewer cannot show that its arms change the clock
# The chance at which a case of arms that are alike is taken for one whose arms change the clock.
OWN_CLOCK = 0.001
# Of a change, so much must be there before the clock is taken out.
THERE_BEFORE = 0.5


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

    All `[..., cases, rounds]`; NaN where a round has none. A case is left as it is where the work does not explain a
    part of its own pairs, is not known of every round, or differs by more than chance between its arms.
    """
    ratios, work = new - base, new_work - base_work
    there = np.isfinite(ratios) & np.isfinite(work)
    rounds = there.sum(axis=-1)
    usable = (there | ~np.isfinite(ratios)).all(axis=-1) & (rounds >= FEWEST_ROUNDS)
    of_use = there & usable[..., None]
    own, by = (_centred(clipped(np.where(of_use, values, np.nan)), keep=usable) for values in (ratios, work))
    with np.errstate(divide="ignore", invalid="ignore"):
        # No clock makes an update slower than the work that knows nothing but the clock, nor faster.
        slope = np.clip(np.nan_to_num(_total(own * by, 2) / _total(by**2, 2)), 0, 1)[..., None]
        rest = own - slope[..., None] * by
        left = np.sqrt(_total(rest**2, 1) / _total(own**2, 1))
        pays = _total(rest**2, 2) / _total(own**2, 2) < 1 - LEAST_EXPLAINED
        mean, variance, count = moments(work)
        chance = 2 * special.stdtr(count - 1, -np.abs(mean) / np.sqrt(variance / count))
    pays &= (rounds * usable).sum(axis=-1) >= FEWEST_PAIRS
    taken = pays[..., None] & usable & (left < 1) & ~(chance < OWN_CLOCK)
    slope = np.where(taken, slope, 0)[..., None]
    # Both sides are brought to the speed that they had together, so that times stay those of this machine.
    speed = np.nan_to_num((moments(base_work)[0] + moments(new_work)[0]) / 2)[..., None]
    then, now = (
        side - slope * np.where(np.isfinite(done), done - speed, 0)
        for side, done in ((base, base_work), (new, new_work))
    )
    return Clocked(then, now, np.where(taken, left, 1.0))


def judge_clocked(base: Array, new: Array, clocked: Clocked, *, known: Array, least: float | None = None) -> Judged:
    """Judge pairs without what the clock did to them; base, new: with it. known, least: as `judge` takes them.

    A spread that was measured beforehand is of a clock that may have been steadier then: it is less by what is left,
    but never less than that of these pairs.
    """
    taken = clocked.left < 1
    here = spread(clocked.new - clocked.base) / np.sqrt(2)
    known = np.where(taken, np.fmax(known * clocked.left, np.where(known > 0, here, known)), known)
    found = judge(clocked.base, clocked.new, paired=True, known=known, least=least)
    effect, before = found.table.effect, moments(clipped(new - base))[0]
    changed = np.isin(found.status, (Status.REGRESSED, Status.IMPROVED))
    own = np.where(changed, before * np.sign(effect) < THERE_BEFORE * np.abs(effect), np.abs(before) >= found.margin)
    doubted = taken & own & (changed | (found.status == Status.SAME))
    return replace(found, status=np.where(doubted, np.str_(Status.UNDECIDED), found.status))


def _centred(values: Array, *, keep: NDArray[np.bool_]) -> Array:
    """Return distances from each case's mean; 0 where there is none."""
    return np.where(keep[..., None] & np.isfinite(values), values - moments(values)[0][..., None], 0)


def _total(values: Array, axes: int) -> Array:
    return np.asarray(values.sum(axis=tuple(range(-axes, 0))))
