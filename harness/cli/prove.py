"""`harness prove`: the lesson's question, answered by experiment."""

import time
from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import click

from harness.cli.common import PATH, Exit
from harness.cli.interrupt import INTERRUPTS
from harness.plan.case import Case
from harness.plan.proof import plan_proof
from harness.plan.sweep import Sweep

if TYPE_CHECKING:
    import pandas as pd

# What is finished is written so often while more is under way.
_WRITE_S = 60.0


@click.command("prove")
@click.option("--seeds", type=click.IntRange(1, 10_000), default=1000, metavar="N", show_default=True)
@click.option("--out", type=PATH, default=Path("results"), metavar="DIR", show_default=True)
@click.option("--quiet", is_flag=True, help="Print only what is wrong.")
@click.pass_context
def command(ctx: click.Context, /, *, seeds: int, out: Path, quiet: bool) -> None:
    """Prove what right gradients do, and what every mistake in hand-derived ones does, over seeds 0 … N-1.

    Right engines, finite differences and the catalogue of mistakes go through the gate and through their training: who
    is caught, by what, and who trains anyway. Kept as tables in DIR/<machine>/prove/<time>-<commit>/. Exit code 0:
    every mistake is caught and no right engine flagged; 1: not so; 130: interrupted, what is finished is kept.
    """
    from harness.comparing.proof import depths, proven
    from harness.reporting.proof import ProofProgress, show_depths, show_faults, show_proof
    from harness.reporting.terminal import Terminal
    from harness.running.folder import make_run_folder, revision
    from harness.running.launcher import DEFAULT_TIMEOUT_S, worker_environment
    from harness.running.proving import ProverLauncher, prove
    from harness.running.session import this_machine
    from harness.tables.files import write_frames
    from harness.tables.proof import build_proof

    cases = plan_proof()
    machine = this_machine(Sweep(cases))
    at = revision(Path.cwd())
    folder = make_run_folder(out, f"{machine.slug}/prove", at)
    run = {"run_id": folder.name, "commit": at.commit, "dirty": at.dirty}
    run |= {"machine": machine.slug, "fingerprint": machine.fingerprint}
    records: dict[Case, Mapping[str, Any]] = {}
    tables: dict[str, pd.DataFrame] = {}
    written = time.monotonic()

    def write() -> None:
        nonlocal written
        with INTERRUPTS.held():
            tables.update(build_proof(run, cases, records))
            write_frames(folder, tables)
        written = time.monotonic()

    progress = ProofProgress(Terminal(stderr=True), len(cases), quiet=quiet)

    def finished(case: Case, record: Mapping[str, Any]) -> None:
        records[case] = record
        progress.count(case, record)
        if time.monotonic() - written > _WRITE_S:
            write()

    interrupted = False
    try:
        with TemporaryDirectory(prefix="harness-cache-", ignore_cleanup_errors=True) as cache, progress:
            launcher = ProverLauncher(worker_environment(Path(cache)), timeout_s=DEFAULT_TIMEOUT_S + seeds)
            prove(cases, seeds, launcher, finished)
    except KeyboardInterrupt:
        interrupted = True
    try:
        write()
    except KeyboardInterrupt:
        interrupted = True
    proof, console = proven(tables["mistakes"]), Terminal()
    if quiet:
        if not interrupted:
            show_faults(console, proof)
    else:
        show_proof(console, tables["mistakes"], proof, interrupted=interrupted)
        if (pair := depths(tables["epochs"])) is not None:
            show_depths(console, *pair)
        if not interrupted:
            console.print(_chart(folder, tables), soft_wrap=True, highlight=False, markup=False)
        console.print(f"kept in {folder}", soft_wrap=True, highlight=False, markup=False)
    if interrupted:
        click.echo(f"harness: interrupted; what was finished is kept in {folder}", err=True)
        ctx.exit(Exit.INTERRUPTED)
    ctx.exit(Exit.MET if proof.holds else Exit.MISSED)


def _chart(folder: Path, tables: "Mapping[str, pd.DataFrame]") -> str:
    """Draw the chart, and say where it is, or how to get it."""
    try:
        from harness.reporting.charts.proof import FILES, write_chart
    except ImportError:
        return "no chart: pip install -e '.[report]'"
    write_chart(folder, tables["mistakes"], tables["epochs"])
    return f"drawn as {', '.join(FILES)}"
