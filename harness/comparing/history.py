"""The newest run of a machine against the sessions before it: a gate (`comparing.prediction`), and each case's trend.

A slowdown that stays becomes the reference itself: after a few sessions nothing is said of it any more. A slow drift is
never beyond the interval of the sessions right before it; the trend shows it, and holds no gate.
"""

import math
from collections import Counter
from collections.abc import Hashable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from scipy import stats

from harness.comparing.prediction import LEAST_SESSIONS, judge_with_machine, mean_of_sessions, median_of_cases
from harness.comparing.rule import Array
from harness.comparing.series import TREND_SESSIONS, CaseHistory, History, Move, RunLine, Status
from harness.tables.cells import environment_of
from harness.tables.stored import SESSIONS, StoredRun, side_by_side

YARDSTICK = "frozen"
_LEAST_TREND = 5  # of fewer, the interval of the slope is no 95 %

_Row = Mapping[Hashable, Any]

_MOVED = {
    (1, True): Status.SLOWER,
    (1, False): Status.MAYBE_SLOWER,
    (-1, True): Status.FASTER,
    (-1, False): Status.MAYBE_FASTER,
}


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
    judged, moves, untold = _judged(newest, logs[firsts], logs[lasts], column_of)
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
        untold=untold,
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
) -> tuple[dict[str, CaseHistory], tuple[Move, ...], tuple[str, ...]]:
    """Judge the cases of the newest run by their times alone, device by device; tell how these moved, and which do not.

    That is, those with slower cases where nothing tells whether the machine moved.
    """
    judged, moves, untold = {}, [], []
    for device, rows in newest.cases.groupby("device", sort=False):
        columns = [column_of[name] for name in rows.index]
        frozen = (rows["engine"] == YARDSTICK).to_numpy()
        found, with_machine, move, by = judge_with_machine(logs[:, columns], said[:, columns], frozen)
        if move:
            moves.append(Move(str(device), math.expm1(move), by))
        if not by and (found.confirmed & (found.moved == 1)).any():
            untold.append(str(device))
        for place, name in enumerate(rows.index):
            moved = _MOVED.get((int(found.moved[place]), bool(found.confirmed[place])), Status.STEADY)
            judged[str(name)] = CaseHistory(
                case_id=str(name),
                status=Status.MACHINE if with_machine[place] else moved,
                change=float(np.expm1(found.effect[place])),
                limit=float(np.expm1(found.limit[place])),
                sessions=int(found.sessions[place]),
            )
    return judged, tuple(moves), tuple(untold)


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
    changes = np.expm1(median_of_cases(logs - mean_of_sessions(logs[reference]), 1)).tolist()
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
