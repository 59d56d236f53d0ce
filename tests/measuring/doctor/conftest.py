"""What every test of the doctor gets: good software, and a machine without a fault."""

import os
import tempfile
from types import SimpleNamespace

import pytest

from harness.measuring.doctor import environment, software
from tests.measuring.doctor.faultless import GIB, Root


@pytest.fixture(autouse=True)
def good_software(monkeypatch, tmp_path_factory):
    """Torch, a compiler, an empty environment and two CPUs, whatever this machine has."""
    for name in (*environment.VARIABLES, "CUDA_VISIBLE_DEVICES"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(software, "version", lambda _package: "2.13.0+cu130")
    monkeypatch.setattr(software, "missing_toolchain", lambda _device: None)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _pid: {0, 1}, raising=False)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path_factory.mktemp("cache")))
    monkeypatch.setattr(software.shutil, "disk_usage", lambda _path: SimpleNamespace(free=100 * GIB))


@pytest.fixture
def root(tmp_path):
    return Root(tmp_path / "root")
