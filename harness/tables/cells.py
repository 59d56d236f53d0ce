"""What a cell of a table may hold, by its column; and how a text stands in a CSV file.

The same checks are made of what is written and of what is read. A text that a spreadsheet would take for a formula gets
an apostrophe in front, and loses it when it is read again.
"""

import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from harness.plan.errors import PlanError
from harness.plan.outcome import Outcome
from harness.plan.text import REASON_CHARACTERS, printable, shown
from harness.running.records import LARGEST_COUNT, LONGEST_NS, SHORTEST_NS
from harness.tables.columns import Column

Value = str | int | float | bool | None

# A column's unit says what numbers it may hold. Besides: which texts are names of safe characters only, which are one
# of a few words, which of the columns without unit are flags, and what is never empty.
IDENTIFIERS = frozenset(
    {"workload", "engine", "device", "dtype", "case_id", "run_id", "commit", "machine", "fingerprint"}
)
CHOICES: Mapping[str, tuple[str, ...]] = {
    "outcome": tuple(Outcome),
    "targets_met": ("", "yes", "no", "undecided"),
}
FLAGS = frozenset({"dirty", "converged"})
REQUIRED = IDENTIFIERS | FLAGS | {"outcome", "batch_size", "round", "seed", "rounds", "schema"}

# Labels with dots, slashes and colons between them: what `plan.case` and `plan.catalogue` let through.
_IDENTIFIER = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.:/+-]{0,699}")
# https://owasp.org/www-community/attacks/CSV_Injection; the wide ones are for East Asian spreadsheets. Apostrophes may
# stand before it: then one is added to these, so that taking one away brings every text back.
_FORMULA = re.compile("'*[=+\\-@\t\r\n＝＋－＠]")
_NUMBER = re.compile(r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]{1,4})?|-?inf", re.ASCII)
_WHOLE = re.compile(r"[0-9]{1,16}", re.ASCII)
_FLAG = {"True": True, "False": False, "TRUE": True, "FALSE": False, "true": True, "false": False}


def checked(column: Column, value: Any) -> Value:
    """Return what the cell of this column holds for a value, None where it is empty.

    Free texts lose what would steer a terminal or break a line. Raises PlanError, in one line, for anything that the
    column's unit does not allow.
    """
    if value is None or (isinstance(value, float) and math.isnan(value)):
        if column.name in REQUIRED:
            raise PlanError(f"{column.name} is empty")
        return "" if column.unit == "text" else None
    if column.unit == "text":
        return _text(column.name, value)
    if column.name in FLAGS:
        if not isinstance(value, bool | np.bool_):
            raise PlanError(f"{column.name} {shown(value)}: must be True or False")
        return bool(value)
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise PlanError(f"{column.name} {shown(value)}: must be a number")
    low, high, meant = _range(column)
    if not low <= value <= high or (meant == "whole" and value != int(value)):
        kind = "a whole number" if meant == "whole" else "a number"
        raise PlanError(f"{column.name} {shown(value)}: must be {kind} from {low:g} to {high:g}")
    return int(value) if meant == "whole" else value


def parsed(column: Column, text: str) -> Value:
    """Return what a cell of a CSV file holds, None where it is empty; raises PlanError as `checked` does."""
    if column.unit == "text":
        return checked(column, from_cell(text))
    if not text:
        return checked(column, None)
    if column.name in FLAGS:
        return checked(column, _FLAG.get(text, text))
    if _WHOLE.fullmatch(text):
        return checked(column, int(text))
    return checked(column, float(text) if len(text) < 400 and _NUMBER.fullmatch(text) else text)


def plain_numbers(column: Column, texts: Sequence[str]) -> "pd.Series[Any] | None":
    """Return a column of plain numbers all at once; None where `parsed` has to look at each, or says what is wrong."""
    if column.unit == "text" or column.name in FLAGS or column.name in REQUIRED or _range(column)[2]:
        return None
    # numpy takes 1_000, spaces and other scripts' digits as well.
    if "".join(texts).encode(errors="replace").translate(None, b"0123456789+-.eE"):
        return None
    low, high, _ = _range(column)
    try:
        values = np.array([text or "nan" for text in texts], dtype=float)
    except ValueError:
        return None
    empty = np.isnan(values)
    within = (values >= low) & (values <= high)
    if not (within | empty).all() or empty.sum() != texts.count(""):
        return None
    return pd.Series(values, dtype="float64", name=column.name)


def series(column: Column, values: Sequence[Value]) -> "pd.Series[Any]":
    """Return checked values as a column: counts stay whole numbers where none is missing, numbers have NaN there."""
    if column.unit == "text":  # Python's own: going through pandas' takes ten times as long
        return pd.Series(values, dtype=object, name=column.name)
    if column.name in FLAGS and None not in values:
        return pd.Series(values, dtype=bool, name=column.name)
    whole = column.unit in ("count", "bytes") and None not in values
    return pd.Series(
        [math.nan if value is None else value for value in values],
        dtype="int64" if whole else "float64",
        name=column.name,
    )


def unknown_series(name: str, texts: Sequence[str]) -> "pd.Series[Any]":
    """Return a column that this version does not know: numbers where all its cells are, else texts."""
    if any(texts) and all(not text or (len(text) < 400 and _NUMBER.fullmatch(text)) for text in texts):
        return pd.Series([float(text) if text else math.nan for text in texts], dtype="float64", name=name)
    return pd.Series([printable(from_cell(text)) for text in texts], dtype=str, name=name)


def as_written(frame: pd.DataFrame, columns: Sequence[Column]) -> pd.DataFrame:
    """Return a table as it goes into a CSV file: no text begins a formula, and counts have no point."""
    written = frame.copy()
    whole = {column.name for column in columns if column.unit in ("count", "bytes")}
    for name in frame.columns:
        if name in whole:
            written[name] = frame[name].astype("Int64")
        elif not pd.api.types.is_numeric_dtype(frame[name]) and not pd.api.types.is_bool_dtype(frame[name]):
            written[name] = [to_cell(value) if isinstance(value, str) else value for value in frame[name]]
    return written


def to_cell(text: str) -> str:
    """Return a text as it stands in a CSV file: with an apostrophe where it would begin a formula."""
    return f"'{text}" if _FORMULA.match(text) else text


def from_cell(text: str) -> str:
    """Return the text that `to_cell` was given."""
    return text[1:] if text.startswith("'") and _FORMULA.match(text) else text


def environment_cell(facts: Mapping[str, Any]) -> str:
    """Return what a fingerprint is made of as one text, `key=value; …`, which `environment_of` takes apart again."""
    return "; ".join(f"{name}={str(value).replace(';', ',')}" for name, value in facts.items())


def environment_of(cell: str) -> dict[str, str]:
    """Return the keys and values of an `environment`; none of an empty one."""
    return dict(part.split("=", 1) for part in cell.split("; ") if "=" in part)


def _text(name: str, value: object) -> str:
    if not isinstance(value, str):
        raise PlanError(f"{name} {shown(value)}: must be a text")
    if name in IDENTIFIERS:
        if not _IDENTIFIER.fullmatch(value):
            raise PlanError(f"{name} {shown(value)}: must be letters, digits and . _ : / + -")
        return value
    if name in CHOICES:
        if value not in CHOICES[name]:
            raise PlanError(f"{name} {shown(value)}: must be one of {', '.join(filter(None, CHOICES[name]))}")
        return str(value)
    return printable(value, None if name == "targets" else REASON_CHARACTERS)


def _range(column: Column) -> tuple[float, float, str]:
    """Return the least and the largest number of a column, and whether it is `whole`."""
    if column.unit in ("count", "bytes"):
        return 0, LARGEST_COUNT, "whole"
    if column.unit == "share":
        return 0, 1, ""
    if column.name.startswith("step_") and column.unit == "ns":
        # Ratios and logarithms are taken of these. The ends of an interval may lie beyond what was measured.
        return (SHORTEST_NS, LONGEST_NS, "") if not column.name.endswith(("_low", "_high")) else (1e-308, 1e308, "")
    if column.unit and column.unit != "°C":
        return 0, 1e308, ""
    return -math.inf, math.inf, ""
