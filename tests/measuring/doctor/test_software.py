import errno
import os
import tempfile
from importlib.metadata import PackageNotFoundError
from pathlib import Path
from types import SimpleNamespace

import pytest

from harness.measuring.doctor import software
from tests.measuring.doctor.faultless import GIB, OK, WARNING, WORTHLESS


@pytest.mark.parametrize(
    ("version", "device", "severity"),
    [
        ("2.13.0+cpu", "cpu", OK),
        ("2.11.0", "cpu", OK),
        ("2.10.1+cpu", "cpu", WARNING),
        ("1.13.1", "cpu", WARNING),
        ("3.0.0a0+git1", "cpu", OK),
        ("2.13.0+cpu", "cuda", WORTHLESS),
        ("2.13.0+cu130", "cuda:0", OK),
        ("2.13.0", "cuda", OK),
        ("2.10.0+cu126", "cuda", WARNING),
    ],
)
def test_torch_must_fit_the_device_and_the_engines(root, monkeypatch, version, device, severity):
    monkeypatch.setattr(software, "version", lambda _package: version)
    assert root.finding("torch", device).severity == severity


def test_without_torch_nothing_can_be_measured(root, monkeypatch):
    def version(package):
        raise PackageNotFoundError(package)

    monkeypatch.setattr(software, "version", version)
    found = root.finding("torch")
    assert found.severity == WORTHLESS
    assert "nox -s bench_cpu" in found.advice
    assert "nox -s bench_cuda" in root.finding("torch", "cuda").advice


def test_a_missing_compiler_costs_only_the_compiled_engines(root, monkeypatch):
    monkeypatch.setattr(software, "missing_toolchain", lambda device: f"no g++ for {device} (apt-get install g++)")
    found = root.finding("compiler", "cuda:1")
    assert (found.severity, found.found) == (WARNING, "no g++ for cuda:1 (apt-get install g++)")
    assert "unsupported" in found.advice


def test_a_cache_folder_that_is_not_there_is_worthless(root, monkeypatch, tmp_path):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "gone"))
    found = root.finding("cache folder")
    assert found.severity == WORTHLESS
    assert "No such file" in found.found


def test_a_full_cache_folder_is_worthless(root, monkeypatch):
    def write(_path, _data):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(Path, "write_bytes", write)
    found = root.finding("cache folder")
    assert found.severity == WORTHLESS
    assert tempfile.gettempdir() in found.found
    assert "No space left" in found.found


def test_a_cache_folder_where_nothing_may_be_executed_is_worthless(root, monkeypatch):
    monkeypatch.setattr(Path, "chmod", lambda _path, _mode: None)  # as on a file system mounted noexec
    found = root.finding("cache folder")
    assert found.severity == WORTHLESS
    assert "Permission denied" in found.found
    assert "noexec" in found.advice


@pytest.mark.parametrize(("free", "severity"), [(GIB, OK), (GIB - 1, WARNING)])
def test_a_cache_folder_with_little_room_is_warned_of(root, monkeypatch, free, severity):
    monkeypatch.setattr(software.shutil, "disk_usage", lambda _path: SimpleNamespace(free=free))
    assert root.finding("cache folder").severity == severity


def test_nothing_is_left_in_the_cache_folder(root):
    assert root.finding("cache folder").severity == OK
    assert list(Path(tempfile.gettempdir()).iterdir()) == []
