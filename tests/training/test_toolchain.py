import sysconfig
from pathlib import Path

import pytest

from harness.training.toolchain import missing_toolchain


@pytest.fixture
def complete(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A toolchain of which a test may take something away."""
    compiler = tmp_path / "g++"
    compiler.write_text("#!/bin/sh\n")
    compiler.chmod(0o755)
    (tmp_path / "Python.h").write_text("")
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CXX", raising=False)
    monkeypatch.setattr(sysconfig, "get_path", lambda _name: str(tmp_path))
    return tmp_path


def test_a_complete_toolchain_lacks_nothing(complete: Path) -> None:
    assert missing_toolchain("cpu") is None


@pytest.mark.parametrize(("lost", "said"), [("g++", "C++ compiler"), ("Python.h", "Python.h")])
def test_what_is_missing_is_named_with_how_to_get_it(complete: Path, lost: str, said: str) -> None:
    (complete / lost).unlink()
    reason = missing_toolchain("cpu")
    assert reason is not None
    assert said in reason
    assert "apt-get install g++ python3-dev" in reason
