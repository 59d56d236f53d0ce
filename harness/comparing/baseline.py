"""A run against a stored run of the same machine: `--baseline`.

Two runs are two sessions: a machine may differ between them by more than its rounds tell. So the margin is that of an
advisory comparison: 3·√2 times an assumed spread of 2 % between sessions.
"""

import math
from dataclasses import dataclass

import pandas as pd
from scipy import stats

from harness.plan.errors import NotComparable

SESSION_SPREAD = 0.02
MARGIN = 3 * math.sqrt(2) * SESSION_SPREAD


@dataclass(frozen=True)
class BaselineVerdict:
    """One case against the stored run.

    ratio, low, high: the stored run's step time over the new one, above 1 is faster, with its 95 % Welch interval on
    the logs. status: `met` while it is not slower by more than MARGIN, `missed`, `undecided`; `lost` where the stored
    run has a time and this one was to have it and has none; `new` and `not run` for cases of one of the runs only.
    """

    case_id: str
    status: str
    ratio: float = math.nan
    low: float = math.nan
    high: float = math.nan

    @property
    def failed(self) -> bool:
        """Whether this ends a run with exit code 1."""
        return self.status in ("missed", "lost")


def check_comparable(base: pd.DataFrame, machine: str, fingerprint: str) -> None:
    """Raise NotComparable unless a stored table is of this machine and fingerprint, and of committed code."""
    if base.empty:
        raise NotComparable("the baseline holds no measurements")
    for key, ours in (("machine", machine), ("fingerprint", fingerprint)):
        theirs = base[key].unique().tolist()
        if theirs != [ours]:
            raise NotComparable(f"{key} differs: the baseline has {_list(theirs)}, this run {ours}")
    if base["dirty"].astype(bool).any():
        raise NotComparable("the baseline was measured with uncommitted changes (dirty); measure it at a commit")


def against_baseline(base: pd.DataFrame, new: pd.DataFrame, summary: pd.DataFrame) -> list[BaselineVerdict]:
    """Compare the stored run's `measurements`, which passed `check_comparable`, with the new run's, case by case.

    summary: of the new run; it knows every case that was to be measured, and which of them are `ok`. Raises
    NotComparable where the threads of a case differ, or no case is in both.
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
        verdicts.append(_verdict(case_id, then["step_ns"], now["step_ns"]))
    if all(verdict.status in ("new", "not run") for verdict in verdicts):
        raise NotComparable("no case is both in the baseline and in this run")
    return verdicts


def _ok(table: pd.DataFrame, case_id: str) -> pd.DataFrame:
    rows = table[table["case_id"] == case_id]
    return rows[rows["step_ns"].notna()] if (rows["outcome"] == "ok").all() else rows.iloc[:0]


def _verdict(case_id: str, then: "pd.Series[float]", now: "pd.Series[float]") -> BaselineVerdict:
    before, after = then.map(math.log), now.map(math.log)
    difference = before.mean() - after.mean()
    if len(before) < 2 or len(after) < 2:
        return BaselineVerdict(case_id, "undecided", math.exp(difference))
    interval = stats.ttest_ind(before, after, equal_var=False).confidence_interval(0.95)
    low, high = math.exp(interval.low), math.exp(interval.high)
    least = 1 / (1 + MARGIN)
    status = "met" if low >= least else "missed" if high < least else "undecided"
    return BaselineVerdict(case_id, status, math.exp(difference), low, high)


def _list(values: object) -> str:
    return ", ".join(str(value) for value in values)  # type: ignore[attr-defined]
