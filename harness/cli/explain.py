"""`harness explain CASE`: where an update's time goes."""

import json
from pathlib import Path
from tempfile import TemporaryDirectory

import click

from harness.cli.common import Exit
from harness.plan.case import Case
from harness.plan.errors import PlanError
from harness.plan.sweep import Sweep
from harness.plan.text import printable


@click.command("explain")
@click.argument("case_id", metavar="CASE")
@click.option("--timeout", type=click.IntRange(1, 604_800), metavar="S", help="Longest phase; default 600.")
@click.option("--format", "form", type=click.Choice(["terminal", "json"]), default="terminal", show_default=True)
@click.pass_context
def command(ctx: click.Context, /, *, case_id: str, timeout: int | None, form: str) -> None:
    """Measure one case and say what its update consists of: Python, calls, work, kernels, gaps, memory, compiling.

    CASE: as the tables call it, line/autograd/cpu/float32/b100; own files with their path. It passes the gate first.
    Nothing is kept. Exit code 1: the case has no time, and the reason is printed.
    """
    from harness.comparing.explained import explained
    from harness.reporting.explain import show_explained
    from harness.reporting.terminal import Terminal
    from harness.running.explaining import explain

    case = Case.named(case_id)
    if case.ranks > 1:
        raise PlanError(f"case {printable(case_id)}: several ranks are not looked into; leave out /r{case.ranks}")
    with TemporaryDirectory(prefix="harness-cache-", ignore_cleanup_errors=True) as cache:
        record = explain(Sweep((case,)), Path(cache), timeout)
    wanting = "inside_note" if record["outcome"] == "ok" else "reason"
    if "inside" not in record:
        click.echo(f"harness: {case.case_id}: {record['outcome']}: {printable(str(record[wanting]))}", err=True)
        ctx.exit(Exit.MISSED)
    if form == "json":
        click.echo(json.dumps({"case_id": case.case_id, **record}, indent=2))
    else:
        show_explained(Terminal(), case.case_id, record, explained(record))
