"""When is one side slower than the other? The rule of every verdict on rounds measured in one session.

A sample is the log of one fresh process's step time; a round has one of each case. Arrays are `[..., rounds]`, one case
or many at once, NaN where a round has no time. Effects, spreads and margins are differences of logs: 0.05 is about 5 %.

Figures by simulation of normal logs, tables of 54 cases, spread 1 %, one case 5 % slower, Welch: seen in all tables
with 10 rounds a side, in half with 5, in none with 3. With bursts of +30 % in one process of ten, at 10 rounds: 13 %
unclipped, 80 % clipped. Rounds that drift by 3 %: 13 % unpaired, 99 % paired.
"""

import functools
from dataclasses import dataclass
from enum import StrEnum

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import special

Array = NDArray[np.float64]

LEVEL = 0.005  # of the whole table, by Holm
POWER = 0.95
LEAST_MARGIN = float(np.log1p(0.02))  # what is smaller is nobody's concern
MOST_SAME = float(np.log1p(0.05))  # on the noisiest machine, more than this is never called the same
MOST_ROUNDS = 200  # nobody waits for more
TABLE_CASES = 20  # as many as a run without options has

_MAD_TO_SD = 1.4826  # of a normal distribution
_CLIP = 3.0
_ROUNDING = 1e-12  # what rounding makes of equal logs
_MOST_CLIPPED = 1 / 3
_REPLICATES = 4000


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
    difference. rounds: a side; the harmonic mean where the sides differ. standard_error, p and intervals are NaN where
    a side has fewer than two rounds, and where nothing is known of the noise: no spread given and all rounds the same.
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
    paired: bool


def spread(logs: ArrayLike) -> Array:
    """Return the robust standard deviation, 1.4826 MAD, of `[..., rounds]` logs; NaN for fewer than two."""
    values = _finite(logs)
    _, mad = _median_and_mad(values)
    return np.where(_count(values) > 1, mad[..., 0], np.nan)


def clipped(logs: ArrayLike) -> Array:
    """Return the logs, each side clipped at its median ± 3 scaled MAD, that is 3 robust standard deviations.

    (Unscaled, the limits lie at two standard deviations and the variance comes out too small.) A side of which more
    than a third would be clipped is left as it is: those are no outliers but a second mode, and to clip them would
    declare the first mode's absence certain. With bursts in one process of ten, that takes the tables with a false
    alarm from 33 % to 4 % at 5 rounds, and costs 1 % of power at 10.
    """
    values = _finite(logs)
    median, mad = _median_and_mad(values)
    limited = np.clip(values, median - _CLIP * mad, median + _CLIP * mad)
    changed = (np.abs(limited - values) > 0).sum(axis=-1, keepdims=True)
    outliers = changed <= _MOST_CLIPPED * _count(values)[..., None]
    return np.where(outliers & (mad > _ROUNDING), limited, values)


def compare_case(base: ArrayLike, new: ArrayLike, *, paired: bool, spread: ArrayLike) -> Comparison:
    """Compare the logs of one case, or of many at once: `[..., rounds]` each.

    paired: both sides were measured in the same rounds, in this order: t on the clipped log ratios, else Welch on the
    clipped logs. spread: of a process on this machine, measured A against A, `[...]` or one number; the standard error
    is never below what it implies; 0 or NaN where it is not known. Raises ValueError when pairs do not fit.
    """
    if paired:
        before, after = _finite(base), _finite(new)
        if before.shape[-1] != after.shape[-1]:
            raise ValueError(f"{before.shape[-1]} rounds cannot be paired with {after.shape[-1]}")
        effect, standard_error, freedom, rounds = _one_sample(clipped(after - before))
    else:
        effect, standard_error, freedom, rounds = welch(clipped(base), clipped(new))
    floor = np.broadcast_to(np.asarray(spread, dtype=float) * np.sqrt(2 / rounds), effect.shape)
    # The floor is of a spread measured elsewhere, equal for both sides: Welch's loss of freedom does not apply to it.
    raised = floor > standard_error
    if not paired:
        freedom = np.where(raised, 2 * rounds - 2, freedom)
    standard_error = np.where(raised, floor, standard_error)
    return _comparison(effect, standard_error, freedom, rounds, paired=paired)


def welch(base: ArrayLike, new: ArrayLike) -> tuple[Array, Array, Array, Array]:
    """Return the difference of means, its standard error, its freedom and the rounds a side, of logs as they are."""
    (before, variance, n), (after, other, m) = moments(_finite(base)), moments(_finite(new))
    one, two = variance / n, other / m
    total = one + two
    with np.errstate(invalid="ignore"):
        freedom = total**2 / (one**2 / (n - 1) + two**2 / (m - 1))
        # Without any variance every freedom is right, and 0 / 0 is none.
        freedom = np.where(total == 0, n + m - 2, freedom)
    return after - before, np.sqrt(total), freedom, 2 * n * m / (n + m)


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


def rounds_needed(table: Comparison, spread: ArrayLike, *, chosen: float | None = None, level: float = LEVEL) -> Array:
    """Return how many rounds a side would decide each undecided case, if its effect and deviation stay as they are.

    chosen: the margin, where the user chose it. More than it has; NaN where not even MOST_ROUNDS do: its effect is too
    near the margin, or it has none.
    """
    known = np.broadcast_to(np.asarray(spread, dtype=float), table.effect.shape)
    floor = np.where(known > 0, known, np.nan)[..., None]
    deviation = np.fmax((table.standard_error * np.sqrt(table.rounds / 2))[..., None], floor)
    effect = np.abs(table.effect)[..., None]
    rounds = np.arange(2, MOST_ROUNDS + 1)
    freedom = rounds - 1 if table.paired else 2 * rounds - 2
    cases = np.maximum(_count(table.p), 1)[..., None, None]
    error = deviation * np.sqrt(2 / rounds)
    least = margin(floor, rounds) if chosen is None else np.full(error.shape, chosen)
    near = np.minimum(least, MOST_SAME if chosen is None else chosen)
    changed = (effect >= least) & (effect >= special.stdtrit(freedom, 1 - level / cases / 2) * error)
    same = effect + special.stdtrit(freedom, 0.95) * error < near
    enough = (changed | same) & (rounds > table.rounds[..., None])
    return np.where(enough.any(axis=-1), rounds[enough.argmax(axis=-1)], np.nan)


def rounds_for(spread: float, sensitivity: float, *, cases: int = TABLE_CASES, paired: bool = True) -> float:
    """Return the smallest number of rounds a side that sees a slowdown of `sensitivity` (0.05 is 5 %).

    That is: the margin is not above it, and the test of a table of `cases` finds it with 95 % power, by `detectable`.
    Where the sensitivity is the margin, half of the estimates still lie below it. NaN when not even MOST_ROUNDS do.
    """

    def enough(rounds: int) -> bool:
        return least_seen(spread, rounds, cases=cases, paired=paired) <= sensitivity * (1 + 1e-9)

    if not enough(MOST_ROUNDS):  # a NaN as well
        return float("nan")
    low, high = 1, MOST_ROUNDS  # too few, enough
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if enough(middle) else (middle, high)
    return high


def least_seen(spread: float, rounds: int, *, cases: int = TABLE_CASES, paired: bool = True) -> float:
    """Return the smallest slowdown that `rounds` a side see, in the sense of `rounds_for`: 0.05 is 5 %."""
    effect = np.maximum(margin(spread, rounds), spread * detectable(rounds, cases=cases, paired=paired))
    return float(np.expm1(np.minimum(effect, 100)))  # more is no use to anybody, and no number


@functools.cache
def detectable(rounds: int, *, cases: int = TABLE_CASES, paired: bool = True) -> float:
    """Return the effect, in spreads, that the test sees with 95 % power, alone in a table of otherwise equal `cases`.

    By simulation of 4,000 seeded normal cases, of which each would need critical t × standard error - its own error.
    """
    draws = np.random.default_rng(rounds)
    base, new = draws.standard_normal((2, _REPLICATES, rounds))
    found = compare_case(base, new, paired=paired, spread=1.0)
    critical = special.stdtrit(found.freedom, 1 - LEVEL / cases / 2)
    return float(np.quantile(critical * found.standard_error - found.effect, POWER))


def _comparison(effect: Array, standard_error: Array, freedom: Array, rounds: Array, *, paired: bool) -> Comparison:
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
        paired=paired,
    )


def _one_sample(values: Array) -> tuple[Array, Array, Array, Array]:
    mean, variance, rounds = moments(values)
    return mean, np.sqrt(variance / rounds), rounds - 1, rounds


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


def _finite(logs: ArrayLike) -> Array:
    values = np.asarray(logs, dtype=float)
    return np.where(np.isfinite(values), values, np.nan)


def _count(values: Array) -> NDArray[np.int64]:
    return np.asarray(np.isfinite(values).sum(axis=-1))


def _median_and_mad(values: Array) -> tuple[Array, Array]:
    """Return the median and the scaled MAD over the last axis, which stays with length 1."""
    median = _median(values)
    return median, _MAD_TO_SD * _median(np.abs(values - median))


def _median(values: Array) -> Array:
    """Return the median of what is not NaN; numpy's own is too slow for many short rows."""
    if values.shape[-1] == 0:
        return np.full((*values.shape[:-1], 1), np.nan)
    ordered = np.sort(values, axis=-1)  # NaN last
    count = _count(values)[..., None]
    low, high = np.maximum(count - 1, 0) // 2, count // 2
    high = np.minimum(high, values.shape[-1] - 1)
    return (np.take_along_axis(ordered, low, -1) + np.take_along_axis(ordered, high, -1)) / 2
