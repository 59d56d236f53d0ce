"""The shapes of charts: Vega-Lite specifications that lack only their data, made once for each set of names.

Altair checks a specification when it makes it, which takes longer than to draw it; a site has thousands. What strangers
named stands in data and in lists of names alone, never where Vega-Lite reads a field's name or an expression.
"""

from dataclasses import dataclass
from functools import cache
from typing import Any

import altair as alt

Spec = dict[str, Any]
Names = tuple[tuple[str, int], ...]  # what is told apart by colour and shape, each with its number

INK = "currentColor"  # the page's text, light or dark
# Each with a contrast of 3 or more to the page's background, light and dark.
COLOURS = (
    *("#2f7ed8", "#c9503c", "#2a8f5a", "#9a63d3", "#b3731a"),
    *("#158a99", "#c04a90", "#7c7f22", "#6c7a89", "#a0625a"),
)
# As many as have no common divisor with the colours: seventy differ in one of both.
SHAPES = ("circle", "square", "triangle-up", "diamond", "cross", "triangle-down", "triangle-right")

CONFIG: Spec = {
    "background": "transparent",
    "font": "system-ui, sans-serif",
    "view": {"stroke": None},
    "axis": {
        "labelColor": INK,
        "titleColor": INK,
        "domainColor": INK,
        "tickColor": INK,
        "gridColor": INK,
        "domainOpacity": 0.4,
        "tickOpacity": 0.4,
        "gridOpacity": 0.15,
        "labelFontSize": 12,
        "titleFontSize": 12,
        "titleFontWeight": "normal",
        "labelLimit": 150,
    },
    "legend": {"orient": "bottom", "columns": 2, "labelColor": INK, "labelFontSize": 12, "labelLimit": 140}
    | {"symbolOpacity": 1},
}


@dataclass(frozen=True)
class Axis:
    """title: with the unit. labels: Vega's expression of a tick's text. ticks: where they stand, if not anywhere."""

    title: str
    labels: str = "format(datum.value, '~s')"
    log: bool = True
    ticks: tuple[float, ...] = ()


SECONDS = "format(datum.value, '~s') + 's'"
PERCENT = "format(datum.value, '~%')"
TIMES = "format(datum.value, '~g') + ' ×'"


@cache
def lines(x: Axis, y: Axis, names: Names, tips: tuple[tuple[str, str], ...], *, dashed: bool) -> Spec:
    """Lines with intervals. Data `rows`: x, value, low, high, name, and what tips show; `dashed`: x and value."""
    across = _scaled(alt.X("x:Q"), x)
    base = alt.Chart(alt.NamedData("rows")).encode(x=across, color=_colour(names))
    layers = [
        base.mark_line(strokeWidth=2).encode(y=_scaled(alt.Y("value:Q"), y)),
        base.mark_rule(strokeWidth=2).encode(y=_scaled(alt.Y("low:Q"), y), y2="high:Q"),
        base.mark_point(filled=True, opacity=1, size=70).encode(
            y=_scaled(alt.Y("value:Q"), y), shape=_shape(names), tooltip=_tips(tips)
        ),
    ]
    if dashed:
        floor = alt.Chart(alt.NamedData("dashed")).mark_line(strokeDash=[5, 4], color=INK, opacity=0.7)
        layers.insert(0, floor.encode(x=across, y=_scaled(alt.Y("value:Q"), y)))
    return {**_made(layers), "height": 320}


@cache
def curves(x: Axis, y: Axis, names: Names, tips: tuple[tuple[str, str], ...]) -> Spec:
    """Thin lines on bands. Data `rows`: x, value, name, line, and what tips show; `dashed`: x, low, high, name."""
    across, colour = _scaled(alt.X("x:Q"), x), _colour(names)
    band = alt.Chart(alt.NamedData("dashed")).mark_area(opacity=0.15)
    base = alt.Chart(alt.NamedData("rows")).encode(x=across, color=colour, y=_scaled(alt.Y("value:Q"), y))
    layers = [
        band.encode(x=across, color=colour, y=_scaled(alt.Y("low:Q"), y), y2="high:Q"),
        base.mark_line(strokeWidth=1.5).encode(detail="line:N"),
        base.mark_point(filled=True, opacity=1, size=25).encode(shape=_shape(names), tooltip=_tips(tips)),
    ]
    return {**_made(layers), "height": 320}


@cache
def dots(x: Axis, names: Names, tips: tuple[tuple[str, str], ...], *, legend: bool, dashed: bool) -> Spec:
    """Rows of dots with intervals. Data `rows`: row, value, low, high, name, and what tips show; `dashed`: value."""
    base = alt.Chart(alt.NamedData("rows")).encode(y=_rows(), color=_colour(names, legend=legend))
    layers = [
        base.mark_rule(strokeWidth=2).encode(x=_scaled(alt.X("low:Q"), x), x2="high:Q"),
        base.mark_point(filled=True, opacity=1, size=70).encode(
            x=_scaled(alt.X("value:Q"), x), shape=_shape(names, legend=legend), tooltip=_tips(tips)
        ),
    ]
    if dashed:
        line = alt.Chart(alt.NamedData("dashed")).mark_rule(strokeDash=[5, 4], color=INK, opacity=0.7)
        layers.insert(0, line.encode(x=_scaled(alt.X("value:Q"), x)))
    return _made(layers)


@cache
def ticks(x: Axis, names: Names, tips: tuple[tuple[str, str], ...]) -> Spec:
    """Rows of one tick each, and a longer one. Data `rows`: row, value, name, tips; `dashed`: row, value."""
    base = alt.Chart(alt.NamedData("rows")).encode(y=_rows(), color=_colour(names, legend=False))
    middle = alt.Chart(alt.NamedData("dashed")).mark_tick(color=INK, thickness=3, size=14)
    return _made(
        [
            base.mark_tick(thickness=1.5, opacity=0.5, size=10).encode(
                x=_scaled(alt.X("value:Q"), x), tooltip=_tips(tips)
            ),
            middle.encode(y=_rows(), x=_scaled(alt.X("value:Q"), x)),
        ]
    )


@cache
def bars(x: Axis, tips: tuple[tuple[str, str], ...]) -> Spec:
    """Rows of one bar each. Data `rows`: row, value, and what tips show."""
    base = alt.Chart(alt.NamedData("rows")).mark_bar(color=COLOURS[0])
    return _made([base.encode(y=_rows(), x=_scaled(alt.X("value:Q"), x), tooltip=_tips(tips))])


def _made(layers: list[alt.Chart]) -> Spec:
    return {**dict(alt.layer(*layers).to_dict()), "config": CONFIG}


def _scaled(channel: Any, axis: Axis) -> Any:
    if not axis.log:
        scale = alt.Scale(zero=False, nice=True)
        return channel.title(axis.title).scale(scale).axis(labelExpr=axis.labels, labelOverlap=True)
    # Powers of ten; within less than two of them 1, 2 and 5 of each.
    digit = "round(datum.value / pow(10, floor(log(datum.value) / LN10 + 1e-9)))"
    labels = f"indexof([1, 2, 5], {digit}) < 0 ? '' : {axis.labels}"
    scale = alt.Scale(type="log", nice=False, padding=10)
    if axis.ticks:
        at = channel.title(axis.title).scale(scale)
        return at.axis(values=list(axis.ticks), labelExpr=axis.labels, labelOverlap="greedy")
    return channel.title(axis.title).scale(scale).axis(labelExpr=labels, labelOverlap="greedy", tickCount=2)


def _rows() -> Any:
    return alt.Y("row:N").title(None).sort(None).axis(ticks=False, domain=False, grid=True)


def _colour(names: Names, *, legend: bool = True) -> Any:
    scale = alt.Scale(domain=[name for name, _ in names], range=[COLOURS[number % len(COLOURS)] for _, number in names])
    return alt.Color("name:N").title(None).scale(scale).legend({} if legend else None)


def _shape(names: Names, *, legend: bool = True) -> Any:
    scale = alt.Scale(domain=[name for name, _ in names], range=[SHAPES[number % len(SHAPES)] for _, number in names])
    return alt.Shape("name:N").title(None).scale(scale).legend({} if legend else None)


def _tips(tips: tuple[tuple[str, str], ...]) -> list[alt.Tooltip]:
    return [alt.Tooltip(f"{field}:N").title(title) for field, title in tips]
