"""The index of a site: its machines, runs, commits and cases, each with what its newest run says."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

from harness.plan.text import printable
from harness.reporting.html.cells import CaseTable, Cell, Head, Line, link_to_case
from harness.reporting.html.embedded import render
from harness.reporting.html.groups import rows_of
from harness.reporting.html.page import RunContent
from harness.reporting.html.verdict import Verdict, verdict_of
from harness.reporting.terminal import duration, ratio_interval


@dataclass(frozen=True)
class CaseNow:
    """What a run says of a case: its step time and ratio, fit to be shown."""

    step: str
    step_ns: float
    ratio: str


@dataclass(frozen=True)
class SiteRun:
    """One run of a site. path: of its page, below the index. cases: what it says of each."""

    path: str
    name: str
    machine: str
    commit: str
    dirty: bool
    verdict: Verdict
    cases: Mapping[str, CaseNow]


def site_run(content: RunContent, path: str, machine: str) -> SiteRun:
    """Return what the index tells of a run; path: of its page; machine: the name of the folder that it lies in."""
    first = content.summary.iloc[0]
    cases = {
        row["case_id"]: CaseNow(
            duration(row["step_ns"]) or printable(row["outcome"]), float(row["step_ns"]), ratio_interval(row)
        )
        for row in rows_of(content.summary)
    }
    verdict = verdict_of(content.summary)
    dirty = bool(content.summary["dirty"].any())
    return SiteRun(
        path, printable(content.name), printable(machine), printable(str(first["commit"])), dirty, verdict, cases
    )


def index_page(title: str, runs: Sequence[SiteRun], broken: Iterable[str]) -> str:
    """Return the index of runs, newest first."""
    return render(
        "index.html",
        runtime="",
        home="",
        title=printable(title),
        machines=_machines(runs),
        runs=_runs(runs),
        commits=_commits(runs),
        cases=_cases(runs),
        count=len(runs),
        broken=[printable(each, 500) for each in broken],
    )


def _machines(runs: Sequence[SiteRun]) -> CaseTable:
    by_machine: dict[str, list[SiteRun]] = {}
    for run in runs:
        by_machine.setdefault(run.machine, []).append(run)
    heads = (Head("machine"), Head("runs", number=True), Head("newest run"), Head("its verdict"))
    lines = [
        _line(Cell(name), Cell(str(len(of)), str(len(of)), number=True), _linked(of[0]), Cell(_said(of[0].verdict)))
        for name, of in by_machine.items()
    ]
    return CaseTable(heads, tuple(lines))


def _runs(runs: Sequence[SiteRun]) -> CaseTable:
    heads = (
        Head("run"),
        Head("machine"),
        Head("commit"),
        Head("cases", number=True),
        Head("failed", number=True),
        Head("verdict"),
    )
    lines = [
        _line(
            _linked(run),
            Cell(run.machine),
            Cell(_commit(run)),
            Cell(str(run.verdict.cases), str(run.verdict.cases), number=True),
            Cell(str(run.verdict.failed), str(run.verdict.failed), number=True),
            Cell(_said(run.verdict)),
            wrong=run.verdict.sign != "✓",
        )
        for run in runs
    ]
    return CaseTable(heads, tuple(lines))


def _commits(runs: Sequence[SiteRun]) -> CaseTable:
    by_commit: dict[str, list[SiteRun]] = {}
    for run in runs:
        by_commit.setdefault(_commit(run), []).append(run)
    heads = (Head("commit"), Head("runs", number=True), Head("newest run"), Head("its verdict"))
    lines = [
        _line(Cell(name), Cell(str(len(of)), str(len(of)), number=True), _linked(of[0]), Cell(_said(of[0].verdict)))
        for name, of in by_commit.items()
    ]
    return CaseTable(heads, tuple(lines))


def _cases(runs: Sequence[SiteRun]) -> CaseTable:
    found: dict[tuple[str, str], list[SiteRun]] = {}
    for run in runs:
        for case_id in run.cases:
            found.setdefault((run.machine, case_id), []).append(run)
    heads = (
        *(Head("case"), Head("machine"), Head("runs", number=True)),
        *(Head("step", "in its newest run", number=True), Head("× autograd", "above 1 is faster", number=True)),
    )
    lines = []
    for (machine, case_id), of in found.items():
        now = of[0].cases[case_id]
        order = repr(now.step_ns) if now.step_ns == now.step_ns else ""
        lines.append(
            _line(
                Cell(printable(case_id), href=f"{_href(of[0])}{link_to_case(case_id)}"),
                Cell(machine),
                Cell(str(len(of)), str(len(of)), number=True),
                Cell(now.step, order, number=True),
                Cell(now.ratio, now.ratio.partition(" ")[0], number=True),
            )
        )
    return CaseTable(heads, tuple(lines))


def _line(*cells: Cell, wrong: bool = False) -> Line:
    return Line("", wrong, cells)


def _linked(run: SiteRun) -> Cell:
    return Cell(run.name, href=_href(run))


def _href(run: SiteRun) -> str:
    # Never a scheme, whatever the name begins with.
    return f"./{quote(run.path)}"


def _commit(run: SiteRun) -> str:
    return f"{run.commit[:10]}{' with uncommitted changes' if run.dirty else ''}"


def _said(verdict: Verdict) -> str:
    return f"{verdict.sign} {verdict.text}"


def unused(name: str, taken: Mapping[str, Any] | set[str]) -> str:
    """Return a name that is not among those taken: itself, or with a number."""
    number, chosen = 1, name
    while chosen in taken:
        number += 1
        chosen = f"{name}-{number}"
    return chosen
