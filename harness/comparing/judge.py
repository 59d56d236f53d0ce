"""Verdicts on whole tables of log step times `[..., cases, rounds]`, of one session or of two.

What disturbs a round disturbs all of its cases. In pairs that is gone, but a pair has half of the freedom and meets
twice the bursts. A table of many cases tells by itself what its rounds share: without it, the sides are compared as if
the machine had been quiet. By simulation of normal logs, tables of 54 cases, spread 1 %, rounds that drift by 3 %, one
case 5 % slower, 10 rounds, bursts of +30 % in one process of ten: seen in 39 % in pairs, in 97 % so.
"""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from harness.comparing.compared import Status
from harness.comparing.rule import (
    MOST_SAME,
    Array,
    Comparison,
    compare_case,
    holm,
    margin,
    median,
    spread,
    verdicts,
)
from harness.comparing.sessions import SessionSpread
from harness.plan.presets import LEAST_ROUNDS

# Of a process, where the machine was never measured against itself and its rounds do not spread more.
ASSUMED_SPREAD = 0.01
# Whose median tells what a round did to all. It takes a part of each case's own noise with it, and of few cases so much
# that what is left looks quieter than it is: at a spread of 5 % that is not known, 2.6 % of tables of two cases have a
# false verdict, 1.2 % of five, 0.9 % of ten and 0.7 % of twenty.
SHARING_CASES = 20
MANY_CASES = 0.5  # of a table: a round of fewer tells nothing of all
_PAIRS_PAY = 0.5  # of the variance, for they have half of the freedom


@dataclass(frozen=True)
class Judged:
    """Arrays `[..., cases]`: comparison, adjusted p, margin, spread, where that is from, statuses."""

    table: Comparison
    p: Array
    margin: Array
    spread: Array
    from_noise: NDArray[np.bool_]
    status: NDArray[np.str_]


def judge(
    base: Array,
    new: Array,
    *,
    paired: bool,
    known: ArrayLike = math.nan,
    least: float | None = None,
    sessions: SessionSpread | None = None,
    firm: bool = True,
) -> Judged:
    """Judge log step times `[..., cases, rounds]` of one table, or of many.

    paired: measured in the same rounds. known: spread of a process, `[..., cases]`, NaN where it was not measured; then
    it is that of these rounds, but at least ASSUMED_SPREAD. least: the margin, a share, instead of the rule's. firm: of
    one session; else the margin is what sessions differ by. A firm verdict takes LEAST_ROUNDS of each side, or pairs.
    """
    shape = base.shape[:-1]
    known = np.broadcast_to(np.asarray(known, dtype=float), shape)
    table, spreads = _compared(base, new, known, paired=paired)
    chosen = None if least is None else math.log1p(least)
    if firm:
        limit = margin(spreads, table.used) if chosen is None else np.full(shape, chosen)
        status = verdicts(table, limit, within=MOST_SAME if chosen is None else chosen)
        sides = (new - base,) if paired else (base, new)
        few = np.min([np.isfinite(logs).sum(axis=-1) for logs in sides], axis=0) < LEAST_ROUNDS
        status = np.where(few, np.str_(Status.UNDECIDED), status)
    else:
        between = sessions or SessionSpread()
        limit = between.margin(spreads)
        limit = np.fmax(limit, chosen) if chosen is not None else limit
        # Noise widens an assumed margin, and proves nothing.
        near = np.minimum(limit, between.margin(np.zeros(shape)) if chosen is None else limit)
        status = np.select(
            [table.low95 > limit, table.high95 < -limit, (table.low95 > -near) & (table.high95 < near)],
            [np.str_(Status.SLOWER), np.str_(Status.FASTER), np.str_(Status.WITHIN)],
            np.str_(Status.UNDECIDED),
        )
    # Of two sessions, rounds tell no p: these differ by more.
    p = holm(table.p) if firm else np.full(shape, np.nan)
    return Judged(table, p, limit, spreads, np.asarray(known > 0), status)


def without_rounds(base: Array, new: Array) -> tuple[Array, Array]:
    """Return both sides without what all cases of a round share: its median over cases and sides.

    Of the logs' distances from the median of their case and side, so that no change of a case is part of it.
    """
    both = np.concatenate([base, new], axis=-2)
    by_round = np.swapaxes(both - median(both), -1, -2)
    shared = np.swapaxes(median(by_round), -1, -2)
    # A round of a few cases, in which these made up for lost pairs, tells of them and not of the round.
    least = min(MANY_CASES * both.shape[-2], 2 * SHARING_CASES)
    many = np.isfinite(both).sum(axis=-2, keepdims=True) >= least
    shared = np.where(many, shared, 0)
    return base - shared, new - shared


def pairing_pays(base: Array, new: Array) -> NDArray[np.bool_]:
    """Return of each table whether case by case, too, the two sides of a round have much in common."""
    with np.errstate(divide="ignore", invalid="ignore"):
        share = spread(new - base) ** 2 / (spread(base) ** 2 + spread(new) ** 2)
    return np.asarray(median(share)[..., 0] < _PAIRS_PAY)


def _compared(base: Array, new: Array, known: Array, *, paired: bool) -> tuple[Comparison, Array]:
    """Compare sides as suits their rounds: pair by pair, or by all rounds of a side; also returns the spreads."""
    if not paired or base.shape[-2] < SHARING_CASES:
        return _with_spreads(base, new, known, paired=paired)
    before, after = without_rounds(base, new)
    in_pairs = pairing_pays(before, after)[..., None]
    if in_pairs.all():
        return _with_spreads(base, new, known, paired=True)
    by_sides = _with_spreads(before, after, known, paired=False)
    if not in_pairs.any():
        return by_sides
    (one, spreads), (other, theirs) = _with_spreads(base, new, known, paired=True), by_sides
    chosen = (np.where(in_pairs, *each) for each in zip(vars(one).values(), vars(other).values(), strict=True))
    return Comparison(*chosen), np.where(in_pairs, spreads, theirs)


def _with_spreads(base: Array, new: Array, known: Array, *, paired: bool) -> tuple[Comparison, Array]:
    here = _own_spread(base, new, paired=paired)
    own = ~(known > 0) & (here > ASSUMED_SPREAD)
    spreads = np.where(known > 0, known, np.where(own, here, ASSUMED_SPREAD))
    return compare_case(base, new, paired=paired, spread=spreads, own=own), spreads


def _own_spread(base: Array, new: Array, *, paired: bool) -> Array:
    """Return the spread of a process as these rounds have it; NaN where there are fewer than two."""
    if paired:
        return spread(new - base) / math.sqrt(2)
    return np.sqrt((spread(base) ** 2 + spread(new) ** 2) / 2)
