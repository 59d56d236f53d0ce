"""The commands that measure on this machine: `run` and `noise`."""

import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from harness.cli.common import PATH, Exit, plan_options, print_all, print_plan, print_plan_as_json
from harness.cli.finished import Finished, events_to_stdout, show_measured, write_finished
from harness.cli.interrupt import INTERRUPTS
from harness.cli.publish import begin, part_of, publish_options
from harness.cli.site import Site, check_flags, site_of
from harness.plan.errors import PlanError
from harness.plan.presets import PRESETS
from harness.plan.shard import Shard, sweep_of
from harness.plan.sweep import ALL, Axes, plan_sweep
from harness.plan.text import printable

if TYPE_CHECKING:
    from collections.abc import Mapping

    import pandas as pd

    from harness.comparing.run import Run
    from harness.reporting.events import Events
    from harness.running.session import Session


@click.command()
@plan_options
@click.option(
    "--preset",
    type=click.Choice(list(PRESETS)),
    help="quick (the default), standard, rigorous: 3, 5, 12 rounds.",
)
@click.option("--rounds", type=int, metavar="N", help="Passes over all cases, each case in a fresh process.")
@click.option("--seeds", type=int, metavar="N", help="Judge convergence over seeds 0 … N-1; default 64.")
@click.option("--baseline", type=PATH, metavar="RUN", help="A stored run not to be slower than, or its revision.")
@click.option("--resume", type=PATH, metavar="RUN", help="Measure only what this run lacks.")
@publish_options
@click.option("--on", type=click.Choice(["ray"]), help="Measure on the machines of a Ray cluster, side by side.")
@click.option("--address", metavar="HOST:PORT", help="Of its head; without, the cluster that this machine is of.")
@click.option("--cold", is_flag=True, help="Give every case an empty compile cache of its own.")
@click.option("--strict", is_flag=True, help="Exit 4 when a target is undecided.")
@click.option("--profile-run", is_flag=True, help="Print where the wall time went.")
@click.option(
    "--json", "as_json", is_flag=True, help="For machines: each event as a line of JSON (docs/architecture.md)."
)
@click.pass_context
def run(
    ctx: click.Context,
    /,
    *,
    sweep_file: Path | None,
    preset: str | None,
    rounds: int | None,
    seeds: int | None,
    timeout: int | None,
    out: Path,
    baseline: Path | None,
    resume: Path | None,
    shard_text: str | None,
    url: str | None,
    on: str | None,
    address: str | None,
    cold: bool,
    dry_run: bool,
    strict: bool,
    quiet: bool,
    profile_run: bool,
    as_json: bool,
    **axes: tuple[Any, ...],
) -> None:
    """Measure, judge and keep a run in DIR/<machine>/<time>-<commit>/.

    Without options: `line` at batch 10 to 10 000 and `line_deep` at 100, by the standard engines, on the CPU. Exit
    code 0: no target missed (undecided ones are listed); 1: one missed, or a case failed; 2: usage, or nothing could be
    written; 3: not comparable; 130: interrupted.
    """
    check_flags(on, address, baseline=baseline, profile_run=profile_run, shard=shard_text, publish=url)
    if resume is not None:
        _only_with_resume(ctx)
    shard = None if shard_text is None else Shard.parse(shard_text)
    sweep = plan_sweep(sweep_file, Axes(**axes), preset=preset, rounds=rounds, seeds=seeds, cold=cold)
    events = events_to_stdout() if as_json else None
    part = part_of(sweep, shard, quiet=as_json)
    if part is None:
        if events is not None:
            events.verdict(None, None, Exit.MET)
        return
    if dry_run and as_json:
        print_plan_as_json(part)
        return
    if dry_run:
        print_plan(part)
        if sweep_file is None and not axes["engine"]:
            print_all(plan_sweep(None, Axes(**{**axes, "engine": (ALL,)}), preset=preset, rounds=rounds, seeds=seeds))
        return

    from harness.cli.compare import load, sessions_of, spreads_of, tell
    from harness.comparing.compare import compare_runs
    from harness.running.records import read_journal
    from harness.running.session import Session
    from harness.tables.build import build_tables
    from harness.tables.files import read_table
    from harness.tables.find import Place, find_run
    from harness.tables.profile import profile

    if resume is not None:
        header, records = read_journal(resume)
        build_tables(header, records)  # what they cannot hold is said before hours are measured
        part = sweep_of(header)
    stored = None
    if baseline is not None:
        results = out if resume is None else resume.resolve().parent.parent
        place = find_run(str(baseline), results, [case.case_id for case in part.cases])
        stored = load(str(baseline), place)
        if resume is not None and place.home == resume.resolve():
            raise PlanError(f"--baseline {printable(str(baseline))}: is the run to resume; name another one's folder")
    with site_of(on, address, part, quiet=quiet or as_json) as site:
        _check_stored(stored, resume, site)
        if resume is None:
            session = begin(sweep, shard, site.machine, out, url)
        else:
            session = Session.resume(resume, site.machine)
        before, started = session.progress.finished.copy(), time.monotonic()
        interrupted = _measure(session, site, timeout, quiet=quiet, events=events)
        wall_s = time.monotonic() - started

    summary = read_table(session.folder, "summary")
    found = Finished(session.folder, session.sweep, summary, interrupted)
    if profile_run:
        made = _made_since(read_table(session.folder, "measurements"), before)
        found = replace(found, parts=profile(made, wall_s))
    if events is None:
        show_measured(found, quiet=quiet)
    if stored is not None:
        place = Place(session.folder)
        now = load("this run", place)
        spreads, between = spreads_of([place], now.only("fingerprint")), sessions_of([place], stored, now)
        compared = compare_runs(stored, now, spreads=spreads, sessions=between)
        found = replace(found, compared=compared)
        if events is None:
            tell(compared, form="terminal", only_wrong=quiet)
    code = found.exit_code(strict=strict)
    if events is not None:
        write_finished(events, found, code)
    if interrupted:
        click.echo(f"harness: interrupted; go on with: {session.go_on}{site.flags}", err=True)
    ctx.exit(code)


def _check_stored(stored: "Run | None", resume: Path | None, site: Site) -> None:
    """Raise NotComparable where what will be measured could not be compared with a stored run."""
    from harness.comparing.comparable import check_comparable
    from harness.running.records import read_journal, read_machine

    if stored is None:
        return
    if resume is None:
        now = _to_be_measured(site.machine.slug, site.machine.fingerprint, site.machine.facts)
    else:
        header, _ = read_journal(resume)
        now = _to_be_measured(header["machine"], header["fingerprint"], read_machine(resume))
    check_comparable(stored, now, declare="measure without --baseline, then: harness compare BASE NEW")


def _to_be_measured(machine: str, fingerprint: str, facts: "Mapping[str, Any]") -> "Run":
    """Return what is known of a run before it is measured: enough to say that it cannot be compared."""
    import pandas as pd

    from harness.comparing.run import Run

    row = {"run_id": "this", "session": "", "machine": machine, "fingerprint": fingerprint, "dirty": False}
    return Run("this run", pd.DataFrame([row]), facts=facts)


def _only_with_resume(ctx: click.Context) -> None:
    given = [name for name in ctx.params if ctx.get_parameter_source(name) is click.core.ParameterSource.COMMANDLINE]
    for name in given:
        if name not in {"resume", "timeout", "strict", "quiet", "baseline", "on", "address", "as_json"}:
            renamed = {"sweep_file": "sweep", "shard_text": "shard", "url": "publish"}
            flag = renamed.get(name, name.replace("_", "-"))
            raise PlanError(f"--resume goes on with the plan of that run: leave out --{flag}")


def _measure(
    session: "Session", site: Site, timeout: int | None, *, quiet: bool, events: "Events | None" = None
) -> bool:
    """Measure and write the tables now and then and at the end; return whether the user interrupted it.

    events: hear of it instead of the terminal.
    """
    from harness.reporting.progress import RunProgress
    from harness.reporting.terminal import Terminal

    # Before anything is measured: a signal may break off an import, and not every module can be imported again.
    from harness.running.records import read_journal
    from harness.tables.build import build_tables
    from harness.tables.files import write_tables

    def write() -> None:
        with INTERRUPTS.held():
            write_tables(session.folder, build_tables(*read_journal(session.folder)))

    for note in session.journal.notes:
        click.echo(f"harness: {note}", err=True)
    console = Terminal(stderr=True)
    console.quiet = quiet or events is not None
    _, entries = read_journal(session.folder)
    interrupted, unpublished = False, ""
    try:
        if events is not None:
            events.begin(session.sweep, session.folder)
        with RunProgress(console, session.sweep, entries) as progress:
            try:
                site.measure(session, events or progress, timeout, write)
            except KeyboardInterrupt:
                interrupted = True
            except PlanError as error:  # what it says is kept here all the same
                unpublished = str(error)
        try:
            write()
        except KeyboardInterrupt:
            interrupted = True
    except OSError as error:
        what = f"{error.filename} cannot be written: {error.strerror}" if error.filename else str(error)
        raise PlanError(f"{what}; what was finished is kept; go on with: {session.go_on}{site.flags}") from error
    try:
        session.journal.close()  # only now may another process go on with this run
    except PlanError as error:
        unpublished = str(error)
    if unpublished:
        kept = f"what was finished is kept in {session.folder}"
        raise PlanError(f"{unpublished}; {kept}; go on with: {session.go_on}{site.flags}")
    return interrupted


def _made_since(measurements: "pd.DataFrame", before: "set[tuple[str, int]]") -> "pd.DataFrame":
    keys = zip(measurements["case_id"], measurements["round"], strict=True)
    return measurements[[key not in before for key in keys]]


@click.command()
@click.argument("path", type=PATH, metavar="[RUN]", required=False)
@plan_options
@click.option(
    "--rounds",
    type=click.IntRange(10, 1000),
    default=20,
    metavar="N",
    show_default=True,
    help="Fresh processes for each case.",
)
@click.pass_context
def noise(
    ctx: click.Context,
    /,
    *,
    path: Path | None,
    sweep_file: Path | None,
    rounds: int,
    timeout: int | None,
    out: Path,
    dry_run: bool,
    quiet: bool,
    **axes: tuple[Any, ...],
) -> None:
    """Measure the machine against itself: how much it spreads, and how many rounds a wanted sensitivity needs.

    Without options: `line` at batch 100 and 1000 by the standard engines. With RUN, nothing is measured: the noise is
    that of the stored run, of at least ten rounds. Kept as DIR/<machine>/noise.csv, where comparisons find it.
    """
    from harness.comparing.noise import measure_noise
    from harness.reporting.noise import show_noise
    from harness.reporting.terminal import Terminal
    from harness.running.session import Session, typed
    from harness.tables.files import read_table
    from harness.tables.noise_file import write_noise

    folder = path
    if folder is None:
        if sweep_file is None:
            axes["workload"] = axes["workload"] or ("line",)
            axes["batch_size"] = axes["batch_size"] or (100, 1000)
        sweep = plan_sweep(sweep_file, Axes(**axes), rounds=rounds, seeds=1)
        if dry_run:
            print_plan(sweep)
            return
        with site_of(None, None, sweep) as site:
            session = Session.start(sweep, site.machine, out)
            folder = session.folder
            interrupted = _measure(session, site, timeout, quiet=quiet)
        if interrupted:
            judge = typed("noise", str(folder))
            click.echo(f"harness: interrupted; go on with: {session.go_on}, then: {judge}", err=True)
            ctx.exit(Exit.INTERRUPTED)
    found = measure_noise(read_table(folder, "measurements"))
    write_noise((folder if folder.is_dir() else folder.parent).resolve().parent, found)
    if not quiet:
        show_noise(Terminal(), found)
