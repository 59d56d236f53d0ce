"""What is said of a run before anything else: targets met, missed and undecided, and cases that failed."""

from collections.abc import Hashable, Mapping
from dataclasses import dataclass
from typing import Any

import pandas as pd

from harness.reporting.html.groups import rows_of

FINE = ("ok", "unsupported")


@dataclass(frozen=True)
class Remark:
    """One thing that is not as it should be: word (`missed`, `crashed`, …), case and text."""

    word: str
    case_id: str
    text: str


@dataclass(frozen=True)
class Verdict:
    """sign: ✓, ✗ or ?; text: one sentence; remarks: every target that is not met, every case without a time."""

    sign: str
    text: str
    remarks: tuple[Remark, ...]
    cases: int
    failed: int


def verdict_of(summary: pd.DataFrame) -> Verdict:
    """Return the verdict on a run's table."""
    met, remarks, failed = 0, [], 0
    for row in rows_of(summary):
        targets = _targets(row)
        met += sum(word == "met" for word, _ in targets)
        remarks += [Remark(word, row["case_id"], text) for word, text in targets if word != "met"]
        failed += row["outcome"] not in FINE
        if row["outcome"] != "ok":
            remarks.append(Remark(row["outcome"], row["case_id"], row["reason"]))
    missed, undecided = (sum(each.word == word for each in remarks) for word in ("missed", "undecided"))
    total = met + missed + undecided
    told = [f"{missed} of {total} targets missed"] if missed else []
    told += [f"{undecided} undecided" if missed else f"{undecided} of {total} targets undecided"] if undecided else []
    if not total:
        told = ["No targets to be judged"]
    elif not told:
        told = [f"All {total} targets met" if total > 1 else "The target is met"]
    cases = f"{failed} of {len(summary)} cases failed" if failed else f"none of {len(summary)} cases failed"
    sign = "✗" if missed or failed else "?" if undecided or not total else "✓"
    remarks.sort(key=lambda each: each.word in ("undecided", "unsupported"))
    return Verdict(sign, f"{', '.join(told)}; {cases}.", tuple(remarks), len(summary), failed)


def _targets(row: Mapping[Hashable, Any]) -> list[tuple[str, str]]:
    parts = (target.partition(": ") for target in filter(None, row["targets"].split("; ")))
    return [(word, text) for word, _, text in parts]
