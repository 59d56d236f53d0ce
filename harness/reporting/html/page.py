"""A run as one page: what stands in each of its parts, in words and tables, and the charts beside them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import pandas as pd

from harness.comparing.compared import Compared
from harness.comparing.crossover import Group
from harness.comparing.series import History
from harness.plan.text import printable
from harness.reporting import comparison as drawn
from harness.reporting import comparison_words as words
from harness.reporting import history as past
from harness.reporting.crossover import fastest_cells, paid_cells, told
from harness.reporting.html import charts, charts_beside
from harness.reporting.html.cells import Cell, Head, case_table, link_to_case
from harness.reporting.html.charts import RunCharts
from harness.reporting.html.embedded import as_json, chart_runtime, render
from harness.reporting.html.figures import Chart
from harness.reporting.html.verdict import verdict_of
from harness.tables.cells import environment_of

_LONG = 500  # characters of a text that a stranger wrote, where the tables have all of it


@dataclass(frozen=True)
class RunContent:
    """What a page tells of.

    name: of the run, as it is shown. convergence, epochs: None where they were not kept. facts: of the machine.
    crossovers: groups of engines. compared: with a base; history: of its machine; None where there is none.
    """

    name: str
    summary: pd.DataFrame
    convergence: pd.DataFrame | None = None
    epochs: pd.DataFrame | None = None
    facts: Mapping[str, Any] = field(default_factory=dict)
    crossovers: Sequence[Group] = ()
    compared: Compared | None = None
    history: History | None = None


@dataclass(frozen=True)
class Place:
    """Where a page lies in a site: the address of its index and of the file with the runtime of charts."""

    home: str
    runtime_file: str


@dataclass(frozen=True)
class Part:
    """A small table with its title. heads: names, and whether a column is of numbers; linked: the first is a case."""

    title: str
    heads: tuple[Head, ...]
    rows: tuple[tuple[Cell, ...], ...]
    lines: tuple[str, ...] = ()


def run_page(content: RunContent, place: Place | None = None) -> str:
    """Return the page of a run: one that stands alone, or one of a site."""
    figures = charts.run_charts(content.summary, content.convergence, content.epochs)
    compared, history = content.compared, content.history
    change = charts_beside.changes(compared) if compared else None
    trend = charts_beside.trends(history) if history else None
    shown = [chart for chart in (*figures.all(), change, trend) if chart]
    first = content.summary.iloc[0]
    return render(
        "run.html",
        runtime="" if place else chart_runtime(),
        runtime_file=place.runtime_file if place else "",
        home=place.home if place else "",
        title=f"Run {printable(content.name)}",
        about=_about(content.summary),
        verdict=verdict_of(content.summary),
        link_to_case=link_to_case,
        cases=case_table(content.summary),
        sections=_sections(figures),
        fastest=[_fastest(group) for group in content.crossovers],
        paid=[_paid(group) for group in content.crossovers if group.break_evens],
        compared=compared and _compared(compared),
        change=change,
        history=history and _history(history),
        trend=trend,
        facts=_facts(content.facts, str(first.get("environment", ""))),
        specs=as_json({chart.slug: {**chart.spec, "width": "container"} for chart in shown}),
    )


def _about(summary: pd.DataFrame) -> list[tuple[str, str]]:
    """Return what a run is of, by name."""
    told = {
        "Machine": ", ".join(sorted(set(summary["machine"]))),
        "Commit": ", ".join(sorted(set(summary["commit"]))),
        "Rounds": " to ".join(
            dict.fromkeys(f"{each:.0f}" for each in (summary["rounds"].min(), summary["rounds"].max()))
        ),
        "Cases": str(len(summary)),
        "Uncommitted changes": "yes" if summary["dirty"].any() else "no",
        "Fingerprint": ", ".join(sorted(set(summary["fingerprint"]))),
    }
    return [(name, printable(text, _LONG)) for name, text in told.items()]


def _sections(figures: RunCharts) -> list[tuple[str, str, str, tuple[Chart, ...]]]:
    """Return anchor, title, a line and charts of each section that has any."""
    found = [
        ("steps", "Step time", "How long one update takes, by batch size.", figures.steps),
        ("ratios", "Against autograd", "Paired round by round; above 1 is faster.", figures.ratios),
        ("curves", "Loss by epoch", "How all seeds together learn.", figures.curves),
        ("losses", "Final losses", "What training from each seed ended with.", figures.losses),
        ("phases", "Phases", "What a process spends before its first update.", figures.phases),
        ("disturbance", "Disturbance", "What else had a part of the machine.", figures.disturbed),
    ]
    return [each for each in found if each[3]]


def _fastest(group: Group) -> Part:
    threads = f"{group.threads} thread{'s' * (group.threads != 1)}"
    return Part(
        title=printable(f"Fastest engine: {group.workload}, {group.device}, {group.dtype}, {threads}"),
        heads=(
            Head("batch", number=True),
            Head("fastest"),
            Head("step", number=True),
            Head("level with it"),
            Head("then"),
        ),
        rows=tuple(tuple(map(Cell, fastest_cells(size))) for size in group.sizes),
        lines=(
            *map(told, group.crossings),
            *(["One round has no interval: nothing is told apart."] if group.rounds < 2 else []),
        ),
    )


def _paid(group: Group) -> Part:
    return Part(
        title=printable(f"Updates until an engine has paid for its preparation: {group.workload}, {group.device}"),
        heads=(Head("batch", number=True), Head("engine"), Head("cold", number=True), Head("warm", number=True)),
        rows=tuple(
            tuple(map(Cell, (f"{each.batch_size:,}", printable(each.engine), *paid_cells(each))))
            for each in group.break_evens
        ),
    )


def _compared(compared: Compared) -> dict[str, Any]:
    cases = words.timed(compared)
    columns = drawn.shown_columns(compared, cases)
    rows = [
        tuple(_case_cell(case.case_id) if name == "case" else Cell(draw(compared, case)) for name, draw, _ in columns)
        for case in cases
    ]
    rest = [(words.said(case.status), printable(case.case_id), words.reason(case)) for case in words.untimed(compared)]
    notes = (
        *(words.aggregate(compared), words.disturbed(compared), words.clocked(compared)),
        *(words.more_rounds(compared), *words.advice(compared)),
    )
    varied = [f"varied as declared: {each}" for each in compared.varied]
    return {
        "sign": "✗" if compared.failed else "?" if words.verdict(compared) != "no_regression" else "✓",
        "headline": words.headline(compared),
        "sides": words.sides(compared),
        "table": Part("Cases against the base", tuple(Head(name) for name, _, _ in columns), tuple(rows)),
        "rest": rest,
        "notes": [printable(each, _LONG) for each in (*notes, *varied, *compared.warnings) if each],
    }


def _history(history: History) -> dict[str, Any]:
    columns = past.shown_columns(history)
    rows = [
        tuple(_case_cell(case.case_id) if name == "case" else Cell(draw(case)) for name, draw, _ in columns)
        for case in history.cases
    ]
    return {
        "sign": "✗" if history.failed else "?" if history.undecided else "✓",
        "headline": past.headline(history),
        "lines": list(past.lines(history)),
        "table": Part("Cases over the sessions", tuple(Head(name) for name, _, _ in columns), tuple(rows)),
    }


def _case_cell(case_id: str) -> Cell:
    return Cell(printable(case_id), href=link_to_case(case_id))


def _facts(facts: Mapping[str, Any], environment: str) -> list[tuple[str, str]]:
    """Return the facts of the machine, and what the fingerprint is made of besides."""
    known = {str(name): str(value) for name, value in facts.items() if value not in (None, "")}
    more = {name: value for name, value in environment_of(environment).items() if name not in known}
    return [(printable(name, 100), printable(value, _LONG)) for name, value in {**known, **more}.items()]
