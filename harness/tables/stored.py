"""All stored runs of a machine, and the step times of many runs side by side."""

import itertools
import os
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from harness.plan.errors import PlanError
from harness.plan.text import printable
from harness.tables.files import read_table

SESSIONS = 20  # what is older tells little of how the machine is now

_SUMMARY = "summary.csv"
# Equal in all rows of a run.
_OF_RUN = ("run_id", "session", "commit", "dirty", "machine", "fingerprint", "environment")
_OF_CASE = ("case_id", "engine", "device", "threads", "outcome", "reason", "step_ns", "workload_digest")
_OF_ROUND = ("case_id", "round", "outcome", "step_ns")
_LISTED = 20
_MOST_LOOKED_AT = 200  # runs, for sessions of the cases wanted


@dataclass(frozen=True)
class StoredRun:
    """One stored run.

    session: the same for runs that were measured in turn; else the run's own. environment: what the fingerprint is made
    of, as the table has it. cases: one row per case, `engine, device, threads, outcome, reason, step_ns,
    workload_digest`, by `case_id`.
    """

    folder: Path
    run_id: str
    session: str
    commit: str
    dirty: bool
    machine: str
    fingerprint: str
    environment: str
    cases: pd.DataFrame


@dataclass(frozen=True)
class StepLogs:
    """Runs side by side.

    cases: ids. logs: of step times in ns, `[runs, cases]`, NaN where a run has no time of a case. alike: whether a case
    was the same – threads and what was trained – as in the last run that has a time of it; where a table does not say,
    it is taken to be.
    """

    cases: tuple[str, ...]
    logs: NDArray[np.float64]
    alike: NDArray[np.bool_]


def machine_folder(path: Path) -> Path:
    """Return the folder of a machine: `path` itself, or the only machine's in a folder of results.

    Raises PlanError, in one line, where it is neither, or holds several machines: they are named.
    """
    shown = printable(str(path))
    if not path.is_dir():
        if path.exists():
            raise PlanError(f"{shown} is no folder: name that of a machine, results/NAME")
        raise PlanError(f"{shown}: there is no such folder; a run is stored by: harness run")
    if _has_summary(path):
        of = path.resolve().parent if path.name in ("", "..") else path.parent
        raise PlanError(f"{shown} is one run; its machine's folder is: harness history {printable(str(of))}")
    folders = _folders(path)
    if any(_has_summary(folder) for folder in folders):
        return path
    machines = [folder for folder in folders if any(_has_summary(run) for run in _folders(folder))]
    if not machines:
        raise PlanError(f"{shown}: has no stored runs, that is no folders with a {_SUMMARY}; store one by: harness run")
    if len(machines) > 1:
        names = ", ".join([*(printable(each.name) for each in machines[:_LISTED]), *["…"][: len(machines) > _LISTED]])
        example = printable(str(machines[0]))
        raise PlanError(f"{shown} holds {len(machines)} machines: {names}; name one: harness history {example}")
    return machines[0]


def stored_runs(folder: Path, broken: Callable[[PlanError], None] = lambda _: None) -> list[StoredRun]:
    """Return the runs in a machine's folder, oldest first: by their ids, which begin with the time.

    broken: is told of every run that cannot be read, and is left out. A folder without a summary is of no finished
    round, and no run. Raises PlanError where the folder itself cannot be read.
    """
    runs = _read_runs(folder, broken, newest_first=False)
    return sorted(runs, key=_begun)


def stored_sessions(
    folder: Path,
    fingerprint: str,
    *,
    cases: pd.DataFrame | None = None,
    excluding: Collection[str] = (),
    sessions: int = SESSIONS,
) -> NDArray[np.float64]:
    """Return log step times in ns `[sessions, cases, rounds]` of a machine's newest sessions, oldest first.

    cases: `threads` and `workload_digest` by `case_id`; of other cases there are no times then, and a session with
    times of fewer than half of these is none. excluding: ids of runs and sessions that are not wanted. Of each session
    it is the first clean run; NaN where that has no time of a case, or the case was another thing than it is in the
    newest of them. Reads only as many of the newest runs as are wanted, at most 200; those that cannot be read are left
    out. Raises PlanError where the folder itself cannot.
    """
    found: list[StoredRun] = []
    for run in itertools.islice(_read_runs(folder, lambda _: None, newest_first=True), _MOST_LOOKED_AT):
        if _counts(run, fingerprint, excluding):
            held = run if cases is None else replace(run, cases=_timed(run, cases))
            if cases is not None and 2 * len(held.cases) < len(cases):
                continue
            found.append(held)
            if len({each.session for each in found}) > sessions:
                break
    first: dict[str, StoredRun] = {}
    for run in sorted(found, key=_begun):
        first.setdefault(run.session, run)
    measured: list[tuple[StoredRun, pd.DataFrame]] = []
    for run in list(first.values())[-sessions:]:
        with suppress(PlanError):
            measured.append((run, _rounds(run)))
    return _round_logs(measured)


def side_by_side(runs: Sequence[StoredRun]) -> StepLogs:
    """Put the step times of runs, oldest first, beside each other; cases in the order of the last run, then of earlier.

    Only `ok` cases have a time.
    """
    number: dict[str, int] = {}
    for run in reversed(runs):
        for case_id in run.cases.index:
            number.setdefault(case_id, len(number))
    shape = (len(runs), len(number))
    logs, threads = np.full(shape, np.nan), np.full(shape, np.nan)
    digests = np.full(shape, "", dtype=object)
    for row, run in enumerate(runs):
        step_ns = run.cases["step_ns"].to_numpy(dtype=float)
        ok = (run.cases["outcome"] == "ok").to_numpy() & np.isfinite(step_ns)
        columns = np.array([number[case_id] for case_id in run.cases.index])[ok]
        logs[row, columns] = np.log(step_ns[ok])
        threads[row, columns] = run.cases["threads"].to_numpy(dtype=float)[ok]
        digests[row, columns] = run.cases["workload_digest"].to_numpy(dtype=object)[ok]
    timed = np.isfinite(logs)
    same_threads = _as_the_last(threads, timed & np.isfinite(threads))
    return StepLogs(tuple(number), logs, same_threads & _as_the_last(digests, timed & (digests != "")))


def _rounds(run: StoredRun) -> pd.DataFrame:
    """Return `case_id`, `step_ns` and a `place` among its case's for each process that has a time.

    Where only the summary of a run was kept, its step times are those of one round.
    """
    file = run.folder / "measurements.csv"
    table = read_table(file, "measurements", _OF_ROUND) if file.exists() else run.cases.reset_index()
    timed = table[(table["outcome"] == "ok") & table["step_ns"].notna()]
    return timed.assign(place=timed.groupby("case_id").cumcount())


def _round_logs(measured: Sequence[tuple[StoredRun, pd.DataFrame]]) -> NDArray[np.float64]:
    """Return log step times in ns `[runs, cases, rounds]` of cases that were the same as in the last run, else NaN."""
    steps = side_by_side([run for run, _ in measured])
    number = {case_id: column for column, case_id in enumerate(steps.cases)}
    longest = max((int(table["place"].max()) + 1 for _, table in measured if len(table)), default=0)
    logs = np.full((*steps.logs.shape, longest), np.nan)
    for row, (_, table) in enumerate(measured):
        known = table[table["case_id"].isin(number)]
        logs[row, known["case_id"].map(number), known["place"]] = np.log(known["step_ns"])
    same = steps.alike & np.isfinite(steps.logs)
    return np.where(same[..., None], logs, np.nan)


def _as_the_last(values: NDArray[np.generic], known: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Return where values `[runs, cases]` are those of the last run in which they are known, or are not known."""
    if not len(values):
        return known
    last = len(values) - 1 - known[::-1].argmax(axis=0)
    return np.asarray((values == values[last, np.arange(values.shape[1])]) | ~known)


def _begun(run: StoredRun) -> tuple[str, bool, str]:
    """Return what sorts runs by when they were begun: a session is named after its first run."""
    return run.run_id.partition("-")[0], not run.session.startswith(run.run_id), run.run_id


def _counts(run: StoredRun, fingerprint: str, excluding: Collection[str]) -> bool:
    wanted = run.run_id not in excluding and run.session not in excluding
    return wanted and not run.dirty and run.fingerprint == fingerprint


def _timed(run: StoredRun, cases: pd.DataFrame) -> pd.DataFrame:
    """Return the rows of a run's `cases` that have a time; what a table does not say of a case is taken to be alike."""
    ok = (run.cases["outcome"] == "ok") & run.cases["step_ns"].notna() & run.cases.index.isin(cases.index)
    rows = run.cases[ok]
    (threads, digest), (wanted_threads, wanted_digest) = (
        (table["threads"].to_numpy(dtype=float), table["workload_digest"].to_numpy(dtype=object))
        for table in (rows, cases.loc[rows.index])
    )
    other = (threads != wanted_threads) & np.isfinite(threads) & np.isfinite(wanted_threads)
    other |= (digest != wanted_digest) & (digest != "") & (wanted_digest != "")
    alike: pd.DataFrame = rows[~other]
    return alike


def _read_runs(folder: Path, broken: Callable[[PlanError], None], *, newest_first: bool) -> Iterator[StoredRun]:
    """Yield the runs of a folder one by one, by the names of their folders: a reader may have enough of them."""
    for each in sorted(_folders(folder), key=lambda run: run.name, reverse=newest_first):
        if not _has_summary(each):
            continue
        try:
            run = _read_run(each)
        except PlanError as error:
            broken(error)
        else:
            yield run


def _read_run(folder: Path) -> StoredRun:
    table = read_table(folder / _SUMMARY, "summary", (*_OF_RUN, *_OF_CASE))
    where = printable(str(folder / _SUMMARY))
    if table.empty:
        raise PlanError(f"{where}: has no cases")
    told = {name: table[name].to_numpy(dtype=object) for name in _OF_RUN}
    for name, values in told.items():
        if (values != values[0]).any():
            raise PlanError(f"{where}: holds rows of {len(set(values))} different {name}, which is no one run")
    first = {name: str(values[0]) for name, values in told.items()}
    return StoredRun(
        folder=folder,
        run_id=first["run_id"],
        session=first["session"] or first["run_id"],
        commit=first["commit"],
        dirty=bool(told["dirty"][0]),
        machine=first["machine"],
        fingerprint=first["fingerprint"],
        environment=first["environment"],
        cases=table[list(_OF_CASE)].set_index("case_id"),
    )


def _folders(path: Path) -> list[Path]:
    try:
        return sorted(each for each in path.iterdir() if each.is_dir())
    except OSError as error:
        raise PlanError(f"{printable(str(path))}: cannot be read: {os.strerror(error.errno or 0)}") from error


def _has_summary(folder: Path) -> bool:
    try:
        (folder / _SUMMARY).lstat()
    except (FileNotFoundError, NotADirectoryError):
        return False
    except OSError:  # its reader says why not
        return True
    return True
