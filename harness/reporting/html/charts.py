"""The charts of a run: pure functions from its tables to Vega-Lite specifications, each with the same as a table.

Times are seconds in the data, so that axes can write them as 50µs; what tips and tables say is written here.
"""

import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import pandas as pd

from harness.reporting.html import learning, shapes
from harness.reporting.html.figures import STEP, Chart, digits, filled, named, point
from harness.reporting.html.groups import CaseGroup, Row, case_groups, case_label, numbered, series
from harness.reporting.html.shapes import Axis
from harness.reporting.terminal import duration

_RATIO = Axis("times as fast as autograd", shapes.TIMES)
_PHASE = Axis("time", shapes.SECONDS)
_SHARE = Axis("disturbed share of the timed blocks", shapes.PERCENT, log=False)

_PHASES = (
    ("import_ns", "importing torch"),
    ("setup_ns", "setup"),
    ("first_call_cold_ns", "first call, cold"),
    ("first_call_warm_ns", "first call, warm"),
    ("step_ns", "one update"),
)
_FAR = 30  # times below the fastest engine, the floor would leave the engines no room


@dataclass(frozen=True)
class RunCharts:
    """The charts of a run by what they are of; each a list with one chart for each group of cases."""

    steps: tuple[Chart, ...]
    ratios: tuple[Chart, ...]
    curves: tuple[Chart, ...]
    losses: tuple[Chart, ...]
    phases: tuple[Chart, ...]
    disturbed: tuple[Chart, ...]

    def all(self) -> tuple[Chart, ...]:
        """Return all of them."""
        return (*self.steps, *self.ratios, *self.curves, *self.losses, *self.phases, *self.disturbed)


def run_charts(
    summary: pd.DataFrame, convergence: pd.DataFrame | None = None, epochs: pd.DataFrame | None = None
) -> RunCharts:
    """Return the charts of a run's tables."""
    groups = case_groups(summary)
    numbers = numbered(groups)
    seeds, learnt = learning.final_losses(convergence), learning.by_case(epochs)

    def each(draw: Any, *arguments: Any) -> tuple[Chart, ...]:
        return tuple(chart for group in groups if (chart := draw(group, *arguments)) is not None)

    return RunCharts(
        steps=each(step_times, numbers),
        ratios=each(ratios, numbers),
        curves=each(learning.curves, learnt),
        losses=each(learning.losses, numbers, seeds),
        phases=each(phases),
        disturbed=each(disturbed),
    )


def step_times(group: CaseGroup, numbers: Mapping[str, int]) -> Chart | None:
    """Return the step time of each engine against batch size, with intervals and the floor; None without times."""
    rows = [_step(row) for row in group.rows if row["step_ns"] > 0]
    floor = list(_floor(group.rows))
    fastest = min((row["value"] for row in rows), default=math.nan)
    if floor and max(each["value"] for each in floor) * _FAR < fastest:
        ends = dict.fromkeys(duration(each["value"] * 1e9) for each in (floor[0], floor[-1]))
        far, floor = f" The floor, {' to '.join(ends)}, lies too far below to be drawn.", []
    else:
        far = ""
    return _against_batch(
        *("step-time", f"Time of one update: {group.title}", group, rows, STEP, numbers, "step time"),
        dashed=floor,
        more=far,
    )


def ratios(group: CaseGroup, numbers: Mapping[str, int]) -> Chart | None:
    """Return each engine's ratio to autograd against batch size; None where no other engine has one."""
    rows = [_ratio(row) for row in group.rows if row["ratio_to_autograd"] > 0]
    if not any(row["name"] != "autograd" for row in rows):
        return None
    sizes = sorted({row["x"] for row in rows})
    return _against_batch(
        *("ratio", f"Times as fast as autograd: {group.title}", group, rows, _RATIO, numbers, "× autograd"),
        dashed=[{"x": size, "value": 1} for size in sizes],
    )


def phases(group: CaseGroup) -> Chart | None:
    """Return what each case takes before its first update and for one: import, setup, first call cold and warm."""
    there = [row for row in group.rows if any(row[column] > 0 for column, _ in _PHASES)]
    rows = [
        {"row": case_label(row), "name": name, **point(row[column] / 1e9), "said": duration(row[column])}
        for row in there
        for column, name in _PHASES
        if row[column] > 0
    ]
    if not rows:
        return None
    names = tuple((name, number) for number, (_, name) in enumerate(_PHASES))
    tips = (("row", "case"), ("name", "phase"), ("said", "time"))
    return Chart(
        slug=f"phases-{group.slug}",
        title=f"Before the first update, and one update: {group.title}",
        note="Medians over rounds. Cold: with an empty compile cache; warm: with a filled one.",
        spec=filled(shapes.dots(_PHASE, names, tips, legend=True, dashed=False), rows, rows_of=len(there)),
        head=("case", *(name for _, name in _PHASES)),
        rows=tuple((case_label(row), *(duration(row[column]) for column, _ in _PHASES)) for row in there),
    )


def disturbed(group: CaseGroup) -> Chart | None:
    """Return which share of each case's blocks was disturbed; None where nothing was."""
    there = [row for row in group.rows if row["disturbed_share"] > 0]
    if not there:
        return None
    rows = [
        {"row": case_label(row), "value": row["disturbed_share"], "said": f"{row['disturbed_share']:.1%}"}
        | {"by": row["disturbances"]}
        for row in there
    ]
    tips = (("row", "case"), ("said", "disturbed"), ("by", "by what, blocks"))
    return Chart(
        slug=f"disturbed-{group.slug}",
        title=f"Disturbed blocks: {group.title}",
        note="Blocks of which there is evidence that something else took part of the machine; each was timed again.",
        spec=filled(shapes.bars(_SHARE, tips), rows, rows_of=len(rows)),
        head=("case", "disturbed", "by what, blocks"),
        rows=tuple((row["row"], row["said"], row["by"]) for row in rows),
    )


def _against_batch(
    name: str,
    title: str,
    group: CaseGroup,
    rows: list[dict[str, Any]],
    axis: Axis,
    numbers: Mapping[str, int],
    said: str,
    *,
    dashed: list[dict[str, Any]],
    more: str = "",
) -> Chart | None:
    """Return lines over batch sizes, or with a single size one row of each engine; None without rows."""
    if not rows:
        return None
    names = named((row["name"] for row in rows), numbers)
    tips = (("name", "engine"), ("x", "batch size"), ("said", said), ("within", "95 % interval"))
    sizes = tuple(sorted({row["x"] for row in rows}))
    several = len(sizes) > 1
    if several:
        across = Axis("batch size", ticks=sizes)
        spec = filled(shapes.lines(across, axis, names, tips, dashed=bool(dashed)), rows, dashed)
    else:
        rows = [{**row, "row": row["name"]} for row in rows]
        spec = filled(shapes.dots(axis, names, tips, legend=False, dashed=bool(dashed)), rows, dashed, len(rows))
    line = "the floor, below which no engine can be here" if axis is STEP else "autograd"
    how = "Both axes logarithmic." if several else f"Batch size {rows[0]['x']:,}."
    return Chart(
        slug=f"{name}-{group.slug}",
        title=title,
        note=f"95 % intervals over rounds{f'; dashed: {line}' if dashed else ''}. {how}{more}",
        spec=spec,
        head=("engine", "batch size", said, "95 % interval"),
        rows=tuple((row["name"], f"{row['x']:,}", row["said"], row["within"]) for row in rows),
    )


def _step(row: Row) -> dict[str, Any]:
    low, high = row["step_ns_low"], row["step_ns_high"]
    within = f"{duration(low)} to {duration(high)}" if math.isfinite(low) and math.isfinite(high) else ""
    of_row = {"name": series(row), "x": row["batch_size"], "said": duration(row["step_ns"]), "within": within}
    return of_row | point(row["step_ns"] / 1e9, low / 1e9, high / 1e9)


def _ratio(row: Row) -> dict[str, Any]:
    value, low, high = (row[name] for name in ("ratio_to_autograd", "ratio_low", "ratio_high"))
    within = f"{low:.2f} to {high:.2f}" if math.isfinite(low) and math.isfinite(high) and low < high else ""
    of_row = {"name": series(row), "x": row["batch_size"], "said": f"{value:.2f}", "within": within}
    return of_row | point(value, low, high)


def _floor(rows: Iterable[Row]) -> Iterator[dict[str, Any]]:
    """Yield the floor at each batch size: the least that a case of the group has."""
    least: dict[int, float] = {}
    for row in rows:
        if row.get("floor_ns", math.nan) > 0:
            size = row["batch_size"]
            least[size] = min(row["floor_ns"], least.get(size, math.inf))
    for size in sorted(least):
        yield {"x": size, "value": digits([least[size] / 1e9])[0]}
