"""`harness compare BASE NEW`, and what every command does with a comparison once it has one."""

import json
import math
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from harness.cli.common import PATH, Exit
from harness.plan.errors import PlanError
from harness.plan.text import printable

if TYPE_CHECKING:
    from harness.comparing.compared import Compared
    from harness.comparing.run import Run
    from harness.comparing.sessions import SessionSpread
    from harness.tables.find import Place

FORMATS = ("terminal", "markdown", "github", "json")


@click.command("compare")
@click.argument("base", metavar="BASE")
@click.argument("new", metavar="NEW")
@click.option("--vary", multiple=True, metavar="KEY", help="Meant to differ: torch, threads, …; repeatable.")
@click.option("--margin", type=click.FloatRange(0.1, 100), metavar="PERCENT", help="Least change that counts.")
@click.option("--advisory", is_flag=True, help="Slower between two sessions is told and does not exit 1.")
@click.option("--strict", is_flag=True, help="Exit 4 when a case is undecided.")
@click.option("--format", "form", type=click.Choice(FORMATS), default="terminal", show_default=True)
@click.option("--output", type=PATH, multiple=True, metavar="FILE", help="Keep it as FILE.md or FILE.json as well.")
@click.option("--results", type=PATH, default=Path("results"), metavar="DIR", show_default=True)
@click.pass_context
def command(
    ctx: click.Context,
    /,
    *,
    base: str,
    new: str,
    vary: tuple[str, ...],
    margin: float | None,
    advisory: bool,
    strict: bool,
    form: str,
    output: tuple[Path, ...],
    results: Path,
) -> None:
    """Say which cases became slower from BASE to NEW: folders of runs, CSV files, or git revisions measured before.

    Rounds of one session (`harness ab`) give a firm verdict. Two sessions differ by themselves, so between them it is
    advisory: slower or faster only beyond that. Exit code 0: no regression; 1: one; 2: usage, or unreadable; 3: not
    comparable; 4: undecided, with --strict.
    """
    from harness.comparing.compare import compare_runs
    from harness.tables.find import find_pair

    check_outputs(output)
    least_of(margin)
    there, here = find_pair(base, new, results)
    before, after = load(base, there), load(new, here)
    compared = compare_runs(
        before,
        after,
        vary=vary,
        spreads=spreads_of((here, there), after.only("fingerprint")),
        least=least_of(margin),
        sessions=sessions_of((here, there), before, after, vary),
    )
    tell(compared, form=form, output=output)
    ctx.exit(exit_code(compared, advisory=advisory, strict=strict))


def least_of(percent: float | None) -> float | None:
    """Return the least change that counts as a share; raises PlanError for no number, which click lets through."""
    if percent is not None and math.isnan(percent):
        raise PlanError("--margin nan: must be a number of percent, from 0.1 to 100")
    return None if percent is None else percent / 100


def load(named: str, place: "Place") -> "Run":
    """Read one side; raises PlanError when it cannot be read."""
    from harness.comparing.run import MEASURED, SUMMARISED, Run
    from harness.running.records import read_machine
    from harness.tables.files import read_table

    summarised = place.path.is_dir() and (place.path / "summary.csv").exists()
    return Run(
        name=printable(named, 100),
        measurements=read_table(place.path, "measurements", MEASURED),
        summary=read_table(place.path, "summary", SUMMARISED) if summarised else None,
        # What lies beside a CSV file may be another run's.
        facts=read_machine(place.path) if place.path.is_dir() else {},
    )


def spreads_of(places: "Sequence[Place]", fingerprint: str) -> dict[str, float]:
    """Return the spread between processes by case, from the first machine's folder that has one measured."""
    from harness.tables.noise_file import read_noise, spread_by_case

    for place in places:
        noise = read_noise(place.machine, fingerprint)
        if noise is not None:
            return spread_by_case(noise)
    return {}


def sessions_of(
    places: "Sequence[Place]", base: "Run", new: "Run", vary: Collection[str] = ()
) -> "SessionSpread | None":
    """Return how much sessions of this machine differ in the cases compared; these two runs' are left out.

    By the runs stored beside the first of the places that has enough of them.
    """
    if base.session == new.session:
        return None
    from harness.comparing.outcomes import timed_on_both
    from harness.comparing.sessions import SessionSpread, session_means, session_spread
    from harness.tables.stored import stored_sessions

    cases, without = timed_on_both(base, new, vary), {base.session, new.session}
    folders = dict.fromkeys(place.machine for place in places)
    for folder in folders if len(cases) else ():
        stored = stored_sessions(folder, new.only("fingerprint"), cases=cases, excluding=without)
        found = session_spread(session_means(stored))
        if found.measured:
            return found
    return SessionSpread()


def tell(compared: "Compared", *, form: str, output: Sequence[Path] = (), only_wrong: bool = False) -> None:
    """Print a comparison in one of FORMATS, keep it in files, and add it to GitHub's summary of a job, where one is."""
    from harness.reporting.comparison import annotations, as_json, as_markdown, show_comparison, step_summary
    from harness.reporting.terminal import Terminal

    if form == "json":
        click.echo(json.dumps(as_json(compared), indent=2))
    elif form == "markdown":
        click.echo(as_markdown(compared), nl=False)
    else:
        show_comparison(Terminal(), compared, only_wrong=only_wrong)
        for line in annotations(compared) if form == "github" else ():
            click.echo(line)
    for file in output:
        text = json.dumps(as_json(compared), indent=2) + "\n" if file.suffix == ".json" else as_markdown(compared)
        try:
            file.write_text(text, "utf-8")
        except OSError as error:
            raise PlanError(f"--output {printable(str(file))}: cannot be written: {error.strerror}") from error
    step_summary(compared)


def check_outputs(files: Collection[Path]) -> None:
    """Raise PlanError, before anything is measured, for a file of a format that is not known, or without a folder."""
    for file in files:
        if file.suffix not in (".md", ".json"):
            raise PlanError(f"--output {printable(str(file))}: must end in .md or .json")
        if not file.parent.is_dir():
            raise PlanError(f"--output {printable(str(file))}: cannot be written: make its folder first")


def exit_code(compared: "Compared", *, advisory: bool = False, strict: bool = False) -> Exit:
    """Return the exit code of a comparison; advisory: only what is no question of sessions is a regression."""
    if compared.lost or (compared.failed and not (advisory and not compared.firm)):
        return Exit.MISSED
    return Exit.UNDECIDED if strict and compared.undecided else Exit.MET
