"""Where a run is kept, and which commit it is of."""

import hashlib
import os
import subprocess
import tempfile
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from harness.plan.errors import PlanError


@dataclass(frozen=True)
class Revision:
    """Which code it is.

    commit: 40 hex digits, or `unknown`. dirty: whether tracked files outside `results/` differ from it. changes:
    digest of how they differ, empty where they do not.
    """

    commit: str
    dirty: bool
    changes: str = ""

    def __str__(self) -> str:
        return self.commit[:10] + ("-dirty" if self.dirty else "")


def revision(where: Path) -> Revision:
    """Return the commit of the repository around `where`, else the `HARNESS_REVISION` that an image was built with."""
    commit = _git(where, "rev-parse", "HEAD")
    if commit is None:
        built, mark, _ = os.environ.get("HARNESS_REVISION", "").partition("-dirty")
        return Revision(built or "unknown", dirty=bool(mark))
    changes = _git(where, "diff", "HEAD", "--", ":/", ":(top,exclude)results")
    if changes is None:  # what cannot be known is not clean
        return Revision(commit, dirty=True)
    return Revision(commit, dirty=bool(changes), changes=digest(changes.encode()) if changes else "")


def digest(data: bytes) -> str:
    """Return twelve hex digits that differ where the data does."""
    return hashlib.sha256(data).hexdigest()[:12]


def make_run_folder(out: Path, machine: str, at: Revision, now: datetime | None = None) -> Path:
    """Make and return `out/<machine>/<UTC time>-<commit>[-dirty]`, a new folder.

    Raises PlanError when it cannot be written to.
    """
    stamp = (now or datetime.now(UTC)).strftime("%Y%m%dT%H%M%SZ")
    parent = out / machine
    folder = parent / f"{stamp}-{at}"
    number = 1
    try:
        parent.mkdir(parents=True, exist_ok=True)
        while True:
            try:
                folder.mkdir()
            except FileExistsError:
                number += 1
                folder = parent / f"{stamp}-{at}-{number}"
            else:
                break
        with tempfile.TemporaryFile(dir=folder):  # a folder that was made may still refuse files
            pass
    except OSError as error:
        raise PlanError(f"--out {out}: cannot be written to: {error.strerror}") from error
    return folder


def _git(where: Path, *arguments: str) -> str | None:
    try:
        done = subprocess.run(["git", "-C", str(where), *arguments], capture_output=True, timeout=30, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.decode(errors="replace").strip() if done.returncode == 0 else None
