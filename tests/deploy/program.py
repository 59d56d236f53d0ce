"""What the program's real command line says of arguments that a document or a deploy file gives to it."""

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from harness.cli import cli
from tests.deploy.commands import ROOT

# What run.md and the deploy files use and the command line does not have yet; emptied as it lands.
PENDING = frozenset({"--publish", "--shard", "collect", "merge"})


def landed(name: str) -> bool:
    """Say whether the command line has a flag of `run`, or a command, of this name."""
    return takes("run", name) if name.startswith("-") else name in cli.commands


def takes(command: str, flag: str) -> bool:
    """Say whether a command has a flag."""
    return command in cli.commands and any(flag in parameter.opts for parameter in cli.commands[command].params)


def without_pending(arguments: Sequence[str]) -> list[str]:
    """Return the arguments less the flags that have not landed, and their values."""
    kept, left = [], list(arguments)
    while left:
        word = left.pop(0)
        if word in PENDING and word.startswith("-"):
            left.pop(0)
        else:
            kept.append(word)
    return kept


def complaint(arguments: Sequence[str], folder: Path) -> str:
    """Return what the program says against the arguments, or nothing; nothing is measured, read or written.

    Commands that plan are given --dry-run, and judge values as well; others --help, which comes after their flags are
    parsed. Object storage is replaced by a folder.
    """
    words = [str(folder / "published") if "://" in word else word for word in without_pending(arguments)]
    last = "--dry-run" if takes(words[0], "--dry-run") else "--help"
    command = [sys.executable, "-m", "harness", *words, last]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    ended = subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, timeout=60, check=False
    )
    return "" if ended.returncode == 0 else ended.stderr.strip() or f"exit code {ended.returncode}"
