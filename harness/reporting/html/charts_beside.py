"""The charts of a run beside others: beside a base, and beside the earlier sessions of its machine."""

import math
from typing import Any

from harness.comparing.compared import Compared
from harness.comparing.series import History, Status
from harness.reporting import comparison_words as words
from harness.reporting.html import shapes
from harness.reporting.html.figures import STEP, Chart, digits, filled, named, point
from harness.reporting.html.groups import short_names
from harness.reporting.html.shapes import Axis
from harness.reporting.terminal import duration

_CHANGES = Axis("change of the step time, above 0 is slower", shapes.PERCENT, log=False)
_SESSION = Axis("session, the newest is 0", "format(datum.value, 'd')", log=False)
_MOST_ROWS = 60
_MOST_LINES = 8


def changes(compared: Compared) -> Chart | None:
    """Return the change of every case against the base with its interval; the first of very many."""
    cases = [case for case in words.timed(compared) if math.isfinite(case.change)]
    shown = cases[:_MOST_ROWS]
    if not shown:
        return None
    short = short_names([case.case_id for case in shown])
    rows: list[dict[str, Any]] = [
        {"row": short[case.case_id], "name": words.WORD[case.status], "said": words.change(case)}
        | _change(case.change, case.low, case.high)
        for case in shown
    ]
    numbers = {words.WORD[status]: number for number, status in enumerate(words.TIMED)}
    spec = shapes.dots(
        _CHANGES,
        named((row["name"] for row in rows), numbers),
        (("row", "case"), ("name", "verdict"), ("said", "change")),
        legend=True,
        dashed=True,
    )
    more = f" The first {_MOST_ROWS} of {len(cases)}; the table has all." if len(cases) > len(shown) else ""
    return Chart(
        slug="change",
        title="Change of the step time against the base",
        note=f"New over base with its 95 % interval; dashed: no change.{more}",
        spec=filled(spec, rows, [{"value": 0}], rows_of=len(shown)),
        head=(),
        rows=(),
    )


def trends(history: History) -> Chart | None:
    """Return the step time over sessions of the cases of which something is said, else of the first ones."""
    timed = [case for case in history.cases if sum(map(math.isfinite, case.times)) > 1]
    shown = sorted(timed, key=lambda case: case.status in (Status.STEADY, Status.TOO_FEW))[:_MOST_LINES]
    if not shown:
        return None
    short = short_names([case.case_id for case in shown])
    rows = [
        {"x": place - len(case.times) + 1, "name": short[case.case_id], "said": duration(time), **point(time / 1e9)}
        for case in shown
        for place, time in enumerate(case.times)
        if math.isfinite(time)
    ]
    names = tuple((short[case.case_id], number) for number, case in enumerate(shown))
    spec = shapes.lines(
        _SESSION, STEP, names, (("name", "case"), ("x", "session"), ("said", "step time")), dashed=False
    )
    more = f" {len(shown)} of {len(timed)} cases, those that moved first; the table has all." * (
        len(timed) > len(shown)
    )
    return Chart(
        slug="trend",
        title="Time of one update, session by session",
        note=f"Of this machine, as far as its fingerprint is this run's.{more}",
        spec=filled(spec, rows),
        head=(),
        rows=(),
    )


def _change(value: float, low: float, high: float) -> dict[str, float]:
    """Return a change with its interval as `point` does."""
    if math.isfinite(low) and math.isfinite(high):
        low, high = max(low, -1), min(high, value + 10)
    else:
        low = high = value
    value, low, high = digits((value, low, high))
    return {"value": value, "low": low, "high": high}
