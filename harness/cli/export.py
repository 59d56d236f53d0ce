"""`harness export`: a run in the format of another tool."""

import json
from pathlib import Path
from typing import Any

import click

from harness.cli.common import PATH
from harness.plan.errors import PlanError
from harness.plan.text import printable

_TABLES = ("summary.csv", "measurements.csv")  # both are read


@click.command("export")
@click.argument("path", type=PATH, metavar="RUN")
@click.option(
    "--to",
    "target",
    type=click.Choice(["pytest-benchmark", "github-action-benchmark"]),
    required=True,
    help="Who is to read it; the latter as customSmallerIsBetter.",
)
@click.option("--output", type=PATH, metavar="FILE", help="Write it there instead of printing it.")
def command(path: Path, target: str, output: Path | None) -> None:
    """Write a stored run, its folder, as the JSON of another tool.

    Cases that are not ok have no time and are left out; they are named on stderr. Exit code 2: nothing to export, or
    it could not be written.
    """
    from harness.running.records import read_machine
    from harness.tables.export import MEASURED, left_out, to_github_action_benchmark, to_pytest_benchmark
    from harness.tables.files import read_table
    from harness.tables.find import check_run

    if path.is_file() and path.name not in _TABLES:
        raise PlanError(f"{printable(str(path))} is no folder of a run: name that, or its {' or '.join(_TABLES)}")
    folder = path.parent if path.is_file() else path
    check_run(folder)
    summary, measurements = read_table(folder, "summary"), read_table(folder, "measurements", MEASURED)
    absent = left_out(measurements, summary)
    if len(absent) == len(summary):
        raise PlanError(f"{printable(str(path))}: none of its {len(summary)} cases is ok: there is no time to export")
    exported: Any
    if target == "pytest-benchmark":
        exported = to_pytest_benchmark(measurements, summary, read_machine(folder))
    else:
        exported = to_github_action_benchmark(measurements, summary)
    text = json.dumps(exported, indent=1, allow_nan=False) + "\n"
    if output is None:
        click.echo(text, nl=False)
    else:
        _write(output, text)
    if absent:
        names = ", ".join(f"{case_id} ({why})" for case_id, why in absent.items())
        click.echo(f"harness: left out: {printable(names)}", err=True)


def _write(path: Path, text: str) -> None:
    """Write a file, which is complete or as it was; a device or pipe is written to as it is."""
    from harness.running.folder import replaced

    try:
        path = path.resolve()  # a link stays one
        if path.exists() and not path.is_file():
            path.write_text(text, "utf-8")
            return
        with replaced(path) as unfinished:
            unfinished.write_text(text, "utf-8")
    except (OSError, RuntimeError) as error:
        why = (error.strerror if isinstance(error, OSError) else None) or str(error)
        raise PlanError(f"--output {printable(str(path))}: cannot be written: {printable(why)}") from error
