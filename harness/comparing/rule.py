"""When is one side slower than the other? The rule of every verdict on rounds measured in one session.

A sample is the log of one fresh process's step time; a round has one of each case. Arrays are `[..., rounds]`, one case
or many at once, NaN where a round has no time. Effects, spreads and margins are differences of logs: 0.05 is about 5 %.

Figures by simulation of normal logs, tables of 54 cases, spread 1 %, one case 5 % slower, Welch: seen in all tables
with 10 rounds a side, in two of five with 5, in none with 3. With bursts of +30 % in one process of ten, at 10 rounds:
14 % with all rounds as they are, 81 % with all of the outliers clipped, 97 % with the far ones left out. Rounds that
drift by 3 %: 12 % unpaired, 98 % paired.
"""

from dataclasses import dataclass
from enum import StrEnum

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import special

Array = NDArray[np.float64]

LEVEL = 0.005  # of the whole table, by Holm
LEAST_MARGIN = float(np.log1p(0.02))  # what is smaller is nobody's concern
MOST_SAME = float(np.log1p(0.05))  # on the noisiest machine, more than this is never called the same

_MAD_TO_SD = 1.4826  # of a normal distribution
_CLIP = 3.0
_FAR = 8.0  # so far out is no tail of what the other rounds have
_ROUNDING = 1e-12  # what rounding makes of equal logs
_MOST_CLIPPED = 1 / 3


class Verdict(StrEnum):
    """How the new side of a case stands against its base."""

    REGRESSED = "regressed"
    IMPROVED = "improved"
    SAME = "same"
    UNDECIDED = "undecided"


@dataclass(frozen=True)
class Comparison:
    """New against base, all arrays of one shape.

    effect: log of new over base step time, above 0 is slower, with its 90 % and 95 % intervals. p: two-sided, of no
    difference. rounds: a side; the harmonic mean where the sides differ. used: of these, what was not left out. paired:
    by the ratios of each round. standard_error, p and intervals are NaN where a side has fewer than two rounds, and
    where nothing is known of the noise: no spread given and all rounds the same.
    """

    effect: Array
    standard_error: Array
    freedom: Array
    p: Array
    low90: Array
    high90: Array
    low95: Array
    high95: Array
    rounds: Array
    used: Array
    paired: NDArray[np.bool_]


def spread(logs: ArrayLike) -> Array:
    """Return the robust standard deviation, 1.4826 MAD, of `[..., rounds]` logs; NaN for fewer than two."""
    values = _finite(logs)
    return np.where(_count(values) > 1, _mad(values)[..., 0], np.nan)


def clipped(logs: ArrayLike) -> Array:
    """Return the logs, each side clipped at its median ± 3 scaled MAD, that is 3 robust standard deviations.

    (Unscaled, the limits lie at two standard deviations and the variance comes out too small.) A side of which more
    than a third would be clipped is left as it is: those are no outliers but a second mode, and to clip them would
    declare the first mode's absence certain. With bursts in one process of ten, that takes the tables with a false
    alarm from 54 % to 4 % at 5 rounds, and costs 2 % of power at 10.
    """
    values = _finite(logs)
    return _limited(values, _mad(values))[0]


def compare_case(
    base: ArrayLike, new: ArrayLike, *, paired: bool, spread: ArrayLike, own: ArrayLike = False
) -> Comparison:
    """Compare the logs of one case, or of many at once: `[..., rounds]` each.

    paired: both sides were measured in the same rounds, in this order: t on the clipped log ratios, else Welch on the
    logs, clipped at 3 of both sides' common spread and left out beyond 8. (Of pairs none is left out: that one of its
    sides met a burst says nothing against the other.) spread: of a process on this machine, `[...]` or one number; the
    standard error is never below what it implies; 0 or NaN where it is not known. own: whether that is of these rounds
    themselves. Raises ValueError when pairs do not fit.
    """
    before, after = _finite(base), _finite(new)
    if paired:
        if before.shape[-1] != after.shape[-1]:
            raise ValueError(f"{before.shape[-1]} rounds cannot be paired with {after.shape[-1]}")
        effect, standard_error, freedom, used = _one_sample(after - before)
        rounds = used
    else:
        rounds = _a_side(_count(before), _count(after))
        # A side whose rounds happen to lie close together would have its own limits too narrow.
        scale = np.sqrt((_mad(before) ** 2 + _mad(after) ** 2) / 2)
        (before, clipped_before), (after, clipped_after) = (_limited(side, scale, _FAR) for side in (before, after))
        effect, standard_error, freedom, used = welch(before, after, clipped=(clipped_before, clipped_after))
    floor = np.broadcast_to(np.asarray(spread, dtype=float) * np.sqrt(2 / used), effect.shape)
    raised = floor > standard_error
    if not paired:
        # A spread known from elsewhere is equal for both sides: Welch's loss of freedom does not apply to it.
        equal = 2 * used - 2 - clipped_before - clipped_after
        freedom = np.where(raised & ~np.asarray(own, dtype=bool), equal, freedom)
    standard_error = np.where(raised, floor, standard_error)
    return _comparison(effect, standard_error, freedom, rounds, used, paired=paired)


def welch(
    base: ArrayLike, new: ArrayLike, *, clipped: tuple[ArrayLike, ArrayLike] = (0, 0)
) -> tuple[Array, Array, Array, Array]:
    """Return the difference of means, its standard error, its freedom and the rounds a side, of logs as they are.

    clipped: how many of each side are not as they were measured. These tell nothing of the variance, so that they count
    for no freedom (Tukey and McLaughlin 1963, on winsorised t).
    """
    (before, variance, n), (after, other, m) = moments(_finite(base)), moments(_finite(new))
    one, two = variance / n, other / m
    free, also = n - 1 - np.asarray(clipped[0]), m - 1 - np.asarray(clipped[1])
    total = one + two
    with np.errstate(invalid="ignore"):
        freedom = total**2 / (one**2 / free + two**2 / also)
        # Without any variance every freedom is right, and 0 / 0 is none.
        freedom = np.where(total == 0, free + also, freedom)
    return after - before, np.sqrt(total), freedom, _a_side(n, m)


def margin(spread: ArrayLike, rounds: ArrayLike) -> Array:
    """Return the least effect that is called a change: 2 %, or 3 standard errors of `rounds` a side if that is more."""
    error = np.asarray(spread, dtype=float) * np.sqrt(2 / np.asarray(rounds, dtype=float))
    return np.asarray(np.fmax(LEAST_MARGIN, 3 * error))


def holm(p: ArrayLike) -> Array:
    """Return the p-values `[..., cases]` adjusted by Holm over each table; those that are NaN are not counted."""
    values = np.asarray(p, dtype=float)
    order = np.argsort(values, axis=-1)  # NaN last
    left = _count(values)[..., None] - np.arange(values.shape[-1])
    stepped = np.maximum.accumulate(np.take_along_axis(values, order, -1) * left, axis=-1)
    adjusted = np.empty_like(values)
    np.put_along_axis(adjusted, order, np.minimum(stepped, 1), -1)
    return adjusted


def verdicts(
    table: Comparison, margin: ArrayLike, *, within: ArrayLike = MOST_SAME, level: float = LEVEL
) -> NDArray[np.str_]:
    """Return the verdict of each case of a table, or of many tables: arrays `[..., cases]`.

    margin: as `margin` returns it. A change needs both the adjusted p and an effect of at least the margin; the same
    needs a 90 % interval within the margin, and within `within`: noise widens the margin, and proves nothing.
    `rounds_needed` tells what the undecided ones lack.
    """
    least = np.asarray(margin, dtype=float)
    near = np.minimum(least, within)
    changed = (holm(table.p) <= level) & (np.abs(table.effect) >= least)
    same = (table.low90 > -near) & (table.high90 < near)
    return np.select(
        [changed & (table.effect > 0), changed, same],
        [np.str_(Verdict.REGRESSED), np.str_(Verdict.IMPROVED), np.str_(Verdict.SAME)],
        np.str_(Verdict.UNDECIDED),
    )


def moments(values: Array) -> tuple[Array, Array, Array]:
    """Return mean, variance and number of the values that are there; NaN where these are too few."""
    there = np.isfinite(values)
    count = there.sum(axis=-1).astype(float)
    some, several = np.where(count > 0, count, np.nan), np.where(count > 1, count, np.nan)
    # From the least upwards: equal values have a variance of 0, not of what rounding makes of it.
    least = np.where(there, values, np.inf).min(axis=-1, initial=np.inf)
    above = np.where(there, values - least[..., None], 0)
    mean = above.sum(axis=-1) / some
    squares = np.where(there, (above - mean[..., None]) ** 2, 0).sum(axis=-1)
    return least + mean, squares / (several - 1), some


def median(values: Array) -> Array:
    """Return the median of what is finite over the last axis, which stays with length 1.

    numpy's own is too slow for many short rows.
    """
    if values.shape[-1] == 0:
        return np.full((*values.shape[:-1], 1), np.nan)
    ordered = np.sort(values, axis=-1)  # NaN last
    count = _count(values)[..., None]
    low, high = np.maximum(count - 1, 0) // 2, count // 2
    high = np.minimum(high, values.shape[-1] - 1)
    return (np.take_along_axis(ordered, low, -1) + np.take_along_axis(ordered, high, -1)) / 2


def _comparison(
    effect: Array, standard_error: Array, freedom: Array, rounds: Array, used: Array, *, paired: bool
) -> Comparison:
    error = np.where(standard_error > 0, standard_error, np.nan)
    half90, half95 = special.stdtrit(freedom, 0.95) * error, special.stdtrit(freedom, 0.975) * error
    return Comparison(
        effect=effect,
        standard_error=error,
        freedom=freedom,
        p=2 * special.stdtr(freedom, -np.abs(effect) / error),
        low90=effect - half90,
        high90=effect + half90,
        low95=effect - half95,
        high95=effect + half95,
        rounds=rounds,
        used=used,
        paired=np.full(effect.shape, paired),
    )


def _one_sample(values: Array) -> tuple[Array, Array, Array, Array]:
    limited, clipped = _limited(values, _mad(values))
    mean, variance, rounds = moments(limited)
    return mean, np.sqrt(variance / rounds), rounds - 1 - clipped, rounds


def _limited(values: Array, scale: Array, far: float = np.inf) -> tuple[Array, NDArray[np.int64]]:
    """Return values clipped at 3 scales from their median, NaN beyond `far` scales, and how many were clipped.

    All as they are where that would change more than a third of them. scale: `[..., 1]`.
    """
    middle = median(values)
    away = np.abs(values - middle)
    beyond = away > _CLIP * scale
    outliers = beyond.sum(axis=-1, keepdims=True) <= _MOST_CLIPPED * _count(values)[..., None]
    changed = beyond & outliers & (scale > _ROUNDING)
    gone = changed & (away / far > scale)
    limits = np.clip(values, middle - _CLIP * scale, middle + _CLIP * scale)
    limited = np.where(gone, np.nan, np.where(changed, limits, values))
    return limited, np.asarray((changed & ~gone).sum(axis=-1))


def _a_side(n: ArrayLike, m: ArrayLike) -> Array:
    """Return the harmonic mean of two numbers of rounds; NaN where a side has none."""
    one, two = (np.where(np.asarray(count) > 0, count, np.nan) for count in (n, m))
    return np.asarray(2 * one * two / (one + two))


def _finite(logs: ArrayLike) -> Array:
    values = np.asarray(logs, dtype=float)
    return np.where(np.isfinite(values), values, np.nan)


def _count(values: Array) -> NDArray[np.int64]:
    return np.asarray(np.isfinite(values).sum(axis=-1))


def _mad(values: Array) -> Array:
    """Return the scaled MAD over the last axis, which stays with length 1."""
    return _MAD_TO_SD * median(np.abs(values - median(values)))
