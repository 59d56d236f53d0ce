"""Finds the stored run that a user means: by its folder, by a CSV file, or by a git revision."""

import re
import subprocess
from dataclasses import dataclass
from pathlib import Path

from harness.plan.errors import PlanError
from harness.plan.text import printable

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


def folder_named(named: str) -> Path | None:
    """Return the folder that a user names, or None where it is none."""
    try:
        return Path(named) if Path(named).is_dir() else None
    except (OSError, ValueError):  # no file can have such a name, or nobody may look
        return None


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


def find_run(named: str, results: Path, like: Path | None = None) -> Place:
    """Return where the run is that a user names: a folder, a CSV file, or a git revision, newest in `results` first.

    like: the other side's folder: of the runs of one revision, those in the same machine's folder come first. Raises
    PlanError, in one line, when there is none.
    """
    path = Path(named)
    folder = folder_named(named)
    if folder is not None and not any((folder / name).exists() for name in _FILES):
        raise PlanError(f"{printable(named)} is no folder of a run: it has no {_FILES[0]}")
    try:
        if folder is not None or path.exists() or path.suffix == ".csv":
            return Place(path)  # what is wrong with it, its reader says
    except (OSError, ValueError):  # as above
        pass
    commit = _commit(named)
    folders = sorted(results.glob(f"*/*-{commit[:10]}*"), key=lambda folder: folder.name, reverse=True)
    folders = [folder for folder in folders if _is_of(folder.name, commit) and (folder / _FILES[0]).exists()]
    if like is not None:
        beside = [folder for folder in folders if folder.parent.resolve() == like.resolve().parent]
        folders = [folder for folder in beside if folder.resolve() != like.resolve()] or beside or folders
    if not folders:
        raise PlanError(
            f"{printable(named)} is commit {commit[:10]}, and {printable(str(results))} has no run of it: measure it "
            f"there, or both at once with: harness ab"
        )
    machines = sorted({folder.parent.name for folder in folders})
    if len(machines) > 1:
        raise PlanError(f"{printable(named)} was measured on {', '.join(machines)}: name one run's folder")
    return Place(folders[0], commit)


def _is_of(name: str, commit: str) -> bool:
    """Whether a folder's name is that of a clean run of this commit: `<time>-<commit>[-number]`."""
    return re.fullmatch(rf"\d{{8}}T\d{{6}}Z-{commit[:10]}(-\d+)?", name) is not None


def _commit(named: str) -> str:
    """Return the commit that a revision names here; raises PlanError."""
    what = printable(named, 200)
    inside = _git("rev-parse", "--is-inside-work-tree")
    if inside is None:
        raise PlanError(f"{what} is no run and no CSV file, and git says of no revision here: this is no repository")
    found = None if named.startswith("-") else _git("rev-parse", "--verify", "--quiet", f"{named}^{{commit}}")
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
