"""Judges pairs of one session: without those that a neighbour spoilt, and without what the core's clock did."""

from dataclasses import dataclass, replace

import numpy as np

from harness.comparing.clock import judge_clocked, without_clock
from harness.comparing.compared import Status
from harness.comparing.disturbed import LeftOut, Mask, left_out
from harness.comparing.judge import Judged, judge
from harness.comparing.rule import Array


@dataclass(frozen=True)
class Evidence:
    """What both sides tell of the core: logs of the fixed work, and which processes were disturbed throughout.

    work, disturbed: base and new, `[..., cases, rounds]` each. Of sides that did not do the same work nothing is known.
    """

    work: tuple[Array, Array]
    disturbed: tuple[Mask, Mask]


@dataclass(frozen=True)
class JudgedPairs:
    """found: of the logs base and new, which are without the pairs left out.

    left: the share of each case's spread that is left without the core's clock; 1 where that was not taken out.
    """

    found: Judged
    base: Array
    new: Array
    pairs: LeftOut
    left: Array


def judge_pairs(
    base: Array, new: Array, evidence: Evidence | None, *, known: Array, least: float | None = None
) -> JudgedPairs:
    """Judge logs `[..., cases, rounds]` of pairs; known, least: as `judge` takes them."""
    nothing = np.zeros(base.shape, dtype=bool)
    pairs = left_out(base, new, *(evidence.disturbed if evidence else (nothing, nothing)))
    base, new = _without(pairs.out, base), _without(pairs.out, new)
    left = np.ones(base.shape[:-1])
    if evidence is None:
        found = judge(base, new, paired=True, known=known, least=least)
    else:
        clocked = without_clock(base, new, *(_without(pairs.out, work) for work in evidence.work))
        found, left = judge_clocked(base, new, clocked, known=known, least=least), clocked.left
    doubted = pairs.spoilt | (pairs.doubtful & (found.status == Status.SAME))
    found = replace(found, status=np.where(doubted, np.str_(Status.UNDECIDED), found.status))
    return JudgedPairs(found, base, new, pairs, left)


def _without(out: Mask, logs: Array) -> Array:
    return np.where(out, np.nan, logs)
