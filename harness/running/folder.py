"""Where a run is kept, which commit it is of, and how a file of it is replaced as a whole."""

import contextlib
import errno
import hashlib
import os
import re
import subprocess
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from harness.plan.errors import PlanError
from harness.plan.text import shown


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
    """Return the commit of the repository around `where`, else the `HARNESS_REVISION` that an image was built with.

    Raises PlanError where that is no commit.
    """
    commit = _git(where, "rev-parse", "HEAD")
    if commit is None:
        named = os.environ.get("HARNESS_REVISION") or "unknown"
        built = re.fullmatch(r"([0-9a-f]{7,64}|unknown)(-dirty)?", named)
        if built is None:  # it becomes part of a folder's name
            raise PlanError(f"HARNESS_REVISION {shown(named)}: use a commit's hex digits, and -dirty if changed")
        return Revision(built[1], dirty=built[2] is not None)
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
    try:
        for missing in [path for path in (parent, *parent.parents) if not path.exists()][::-1]:
            missing.mkdir(exist_ok=True)
            sync_folder(missing.parent)
        folder = _new_folder(parent, f"{stamp}-{at}")
    except OSError as error:
        raise PlanError(f"--out {out}: cannot be written to: {error.strerror}") from error
    return folder


def _new_folder(parent: Path, name: str) -> Path:
    folder = parent / name
    number = 1
    while True:
        try:
            folder.mkdir()
        except FileExistsError:
            number += 1
            folder = parent / f"{name}-{number}"
        else:
            break
    try:
        sync_folder(parent)
        with tempfile.TemporaryFile(dir=folder):  # a folder that was made may still refuse files
            pass
    except OSError:
        with contextlib.suppress(OSError):
            folder.rmdir()
        raise
    return folder


@contextlib.contextmanager
def replaced(path: Path) -> Iterator[Path]:
    """Yield where to write a file that then takes the place of `path`, once all of it is on the disk.

    Raises OSError, naming `path`, where it cannot be written. `path` is then as it was; it is never half a file.
    """
    unfinished = path.with_name(f".{path.name}.tmp")
    try:
        yield unfinished
        with unfinished.open("r+b") as file:
            os.fsync(file.fileno())
        unfinished.replace(path)
        sync_folder(path.parent)
    except BaseException as error:
        with contextlib.suppress(OSError):
            unfinished.unlink(missing_ok=True)
        if isinstance(error, OSError) and error.filename in (None, os.fspath(unfinished)):
            raise naming(path, error) from error
        raise


def sync_folder(folder: Path) -> None:
    """Wait until the names in a folder are on the disk, where its file system can do that."""
    try:
        descriptor = os.open(folder, os.O_RDONLY)
    except PermissionError:  # one may write to a folder that one may not read
        return
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.EBADF, errno.EOPNOTSUPP, errno.EACCES):
            raise
    finally:
        os.close(descriptor)


def naming(path: Path, error: OSError) -> OSError:
    """Return the error with the file's name in it: what is said of a descriptor has none."""
    return OSError(error.errno, error.strerror or str(error), str(path))


def _git(where: Path, *arguments: str) -> str | None:
    try:
        done = subprocess.run(["git", "-C", str(where), *arguments], capture_output=True, timeout=30, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.decode(errors="replace").strip() if done.returncode == 0 else None
