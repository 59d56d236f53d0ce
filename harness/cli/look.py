"""The commands that only look: `show`, `doctor` and `list`."""

from pathlib import Path

import click

from harness.cli.common import PATH, Exit
from harness.plan.case import known_device
from harness.plan.catalogue import CATALOGUES, installed


@click.command()
@click.argument("path", type=PATH, metavar="RUN")
def show(path: Path) -> None:
    """Print the table of a stored run: its folder, or its summary.csv. Needs no torch."""
    from harness.reporting.terminal import Terminal, show_bonus, show_summary
    from harness.tables.files import read_table

    summary = read_table(path, "summary")
    console = Terminal()
    show_summary(console, summary)
    show_bonus(console, summary)


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
