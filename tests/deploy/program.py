"""What the program's real command line says of arguments that a document or a deploy file gives to it."""

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from harness.cli import cli
from tests.deploy.commands import ROOT


def takes(command: str, flag: str) -> bool:
    """Say whether a command has a flag."""
    return command in cli.commands and any(flag in parameter.opts for parameter in cli.commands[command].params)


def complaint(arguments: Sequence[str], folder: Path) -> str:
    """Return what the program says against the arguments, or nothing; nothing is measured, read or written.

    Commands that plan are given --dry-run, and judge values as well; others --help, which comes after their flags are
    parsed. Object storage is replaced by a folder.
    """
    words = [str(folder / "published") if "://" in word else word for word in arguments]
    last = "--dry-run" if takes(words[0], "--dry-run") else "--help"
    command = [sys.executable, "-m", "harness", *words, last]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    ended = subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, timeout=60, check=False
    )
    return "" if ended.returncode == 0 else ended.stderr.strip() or f"exit code {ended.returncode}"
