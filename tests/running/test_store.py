import errno
import os
import sys
import threading
from types import SimpleNamespace

import pytest

from harness.plan.errors import PlanError
from harness.running import store as store_module
from harness.running.store import Bucket, Folder, open_store


@pytest.fixture
def folder(tmp_path):
    return Folder(tmp_path / "store")


def test_what_is_created_is_there_as_a_whole(folder):
    assert folder.names() == {}
    assert folder.create("records/0-a.json", b"one\n") == b"one\n"
    assert folder.create("run.json", b"run\n") == b"run\n"
    assert folder.names() == {"records/0-a.json": 4, "run.json": 4}
    assert folder.read(folder.names()) == {"records/0-a.json": b"one\n", "run.json": b"run\n"}
    assert folder.under("records").names() == {"0-a.json": 4}


def test_what_is_there_is_never_overwritten_and_is_returned(folder):
    folder.create("run.json", b"first")
    assert folder.create("run.json", b"second") == b"first"
    assert folder.read({"run.json": 5}) == {"run.json": b"first"}
    assert [file.name for file in folder.path.iterdir()] == ["run.json"]  # nothing unfinished is left


def test_of_many_who_create_the_same_one_wins_and_all_are_told_which(folder):
    contents = [str(number).encode() * 1000 for number in range(8)]
    told = {}
    threads = [
        threading.Thread(target=lambda content=content: told.__setitem__(content, folder.create("run.json", content)))
        for content in contents
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(told) == 8
    [there] = folder.read({"run.json": 0}).values()
    assert set(told.values()) == {there}


def test_a_write_that_fails_leaves_nothing_and_says_why(folder, monkeypatch):
    def full(_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(PlanError, match=r"store cannot be written: No space left on device"):
            folder.create("run.json", b"content")
    assert list(folder.path.iterdir()) == []
    assert folder.create("run.json", b"content") == b"content"


def test_a_file_system_without_links_creates_all_the_same(folder, monkeypatch):
    def link(*_):
        raise OSError(errno.EPERM, os.strerror(errno.EPERM))

    monkeypatch.setattr(os, "link", link)
    assert folder.create("run.json", b"first") == b"first"
    assert folder.create("run.json", b"second") == b"first"
    assert [file.name for file in folder.path.iterdir()] == ["run.json"]


def test_a_file_where_a_folder_should_be_is_told_in_one_line(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(PlanError, match="file cannot be"):
        Folder(tmp_path / "file").create("run.json", b"content")


def test_objects_that_are_too_large_are_not_read(folder, monkeypatch):
    folder.create("run.json", b"123456")
    monkeypatch.setattr(store_module, "MAX_LINE_BYTES", 5)
    for sizes in (folder.names(), {"run.json": 0}):
        with pytest.raises(PlanError, match="is larger than"):
            folder.read(sizes)
    monkeypatch.undo()
    monkeypatch.setattr(store_module, "MAX_BYTES", 5)
    with pytest.raises(PlanError, match="holds more than"):
        folder.read(folder.names())


# URLs


def test_a_path_and_a_file_url_are_folders(tmp_path):
    assert open_store(f"{tmp_path}/a") == open_store(f"file://{tmp_path}/a") == Folder(tmp_path / "a")


@pytest.mark.parametrize(
    "url", ["", " ", "http://host/a", "s3://", "s3:///", "s3://bucket/a*", "a\nb", "simplecache::s3://b/c"]
)
def test_what_is_no_place_to_publish_is_refused_in_one_line(url):
    with pytest.raises(PlanError) as refusal:
        open_store(url)
    assert "\n" not in str(refusal.value)
    assert "s3://BUCKET/PREFIX" in str(refusal.value)


@pytest.mark.parametrize(("url", "package", "extra"), [("s3://b/p", "s3fs", "cloud"), ("gs://b/p", "gcsfs", "gcs")])
def test_without_its_library_a_bucket_is_refused_with_what_to_install(url, package, extra, monkeypatch):
    monkeypatch.setitem(sys.modules, "fsspec", SimpleNamespace())
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(PlanError, match=rf"pip install --upgrade -e '\.\[{extra}\]'") as refusal:
        open_store(url)
    assert package in str(refusal.value)


def test_a_library_that_could_only_overwrite_is_refused(monkeypatch):
    class Old:
        def _pipe_file(self, path, value, **options): ...

    fsspec = SimpleNamespace(filesystem=lambda *_, **__: Old())
    monkeypatch.setitem(sys.modules, "fsspec", fsspec)
    monkeypatch.setitem(sys.modules, "s3fs", SimpleNamespace())
    with pytest.raises(PlanError, match="cannot create an object without overwriting"):
        open_store("s3://bucket/prefix")


# A bucket whose answers get lost; one that answers is tried in tests/cloud


class Lossy:
    """Takes an object, or has one, and then says that it failed."""

    def __init__(self, there=None):
        self.there = there
        self.modes = []

    def pipe_file(self, path, content, mode):
        self.modes.append(mode)
        if self.there is None:
            self.there = content
        raise ConnectionError("connection lost")

    def cat_file(self, path, start, end):
        if self.there == b"gone":
            raise FileNotFoundError(path)
        return self.there


def test_an_object_whose_creation_was_not_answered_is_taken_for_created_where_it_is_there():
    files = Lossy()
    assert Bucket(files, "s3://", "b/p").create("run.json", b"content") == b"content"
    assert files.modes == ["create"]
    assert Bucket(Lossy(b"first"), "s3://", "b/p").create("run.json", b"second") == b"first"


def test_a_bucket_that_fails_is_told_with_its_reason():
    with pytest.raises(PlanError, match=r"^s3://b/p: ConnectionError: connection lost$"):
        Bucket(Lossy(b"gone"), "s3://", "b/p").create("run.json", b"content")
