"""What the commands share: exit codes, and the flags that say what is measured."""

import json
from enum import IntEnum
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from harness.plan.estimate import sweep_seconds
from harness.plan.sweep import Sweep

if TYPE_CHECKING:
    from collections.abc import Callable

    Command = Callable[..., Any]


class Exit(IntEnum):
    """Exit codes of every command."""

    MET = 0
    MISSED = 1
    USAGE = 2
    NOT_COMPARABLE = 3
    UNDECIDED = 4
    INTERRUPTED = 130


PATH = click.Path(path_type=Path)
# What is measured and where it is kept: the same for every command that measures.
_PLAN = (
    click.option("--workload", multiple=True, metavar="NAME", help="Only this one; file.py:Name for your own."),
    click.option("--engine", multiple=True, metavar="NAME", help="Only this one; all; file.py:Name for your own."),
    click.option("--device", multiple=True, metavar="DEVICE", help="cpu, cuda or cuda:N."),
    click.option("--dtype", multiple=True, metavar="DTYPE", help="float32 (the default), float64, tf32 or bfloat16."),
    click.option("--batch-size", multiple=True, type=int, metavar="N", help="Only this one."),
    click.option(
        "--threads", multiple=True, type=int, metavar="N", help="torch's threads; default: the cores that are free."
    ),
    click.option("--ranks", multiple=True, type=int, metavar="N", help="Processes that share each batch (engine ddp)."),
    click.option("--sweep", "sweep_file", type=PATH, metavar="FILE", help="What to run, as TOML."),
    click.option("--timeout", type=click.IntRange(1, 604_800), metavar="S", help="Longest phase; default 600."),
    click.option("--out", type=PATH, default=Path("results"), metavar="DIR", show_default=True),
    click.option("--dry-run", is_flag=True, help="Print the plan and its estimated time; run nothing."),
    click.option("--quiet", is_flag=True, help="Print only what is wrong."),
)


def plan_options(command: "Command") -> "Command":
    """Give a command the flags that say what is measured."""
    for option in reversed(_PLAN):
        command = option(command)
    return command


def print_plan(sweep: Sweep, arms: int = 1) -> None:
    """Print the cases of a sweep and how long it takes in so many arms, where nothing is to be run."""
    for case in sweep.cases:
        click.echo(case.case_id)
    each = f" × {arms} arms" if arms > 1 else ""
    click.echo(
        f"{len(sweep.cases)} cases × {sweep.rounds} rounds{each}, convergence over {sweep.seeds} seeds: "
        f"about {_minutes(arms * sweep_seconds(sweep))} min on 2 cores"
    )


def print_plan_as_json(sweep: Sweep) -> None:
    """Print the same for machines, as one object."""
    from harness.reporting.events import plan_of

    click.echo(json.dumps(plan_of(sweep), allow_nan=False))


def print_all(sweep: Sweep) -> None:
    """Print how long the sweep of every engine would take, where the standard one is not to be run."""
    click.echo(f"--engine all: {len(sweep.cases)} cases, about {_minutes(sweep_seconds(sweep))} min")


def _minutes(seconds: float) -> int:
    return max(1, round(seconds / 60))
