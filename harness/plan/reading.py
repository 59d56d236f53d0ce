"""Opens files that may come from strangers: regular files only, no larger than they can sensibly be."""

import errno
import os
import stat
from pathlib import Path
from typing import BinaryIO

from harness.plan.errors import PlanError
from harness.plan.text import printable


def open_regular(path: Path, limit: int) -> BinaryIO:
    """Open a file of at most `limit` bytes for reading.

    Raises OSError when it is not there or a folder, PlanError for a pipe or device, which might never end, and for a
    file that is larger.
    """
    try:
        _check(path, path.stat(), limit)  # before it is opened: opening a device may do something
        file = os.fdopen(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC), "rb")
    except ValueError as error:
        raise error if isinstance(error, PlanError) else OSError(errno.ENOENT, str(error)) from error
    try:
        _check(path, os.fstat(file.fileno()), limit)
    except BaseException:
        file.close()
        raise
    return file


def read_regular(path: Path, limit: int) -> bytes:
    """Return the content of a file of at most `limit` bytes; raises what `open_regular` raises."""
    with open_regular(path, limit) as file:
        content = file.read(limit + 1)  # it may have grown, and files of the kernel have no size
    if len(content) > limit:
        raise too_large(path, limit)
    return content


def too_large(path: Path, limit: int) -> PlanError:
    """Return the error for a file of more than `limit` bytes."""
    size = f"{limit >> 20} MiB" if limit >> 20 else f"{limit >> 10} KiB"
    return PlanError(f"{printable(str(path))}: is larger than the {size} that are read")


def _check(path: Path, status: os.stat_result, limit: int) -> None:
    if stat.S_ISDIR(status.st_mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
    if not stat.S_ISREG(status.st_mode):
        raise PlanError(f"{printable(str(path))}: is no regular file")
    if status.st_size > limit:
        raise too_large(path, limit)
