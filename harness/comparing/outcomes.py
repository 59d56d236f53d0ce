"""Outcomes before times: what is to be said of a case before any time of it is looked at."""

import math
from collections.abc import Collection
from typing import Any

import pandas as pd

from harness.comparing.comparable import CASE_KEYS
from harness.comparing.compared import Status
from harness.comparing.run import Run

_CASE_COLUMNS = ("outcome", "reason", "threads", "workload_digest")
_SHARES = ("converged_share", "converged_low", "converged_high")


def before_times(base: Run, new: Run, vary: Collection[str]) -> dict[str, tuple[Status | None, str]]:
    """Return what is to be said of each case before any time is looked at; None where the times decide."""
    before, after = _cases(base), _cases(new)
    found: dict[str, tuple[Status | None, str]] = {}
    for name in dict.fromkeys([*before, *after]):
        if name not in before or name not in after:
            found[name] = (Status.NEW if name in after else Status.MISSING), ""
            continue
        then, now = before[name], after[name]
        changed = [
            f"{key}: {then[column]} and {now[column]}"
            for key, column in zip(CASE_KEYS, ("threads", "workload_digest"), strict=True)
            if key not in vary and then[column] and now[column] and then[column] != now[column]
        ]
        if now["outcome"] != "ok":
            status = Status.LOST if then["outcome"] == "ok" else Status.FAILING
            found[name] = status, f"{now['outcome']}: {now['reason']}"
        elif changed:
            found[name] = Status.CHANGED, "; ".join(changed)
        elif then["outcome"] != "ok":
            found[name] = Status.FIXED, f"was {then['outcome']}: {then['reason']}"
        elif now["converged_high"] < then["converged_low"]:
            shares = f"converges in {now['converged_share']:.0%} of the seeds, before in {then['converged_share']:.0%}"
            found[name] = Status.CONVERGES_LESS, shares
        else:
            found[name] = None, ""
    return found


def timed_on_both(base: Run, new: Run, vary: Collection[str]) -> pd.DataFrame:
    """Return the new side's `threads` and `workload_digest` of the cases of which times are compared, by `case_id`."""
    chosen = [name for name, (status, _) in before_times(base, new, vary).items() if status is None]
    there = set(chosen).intersection(
        *(run.measurements["case_id"][run.measurements["step_ns"].notna()] for run in (base, new))
    )
    cases = new.measurements.drop_duplicates("case_id").set_index("case_id")
    return cases.loc[[name for name in chosen if name in there], ["threads", "workload_digest"]]


def _cases(run: Run) -> dict[str, dict[str, Any]]:
    """Return of each case of a run how it ended and what it is, from the summary where there is one."""
    told_here = run.measurements[[name for name in ("case_id", *_CASE_COLUMNS) if name in run.measurements]]
    failed = told_here[told_here["outcome"] != "ok"]
    measured = pd.concat([failed.drop_duplicates("case_id"), told_here]).drop_duplicates("case_id")
    rows = measured.set_index("case_id").loc[told_here["case_id"].unique()]
    cases = _as_dicts(rows, _CASE_COLUMNS) if len(rows) else {}
    for case in cases.values():
        case.update(dict.fromkeys(_SHARES, math.nan))
    if run.summary is not None:
        summarised = _as_dicts(run.summary.drop_duplicates("case_id").set_index("case_id"), (*_CASE_COLUMNS, *_SHARES))
        # An interrupted run's table has cases that were not measured; a summary has no round that failed later.
        for name, told in summarised.items():
            if told["outcome"] == "interrupted" and name not in cases:
                continue  # it was not measured at all
            mine = cases.get(name)
            cases[name] = (
                told
                if mine is None or mine["outcome"] == "ok"
                else {**told, **{key: mine[key] for key in ("outcome", "reason")}}
            )
    return cases


def _as_dicts(rows: pd.DataFrame, columns: Collection[str]) -> dict[str, dict[str, Any]]:
    values = {name: rows[name].tolist() if name in rows else [""] * len(rows) for name in columns}
    made = {}
    for number, name in enumerate(rows.index):
        row = {column: cells[number] for column, cells in values.items()}
        row["threads"] = "" if pd.isna(row["threads"]) or row["threads"] == "" else int(row["threads"])
        made[str(name)] = row
    return made
