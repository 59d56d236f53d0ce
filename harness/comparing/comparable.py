"""What may be compared, and what is to be warned of where it is."""

from collections.abc import Collection, Mapping
from typing import Any

import pandas as pd

from harness.comparing.run import Run
from harness.measuring.evidence import SLOW_CLOCK
from harness.measuring.machine import COMPARABLE
from harness.measuring.nvml import DISTURBING_REASONS
from harness.plan.errors import NotComparable, PlanError
from harness.plan.presets import LEAST_ROUNDS
from harness.plan.text import printable
from harness.running.session import typed

# What else a user may declare to differ: these are of a case, not of a machine.
CASE_KEYS = ("threads", "workload")
# Facts that make two runs less alike, but may be wanted to differ.
_WARNED = ("gpu_driver", "gpu_power_limit_w", "gpu_uuid", "system", "compiler", "numpy", "triton", "image")


def check_comparable(base: Run, new: Run, vary: Collection[str] = (), *, declare: str = "add") -> tuple[str, ...]:
    """Return what differs as declared, `key: base's and new's value`; raises NotComparable for all else that does.

    declare: what to do with the flags that would declare it, in words.
    """
    for key in vary:
        if key not in (*COMPARABLE, *CASE_KEYS):
            raise PlanError(f"--vary {printable(key)}: use one of {', '.join((*COMPARABLE, *CASE_KEYS))}")
    for run in (base, new):
        if run.measurements.empty:
            raise NotComparable(f"{run.name} holds no measurements")
    if base.only("run_id") == new.only("run_id"):
        what = f"{base.name} and {new.name} are the same run, {base.only('run_id')}"
        raise NotComparable(f"{what}: name another one, or measure a second one by: {typed('run')}")
    if base.session != new.session and base.measurements["dirty"].astype(bool).any():
        raise NotComparable(f"{base.name} was measured with uncommitted changes (dirty); measure it at a commit")
    if base.only("fingerprint") == new.only("fingerprint") and base.only("machine") == new.only("machine"):
        return ()
    apart = "; ".join(
        f"{key}: {base.only(key)} and {new.only(key)}"
        for key in ("machine", "fingerprint")
        if base.only(key) != new.only(key)
    )
    before, after = base.environment(), new.environment()
    if not before or not after:
        silent = new.name if before else base.name
        raise NotComparable(f"{apart}; {silent} does not say what it is made of: an older version wrote it")
    differing = {
        key: f"{key}: {_value(before, key)} and {_value(after, key)}"
        for key in COMPARABLE
        if before.get(key) != after.get(key)
    }
    undeclared = [key for key in differing if key not in vary]
    if not differing:
        raise NotComparable(f"{apart}, of the same facts: another version wrote one of them")
    if undeclared:
        flags = " ".join(f"--vary {key}" for key in undeclared)
        raise NotComparable(f"{'; '.join(differing[key] for key in undeclared)}; if that is meant, {declare} {flags}")
    return tuple(differing.values())


def warnings(base: Run, new: Run, rounds: float) -> tuple[str, ...]:
    """Return what a reader of the comparison should know besides; rounds: of a side, the fewest of any case."""
    told = [
        f"{key} differs: {_value(base.facts, key)} and {_value(new.facts, key)}"
        for key in _WARNED
        if base.facts and new.facts and base.facts.get(key) != new.facts.get(key)
    ]
    if (clocks := _clocks(base, new)) is not None:
        told.append(clocks)
    for run in (base, new):
        if (held := _held_down(run)) is not None:
            told.append(held)
        if run.measurements["dirty"].astype(bool).any():
            told.append(f"{run.name} was measured with uncommitted changes")
        if (lost := _lost_rows(run)) is not None:
            told.append(lost)
    if (base.summary is None) != (new.summary is None):
        silent = base.name if base.summary is None else new.name
        told.append(f"how {silent} converges is not known: it has no summary beside it")
    untold = [run.name for run in (base, new) if not _tells(run, "workload_digest")]
    if len(untold) == 1:
        told.append(f"{untold[0]} does not say what it trained: an older version wrote it")
    if rounds < LEAST_ROUNDS:
        told.append(f"{rounds:g} rounds a side are too few to see a slowdown of 5 %: use 10")
    return tuple(told)


def _clocks(base: Run, new: Run) -> str | None:
    """Return the clocks of the GPUs where in most of the cases they differ by more than such a clock wanders."""
    if not all("sm_clock_mhz" in run.measurements for run in (base, new)):
        return None
    one, other = (run.measurements.groupby("case_id")["sm_clock_mhz"].median() for run in (base, new))
    both = pd.DataFrame({"base": one, "new": other}).dropna()
    ratio = float((both["new"] / both["base"]).median())
    if both.empty or SLOW_CLOCK <= ratio <= 1 / SLOW_CLOCK:
        return None
    return f"sm_clock_mhz differs: {both['base'].median():.0f} and {both['new'].median():.0f}, after timing"


def _held_down(run: Run) -> str | None:
    """Return why the clocks of a run's GPU were lower than they could be, and in how many of its cases."""
    if run.summary is None or "disturbances" not in run.summary:
        return None
    told = run.summary["disturbances"].astype(str)
    reasons = [reason for reason in DISTURBING_REASONS.values() if told.str.contains(reason, regex=False).any()]
    if not reasons:
        return None
    cases = int(told.str.contains("|".join(reasons)).sum())
    return f"{run.name}: the GPU's clocks were held down in {cases} of {len(told)} cases: {', '.join(reasons)}"


def _lost_rows(run: Run) -> str | None:
    """Return what a run's measurements lack of what its summary was made of: a file cut after a line looks whole."""
    if run.summary is None or "rounds" not in run.summary:
        return None
    made = run.summary.set_index("case_id")["rounds"].fillna(0)
    there = run.measurements["case_id"].value_counts().reindex(made.index, fill_value=0)
    short = made.index[there < made]
    if short.empty:
        return None
    first = short[0]
    return (
        f"{run.name} has {there[first]} of {int(made[first])} rounds of {first}{' and others' * (len(short) > 1)}: "
        f"rows of its measurements are missing"
    )


def _tells(run: Run, column: str) -> bool:
    return column in run.measurements and bool((run.measurements[column] != "").any())


def _value(facts: Mapping[str, Any], key: str) -> str:
    return printable(str(facts.get(key, "none")), 80)
