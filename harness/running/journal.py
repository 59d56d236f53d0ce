"""The journal of a run: JSON lines, each on disk before the next case starts.

The first line is the run itself (`kind` is `run`), each further one a finished record.
"""

import fcntl
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any, Self

from harness.plan.errors import PlanError

FILE = "journal.jsonl"


class Journal:
    """Appends lines that survive whatever happens next."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file

    @classmethod
    def create(cls, folder: Path, header: Mapping[str, Any]) -> Self:
        """Start the journal of a new run."""
        journal = cls(_locked((folder / FILE).open("xb")))
        journal.append({"kind": "run", **header})
        return journal

    @classmethod
    def reopen(cls, folder: Path) -> Self:
        """Go on with a journal; a last line that was being written when the program died is cut off."""
        path = folder / FILE
        file = _locked(path.open("r+b"))
        whole = path.read_bytes()
        file.truncate(whole.rfind(b"\n") + 1)
        file.seek(0, os.SEEK_END)
        return cls(file)

    def append(self, entry: Mapping[str, Any]) -> None:
        """Write one line and wait until it is on the disk."""
        self._file.write(json.dumps(entry).encode() + b"\n")
        self._file.flush()
        os.fsync(self._file.fileno())

    def close(self) -> None:
        """Close the file."""
        self._file.close()


def _locked(file: IO[bytes]) -> IO[bytes]:
    """Return the file, locked until it is closed; raises PlanError when another process writes to it."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        file.close()
        raise PlanError(f"{file.name} is being written: that run has not ended") from error
    return file


def read_journal(folder: Path) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Return header and records of the run in a folder.

    A torn last line is left out. Raises PlanError when the folder holds no journal, or one that is damaged.
    """
    path = folder / FILE
    try:
        whole = path.read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise PlanError(f"{folder} is no results folder: {path.name} cannot be read") from error
    lines = whole[: whole.rfind("\n") + 1].splitlines()
    try:
        entries = [json.loads(line) for line in lines]
        kinds = [entry["kind"] for entry in entries]
    except (ValueError, KeyError, TypeError):
        kinds = []
    if kinds[:1] != ["run"] or set(kinds[1:]) - {"record"}:
        raise PlanError(f"{path} is damaged: it is not one run followed by its records")
    return entries[0], entries[1:]
