"""Signals that end the program, each sent to itself by a command that does something else meanwhile."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
# Commands of this test's own in the real program.
PROGRAM = """
import contextlib, signal, sys
from harness import cli
from harness.cli.interrupt import INTERRUPTS

@cli.cli.command()
def loses():
    with contextlib.suppress(KeyboardInterrupt):
        signal.raise_signal(signal.SIGTERM)
    print("went on")

@cli.cli.command()
def holds():
    with INTERRUPTS.held():
        signal.raise_signal(signal.SIGINT)
        print("finished what it held")
    print("went on")

@cli.cli.command()
def tidies():
    try:
        signal.raise_signal(signal.SIGTERM)
    finally:
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGHUP)
        print("tidied up")

@cli.cli.command()
def ends():
    print("went on")

for name in sys.argv[1:]:
    sys.argv = ["harness", name]
    try:
        cli.main()
    except SystemExit as ended:
        print(int(ended.code or 0))
"""


@pytest.mark.parametrize(
    ("commands", "said"),
    [
        (["loses"], ["went on", "130"]),
        (["holds"], ["finished what it held", "130"]),
        (["tidies"], ["tidied up", "130"]),
        (["holds", "ends"], ["finished what it held", "130", "went on", "0"]),  # a new program has a new start
    ],
    ids=" ".join,
)
def test_the_first_signal_ends_the_program_with_130_and_further_ones_do_nothing(commands, said):
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, *commands], capture_output=True, text=True, check=False, cwd=ROOT, timeout=60
    )
    assert done.stdout.splitlines() == said
    assert not done.stderr.strip()  # click ends the line of ^C
