"""Whether a session lies beyond what the sessions before it predict, for each case, on arrays.

A case is slower when its log step time lies above the one-sided 99.5 % t prediction interval of the last 10 to 20
sessions, and by at least 2 %. That is `slower?`: without any reason in one run of eleven with 21 cases, if these move
independently of each other. It is confirmed, and fails the gate, when the session before said so as well, both by the
sessions before both.

By simulation of normal sessions that spread by 1 %, a case:

| sessions before the newest | false alarms | confirmed | 5 % slower is seen | and confirmed |
| --- | --- | --- | --- | --- |
| 11, the least that confirm | 0.44 % | 0.011 % | 90 % | 80 % |
| 15 | 0.47 % | 0.008 % | 95 % | 89 % |
| 21, as many as are looked at | 0.46 % | 0.007 % | 96 % | 92 % |

A machine that is slower makes all cases slower. A frozen engine, which no commit changes, tells: where it has moved
beyond its own interval, its moves are taken out of every session of the cases that moved with it, and they are judged
again. With a machine that became 5 % slower two sessions ago, 20 cases and sessions that spread by 1 %, a run has a
false alarm in 9 % and a confirmed one in 1.3 %; a case that is slower by 5 % besides is confirmed in half. Where
sessions lack the frozen engine, the median over all cases stands in, which cannot tell the machine from a commit that
slows everything.
"""

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import special

from harness.comparing.rule import LEAST_MARGIN, Array
from harness.tables.stored import SESSIONS

LEAST_SESSIONS = 10
LEVEL = 0.995  # of the one-sided interval
_LEAST_CASES = 5  # whose median may stand in for the frozen engine: of few, one that moves is the median


@dataclass(frozen=True)
class Judged:
    """The newest session, arrays `[cases]`.

    effect: log of its step time over the mean of the reference's. limit: how large it may be; NaN where there are too
    few sessions. sessions: in the reference. moved: 1 slower, -1 faster, 0 neither. before: the same of the session
    before. confirmed: by that session.
    """

    effect: Array
    limit: Array
    sessions: NDArray[np.int64]
    moved: NDArray[np.int64]
    before: NDArray[np.int64]
    confirmed: NDArray[np.bool_]


def judge(logs: ArrayLike, said: ArrayLike | None = None, *, least: float = LEAST_MARGIN) -> Judged:
    """Judge the last of `[sessions, cases]` log step times, oldest first; what is not finite is not there.

    said: the same of the runs by which a session was judged when it was the newest, where these are others. least: the
    smallest effect that counts.
    """
    first = _finite(logs)
    newest, last = first[-1], (first if said is None else _finite(said))
    # Each case has sessions of its own: those that are there come last, in their order.
    order = np.argsort(np.isfinite(first[:-1]), axis=0, kind="stable")
    room = np.full((SESSIONS + 1, first.shape[1]), np.nan)
    earlier = np.concatenate([room, np.take_along_axis(first[:-1], order, 0)])[-SESSIONS - 1 :]
    before = np.concatenate([room[:1], np.take_along_axis(last[:-1], order, 0)])[-1]
    effect, limit, moved, sessions = _against(newest, earlier[1:], least)
    # Both by the sessions before both: a slowdown among so few would hide itself.
    again_effect, again_limit, again, again_sessions = _against(newest, earlier[:-1], least)
    moved_before = _against(before, earlier[:-1], least)[2]
    confirmed = (again != 0) & (again == moved_before)
    return Judged(
        effect=np.where(confirmed, again_effect, effect),
        limit=np.where(confirmed, again_limit, limit),
        sessions=np.where(confirmed, again_sessions, sessions),
        moved=np.where(confirmed, again, moved),
        before=moved_before,
        confirmed=confirmed,
    )


def common(logs: ArrayLike, said: ArrayLike, frozen: NDArray[np.bool_]) -> tuple[Array, Array, str]:
    """Return by how much each session is slower for all cases, of both `[sessions, cases]`, and by what that is told.

    By the `frozen` cases' deviation from their mean, where the last session and enough others have them; else by the
    `median` over at least five cases; else it is NaN, and by nothing.
    """
    first, last = _finite(logs), _finite(said)
    centre = mean_of_sessions(first[:-1][-SESSIONS:])
    first, last = first - centre, last - centre
    for by, chosen, least in (("frozen", frozen, 1), ("median", np.ones_like(frozen), _LEAST_CASES)):
        moves = median_of_cases(first[:, chosen], least), median_of_cases(last[:, chosen], least)
        there = np.isfinite(moves[0])
        if there[-1] and there[:-1].sum() >= LEAST_SESSIONS:
            return *moves, by
    nothing = np.full(len(first), np.nan)
    return nothing, nothing, ""


def judge_with_machine(
    logs: ArrayLike, said: ArrayLike, frozen: NDArray[np.bool_]
) -> tuple[Judged, NDArray[np.bool_], float, str]:
    """Judge `[sessions, cases]` of one device as `judge` does, those that moved with the machine without its moves.

    frozen: which cases are of the frozen engine, `[cases]`. Returns also which cases have moved with the machine alone,
    by how much the machine has, a log that is 0 for not, and by what that is told, as `common` has it.
    """
    judged = judge(logs, said)
    first, last, by = common(logs, said, frozen)
    machine = judge(first[:, None], last[:, None], least=0)
    alone = judge(_finite(logs) - first[:, None], _finite(said) - last[:, None])
    movable = (judged.moved != 0) & np.isfinite(alone.limit)
    with_it = movable & (judged.moved == machine.moved[0])
    only_with_it = with_it & (alone.moved != judged.moved)
    # A confirmation is worth nothing either where the session before was slower only as its machine was.
    confirmed = judged.confirmed & (~(with_it | (movable & (judged.moved == machine.before[0]))) | alone.confirmed)
    moved = np.where(only_with_it, 0, judged.moved)
    move = float(machine.effect[0]) if machine.moved[0] else 0.0
    return replace(judged, moved=moved, confirmed=confirmed), only_with_it, move, by


def mean_of_sessions(values: Array) -> Array:
    """Return the mean over sessions of what is there; NaN where nothing is."""
    there = np.isfinite(values)
    count = there.sum(axis=0)
    return np.asarray(np.where(there, values, 0).sum(axis=0) / np.where(count > 0, count, np.nan))


def median_of_cases(values: Array, least: int) -> Array:
    """Return the median over cases of what is there, by session; NaN where that are fewer than `least`."""
    rows = [row[np.isfinite(row)] for row in values]
    return np.array([np.median(row) if len(row) >= least else np.nan for row in rows], dtype=float)


def _against(
    values: Array, reference: Array, least: float
) -> tuple[Array, Array, NDArray[np.int64], NDArray[np.int64]]:
    """Return effect, limit, which way it moved and by how many sessions: values `[cases]`, `[sessions, cases]`."""
    there = np.isfinite(reference)
    count = there.sum(axis=0)
    enough = np.where(count >= LEAST_SESSIONS, count, np.nan)
    mean = mean_of_sessions(reference)
    variance = np.where(there, (reference - mean) ** 2, 0).sum(axis=0) / (enough - 1)
    interval = special.stdtrit(enough - 1, LEVEL) * np.sqrt(variance * (1 + 1 / enough))
    effect, limit = values - mean, np.maximum(interval, least)
    beyond = (np.abs(effect) > interval) & (np.abs(effect) >= least)
    return effect, limit, np.where(beyond, np.sign(effect), 0).astype(np.int64), count


def _finite(values: ArrayLike) -> Array:
    array = np.asarray(values, dtype=float)
    return np.where(np.isfinite(array), array, np.nan)
