"""`harness ab BASE NEW`: two arms measured in turn, round by round, for a verdict that holds."""

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import click

from harness.cli.common import PATH, Exit, plan_options, print_plan
from harness.cli.compare import FORMATS, check_outputs, exit_code, least_of, load, tell
from harness.cli.interrupt import INTERRUPTS
from harness.plan.errors import PlanError
from harness.plan.presets import LEAST_ROUNDS
from harness.plan.sweep import Axes, Sweep, plan_sweep
from harness.plan.text import printable, shown

if TYPE_CHECKING:
    from harness.comparing.compared import Compared
    from harness.running.arms import Answer, Arm
    from harness.running.checkout import Repository
    from harness.running.folder import Revision
    from harness.running.interleaved import Side
    from harness.running.session import Machine


@click.command("ab")
@click.argument("revisions", nargs=-1, metavar="[BASE NEW]")
@click.option("--python", multiple=True, metavar="PYTHON", help="Twice: compare two interpreters instead.")
@click.option(
    "--torch", multiple=True, metavar="VERSION", help="Twice, and only by `nox -s ab`, which makes the environments."
)
@plan_options
@click.option(
    "--rounds",
    type=click.IntRange(LEAST_ROUNDS, 1000),
    default=10,
    metavar="N",
    show_default=True,
    help="Fresh processes for each case in each arm; up to half as many more for what a neighbour spoils.",
)
@click.option("--seeds", type=int, metavar="N", help="Judge convergence over seeds 0 … N-1; default 64.")
@click.option("--margin", type=click.FloatRange(0.1, 100), metavar="PERCENT", help="Least change that counts.")
@click.option("--strict", is_flag=True, help="Exit 4 when a case is undecided.")
@click.option("--format", "form", type=click.Choice(FORMATS), default="terminal", show_default=True)
@click.option("--output", type=PATH, multiple=True, metavar="FILE", help="Keep it as FILE.md or FILE.json as well.")
@click.pass_context
def command(
    ctx: click.Context,
    /,
    *,
    revisions: tuple[str, ...],
    python: tuple[str, ...],
    torch: tuple[str, ...],
    sweep_file: Path | None,
    rounds: int,
    seeds: int | None,
    timeout: int | None,
    out: Path,
    margin: float | None,
    strict: bool,
    form: str,
    output: tuple[Path, ...],
    dry_run: bool,
    quiet: bool,
    **axes: tuple[Any, ...],
) -> None:
    """Measure two git revisions in turn on this machine, and say firmly what became slower from BASE to NEW.

    NEW may be `worktree`: what is not committed yet. A file of yours, --workload bench.py:Mine, goes with the revision.
    Without options: `line` at batch 100. Each arm is kept as a run. Exit code 0: no regression; 1: one; 2: usage, or
    nothing could be written; 3: not comparable; 4: undecided, with --strict; 130: interrupted.
    """
    _check_arms(revisions, python, torch)
    check_outputs(output)
    least_of(margin)
    if sweep_file is None:
        axes["workload"] = axes["workload"] or ("line",)
        axes["batch_size"] = axes["batch_size"] or (100,)
    sweep = plan_sweep(sweep_file, Axes(**axes), rounds=rounds, seeds=seeds)

    from harness.comparing.compare import compare_runs
    from harness.running.arms import interpreter_arms, revision_arms, told_apart, varied
    from harness.running.checkout import Repository
    from harness.running.interleaved import start_sides, with_spare
    from harness.running.session import machine_of
    from harness.tables.find import Place

    repository = None if python else Repository.around(Path.cwd())
    ats = [repository.resolve(name) for name in revisions] if repository else []
    if repository:
        _tell_left_out(repository, revisions, ats)
    if dry_run:
        print_plan(sweep, arms=2)
        return
    with TemporaryDirectory(prefix="harness-ab-", ignore_cleanup_errors=True) as temporary, ExitStack() as journals:
        folder = Path(temporary).resolve()
        arms = revision_arms(revisions, ats, repository, folder) if repository else interpreter_arms(python)
        sweep, answers = _asked(sweep, arms)
        arms = told_apart(arms, answers) if python else arms
        machines = [machine_of(answer.facts, sweep) for answer in answers]
        spreads = _spreads(out, machines)
        sides = start_sides(with_spare(sweep), arms, machines, out)
        for side in sides:
            journals.callback(side.session.journal.close)

        def compared() -> "Compared":
            base, new = (load(side.arm.name, Place(side.session.folder)) for side in sides)
            return compare_runs(base, new, vary=varied(answers), spreads=spreads, least=least_of(margin))

        interrupted = _measure(sides, sweep, timeout, compared, quiet=quiet)
    if interrupted:
        _note("interrupted; what is finished is kept, and an A/B run cannot be gone on with")
        base, new = ({number for _, number in side.session.progress.finished} for side in sides)
        if len(base & new) < 2:
            ctx.exit(Exit.INTERRUPTED)
    found = compared()
    tell(found, form=form, output=output, only_wrong=quiet)
    ctx.exit(Exit.INTERRUPTED if interrupted else exit_code(found, strict=strict))


def _check_arms(revisions: Sequence[str], python: Sequence[str], torch: Sequence[str]) -> None:
    """Raise PlanError unless there are two arms of one kind that can be measured here."""
    if torch:
        versions = " ".join(f"--torch {version}" for version in torch)
        raise PlanError(f"each torch needs an environment, which nox makes: nox -s ab -- {printable(versions, 200)}")
    if revisions and python:
        raise PlanError("compare two revisions or two interpreters: BASE NEW, or --python twice, not both")
    given = python or revisions
    if len(given) != 2:
        what = (
            "--python twice" if python else "BASE NEW, two git revisions; NEW may be `worktree`, what is not committed"
        )
        raise PlanError(f"name two arms: {what} (got {', '.join(map(shown, given)) or 'none'})")


def _tell_left_out(repository: "Repository", names: Sequence[str], ats: "Sequence[Revision]") -> None:
    """Say so where the commit that is checked out is measured without what the user changed in it."""
    from harness.running.checkout import WORKTREE
    from harness.running.folder import revision

    here = revision(repository.root)
    for name, at in zip(names, ats, strict=True):
        if here.dirty and WORKTREE not in names and at.commit == here.commit:
            _note(f"what is not committed is left out of {shown(name)}: to compare it, name `{WORKTREE}`")
            return


def _asked(sweep: Sweep, arms: "Sequence[Arm]") -> "tuple[Sweep, list[Answer]]":
    """Ask both arms what they would run; return what of the sweep both can, and their answers."""
    from harness.running.arms import ask, check_files, known_to_both, measured_otherwise
    from harness.running.session import described_device

    check_files(arms, sweep)
    answers = [ask(arm, described_device(sweep)) for arm in arms]
    sweep, lacking = known_to_both(sweep, arms, answers)
    for line in lacking:
        _note(f"{line}: it is left out")
    if otherwise := measured_otherwise(answers):
        _note(f"the arms do not measure alike: harness/measuring/ differs in {', '.join(otherwise)}")
    return sweep, answers


def _spreads(out: Path, machines: "Sequence[Machine]") -> dict[str, float]:
    """Return the spread of each case as the machine was last measured against itself."""
    from harness.tables.noise_file import read_noise, spread_by_case

    for machine in machines:
        noise = read_noise(out / machine.slug, machine.fingerprint)
        if noise is not None:
            return spread_by_case(noise)
    return {}


def _measure(
    sides: "Sequence[Side]", sweep: Sweep, timeout: int | None, compare: Callable[[], object], *, quiet: bool
) -> bool:
    """Measure and write the tables after each round and at the end; return whether the user interrupted it.

    Two arms that are not comparable, as their workload is another, are told after the first round.
    """
    from harness.reporting.progress import RunProgress
    from harness.reporting.terminal import Terminal
    from harness.running.interleaved import measure_in_turn

    # Before anything is measured: a signal may break off an import, and not every module can be imported again.
    from harness.running.records import read_journal
    from harness.tables.build import build_tables
    from harness.tables.files import write_tables

    def write() -> None:
        with INTERRUPTS.held():
            for side in sides:
                write_tables(side.session.folder, build_tables(*read_journal(side.session.folder)))

    console = Terminal(stderr=True)
    console.quiet = quiet
    kept = " and ".join(str(side.session.folder) for side in sides)
    console.print(f"kept in {kept}", soft_wrap=True, highlight=False, markup=False)
    interrupted = False
    with RunProgress(console, replace(sweep, cases=sweep.cases * 2)) as progress:

        def turn(side: "Side") -> None:
            progress.arm = side.arm.name

        def after_round(number: int) -> None:
            write()
            if number == 0:
                compare()

        try:
            measure_in_turn(sides, progress, timeout, turn, after_round)
        except KeyboardInterrupt:
            interrupted = True
    try:
        write()
    except KeyboardInterrupt:
        interrupted = True
    return interrupted


def _note(text: str) -> None:
    click.echo(f"harness: {printable(text)}", err=True)
