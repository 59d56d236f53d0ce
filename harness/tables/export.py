"""A run in the formats of others: what `pytest-benchmark compare` reads, and what github-action-benchmark plots.

Both know times alone. Only cases that are `ok` have one: the others are left out, and `left_out` says which and why.
"""

import math
import re
import statistics
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

import pandas as pd

# What is read of the table `measurements`, besides what its rows are told apart by.
MEASURED = ("outcome", "step_ns", "block_steps")

_PARAMETERS = ("workload", "engine", "device", "dtype", "batch_size", "threads")
_EXTRA = (
    *("outcome", "targets_met", "step_ns", "step_ns_low", "step_ns_high", "ratio_to_autograd", "ratio_low"),
    *("ratio_high", "converged_share", "converged_low", "converged_high", "seeds", "loss_p50", "accuracy_p50"),
    *("run_id", "machine", "fingerprint"),
)
# The layout has been this one since pytest-benchmark 3.1; the file says which version is known to read it.
_PYTEST_BENCHMARK = "5.3.1"


def left_out(measurements: pd.DataFrame, summary: pd.DataFrame) -> dict[str, str]:
    """Return why each case that has no time in an export has none, by its `case_id`."""
    timed = _timed(measurements)
    why = {}
    for row in summary.to_dict("records"):
        if row["outcome"] != "ok":
            why[str(row["case_id"])] = str(row["outcome"])
        elif row["case_id"] not in timed:
            why[str(row["case_id"])] = "no round has a time"
    return why


def to_pytest_benchmark(
    measurements: pd.DataFrame, summary: pd.DataFrame, facts: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """Return a run as a JSON object that pytest-benchmark stores: a benchmark per case, a round of its per round.

    Times are seconds per update, iterations the updates of a block. A group are the engines of one workload, device,
    dtype and batch size. `extra_info` has the summary's columns, as they are named there, null where they are empty.
    facts: of the machine.
    """
    first = summary.iloc[0]
    return {
        "machine_info": _machine(str(first["machine"]), facts or {}),
        "commit_info": {
            "id": str(first["commit"]),
            "time": None,
            "author_time": None,
            "dirty": bool(first["dirty"]),
            "project": "gradient-harness",
            "branch": "(unknown)",
        },
        "benchmarks": [_benchmark(row, rounds) for row, rounds in _ok(measurements, summary)],
        "datetime": _started(str(first["run_id"])),
        "version": _PYTEST_BENCHMARK,
    }


def to_github_action_benchmark(measurements: pd.DataFrame, summary: pd.DataFrame) -> list[dict[str, Any]]:
    """Return a run as the entries of github-action-benchmark's `customSmallerIsBetter`: ns per update.

    range is half the 95 % interval, `± 120`; left out where a case has none.
    """
    return [_entry(row, len(rounds)) for row, rounds in _ok(measurements, summary)]


def _timed(measurements: pd.DataFrame) -> dict[str, pd.DataFrame]:
    rows = measurements[(measurements["outcome"] == "ok") & measurements["step_ns"].notna()]
    return {str(name): rounds.sort_values("round") for name, rounds in rows.groupby("case_id", sort=False)}


def _ok(measurements: pd.DataFrame, summary: pd.DataFrame) -> list[tuple[dict[Any, Any], pd.DataFrame]]:
    timed, absent = _timed(measurements), left_out(measurements, summary)
    return [(row, timed[row["case_id"]]) for row in summary.to_dict("records") if row["case_id"] not in absent]


def _benchmark(row: Mapping[Any, Any], rounds: pd.DataFrame) -> dict[str, Any]:
    case_id = str(row["case_id"])
    return {
        "group": "/".join(str(row[name]) for name in ("workload", "device", "dtype")) + f"/b{row['batch_size']}",
        "name": case_id,
        "fullname": case_id,
        "params": {name: _value(row[name]) for name in _PARAMETERS},
        "param": case_id,
        "extra_info": {name: _value(row[name]) for name in _EXTRA},
        "options": {},
        "stats": {
            **_statistics([ns / 1e9 for ns in rounds["step_ns"].astype(float)]),
            "iterations": _iterations(rounds["block_steps"]),
        },
    }


def _statistics(seconds: Sequence[float]) -> dict[str, Any]:
    """Return pytest-benchmark's statistics of the rounds.

    Quartiles by methods 2 and 3 of https://en.wikipedia.org/wiki/Quartile, for even and odd numbers.
    """
    data = sorted(seconds)
    half, other = len(data) // 2, (len(data) + 1) // 2  # without and with the middle one: method 3 is their mean
    ends = [(data[:half], data[:other]), (data[other:], data[half:])]
    q1, q3 = ((statistics.median(one or two) + statistics.median(two)) / 2 for one, two in ends)
    mean, deviation = statistics.fmean(data), statistics.stdev(data) if len(data) > 1 else 0.0
    iqr = q3 - q1
    low, high = q1 - 1.5 * iqr, q3 + 1.5 * iqr
    by_deviation = sum(abs(value - mean) > deviation for value in data)
    by_quartiles = sum(not low <= value <= high for value in data)
    return {
        "min": data[0],
        "max": data[-1],
        "mean": mean,
        "stddev": deviation,
        "rounds": len(data),
        "median": statistics.median(data),
        "iqr": iqr,
        "q1": q1,
        "q3": q3,
        "iqr_outliers": by_quartiles,
        "stddev_outliers": by_deviation,
        "outliers": f"{by_deviation};{by_quartiles}",
        "ld15iqr": min(value for value in data if value >= low),
        "hd15iqr": max(value for value in data if value <= high),
        "ops": 1 / mean,
        "total": math.fsum(data),
        "data": list(seconds),
    }


def _iterations(block_steps: "pd.Series[Any]") -> int:
    known = block_steps.dropna()
    return max(1, int(known.median())) if len(known) else 1


def _machine(slug: str, facts: Mapping[str, Any]) -> dict[str, Any]:
    """Return what pytest-benchmark calls a machine; `node` is the hardware's name, never the host's."""
    system, _, release = str(facts.get("system", "")).partition(" ")
    named = {
        "node": slug,
        "processor": facts.get("cpu_model", ""),
        "machine": facts.get("machine_arch", ""),
        "python_version": facts.get("python", ""),
        "system": system,
        "release": release,
        "cpu": {"brand_raw": facts.get("cpu_model", ""), "count": facts.get("cpus")},
    }
    return {**facts, **named}


def _started(run_id: str) -> str | None:
    found = re.match(r"\d{8}T\d{6}Z", run_id)
    try:
        return datetime.strptime(found[0], "%Y%m%dT%H%M%SZ").replace(tzinfo=UTC).isoformat() if found else None
    except ValueError:  # a name that only looks like a time
        return None


def _entry(row: Mapping[Any, Any], rounds: int) -> dict[str, Any]:
    step, low, high = (float(row[name]) for name in ("step_ns", "step_ns_low", "step_ns_high"))
    half = max(high - step, step - low)
    spread = {"range": f"± {half:.6g}"} if math.isfinite(half) else {}
    return {"name": str(row["case_id"]), "unit": "ns", "value": step, **spread, "extra": _told(row, rounds)}


def _told(row: Mapping[Any, Any], rounds: int) -> str:
    lines = [
        f"rounds: {rounds}",
        f"machine: {row['machine']}",
        f"commit: {row['commit']}{'-dirty' * bool(row['dirty'])}",
    ]
    if not pd.isna(row["ratio_to_autograd"]):
        within = "" if pd.isna(row["ratio_low"]) else f" [{row['ratio_low']:.3g}, {row['ratio_high']:.3g}]"
        lines.append(f"times as fast as autograd: {row['ratio_to_autograd']:.3g}{within}")
    if not pd.isna(row["converged_share"]):
        lines.append(f"converged: {row['converged_share']:.1%} of {row['seeds']:.0f} seeds")
    return "\n".join(lines)


def _value(cell: Any) -> Any:
    """Return a cell as JSON has it: null for what is empty or no finite number."""
    if isinstance(cell, str):
        return cell
    if pd.isna(cell) or not math.isfinite(cell):
        return None
    return int(cell) if float(cell).is_integer() and not isinstance(cell, float) else float(cell)
