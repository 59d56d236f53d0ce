"""`harness report`: a run as one HTML page, or a folder of results as a static site."""

import os
from collections.abc import Sequence
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from harness.cli.common import PATH, Exit
from harness.plan.errors import PlanError
from harness.plan.text import printable

if TYPE_CHECKING:
    import pandas as pd

    from harness.comparing.compared import Compared
    from harness.comparing.series import History
    from harness.reporting.html.page import RunContent
    from harness.reporting.html.site import SiteRun

_RESULTS = Path("results")
_PAGE = "report.html"
_SITE = "site"
_CURVE = ("case_id", "epoch", "loss_p05", "loss_p50", "loss_p95", "converged_share")
_MOST_PROCESSES = 8
_NEEDED = ("altair", "jinja2", "vl_convert")


@click.command("report")
@click.argument("paths", nargs=-1, required=True, type=PATH, metavar="RUN...")
@click.option("--base", metavar="RUN", help="Compare with this one: a folder, a CSV file or a git revision.")
@click.option("--output", type=PATH, metavar="PATH", help="The page instead of RUN/report.html; the site's folder.")
@click.option("--charts", "pictures", type=PATH, metavar="DIR", help="Write every chart as PNG and SVG as well.")
@click.pass_context
def command(
    ctx: click.Context, /, *, paths: tuple[Path, ...], base: str | None, output: Path | None, pictures: Path | None
) -> None:
    """Write a run as one HTML page with tables and charts that opens from disk; a folder of runs as a static site.

    RUN: its folder. A folder of results, or of a machine, becomes FOLDER/site: an index and a page for each run.
    Nothing is loaded from any network, nor sent. Exit code 2: usage, or unreadable; 3: --base is not comparable.
    """
    site = [path for path in paths if not _is_run(path)]
    if (output or pictures or site) and len(paths) > 1:
        what = (
            "--output is of one run"
            if output
            else "--charts is of one run"
            if pictures
            else f"{_shown(site[0])} is no run"
        )
        raise PlanError(f"{what}: name one path")
    if site and (base or pictures):
        raise PlanError(f"{'--base' if base else '--charts'} is of one run, and {_shown(site[0])} is a folder of runs")
    if any(find_spec(name) is None for name in _NEEDED):
        raise PlanError("report needs Altair and vl-convert: pip install -e '.[report]'")
    if site:
        _write_site(site[0], output or site[0] / _SITE)
    for path in paths if not site else ():
        _write_run(path.parent if path.is_file() else path, base, output, pictures)
    ctx.exit(Exit.MET)


def _is_run(path: Path) -> bool:
    """Whether a path is a run, or a file of one; raises PlanError where it is nothing that can be told of."""
    if path.is_file():
        return True
    if not path.is_dir():
        raise PlanError(f"{_shown(path)}: there is no such folder; a run is stored by: harness run")
    return (path / "summary.csv").exists() or (path / "measurements.csv").exists()


def _write_run(folder: Path, base: str | None, output: Path | None, pictures: Path | None) -> None:
    from harness.reporting.html.page import run_page

    content = replace(read_run(folder), compared=_compared(folder, base) if base else None, history=_history(folder))
    target = output or folder / _PAGE
    _keep(target, run_page(content))
    click.echo(printable(str(target)))
    if pictures is not None:
        _write_pictures(content, pictures)


def read_run(folder: Path, *, crossed: bool = True) -> "RunContent":
    """Read what a page tells of a stored run, crossed: and which engine is fastest where; raises PlanError."""
    from harness.comparing.crossover import READ, crossovers
    from harness.reporting.html.page import RunContent
    from harness.running.records import read_machine
    from harness.tables.files import read_table

    def table(name: str, columns: Sequence[str] | None = None) -> "pd.DataFrame | None":
        return read_table(folder, name, columns) if (folder / f"{name}.csv").exists() else None

    summary = read_table(folder, "summary")
    if summary.empty:
        raise PlanError(f"{_shown(folder)}: its summary has no cases")
    measurements = table("measurements", READ) if crossed else None
    return RunContent(
        name=folder.resolve().name,
        summary=summary,
        convergence=table("convergence", ("case_id", "seed", "loss")),
        epochs=table("epochs", _CURVE),
        facts=read_machine(folder),
        crossovers=() if measurements is None else crossovers(measurements),
    )


def _compared(folder: Path, base: str) -> "Compared":
    from harness.cli.compare import load, sessions_of, spreads_of
    from harness.comparing.compare import compare_runs
    from harness.tables.find import find_pair

    there, here = find_pair(base, str(folder), _RESULTS)
    before, after = load(base, there), load(str(folder), here)
    return compare_runs(
        before,
        after,
        spreads=spreads_of((here, there), after.only("fingerprint")),
        sessions=sessions_of((here, there), before, after),
    )


def _history(folder: Path) -> "History | None":
    """Return how a run stands against the sessions of its machine before it; None where there are none."""
    from harness.comparing.history import history_of
    from harness.tables.stored import stored_runs

    here = folder.resolve()
    runs = stored_runs(here.parent)
    place = next((number for number, run in enumerate(runs) if run.folder.resolve() == here), None)
    if place is None:
        return None
    history = history_of(runs[: place + 1])
    return history if history.sessions > 1 else None


def _write_pictures(content: "RunContent", folder: Path) -> None:
    import vl_convert

    from harness.reporting.html import charts, charts_beside
    from harness.reporting.html.embedded import vega_lite_version
    from harness.reporting.html.figures import as_picture

    folder.mkdir(parents=True, exist_ok=True)
    drawn = [
        *charts.run_charts(content.summary, content.convergence, content.epochs).all(),
        *([charts_beside.changes(content.compared)] if content.compared else []),
        *([charts_beside.trends(content.history)] if content.history else []),
    ]
    for chart in filter(None, drawn):
        options: dict[str, Any] = {"vl_version": vega_lite_version(), "allowed_base_urls": []}
        spec = as_picture(chart)
        (folder / f"{chart.slug}.svg").write_text(vl_convert.vegalite_to_svg(spec, **options), "utf-8")
        (folder / f"{chart.slug}.png").write_bytes(vl_convert.vegalite_to_png(spec, scale=2, **options))
    click.echo(printable(f"{folder}: {sum(chart is not None for chart in drawn)} charts, each as SVG and PNG"))


def _write_site(results: Path, target: Path) -> None:
    from harness.reporting.html.embedded import chart_runtime
    from harness.reporting.html.groups import slug
    from harness.reporting.html.site import index_page, unused

    folders = _run_folders(results)
    if not folders:
        raise PlanError(f"{_shown(results)}: has no stored runs; store one by: harness run")
    target.mkdir(parents=True, exist_ok=True)
    if (target / "index.html").exists() and b"gradient-harness" not in (target / "index.html").read_bytes()[:2000]:
        raise PlanError(
            f"{_shown(target / 'index.html')} was not made by this program: name another folder by --output"
        )
    places: dict[Path, str] = {}
    machines: dict[Path, str] = {}
    for folder in folders:
        machine = folder.resolve().parent
        machines.setdefault(machine, unused(slug(machine.name), set(machines.values())))
        places[folder] = unused(f"{machines[machine]}/{slug(folder.resolve().name)}", set(places.values()))
    told: dict[Path, SiteRun | str] = {}
    for machine, name in machines.items():
        (target / name).mkdir(exist_ok=True)
        for folder in folders:  # until one can be read
            if folder.resolve().parent == machine:
                told[folder] = _site_page(folder, target, places[folder], newest=True)
                if not isinstance(told[folder], str):
                    break
    rest = [folder for folder in folders if folder not in told]
    if rest:
        from concurrent.futures import ProcessPoolExecutor

        with ProcessPoolExecutor(min(os.cpu_count() or 1, _MOST_PROCESSES, len(rest))) as pool:
            pages = pool.map(_site_page, rest, [target] * len(rest), [places[folder] for folder in rest])
            told |= zip(rest, pages, strict=True)
    broken = [why for folder in folders if isinstance(why := told[folder], str)]
    runs = [run for folder in folders if not isinstance(run := told[folder], str)]
    for why in broken:
        click.echo(f"harness: left out: {why}", err=True)
    if not runs:
        raise PlanError(f"{_shown(results)}: none of its runs can be read")
    _keep(target / "charts.js", chart_runtime())
    _keep(target / "index.html", index_page(f"Results of {results.resolve().name}", runs, broken))
    click.echo(
        printable(f"{target / 'index.html'}: {len(runs)} runs of {len(machines)} machine{'s' * (len(machines) > 1)}")
    )


def _site_page(folder: Path, target: Path, path: str, *, newest: bool = False) -> "SiteRun | str":
    """Write the page of a run and return what the index tells of it, or why it cannot be read.

    newest: of its machine; only such a page has what takes a second: which engine, and the history.
    """
    from harness.reporting.html.page import Place, run_page
    from harness.reporting.html.site import site_run

    try:
        content = read_run(folder, crossed=newest)
    except PlanError as error:
        return str(error)
    if newest:
        content = replace(content, history=_history(folder))
    _keep(target / f"{path}.html", run_page(content, Place("../index.html", "../charts.js")))
    return site_run(content, f"{path}.html", folder.resolve().parent.name)


def _run_folders(results: Path) -> list[Path]:
    """Return the folders of runs in a folder of results or of a machine, newest first by their names."""
    found = [*results.glob("*/summary.csv"), *results.glob("*/*/summary.csv")]
    return sorted((file.parent for file in found), key=lambda folder: (folder.name, str(folder)), reverse=True)


def _keep(path: Path, text: str) -> None:
    """Write a file, which is complete or as it was, and its folder where there is none."""
    from harness.running.folder import replaced

    path.parent.mkdir(parents=True, exist_ok=True)
    with replaced(path) as unfinished:
        unfinished.write_text(text, "utf-8", errors="backslashreplace", newline="\n")


def _shown(path: Path) -> str:
    return printable(str(path))
