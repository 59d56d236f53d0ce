"""Cases that belong into one chart: they differ in engine, batch size and ranks alone."""

import math
import re
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

Row = Mapping[Hashable, Any]


@dataclass(frozen=True)
class CaseGroup:
    """title: what its cases have in common, in words; slug: the same, fit for a file's name; rows: of the summary."""

    title: str
    slug: str
    rows: tuple[Row, ...]


def case_groups(summary: pd.DataFrame) -> list[CaseGroup]:
    """Return the groups of a run in the order of its table; cases that never ran, without threads, are in none."""
    several = summary["machine"].nunique() > 1
    found: dict[tuple[Any, ...], list[Row]] = {}
    for row in rows_of(summary):
        if not math.isnan(row["threads"]):
            key = tuple(row[name] for name in ("workload", "device", "dtype", "threads", "machine"))
            found.setdefault(key, []).append(row)
    groups = []
    for (workload, device, dtype, threads, machine), rows in found.items():
        parts = [workload, device, dtype, f"{threads:.0f} thread{'s' * (threads != 1)}", *([machine] * several)]
        groups.append(CaseGroup(", ".join(parts), slug("-".join(parts)), tuple(rows)))
    return groups


def rows_of(summary: pd.DataFrame) -> list[Row]:
    """Return the rows of a table, as `to_dict` does, several times as fast."""
    names = list(summary.columns)
    cells = zip(*(summary[name].tolist() for name in names), strict=True)
    return [dict(zip(names, row, strict=True)) for row in cells]


def series(row: Row) -> str:
    """Return what tells a case from others of its group at the same batch size: the engine, and ranks if several."""
    ranks = row.get("ranks", 1)
    return f"{row['engine']}, {ranks:.0f} ranks" if ranks > 1 else str(row["engine"])


def case_label(row: Row) -> str:
    """Return what tells a case from all others of its group."""
    return f"{series(row)}, b{row['batch_size']}"


def numbered(groups: Sequence[CaseGroup]) -> dict[str, int]:
    """Return a number for each series of a run: the same in all its charts."""
    names = dict.fromkeys(series(row) for group in groups for row in group.rows)
    return {name: number for number, name in enumerate(names)}


def short_names(case_ids: Sequence[str]) -> dict[str, str]:
    """Return for each case what tells it from the others: its name without the parts that all have alike."""
    parts = [case_id.split("/") for case_id in case_ids]
    if len({len(each) for each in parts}) != 1 or len(parts) < 2:
        return {case_id: case_id for case_id in case_ids}
    differing = [place for place, values in enumerate(zip(*parts, strict=True)) if len(set(values)) > 1]
    return {
        case_id: "/".join(each[place] for place in differing) for case_id, each in zip(case_ids, parts, strict=True)
    }


def slug(text: str) -> str:
    """Return a text as a part of a file's name: letters, digits, dots, hyphens; at most 80."""
    return re.sub(r"[^A-Za-z0-9._]+", "-", text).strip("-.")[:80] or "x"
