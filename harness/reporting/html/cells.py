"""The table of a run's cases: what each cell shows and by what number it is sorted."""

import math
from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

import pandas as pd

from harness.plan.text import printable
from harness.reporting.html.groups import rows_of
from harness.reporting.terminal import converged, disturbed, duration, factor, first_calls, half_width, ratio_interval

_Row = Mapping[Hashable, Any]
_TARGETS = {"yes": "✓ met", "no": "✗ missed", "undecided": "? undecided"}


@dataclass(frozen=True)
class Cell:
    """text: what is shown. order: what it is sorted by, empty for the text itself. href: where it leads to."""

    text: str
    order: str = ""
    href: str = ""
    number: bool = False


@dataclass(frozen=True)
class Line:
    """One row: its anchor, whether it is one that needs to be looked at, and its cells."""

    anchor: str
    wrong: bool
    cells: tuple[Cell, ...]


@dataclass(frozen=True)
class Head:
    """The head of a column."""

    text: str
    meaning: str = ""
    number: bool = False


@dataclass(frozen=True)
class CaseTable:
    """heads and lines of a table."""

    heads: tuple[Head, ...]
    lines: tuple[Line, ...]


_Column = tuple[Head, Callable[[_Row], str], str]
# Head, what is shown, and the column by which it is sorted; empty: by what is shown. A phone shows the first.
_COLUMNS: tuple[_Column, ...] = (
    (Head("step", "time of one update", number=True), lambda row: duration(row["step_ns"]), "step_ns"),
    (
        Head("±", "half of the 95 % interval", number=True),
        lambda row: half_width(row["step_ns"], row["step_ns_low"], row["step_ns_high"]),
        "",
    ),
    (Head("× autograd", "above 1 is faster", number=True), lambda row: ratio_interval(row), "ratio_to_autograd"),
    (Head("outcome"), lambda row: "✓ ok" if row["outcome"] == "ok" else f"✗ {row['outcome']}", ""),
    (Head("targets"), lambda row: _TARGETS.get(row["targets_met"], ""), ""),
    (Head("machine"), lambda row: str(row["machine"]), ""),
    (
        Head("floor", "the least that an update takes here", number=True),
        lambda row: duration(row["floor_ns"]),
        "floor_ns",
    ),
    (Head("× floor", "of that", number=True), lambda row: factor(row["above_floor"]), "above_floor"),
    (Head("bound by", "what explains at least half of the step time"), lambda row: str(row["bound_by"]), ""),
    (Head("loss p50", "median of the final loss over seeds", number=True), lambda row: _loss(row), "loss_p50"),
    (Head("converged", "seeds", number=True), lambda row: converged(row), "converged_share"),
    (Head("first call cold / warm", number=True), lambda row: first_calls(row), "first_call_cold_ns"),
    (Head("disturbed", "of the timed blocks"), lambda row: disturbed(row), "disturbed_share"),
)
_OPTIONAL = {"targets", "machine", "floor", "× floor", "bound by", "disturbed", "first call cold / warm", "converged"}


def case_table(summary: pd.DataFrame) -> CaseTable:
    """Return the table of a run's cases; columns that say nothing are left out."""
    rows = rows_of(summary)
    several = summary["machine"].nunique() > 1
    shown = [
        column
        for column in _COLUMNS
        if column[0].text not in _OPTIONAL
        or (several if column[0].text == "machine" else any(column[1](row) for row in rows))
    ]
    return CaseTable(
        (Head("case"), *(head for head, _, _ in shown)),
        tuple(_line(row, shown) for row in rows),
    )


def anchor(case_id: str) -> str:
    """Return the id of a case's row in a page."""
    return f"case={printable(case_id)}"


def link_to_case(case_id: str) -> str:
    """Return the fragment that leads to a case's row."""
    return f"#case={quote(printable(case_id), safe='/:+.')}"


def _line(row: _Row, columns: list[_Column]) -> Line:
    case_id = printable(row["case_id"])
    cells = [Cell(draw(row), _order(row[by]) if by else "", number=head.number) for head, draw, by in columns]
    wrong = row["outcome"] != "ok" or row["targets_met"] in ("no", "undecided")
    return Line(anchor(case_id), wrong, (Cell(case_id, href=link_to_case(case_id)), *cells))


def _order(value: Any) -> str:
    return repr(float(value)) if math.isfinite(value) else ""


def _loss(row: _Row) -> str:
    return "" if math.isnan(row["loss_p50"]) else f"{row['loss_p50']:.4g}"
