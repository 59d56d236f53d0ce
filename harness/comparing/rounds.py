"""How many rounds decide a case, and how little so many rounds see, by the rule of verdicts."""

import functools

import numpy as np
from numpy.typing import ArrayLike
from scipy import special

from harness.comparing.clock import FEWEST_PAIRS, FEWEST_ROUNDS, THERE_BEFORE
from harness.comparing.rule import LEVEL, MOST_SAME, Array, Comparison, compare_case, margin
from harness.comparing.rule import spread as spread_of
from harness.plan.presets import LEAST_ROUNDS

POWER = 0.95
MOST_ROUNDS = 200  # nobody waits for more
TABLE_CASES = 26  # as many as a run without options has

_REPLICATES = 4000


def rounds_needed(table: Comparison, spread: ArrayLike, *, chosen: float | None = None, level: float = LEVEL) -> Array:
    """Return how many rounds a side would decide each undecided case, if its effect and deviation stay as they are.

    And if the same share of rounds is left out. chosen: the margin, where the user chose it. More than it has, and at
    least LEAST_ROUNDS; NaN where not even MOST_ROUNDS do: its effect is too near the margin, or it has none.
    """
    known = np.broadcast_to(np.asarray(spread, dtype=float), table.effect.shape)
    floor = np.where(known > 0, known, np.nan)[..., None]
    deviation = np.fmax((table.standard_error * np.sqrt(table.used / 2))[..., None], floor)
    effect = np.abs(table.effect)[..., None]
    rounds = np.arange(LEAST_ROUNDS, MOST_ROUNDS + 1)
    used = rounds * (table.used / table.rounds)[..., None]
    freedom = np.where(table.paired[..., None], used - 1, 2 * used - 2)
    cases = np.maximum(np.isfinite(table.p).sum(axis=-1), 1)[..., None, None]
    error = deviation * np.sqrt(2 / used)
    least = margin(floor, used) if chosen is None else np.full(error.shape, chosen)
    near = np.minimum(least, MOST_SAME if chosen is None else chosen)
    changed = (effect >= least) & (effect >= special.stdtrit(freedom, 1 - level / cases / 2) * error)
    same = effect + special.stdtrit(freedom, 0.95) * error < near
    enough = (changed | same) & (rounds > table.rounds[..., None])
    return np.where(enough.any(axis=-1), rounds[enough.argmax(axis=-1)], np.nan)


def rounds_for(
    spread: float, sensitivity: float, *, cases: int = TABLE_CASES, paired: bool = True, left: float = 1.0
) -> float:
    """Return the smallest number of rounds a side that sees a slowdown of `sensitivity` (0.05 is 5 %).

    That is: the margin is not above it, and the test of a table of `cases` finds it with 95 % power, by `detectable`.
    Where the sensitivity is the margin, half of the estimates still lie below it. NaN when not even MOST_ROUNDS do.
    left: as `least_seen` takes it.
    """

    def enough(rounds: int) -> bool:
        return least_seen(spread, rounds, cases=cases, paired=paired, left=left) <= sensitivity * (1 + 1e-9)

    if not enough(MOST_ROUNDS):  # a NaN as well
        return float("nan")
    low, high = LEAST_ROUNDS - 1, MOST_ROUNDS  # too few, enough
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if enough(middle) else (middle, high)
    return high


def least_seen(
    spread: float, rounds: int, *, cases: int = TABLE_CASES, paired: bool = True, left: float = 1.0
) -> float:
    """Return the smallest slowdown that `rounds` a side see, in the sense of `rounds_for`: 0.05 is 5 %.

    left: of the spread of pairs, what is left where the core's clock is taken out of them. As much of a change must
    then be in the pairs as they are that `comparing.clock` lets it count; this asks for a little more than that needs.
    """
    clocked = paired and left < 1 and rounds >= FEWEST_ROUNDS and rounds * cases >= FEWEST_PAIRS
    own = spread * left if clocked else spread
    effect = np.maximum(margin(own, rounds), own * detectable(rounds, cases=cases, paired=paired, clocked=clocked))
    if clocked:
        chance = special.ndtri(POWER) * spread * np.sqrt(2 / rounds)
        effect = np.maximum(effect, chance / (1 - THERE_BEFORE))
    return float(np.expm1(np.minimum(effect, 100)))  # more is no use to anybody, and no number


@functools.cache
def detectable(rounds: int, *, cases: int = TABLE_CASES, paired: bool = True, clocked: bool = False) -> float:
    """Return the effect, in spreads, that the test sees with 95 % power, alone in a table of otherwise equal `cases`.

    By simulation of 4,000 seeded normal cases, of which each would need critical t × standard error - its own error.
    clocked: as of pairs without the core's clock, whose spread is at least that of these pairs.
    """
    draws = np.random.default_rng(rounds)
    base, new = draws.standard_normal((2, _REPLICATES, rounds))
    known = np.fmax(1.0, spread_of(new - base) / np.sqrt(2)) if clocked else 1.0
    found = compare_case(base, new, paired=paired, spread=known)
    critical = special.stdtrit(found.freedom, 1 - LEVEL / cases / 2)
    return float(np.quantile(critical * found.standard_error - found.effect, POWER))
