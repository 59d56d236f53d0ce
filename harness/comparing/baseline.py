"""A run against a stored run of the same machine: `--baseline`.

Two runs are two sessions: a machine may differ between them by more than its rounds tell. So the margin is that of an
advisory comparison: 3·√2 times an assumed spread of 2 % between sessions. Where the machine was measured against itself
and a case spreads by more than that between its processes, the sessions are taken to differ by as much.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import pandas as pd
from scipy import stats

from harness.measuring.machine import COMPARABLE
from harness.plan.errors import NotComparable
from harness.plan.text import printable

SESSION_SPREAD = 0.02
MARGIN = 3 * math.sqrt(2) * SESSION_SPREAD


@dataclass(frozen=True)
class BaselineVerdict:
    """One case against the stored run.

    ratio, low, high: the stored run's step time over the new one, above 1 is faster, with its 95 % Welch interval on
    the logs. status: `met` while it is not slower by more than `margin`, `missed`, `undecided`; `lost` where the stored
    run has a time and this one was to have it and has none; `new` and `not run` for cases of one of the runs only.
    margin_from: `assumed`, or `noise` where it comes from the case's own spread.
    """

    case_id: str
    status: str
    ratio: float = math.nan
    low: float = math.nan
    high: float = math.nan
    margin: float = MARGIN
    margin_from: str = "assumed"

    @property
    def failed(self) -> bool:
        """Whether this ends a run with exit code 1."""
        return self.status in ("missed", "lost")


def session_margin(spread: float | None) -> float:
    """Return how much slower a case may be in another session, given its spread, or None or NaN where none is known."""
    if spread is None or not spread > SESSION_SPREAD:  # a NaN is not
        return MARGIN
    return 3 * math.sqrt(2) * spread


def check_comparable(
    base: pd.DataFrame,
    machine: str,
    fingerprint: str,
    facts: tuple[Mapping[str, Any], Mapping[str, Any]] = ({}, {}),
) -> None:
    """Raise NotComparable unless a stored table is of this machine and fingerprint, and of committed code.

    facts: of the stored run's machine and of this one, as far as they are known; they say what a fingerprint does not.
    """
    if base.empty:
        raise NotComparable("the baseline holds no measurements")
    for key, ours in (("machine", machine), ("fingerprint", fingerprint)):
        theirs = base[key].unique().tolist()
        if theirs != [ours]:
            differing = _differing(*facts) if key == "fingerprint" else ""
            what = f" ({differing})" if differing else ""
            raise NotComparable(f"{key} differs: the baseline has {_list(theirs)}, this run {ours}{what}")
    if base["dirty"].astype(bool).any():
        raise NotComparable("the baseline was measured with uncommitted changes (dirty); measure it at a commit")


def against_baseline(
    base: pd.DataFrame, new: pd.DataFrame, summary: pd.DataFrame, noise: Mapping[str, float] | None = None
) -> list[BaselineVerdict]:
    """Compare the stored run's `measurements`, which passed `check_comparable`, with the new run's, case by case.

    summary: of the new run; it knows every case that was to be measured, and which of them are `ok`. noise: the spread
    between processes by `case_id`, where it was measured. Raises NotComparable where the threads of a case differ, or
    no case is in both.
    """
    outcomes = dict(zip(summary["case_id"], summary["outcome"], strict=True))
    verdicts = []
    for case_id in dict.fromkeys([*base["case_id"], *summary["case_id"]]):
        then = _ok(base, case_id)
        now = _ok(new, case_id) if outcomes.get(case_id) == "ok" else new.iloc[:0]
        if then.empty or now.empty:
            status = "new" if then.empty else "lost" if case_id in outcomes else "not run"
            verdicts.append(BaselineVerdict(case_id, status))
            continue
        if set(then["threads"]) != set(now["threads"]):
            raise NotComparable(
                f"threads of {case_id} differ: the baseline has {_list(then['threads'].unique())}, "
                f"this run {_list(now['threads'].unique())}"
            )
        verdicts.append(_verdict(case_id, then["step_ns"], now["step_ns"], (noise or {}).get(case_id)))
    if all(verdict.status in ("new", "not run") for verdict in verdicts):
        raise NotComparable("no case is both in the baseline and in this run")
    return verdicts


def _differing(theirs: Mapping[str, Any], ours: Mapping[str, Any]) -> str:
    """Return what makes two machines not comparable, with both values; nothing where it is not known of either."""
    if not theirs or not ours:
        return ""
    return "; ".join(
        f"{key}: {printable(str(theirs.get(key, 'none')), 80)} and {printable(str(ours.get(key, 'none')), 80)}"
        for key in COMPARABLE
        if theirs.get(key) != ours.get(key)
    )


def _ok(table: pd.DataFrame, case_id: str) -> pd.DataFrame:
    rows = table[table["case_id"] == case_id]
    return rows[rows["step_ns"].notna()] if (rows["outcome"] == "ok").all() else rows.iloc[:0]


def _verdict(case_id: str, then: "pd.Series[float]", now: "pd.Series[float]", spread: float | None) -> BaselineVerdict:
    margin = session_margin(spread)
    margin_from = "noise" if margin > MARGIN else "assumed"
    before, after = then.map(math.log), now.map(math.log)
    difference = before.mean() - after.mean()
    if len(before) < 2 or len(after) < 2:
        return BaselineVerdict(case_id, "undecided", math.exp(difference), margin=margin, margin_from=margin_from)
    interval = stats.ttest_ind(before, after, equal_var=False).confidence_interval(0.95)
    low, high = math.exp(interval.low), math.exp(interval.high)
    least = 1 / (1 + margin)
    status = "met" if low >= least else "missed" if high < least else "undecided"
    return BaselineVerdict(case_id, status, math.exp(difference), low, high, margin, margin_from)


def _list(values: object) -> str:
    return ", ".join(str(value) for value in values)  # type: ignore[attr-defined]
