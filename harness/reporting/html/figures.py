"""What a chart is: a specification with its data, the same as a table, and words; and how numbers get into it."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from harness.reporting.html import shapes
from harness.reporting.html.shapes import Axis, Names, Spec

STEP = Axis("time of one update", shapes.SECONDS)

_ROW_PX = 18


@dataclass(frozen=True)
class Chart:
    """slug: fit for a file's name. title, note: what it shows, in words. head, rows: the same as a table."""

    slug: str
    title: str
    note: str
    spec: Spec
    head: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


def as_picture(chart: Chart) -> Spec:
    """Return the specification for a picture of its own: with title and size, on white."""
    title = {"text": chart.title, "subtitle": chart.note, "anchor": "start", "subtitlePadding": 4, "limit": 640}
    spec = {**chart.spec, "width": 640, "title": title, "padding": 12}
    return dict(_inked({**spec, "config": {**spec["config"], "background": "white"}}))


def filled(
    spec: Spec, rows: Sequence[Mapping[str, Any]], dashed: Sequence[Mapping[str, Any]] = (), rows_of: int = 0
) -> Spec:
    """Return a shape with its data; rows_of: how many rows it draws, 0 where its height is the shape's."""
    height = {"height": max(_ROW_PX * rows_of, 60)} if rows_of else {}
    return {**spec, **height, "datasets": {"rows": list(rows), "dashed": list(dashed)}}


def point(value: float, low: float = math.nan, high: float = math.nan) -> dict[str, float]:
    """Return a value above 0 with its interval; of no length where there is none, cut where it says nothing."""
    if math.isfinite(low) and math.isfinite(high):
        low, high = max(low, value / 1000), min(high, value * 1000)
    else:
        low = high = value
    value, low, high = digits((value, low, high))
    return {"value": value, "low": low, "high": high}


def digits(values: Iterable[float]) -> list[float]:
    """Return as many digits as can be seen: pages stay small."""
    return [float(f"{value:.5g}") for value in values]


def named(names: Iterable[str], numbers: Mapping[str, int]) -> Names:
    """Return names, each once, with the number by which its colour and shape are chosen."""
    return tuple((name, numbers[name]) for name in dict.fromkeys(names))


def _inked(part: Any) -> Any:
    """Return a part of a specification with a colour of its own instead of the page's."""
    if isinstance(part, dict):
        # What strangers named stands in data: it is left as it is.
        return {name: value if name == "datasets" else _inked(value) for name, value in part.items()}
    if isinstance(part, list):
        return [_inked(each) for each in part]
    return "#1f2328" if part == shapes.INK else part
