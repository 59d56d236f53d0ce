"""The newest run of a machine against the sessions before it: a gate, and the trend of each case.

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

A slowdown that stays becomes the reference itself: after a few sessions nothing is said of it any more. A slow drift is
never beyond the interval of the sessions right before it; the trend shows it, and holds no gate.
"""

import math
from collections import Counter
from collections.abc import Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import special, stats

from harness.comparing.rule import LEAST_MARGIN, Array
from harness.tables.cells import environment_of
from harness.tables.stored import SESSIONS, StoredRun, side_by_side

LEAST_SESSIONS = 10
LEVEL = 0.995  # of the one-sided interval
TREND_SESSIONS = 200  # Theil–Sen takes the slopes of all pairs

YARDSTICK = "frozen"
_LEAST_TREND = 5  # of fewer, the interval of the slope is no 95 %
_LEAST_CASES = 5  # whose median may stand in for the frozen engine: of few, one that moves is the median


class Status(StrEnum):
    """What is said of a case of the newest run.

    slower, faster: beyond the interval in two sessions in a row; with a question mark, in the newest alone. machine:
    moved, but with the machine. too few: sessions to be judged by. changed: another thing, or other threads, than in
    those. lost: was `ok` in the last session that had it. failing: was not `ok` there either. new: never had a time
    before. not run: in earlier sessions only.
    """

    SLOWER = "slower"
    MAYBE_SLOWER = "slower?"
    FASTER = "faster"
    MAYBE_FASTER = "faster?"
    STEADY = "steady"
    MACHINE = "machine"
    TOO_FEW = "too few"
    CHANGED = "changed"
    LOST = "lost"
    FAILING = "failing"
    NEW = "new"
    NOT_RUN = "not run"


_Row = Mapping[Hashable, Any]

_MOVED = {
    (1, True): Status.SLOWER,
    (1, False): Status.MAYBE_SLOWER,
    (-1, True): Status.FASTER,
    (-1, False): Status.MAYBE_FASTER,
}


@dataclass(frozen=True)
class CaseHistory:
    """One case over the sessions.

    change: of the newest step time against the mean of the `sessions` it is judged by, 0.05 is 5 % slower; limit: how
    much it may be. trend: change per session by Theil–Sen, over at most TREND_SESSIONS, with its 95 % interval. times:
    step time in ns of every session, oldest first, the newest run's last; NaN where it has none, or was another thing.
    """

    case_id: str
    status: Status
    reason: str = ""
    change: float = math.nan
    limit: float = math.nan
    sessions: int = 0
    trend: float = math.nan
    trend_low: float = math.nan
    trend_high: float = math.nan
    first_ns: float = math.nan
    best_ns: float = math.nan
    last_ns: float = math.nan
    times: tuple[float, ...] = ()

    @property
    def failed(self) -> bool:
        """Whether this fails the gate."""
        return self.status in (Status.SLOWER, Status.LOST)


@dataclass(frozen=True)
class RunLine:
    """One run of the series, `ok` cases with a time; change: the median over cases, against the same sessions.

    part: `newest`, `reference`, `earlier` than those, `dirty`, or `same session` as another that is taken.
    """

    run_id: str
    commit: str
    session: str
    part: str
    ok: int
    change: float


@dataclass(frozen=True)
class Move:
    """The machine itself against the sessions before: change, 0.04 is 4 % slower; by: `frozen` or `median`."""

    device: str
    change: float
    by: str


@dataclass(frozen=True)
class History:
    """A machine's newest run against its earlier sessions.

    runs: of the newest one's fingerprint, oldest first. sessions: how many of these are in the table. others: runs of
    other fingerprints, which are left out, by fingerprint; with what differs there, where the tables tell.
    """

    machine: str
    fingerprint: str
    dirty: bool
    runs: tuple[RunLine, ...]
    sessions: int
    cases: tuple[CaseHistory, ...]
    moves: tuple[Move, ...] = ()
    others: Mapping[str, tuple[int, str]] = field(default_factory=dict)

    @property
    def newest(self) -> RunLine:
        """The run that is judged."""
        return self.runs[-1]

    @property
    def failed(self) -> bool:
        """Whether the gate fails."""
        return any(case.failed for case in self.cases)

    @property
    def undecided(self) -> bool:
        """Whether a case seems slower that another session has yet to confirm."""
        return any(case.status is Status.MAYBE_SLOWER for case in self.cases)

    def of(self, *statuses: Status) -> tuple[CaseHistory, ...]:
        """Return the cases with one of these statuses."""
        return tuple(case for case in self.cases if case.status in statuses)


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
    centre = _mean(first[:-1][-SESSIONS:])
    first, last = first - centre, last - centre
    for by, chosen, least in (("frozen", frozen, 1), ("median", np.ones_like(frozen), _LEAST_CASES)):
        moves = _median(first[:, chosen], least), _median(last[:, chosen], least)
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


def history_of(runs: Sequence[StoredRun]) -> History:
    """Judge the newest of a machine's runs, oldest first, by those of its fingerprint; at least one."""
    newest = runs[-1]
    series = [run for run in runs if (run.machine, run.fingerprint) == (newest.machine, newest.fingerprint)]
    steps = side_by_side(series)
    logs = np.where(steps.alike, steps.logs, np.nan)
    firsts, lasts = _sessions(series)
    recent = [series[row] for row in firsts[-SESSIONS - 1 : -1]]
    names = dict.fromkeys(name for run in (newest, *reversed(recent)) for name in run.cases.index)
    column_of = {name: column for column, name in enumerate(steps.cases)}
    judged, moves = _judged(newest, logs[firsts], logs[lasts], column_of)
    now, then = _measured([newest]), _measured(recent)
    ever = np.asarray(np.isfinite(steps.logs[firsts[:-1]]).any(axis=0))
    cases = []
    for name in names:
        times, new = logs[firsts, column_of[name]], bool(recent) and not ever[column_of[name]]
        case = _before_times(
            judged.get(name, CaseHistory(name, Status.NOT_RUN)), now.get(name), then.get(name), new=new
        )
        cases.append(replace(case, times=tuple(np.exp(times).tolist()), **_trend(times)))
    return History(
        machine=newest.machine,
        fingerprint=newest.fingerprint,
        dirty=newest.dirty,
        runs=tuple(_run_lines(series, logs, firsts)),
        sessions=len(firsts),
        cases=tuple(cases),
        moves=moves,
        others=_others(runs, newest),
    )


def _sessions(series: Sequence[StoredRun]) -> tuple[list[int], list[int]]:
    """Return the rows of each session's first and last clean run, oldest session first; the newest run is the last."""
    newest = len(series) - 1
    rows: dict[str, list[int]] = {}
    for row, run in enumerate(series):
        if not run.dirty and run.session != series[newest].session:
            rows.setdefault(run.session, []).append(row)
    sessions = sorted(rows.values(), key=lambda each: each[-1])
    return [*(each[0] for each in sessions), newest], [*(each[-1] for each in sessions), newest]


def _judged(
    newest: StoredRun, logs: Array, said: Array, column_of: Mapping[str, int]
) -> tuple[dict[str, CaseHistory], tuple[Move, ...]]:
    """Judge the cases of the newest run by their times alone, device by device, and tell how these moved."""
    judged, moves = {}, []
    for device, rows in newest.cases.groupby("device", sort=False):
        columns = [column_of[name] for name in rows.index]
        frozen = (rows["engine"] == YARDSTICK).to_numpy()
        found, with_machine, move, by = judge_with_machine(logs[:, columns], said[:, columns], frozen)
        if move:
            moves.append(Move(str(device), math.expm1(move), by))
        for place, name in enumerate(rows.index):
            moved = _MOVED.get((int(found.moved[place]), bool(found.confirmed[place])), Status.STEADY)
            judged[str(name)] = CaseHistory(
                case_id=str(name),
                status=Status.MACHINE if with_machine[place] else moved,
                change=float(np.expm1(found.effect[place])),
                limit=float(np.expm1(found.limit[place])),
                sessions=int(found.sessions[place]),
            )
    return judged, tuple(moves)


def _before_times(case: CaseHistory, now: _Row | None, then: _Row | None, *, new: bool) -> CaseHistory:
    """Return the case as it is told where its times are not what decides; now, then: its rows, None for not measured.

    new: whether it had no time in any earlier session.
    """
    if now is None:
        return replace(case, status=Status.NOT_RUN)
    if now["outcome"] != "ok":
        lost = then is not None and then["outcome"] == "ok"
        return replace(
            case, status=Status.LOST if lost else Status.FAILING, reason=f"{now['outcome']}: {now['reason']}"
        )
    if new:
        return replace(case, status=Status.NEW)
    if case.sessions >= LEAST_SESSIONS:
        return case
    changed = _changed(now, then) if then is not None and then["outcome"] == "ok" else ""
    if changed:
        return replace(case, status=Status.CHANGED, reason=changed)
    missing = LEAST_SESSIONS - case.sessions
    return replace(case, status=Status.TOO_FEW, reason=f"{missing} more session{'s' * (missing > 1)} to judge it by")


def _changed(now: _Row, then: _Row) -> str:
    """Return what of a case is another than it was, `threads: 2 and 1`; what a table does not say has not changed."""
    told = []
    if then["threads"] == then["threads"] and now["threads"] == now["threads"] and then["threads"] != now["threads"]:
        told.append(f"threads: {then['threads']:g} and {now['threads']:g}")
    if then["workload_digest"] and now["workload_digest"] and then["workload_digest"] != now["workload_digest"]:
        told.append(f"workload: {then['workload_digest']} and {now['workload_digest']}")
    return "; ".join(told)


def _measured(runs: Sequence[StoredRun]) -> dict[str, _Row]:
    """Return of every case its row in the last run that has measured it."""
    found: dict[str, _Row] = {}
    for run in runs:
        rows = run.cases.to_dict("index")
        found |= {str(name): row for name, row in rows.items() if row["outcome"] != "interrupted"}
    return found


def _trend(logs: Array) -> dict[str, Any]:
    """Return first, best and last step time in ns and the change per session, of log step times by session."""
    numbers = np.flatnonzero(np.isfinite(logs))
    if not len(numbers):
        return {}
    first, best, last = np.exp([logs[numbers[0]], logs[numbers].min(), logs[numbers[-1]]]).tolist()
    numbers = numbers[-TREND_SESSIONS:]
    values = logs[numbers]
    told = {"first_ns": first, "best_ns": best, "last_ns": last}
    if len(values) < _LEAST_TREND:
        return told
    slope = stats.theilslopes(values, numbers, alpha=0.95)
    low, middle, high = np.expm1([slope.low_slope, slope.slope, slope.high_slope]).tolist()
    return {**told, "trend": middle, "trend_low": low, "trend_high": high}


def _run_lines(series: Sequence[StoredRun], logs: Array, firsts: Sequence[int]) -> Iterator[RunLine]:
    reference = firsts[-SESSIONS - 1 : -1]
    changes = np.expm1(_median(logs - _mean(logs[reference]), 1)).tolist()
    parts = dict.fromkeys(firsts, "earlier") | dict.fromkeys(reference, "reference") | {len(series) - 1: "newest"}
    for row, run in enumerate(series):
        part = parts.get(row, "dirty" if run.dirty else "same session")
        ok = int((run.cases["outcome"] == "ok").sum())
        yield RunLine(run.run_id, run.commit, run.session, part, ok, changes[row])


def _others(runs: Sequence[StoredRun], newest: StoredRun) -> dict[str, tuple[int, str]]:
    """Return how many runs there are of each other machine or fingerprint, and what differs there."""
    ours = environment_of(newest.environment)
    counts: Counter[str] = Counter()
    differing: dict[str, str] = {}
    for run in runs:
        if (run.machine, run.fingerprint) == (newest.machine, newest.fingerprint):
            continue
        key = run.fingerprint if run.machine == newest.machine else f"{run.machine}, {run.fingerprint}"
        theirs = environment_of(run.environment)
        counts[key] += 1
        differing[key] = "; ".join(
            f"{name}: {theirs.get(name, 'none')}, here {ours.get(name, 'none')}"
            for name in (dict.fromkeys([*theirs, *ours]) if theirs and ours else ())
            if theirs.get(name) != ours.get(name)
        )
    return {key: (count, differing[key]) for key, count in counts.items()}


def _against(
    values: Array, reference: Array, least: float
) -> tuple[Array, Array, NDArray[np.int64], NDArray[np.int64]]:
    """Return effect, limit, which way it moved and by how many sessions: values `[cases]`, `[sessions, cases]`."""
    there = np.isfinite(reference)
    count = there.sum(axis=0)
    enough = np.where(count >= LEAST_SESSIONS, count, np.nan)
    mean = _mean(reference)
    variance = np.where(there, (reference - mean) ** 2, 0).sum(axis=0) / (enough - 1)
    interval = special.stdtrit(enough - 1, LEVEL) * np.sqrt(variance * (1 + 1 / enough))
    effect, limit = values - mean, np.maximum(interval, least)
    beyond = (np.abs(effect) > interval) & (np.abs(effect) >= least)
    return effect, limit, np.where(beyond, np.sign(effect), 0).astype(np.int64), count


def _finite(values: ArrayLike) -> Array:
    array = np.asarray(values, dtype=float)
    return np.where(np.isfinite(array), array, np.nan)


def _mean(values: Array) -> Array:
    """Return the mean over sessions of what is there; NaN where nothing is."""
    there = np.isfinite(values)
    count = there.sum(axis=0)
    return np.asarray(np.where(there, values, 0).sum(axis=0) / np.where(count > 0, count, np.nan))


def _median(values: Array, least: int) -> Array:
    """Return the median over cases of what is there, by session; NaN where that are fewer than `least`."""
    rows = [row[np.isfinite(row)] for row in values]
    return np.array([np.median(row) if len(row) >= least else np.nan for row in rows], dtype=float)
