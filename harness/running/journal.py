"""The journal of a run: JSON lines, each on disk before the next case starts.

The first line is the run itself (`kind` is `run`); then, for each process, one when it begins (`attempt`, with case and
round) and one when it is finished (`record`).
"""

import contextlib
import errno
import fcntl
import json
import os
from collections.abc import Mapping
from io import FileIO
from pathlib import Path
from typing import Any, Protocol, Self

from harness.plan.errors import PlanError
from harness.running.folder import naming, sync_folder

FILE = "journal.jsonl"

# What flock says where the file system has no locks: some NFS, FUSE and network mounts.
_LOCKLESS = {errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL}


class Keeper(Protocol):
    """Whoever keeps what is measured.

    notes: what its user should hear of how it was found, one line each.
    """

    notes: tuple[str, ...]

    def append(self, entry: Mapping[str, Any]) -> None:
        """Keep an attempt or a record before the next case starts; raises OSError where that fails."""
        ...

    def close(self) -> None:
        """Let go of it; another process may go on with it."""
        ...


class Journal:
    """Appends lines that survive whatever happens next.

    notes: what its user should hear of how it was found, one line each.
    """

    def __init__(self, file: FileIO, notes: tuple[str, ...] = ()) -> None:
        self.notes = notes
        self._file = file
        self._torn_at: int | None = None
        self._last_at: int | None = None

    @classmethod
    def create(cls, folder: Path, header: Mapping[str, Any]) -> Self:
        """Start the journal of a new run; raises OSError, and leaves none, where it cannot be written."""
        path = folder / FILE
        file = FileIO(path, "x")
        try:
            _lock(file)
            journal = cls(file)
            journal.append({"kind": "run", **header})
            sync_folder(folder)  # without it the name may be gone after a power failure, with all lines
        except OSError as error:
            file.close()
            with contextlib.suppress(OSError):
                path.unlink()
            raise naming(path, error) from error
        return journal

    @classmethod
    def reopen(cls, folder: Path) -> Self:
        """Go on with a journal; a last line that was being written when the program died is cut off, and noted.

        Raises PlanError when another process writes to it, or where it cannot be written.
        """
        path = folder / FILE
        with contextlib.ExitStack() as undo:
            try:
                file = undo.enter_context(FileIO(path, "r+"))
                notes = _lock(file)
                lines = file.readall()
                whole = whole_size(lines)
                if whole < len(lines):
                    notes += ("the last record was being written when the run ended; it is measured again",)
                    file.truncate(whole)
                file.seek(whole)
            except OSError as error:
                raise PlanError(f"{path} cannot be written: {error.strerror}; what was finished is kept") from error
            undo.pop_all()
        return cls(file, notes)

    def append(self, entry: Mapping[str, Any]) -> None:
        """Write one line and wait until it is on the disk.

        Raises OSError, naming the file, where the disk does not take it; what was there before is then as it was.
        """
        line = memoryview(line_of(entry))
        try:
            self._cut()
            self._torn_at = self._last_at = self._file.tell()
            while line:
                line = line[self._file.write(line) :]
            os.fsync(self._file.fileno())
        except OSError as error:
            with contextlib.suppress(OSError):  # else the next append or the next run cuts it off
                self._cut()
            raise naming(Path(os.fsdecode(self._file.name)), error) from error
        self._torn_at = None

    def replace_last(self, entry: Mapping[str, Any]) -> None:
        """Write another line in the place of the one that was appended last; raises what `append` does."""
        self._torn_at = self._last_at
        self.append(entry)

    def close(self) -> None:
        """Close the file; another process may go on with it."""
        self._file.close()

    def _cut(self) -> None:
        if self._torn_at is not None:
            self._file.seek(self._torn_at)
            self._file.truncate()
            self._torn_at = None


def line_of(entry: Mapping[str, Any]) -> bytes:
    """Return an entry as it stands in a journal."""
    return json.dumps(entry).encode() + b"\n"


def whole_size(lines: bytes) -> int:
    """Return how many bytes of a journal are whole lines; what follows was being written when the program died.

    Only what comes last can be torn, for each line is on the disk before the next begins: it has no end, or it has a
    NUL, which JSON never has, where a block was not written yet when the machine stopped.
    """
    whole = lines.rfind(b"\n") + 1
    if whole < len(lines):
        return whole
    last = lines.rfind(b"\n", 0, max(0, whole - 1)) + 1
    return last if b"\0" in lines[last:] else whole


def _lock(file: FileIO) -> tuple[str, ...]:
    """Lock the file until it is closed; return a note where its file system knows no locks.

    Raises PlanError when another process writes to it.
    """
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        raise PlanError(f"{os.fsdecode(file.name)} is being written: that run has not ended") from error
    except OSError as error:
        if error.errno not in _LOCKLESS:
            raise
        return ("the file system of this run has no locks: take care that nothing else writes to it",)
    return ()
