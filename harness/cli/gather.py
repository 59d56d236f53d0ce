"""`harness collect` and `harness merge`: one run's folder of what was measured elsewhere, or in parts."""

import re
from pathlib import Path

import click

from harness.cli.common import PATH
from harness.plan.errors import PlanError
from harness.plan.text import printable

_OUT = click.option("--out", type=PATH, default=Path("results"), metavar="DIR", show_default=True)
_SHARD = re.compile(r"(shard-[0-9]{1,6}-of-[0-9]{1,6})/(.+)")


@click.command()
@click.argument("url")
@_OUT
def collect(url: str, out: Path) -> None:
    """Make the folder of a run, or of all shards of one, from what `run --publish URL` has sent there.

    Needs no torch. What is there already of that run is kept and completed. Exit code 2: nothing to collect, or
    something that this program did not write; 3: shards of different runs.
    """
    from harness.running.merged import Part, merge
    from harness.running.published import RUN, read_published
    from harness.running.restored import collect_run
    from harness.running.store import open_store

    store = open_store(url)
    sizes = store.names()
    shards: dict[str, dict[str, int]] = {}
    for name, size in sizes.items():
        if match := _SHARD.fullmatch(name):
            shards.setdefault(match[1], {})[match[2]] = size
    begun = sorted(name for name, of_shard in shards.items() if RUN in of_shard)
    if RUN in sizes and begun:
        raise PlanError(f"{store.url} holds a whole run, and beside it {begun[0]} of one: which is to be collected?")
    if RUN in sizes:
        folder = collect_run(read_published(store, sizes), out)
    elif begun:
        folder = merge([Part.of(read_published(store.under(name), shards[name])) for name in begun], out)
    else:
        raise PlanError(f"{store.url}: no run is published there")
    _finish(folder)


@click.command()
@click.argument("folders", nargs=-1, type=PATH, required=True, metavar="FOLDER...")
@_OUT
def merge(folders: tuple[Path, ...], out: Path) -> None:
    """Join the runs of all shards of one sweep, `run --shard K/N`, into one run; every row keeps its machine.

    Needs no torch. Exit code 2: a shard is missing or there twice; 3: they are of different sweeps or commits.
    """
    from harness.running.merged import Part
    from harness.running.merged import merge as merged

    _finish(merged([Part.in_folder(folder) for folder in folders], out))


def _finish(folder: Path) -> None:
    """Write the tables, and say what is in them and where they are."""
    from harness.plan.shard import sweep_of
    from harness.running.executor import Progress
    from harness.running.records import read_journal
    from harness.tables.build import build_tables
    from harness.tables.files import write_tables

    header, entries = read_journal(folder)
    write_tables(folder, build_tables(header, entries))
    sweep, progress = sweep_of(header), Progress.of(entries)
    lacking = sum(progress.needs(case, number) for number, case in sweep.schedule())
    if lacking:
        click.echo(f"harness: {lacking} of {len(sweep.cases) * sweep.rounds} rows are not measured yet", err=True)
    click.echo(f"{len(progress.finished)} rows, kept in {printable(str(folder))}")
