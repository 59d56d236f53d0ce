"""`harness history`: all stored runs of a machine, the trend of every case, and a gate for the newest run."""

import json
from pathlib import Path
from typing import TYPE_CHECKING

import click

from harness.cli.common import PATH, Exit

if TYPE_CHECKING:
    from harness.comparing.series import History
    from harness.plan.errors import PlanError


@click.command("history")
@click.argument("path", type=PATH, metavar="[FOLDER]", default=Path("results"))
@click.option("--strict", is_flag=True, help="Exit 4 when a case is slower this once.")
@click.option(
    "--format", "form", type=click.Choice(["terminal", "markdown", "json"]), default="terminal", show_default=True
)
@click.pass_context
def command(ctx: click.Context, /, *, path: Path, strict: bool, form: str) -> None:
    """Say how the newest run of a machine stands against its sessions before, and how each case develops.

    FOLDER: of a machine, results/NAME, or of the results of one machine. A case is slower when it lies beyond what the
    last 10 to 20 sessions let expect, by 2 % at least, in two sessions in a row. Where the frozen engine moved as well,
    it is the machine. Exit code 0: no case slower; 1: one slower, or not ok any more; 2: usage, or no stored runs; 4:
    slower this once, with --strict.
    """
    from harness.comparing.history import history_of
    from harness.plan.errors import PlanError
    from harness.tables.stored import machine_folder, stored_runs

    folder = machine_folder(path)
    runs = stored_runs(folder, broken=_left_out)
    if not runs:
        raise PlanError(f"{folder}: none of its runs can be read")
    history = history_of(runs)
    _tell(history, form)
    ctx.exit(exit_code(history, strict=strict))


def _left_out(error: "PlanError") -> None:
    click.echo(f"harness: left out: {error}", err=True)


def _tell(history: "History", form: str) -> None:
    from harness.reporting.history import as_json, as_markdown, show_history
    from harness.reporting.terminal import Terminal

    if form == "json":
        click.echo(json.dumps(as_json(history), indent=2, allow_nan=False))
    elif form == "markdown":
        click.echo(as_markdown(history), nl=False)
    else:
        show_history(Terminal(), history)


def exit_code(history: "History", *, strict: bool) -> Exit:
    """Return the exit code of the gate."""
    if history.failed:
        return Exit.MISSED
    return Exit.UNDECIDED if strict and history.undecided else Exit.MET
