"""Where a run is published: a folder, or a prefix of a bucket. Objects are created and never overwritten.

A store may be a stranger's: nothing is believed of what is read here.
"""

import errno
import importlib
import inspect
import os
import uuid
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Protocol, Self, TypeVar

from harness.plan.errors import PlanError
from harness.plan.reading import read_regular
from harness.plan.text import printable, shown
from harness.running.folder import sync_folder
from harness.running.records import MAX_BYTES, MAX_LINE_BYTES

_PACKAGES = {"s3": "s3fs", "gs": "gcsfs", "gcs": "gcsfs"}
_EXTRAS = {"s3fs": "cloud", "gcsfs": "gcs"}
# What a run, or each shard of one, has below its prefix; what else lies there is not looked at.
_PLACES = ("*", "records/*", "shard-*-of-*/*", "shard-*-of-*/records/*")
# What `link` says where the file system has no links: mounts of buckets and some network mounts.
_LINKLESS = {errno.EPERM, errno.ENOSYS, errno.EOPNOTSUPP}
_AT_ONCE = 500  # objects: some megabytes, and one batch of requests

Answer = TypeVar("Answer")


class Store(Protocol):
    """Objects by name, below one prefix. Whatever fails raises PlanError, in one line that names the prefix."""

    @property
    def url(self) -> str:
        """The prefix, as the user knows it."""
        ...

    def under(self, name: str) -> Self:
        """Return the store of a longer prefix."""
        ...

    def names(self) -> dict[str, int]:
        """Return the size in bytes of each object that is there."""
        ...

    def read(self, sizes: Mapping[str, int]) -> dict[str, bytes]:
        """Return the content of objects that `names` has told of, with their sizes, at most what a run has."""
        ...

    def create(self, name: str, content: bytes) -> bytes:
        """Write an object unless it is there already, all of it or nothing; return what it holds then."""
        ...


def open_store(url: str) -> Store:
    """Return the store of a URL or folder; raises PlanError where it is none, or its library is not installed."""
    scheme, separator, path = url.partition("://")
    if not url.isprintable() or not url.strip() or set(url) & set("*?[]"):
        raise PlanError(f"{shown(url)}: name a folder, s3://BUCKET/PREFIX or gs://BUCKET/PREFIX, without * ? [ ]")
    if not separator or scheme == "file":
        return Folder(Path(path if separator else url))
    if scheme not in _PACKAGES or not path.strip("/"):
        raise PlanError(f"{url}: use a folder, s3://BUCKET/PREFIX or gs://BUCKET/PREFIX")
    return Bucket(_file_system(scheme, url), f"{scheme}://", path.strip("/"))


def _file_system(scheme: str, url: str) -> Any:
    package = _PACKAGES[scheme]
    install = f"pip install --upgrade -e '.[{_EXTRAS[package]}]'"
    try:
        # Only who publishes needs it, and it takes a second.
        fsspec = importlib.import_module("fsspec")
        importlib.import_module(package)
    except ImportError as error:
        raise PlanError(f"{url}: {printable(str(error))}: {install}") from error
    try:
        found = fsspec.filesystem(scheme, use_listings_cache=False, skip_instance_cache=True)
    except Exception as error:  # each library has errors of its own
        raise PlanError(f"{url}: {_why(error)}") from error
    if "mode" not in inspect.signature(found._pipe_file).parameters:  # older ones would overwrite
        raise PlanError(f"{url}: this {package} cannot create an object without overwriting one: {install}")
    return found


@dataclass(frozen=True)
class Folder:
    """A folder, most likely on a disk that other machines see as well."""

    path: Path

    @property
    def url(self) -> str:
        """The folder's path."""
        return printable(str(self.path))

    def under(self, name: str) -> Self:
        """Return the store of a folder in it."""
        return type(self)(self.path / name)

    def names(self) -> dict[str, int]:
        """Return the size in bytes of each file that is there; none where there is no folder yet."""
        try:
            files = {file: file.stat() for place in _PLACES for file in self.path.glob(place) if file.is_file()}
        except OSError as error:
            raise self._failed("read", error) from error
        return {file.relative_to(self.path).as_posix(): status.st_size for file, status in files.items()}

    def read(self, sizes: Mapping[str, int]) -> dict[str, bytes]:
        """Return what files hold."""
        _check_sizes(self.url, sizes)
        try:
            return {name: read_regular(self.path / name, MAX_LINE_BYTES) for name in sizes}
        except OSError as error:
            raise self._failed("read", error) from error

    def create(self, name: str, content: bytes) -> bytes:
        """Write a file unless it is there already, and wait until it is on the disk; return what it holds then."""
        file = self.path / name
        unfinished = file.with_name(f".{uuid.uuid4().hex}")
        try:
            file.parent.mkdir(parents=True, exist_ok=True)
            try:
                with unfinished.open("xb") as opened:
                    opened.write(content)
                    opened.flush()
                    os.fsync(opened.fileno())
                _link(unfinished, file)
            finally:
                unfinished.unlink(missing_ok=True)
            sync_folder(file.parent)
        except FileExistsError:
            return self.read({name: 0})[name]
        except OSError as error:
            raise self._failed("written", error) from error
        return content

    def _failed(self, what: str, error: OSError) -> PlanError:
        return PlanError(f"{self.url} cannot be {what}: {printable(error.strerror or str(error))}")


def _link(unfinished: Path, file: Path) -> None:
    """Give a whole file its name; raises FileExistsError where that is taken."""
    try:
        os.link(unfinished, file)
    except OSError as error:
        if error.errno not in _LINKLESS:
            raise
        with file.open("xb") as opened:
            opened.write(unfinished.read_bytes())


@dataclass(frozen=True)
class Bucket:
    """A prefix of an object store. The library retries what a network loses."""

    files: Any
    scheme: str
    path: str

    @property
    def url(self) -> str:
        """The prefix as a URL."""
        return self.scheme + self.path

    def under(self, name: str) -> Self:
        """Return the store of a longer prefix."""
        return type(self)(self.files, self.scheme, f"{self.path}/{name}")

    def names(self) -> dict[str, int]:
        """Return the size in bytes of each object that is there."""
        found = self._answer(partial(self.files.find, self.path, detail=True))
        below = self.path + "/"
        return {name.removeprefix(below): told["size"] for name, told in found.items() if name.startswith(below)}

    def read(self, sizes: Mapping[str, int]) -> dict[str, bytes]:
        """Return what objects hold."""
        _check_sizes(self.url, sizes)
        names, contents = list(sizes), {}
        for begin in range(0, len(names), _AT_ONCE):
            by_path = {f"{self.path}/{name}": name for name in names[begin : begin + _AT_ONCE]}
            answer = self._answer(partial(self.files.cat, list(by_path)))
            contents.update({by_path[path]: content for path, content in answer.items()})
        return contents

    def create(self, name: str, content: bytes) -> bytes:
        """Write an object unless it is there already; return what it holds then."""
        path = f"{self.path}/{name}"
        try:
            self.files.pipe_file(path, content, mode="create")
        except Exception as error:  # noqa: BLE001 - each library has errors of its own
            # Somebody was first; or it was this very request, sent again as the answer to it was lost.
            try:
                return bytes(self.files.cat_file(path, start=0, end=MAX_LINE_BYTES + 1))
            except Exception:  # noqa: BLE001 - as above; what went wrong first is what is told
                raise self._failed(error) from error
        return content

    def _answer(self, ask: Callable[[], Answer]) -> Answer:
        try:
            return ask()
        except Exception as error:  # as above
            raise self._failed(error) from error

    def _failed(self, error: Exception) -> PlanError:
        return PlanError(f"{self.url}: {_why(error)}")


def _why(error: Exception) -> str:
    text = " ".join(str(error).split())
    return printable(f"{type(error).__name__}: {text}" if text else type(error).__name__, 300)


def _check_sizes(url: str, sizes: Mapping[str, int]) -> None:
    for name, size in sizes.items():
        if size > MAX_LINE_BYTES:
            raise PlanError(f"{url}/{printable(name)}: is larger than the {MAX_LINE_BYTES >> 20} MiB that are read")
    if sum(sizes.values()) > MAX_BYTES:
        raise PlanError(f"{url}: holds more than the {MAX_BYTES >> 30} GiB that are read of a run")


def matching(sizes: Mapping[str, int], names: Collection[str]) -> dict[str, int]:
    """Return those of the names that are there, with their sizes."""
    return {name: sizes[name] for name in names if name in sizes}
