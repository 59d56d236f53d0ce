"""The commands that only look: `show`, `crossover`, `doctor` and `list`."""

import json
from pathlib import Path

import click

from harness.cli.common import PATH, Exit
from harness.plan.case import known_device
from harness.plan.catalogue import CATALOGUES, installed
from harness.plan.errors import PlanError
from harness.plan.text import printable


@click.command()
@click.argument("path", type=PATH, metavar="RUN")
def show(path: Path) -> None:
    """Print the table of a stored run: its folder, or its summary.csv. Needs no torch."""
    from harness.reporting.terminal import Terminal, show_bonus, show_summary
    from harness.tables.files import read_table
    from harness.tables.find import check_run

    check_run(path)
    summary = read_table(path, "summary")
    console = Terminal()
    show_summary(console, summary)
    show_bonus(console, summary)


@click.command()
@click.argument("path", type=PATH, metavar="RUN")
@click.option("--format", "form", type=click.Choice(["terminal", "json"]), default="terminal", show_default=True)
def crossover(path: Path, form: str) -> None:
    """Say which engine of a stored run is fastest from which batch size on, and when its preparation has paid.

    RUN: its folder, or its measurements.csv. Times and ratios have their 95 % interval over the rounds; a cold compile
    was timed once.
    """
    from harness.comparing.crossover import READ, crossovers
    from harness.reporting.crossover import as_json, show_crossovers
    from harness.reporting.terminal import Terminal
    from harness.tables.files import read_table
    from harness.tables.find import check_run

    check_run(path)
    groups = crossovers(read_table(path, "measurements", READ))
    if not groups:
        raise PlanError(f"{printable(str(path))}: has no two engines with times of the same batch size to compare")
    if form == "json":
        click.echo(json.dumps(as_json(groups), indent=2))
    else:
        show_crossovers(Terminal(), groups)


@click.command()
@click.option("--device", default="cpu", metavar="DEVICE", show_default=True, help="cpu, cuda or cuda:N.")
@click.pass_context
def doctor(ctx: click.Context, device: str) -> None:
    """Say what will spoil a measurement here, and what to do about it. Exit code 1: results would be worthless."""
    from harness.measuring.doctor import Severity, examine
    from harness.reporting.doctor import show_findings
    from harness.reporting.terminal import Terminal

    findings = examine(known_device(device))
    show_findings(Terminal(), findings)
    ctx.exit(Exit.MISSED if any(finding.severity is Severity.WORTHLESS for finding in findings) else Exit.MET)


@click.command("list")
@click.argument("what", type=click.Choice(["engines", "workloads"]))
def list_catalogue(what: str) -> None:
    """List engines or workloads, those of installed packages as well."""
    kind = what.removesuffix("s")
    rows = {name: entry.summary for name, entry in CATALOGUES[kind].items()}
    rows |= {name: f"from {point.value}" for name, point in installed(kind).items() if name not in rows}
    width = max(map(len, rows))
    for name, summary in rows.items():
        click.echo(f"{name:{width}}  {summary}")
