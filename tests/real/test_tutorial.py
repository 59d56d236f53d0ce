"""docs/tutorial.md, done as it says: its files, its changes, its commands, in order.

Workers time as briefly as `tests.short` has it, and what asks for many processes gets few. With --quarter, only what is
said of the reader's own engine: it is measured by itself, and its comparison is planned.
"""

import os
import re
import shutil
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

from tests.documents.calls import program_arguments
from tests.documents.fences import ROOT, STORED, TUTORIAL, Command, blocks, changed, shell

IDENTITY = {f"GIT_{who}_{what}": "reader@example.org" for who in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")}
OWN = "mine.py:Mine"
WRONG = 1
# What another machine or environment does: an environment is made already.
MADE = ("sudo", "python3", ".venv/bin/pip", ".")


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A repository of the program, as a reader has it."""
    for name in ("harness", STORED):
        shutil.copytree(ROOT / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("tests/short.py", ".gitignore"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        shutil.copy(ROOT / name, tmp_path / name)
    for command in ("init --quiet", "add --all", "commit --quiet --message program"):
        run(tmp_path, ("git", *command.split()))
    return tmp_path


def run(checkout: Path, words: tuple[str, ...]) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, **IDENTITY, "COLUMNS": "200", "NO_COLOR": "1"}
    return subprocess.run(
        words, cwd=checkout, env=environment, capture_output=True, text=True, timeout=300, check=False
    )


def fewer(arguments: tuple[str, ...], *, quarter: bool) -> tuple[str, ...] | None:
    """Return arguments that say the same and take less time; None for what is left out."""
    name, *rest = arguments
    if quarter and OWN not in rest:
        return None
    if name == "run" and quarter:
        beside = rest.index("autograd") - 1
        rest = [*rest[:beside], *rest[beside + 2 :]]
    if name == "run":
        return (name, *rest, "--rounds", "1", "--seeds", "4")
    if name == "ab":
        return (*arguments, *(("--dry-run",) if quarter else ("--rounds", "5", "--seeds", "4")))
    if name == "report" and find_spec("altair") is None:
        return None
    return arguments


def done(checkout: Path, command: Command, *, quarter: bool) -> subprocess.CompletedProcess[str] | None:
    if command.words[0] == "git":
        return run(checkout, command.words)
    arguments = program_arguments(command.words)
    assert arguments is not None, f"{command.place}: nobody does this"
    there = fewer(arguments, quarter=quarter)
    return None if there is None else run(checkout, (sys.executable, "-m", "tests.short", *there))


def shape(text: str) -> str:
    """Return a text without what depends on a machine: its numbers."""
    return re.sub(r"[\d.]+(e-\d+)?", "#", text).strip()


def test_the_tutorial_does_what_it_says(checkout: Path, request: pytest.FixtureRequest) -> None:
    quarter = request.config.getoption("--quarter")
    ends: list[tuple[str, int]] = []
    last = ""
    for block in blocks(TUTORIAL):
        file = checkout / block.name
        if block.language == "python":
            file.write_text(block.text, "utf-8")
        elif block.language == "diff":
            file.write_text(changed(file.read_text("utf-8"), block.text), "utf-8")
        elif block.language == "text" and block.text.startswith("wrong_gradient"):
            assert shape(block.text) in shape(last)
        elif block.language == "sh":
            for command in shell(block, {}):
                if command.words[0] in MADE or (ended := done(checkout, command, quarter=quarter)) is None:
                    continue
                last = ended.stdout + ended.stderr
                assert ended.returncode in (0, WRONG), last
                ends.append((command.words[2] if command.words[0] == "nox" else "git", ended.returncode))
                if "ab" in command.words:
                    assert f"line/{OWN}/cpu/float32/b100" in last
    # The machine may be one on which the doctor would measure nothing: that is not the tutorial's.
    wrong = ends.index(("bench_cpu", WRONG), 0 if quarter else 1)
    assert ends[wrong : wrong + 5] == [("bench_cpu", WRONG), ("bench_cpu", 0), ("git", 0), ("git", 0), ("ab", 0)]
    assert (wrong, len(ends)) == ((0, 5) if quarter else (3, 8 + (find_spec("altair") is not None)))
    assert (checkout / "results/site/index.html").exists() is (("report", 0) in ends)
