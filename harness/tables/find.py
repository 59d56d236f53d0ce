"""Finds the stored run that a user means: by its folder, by a CSV file, or by a git revision."""

import re
import subprocess
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path

from harness.plan.errors import PlanError
from harness.plan.text import printable
from harness.running.session import typed
from harness.tables.files import read_table

_FILES = ("measurements.csv", "journal.jsonl")


@dataclass(frozen=True)
class Place:
    """Where a run is stored.

    path: its folder, or a file of measurements alone. commit: the revision it was found by, empty where it was named.
    """

    path: Path
    commit: str = ""

    @property
    def folder(self) -> Path:
        """The folder of the run."""
        return self.path if self.path.is_dir() else self.path.parent

    @cached_property
    def home(self) -> Path:
        """The folder of the run, wherever links lead."""
        return self.folder.resolve()

    @property
    def machine(self) -> Path:
        """The folder that it is stored in, of a machine."""
        return self.home.parent


def check_run(path: Path) -> None:
    """Raise PlanError, naming what is there, for a folder that is no run but a proof, or holds runs."""
    if not path.is_dir() or any((path / name).exists() for name in ("summary.csv", *_FILES)):
        return  # what is wrong with it, its reader says
    if (path / "mistakes.csv").exists():
        raise PlanError(f"{printable(str(path))} is a proof and no run: its tables are mistakes.csv and epochs.csv")
    runs = sorted((file.parent for file in path.glob("*/summary.csv")), key=lambda folder: folder.name)
    if runs:
        raise PlanError(
            f"{printable(str(path))} is no run but holds {len(runs)}; the newest is {printable(str(runs[-1]))}"
        )


def find_run(named: str, results: Path, cases: Collection[str] = ()) -> Place:
    """Return where the run is that a user names: a folder, a CSV file, or a git revision that `results` has a run of.

    Of the runs of a revision it is the newest that measured any of the cases, else the newest. Raises PlanError, in one
    line, when there is none.
    """
    places = _places(named, results, "base")
    _check_machine(named, places)
    return next((place for place in places if not _told(place).cases.isdisjoint(cases)), places[0])


def find_pair(base: str, new: str, results: Path) -> tuple[Place, Place]:
    """Return where the two runs are that a user wants to compare, each named as `find_run` takes it.

    Of the runs of a revision those in the other side's folder of a machine come first; of these the newest two of one
    session, else that measured a case in common, else the newest. Raises PlanError, in one line, when there are none.
    """
    befores, afters = _places(base, results, "base"), _places(new, results, "new")
    pairs = [(there, here) for here in afters for there in befores if there.home != here.home]
    pairs = pairs or [(befores[0], afters[0])]
    pairs = [pair for pair in pairs if len({place.machine for place in pair}) == 1] or pairs
    for named, places in zip((base, new), zip(*pairs, strict=True), strict=True):
        _check_machine(named, places)
    if len(pairs) == 1:
        return pairs[0]
    told = cache(_told)
    fits = (
        lambda one, other: one.session == other.session != "",
        lambda one, other: not one.cases.isdisjoint(other.cases),
    )
    found = (pair for fit in fits for pair in pairs if fit(*map(told, pair)))
    return next(found, pairs[0])


@dataclass(frozen=True)
class _Told:
    session: str = ""
    cases: frozenset[str] = frozenset()


def _told(place: Place) -> _Told:
    """Return the session of a run and what it measured; nothing where it cannot be read, which its reader says."""
    try:
        table = read_table(place.path, "measurements", ("case_id", "session", "run_id"))
    except PlanError:
        return _Told()
    sessions = dict.fromkeys(map(str, table["session"].where(table["session"] != "", table["run_id"])))
    return _Told(next(iter(sessions), ""), frozenset(table["case_id"]))


def _places(named: str, results: Path, side: str) -> list[Place]:
    """Return where the run is, or all of a revision, the newest first; side: `base` or `new`."""
    path = Path(named)
    try:
        there, folder = path.exists(), path.is_dir()
    except (OSError, ValueError):  # no file can have such a name, or nobody may look
        there = folder = False
    if folder and not any((path / name).exists() for name in _FILES):
        raise PlanError(f"{printable(named)} is no folder of a run: it has no {_FILES[0]}")
    if there or path.suffix == ".csv":
        return [Place(path)]  # what is wrong with it, its reader says
    commit = _commit(named)
    found = [path for path in results.glob(f"*/*-{commit[:10]}*") if (path / _FILES[0]).exists()]
    folders = sorted(found, key=lambda folder: folder.name, reverse=True)
    clean, dirty = (
        [folder for folder in folders if _is_of(folder.name, f"{commit[:10]}{end}")] for end in ("", "-dirty")
    )
    if clean:
        return [Place(folder, commit) for folder in clean]
    what = f"{printable(named)} is commit {commit[:10]}"
    measure = f"measure it there, or both at once with: {typed('ab', 'BASE', 'NEW')}"
    if dirty:
        only = f"{what}, which was only measured with uncommitted changes: "
        last = printable(str(dirty[0]))
        raise PlanError(
            only + (f"{last} is no base; {measure}" if side == "base" else f"name its folder, {last}, or {measure}")
        )
    raise PlanError(f"{what}, and {printable(str(results))} has no run of it: {measure}")


def _check_machine(named: str, places: Iterable[Place]) -> None:
    machines = sorted({place.machine.name for place in places})
    if len(machines) > 1:
        raise PlanError(f"{printable(named)} was measured on {', '.join(machines)}: name one run's folder")


def _is_of(name: str, end: str) -> bool:
    """Whether a folder's name is that of a run of a commit, `<time>-<commit>[-number]`; end: the commit, or so."""
    return re.fullmatch(rf"\d{{8}}T\d{{6}}Z-{end}(-\d+)?", name) is not None


def _commit(named: str) -> str:
    """Return the commit that a revision names here; raises PlanError."""
    what = printable(named, 200)
    inside = _git("rev-parse", "--is-inside-work-tree")
    if inside is None:
        raise PlanError(f"{what} is no run and no CSV file, and git says of no revision here: this is no repository")
    found = None if named.startswith("-") else _git("rev-parse", "--verify", "--quiet", f"{named}^{{commit}}")
    if found is None and named == "worktree":
        raise PlanError(
            f"worktree is measured by: {typed('ab', 'BASE', 'worktree')}; a run of it is named by its folder"
        )
    if found is None or re.fullmatch("[0-9a-f]+", found) is None:  # `^HEAD` is one without
        shallow = _git("rev-parse", "--is-shallow-repository") == "true"
        more = "; this clone is shallow: git fetch --unshallow" if shallow else ""
        raise PlanError(f"{what} is no run, no CSV file and no revision of this repository{more}")
    return found


def _git(*arguments: str) -> str | None:
    try:
        done = subprocess.run(["git", *arguments], capture_output=True, timeout=30, check=False)
    except (OSError, ValueError, subprocess.TimeoutExpired):  # a NUL in a name is a ValueError
        return None
    return done.stdout.decode(errors="replace").strip() if done.returncode == 0 else None
