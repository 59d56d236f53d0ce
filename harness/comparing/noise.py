"""The machine measured against itself: how much it spreads, and how often each rule cries wolf.

All of it comes from one run, that is from one session. What differs between sessions – hours, temperature, reboots – is
not in it: the spread and the rates of false alarms are lower bounds of those between two runs. The halves of r rounds
have r / 2 a side: the rates are those of runs of so many rounds. The rule is given the spread of the same rounds.
Paired, the core's clock is taken out of them (`comparing.clock`), as in a comparison of one run.
"""

from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import stats

from harness.comparing.clock import judge_clocked, without_clock
from harness.comparing.compared import Status
from harness.comparing.judge import Judged, judge
from harness.comparing.rounds import TABLE_CASES, least_seen, rounds_for
from harness.comparing.rule import Array, clipped, spread, welch
from harness.comparing.sessions import SessionSpread
from harness.plan.errors import PlanError
from harness.tables.columns import NOISE

LEAST_ROUNDS = 10
SPLITS = 1000
SENSITIVITIES = (2, 3, 5, 10)  # percent: the columns rounds_for_…

Alarms = NDArray[np.bool_]


def measure_noise(
    measurements: pd.DataFrame, *, table_cases: int = TABLE_CASES, splits: int = SPLITS, seed: int = 0
) -> pd.DataFrame:
    """Return the table `noise` of one run's `measurements`, one row per case.

    table_cases: how many cases the runs will have for which rounds are suggested. splits: random halves for the rates
    of false alarms. A case that is not `ok` in all its rounds, or has fewer than LEAST_ROUNDS, keeps its row and has no
    noise. Raises PlanError when no case has enough rounds, or the table is not of one run.
    """
    if measurements["run_id"].nunique() != 1:
        raise PlanError(f"noise is of one run, this table holds {measurements['run_id'].nunique()}")
    numbers = np.sort(measurements["round"].unique()).astype(float)
    cases = [rows for _, rows in measurements.groupby("case_id", sort=False)]
    logs = np.stack([_logs(rows, numbers) for rows in cases])
    work = np.stack([_work(rows, numbers) for rows in cases]) if _one_work(measurements) else np.full_like(logs, np.nan)
    measured: NDArray[np.bool_] = np.asarray(np.isfinite(logs).any(axis=-1))
    if not measured.any():
        most = max(int((rows["outcome"] == "ok").sum()) for rows in cases)
        raise PlanError(f"noise needs {LEAST_ROUNDS} rounds of a case that is ok in all of them; at most {most} were")
    alarms = false_alarms(logs, spread(logs), work, splits=splits, seed=seed)
    left = _left(without_clock(*_neighbours(logs), *_neighbours(work)).left)
    anywhere = {f"{rule}_table_share": float(called.any(axis=-1).mean()) for rule, called in alarms.items()}
    rows = []
    for number, (case, own) in enumerate(zip(cases, logs, strict=True)):
        row: dict[str, Any] = {name: case[name].iloc[0] for name in case.columns}
        row |= {**_disturbed(case), "rounds": int((case["outcome"] == "ok").sum()), **anywhere}
        if measured[number]:
            row |= _noise(numbers, own, table_cases, float(left[number]))
            row |= {f"{rule}_alarm_share": float(called[:, number].mean()) for rule, called in alarms.items()}
        rows.append(row)
    frame = pd.DataFrame(rows, columns=[column.name for column in NOISE])
    numeric = {
        column.name: float for column in NOISE if column.unit not in ("text", "count") and column.name != "dirty"
    }
    return frame.astype({**numeric, **{column.name: "Int64" for column in NOISE if column.unit == "count"}})


def false_alarms(
    logs: Array, spreads: Array, work: Array | None = None, *, splits: int = SPLITS, seed: int = 0
) -> dict[str, Alarms]:
    """Return by rule which cases it calls different, `[splits, cases]`, between random halves of a run that is all one.

    logs: `[cases, rounds]`; work: those of the core's fixed work, NaN where it is not known. Every case is split alike.
    Unpaired, a half is drawn from all rounds; paired, each pair of neighbouring rounds gives one to either half, in
    random order, as a run that interleaves two revisions has it.
    """
    one, other = (logs[:, rounds].swapaxes(0, 1) for rounds in _halves(logs.shape[1], splits, seed))
    work = np.full_like(logs, np.nan) if work is None else work
    pairs = _pairs(logs.shape[1], splits, seed)
    first, second, *works = (of[:, rounds].swapaxes(0, 1) for of in (logs, work) for rounds in pairs)
    paired = judge_clocked(first, second, without_clock(first, second, *works), known=spreads)
    apart = np.abs(_mean(np.exp(other)) / _mean(np.exp(one)) - 1)
    effect, error, freedom, _ = welch(one, other)
    with np.errstate(divide="ignore", invalid="ignore"):
        p = 2 * stats.t.sf(np.abs(effect) / error, freedom)
    slower = effect - stats.t.ppf(0.975, freedom) * error
    return {
        "ratio_2": np.asarray(apart > 0.02),
        "ratio_5": np.asarray(apart > 0.05),
        "welch": p < 0.05,
        "rule": _called(judge(one, other, paired=False, known=spreads)),
        "paired_rule": _called(paired),
        "baseline": np.asarray(slower > SessionSpread().margin(spreads)),
    }


def _logs(rows: pd.DataFrame, numbers: Array) -> Array:
    """Return the log step times of one case in the order of the run's rounds, all NaN where it has no noise."""
    own = np.full(len(numbers), np.nan)
    times = rows["step_ns"].to_numpy(dtype=float)
    if (rows["outcome"] == "ok").all() and len(rows) >= LEAST_ROUNDS and (times > 0).all():
        own[np.searchsorted(numbers, rows["round"].to_numpy(dtype=float))] = np.log(times)
    return own


def _one_work(measurements: pd.DataFrame) -> bool:
    """Whether the fixed work that tells how fast a core was is known, and the same in all processes."""
    return {"core_work", "core_ns"} <= set(measurements) and len(set(measurements["core_work"]) - {""}) == 1


def _work(rows: pd.DataFrame, numbers: Array) -> Array:
    """Return the logs of the fixed work of one case in the order of the run's rounds, NaN where it is not known."""
    own = np.full(len(numbers), np.nan)
    work = rows["core_ns"].to_numpy(dtype=float)
    own[np.searchsorted(numbers, rows["round"].to_numpy(dtype=float))] = np.log(np.where(work > 0, work, np.nan))
    return own


def _neighbours(logs: Array) -> tuple[Array, Array]:
    """Return what neighbouring rounds `[cases, rounds]` have as pairs."""
    most = logs.shape[1] // 2 * 2
    return logs[:, 0:most:2], logs[:, 1:most:2]


def _left(left: Array) -> Array:
    """Return of what is left of each case's spread no less than of all together: ten pairs tell it badly."""
    taken = left < 1
    return np.where(taken, np.maximum(left, np.sqrt(np.mean(left[taken] ** 2))), 1.0) if taken.any() else left


def _noise(numbers: Array, logs: Array, cases: int, left: float) -> dict[str, float]:
    there = np.isfinite(logs)
    numbers, logs = numbers[there], logs[there]
    own = float(spread(logs))
    slope = stats.theilslopes(logs, numbers, alpha=0.95)
    length = numbers[-1] - numbers[0]
    return {
        "spread": own,
        "drift": float(np.expm1(slope.slope * length)),
        "drift_low": float(np.expm1(slope.low_slope * length)),
        "drift_high": float(np.expm1(slope.high_slope * length)),
        "autocorrelation": _autocorrelation(clipped(logs)),
        "clock_left": left,
        "least_with_3_rounds": least_seen(own, 3, cases=cases, paired=False),
        **{
            f"rounds_for_{percent}": rounds_for(own, percent / 100, cases=cases, left=left) for percent in SENSITIVITIES
        },
    }


def _autocorrelation(logs: Array) -> float:
    around = logs - logs.mean()
    if np.ptp(logs) == 0:
        return float("nan")
    return float((around[1:] * around[:-1]).sum() / (around**2).sum())


def _disturbed(rows: pd.DataFrame) -> dict[str, float]:
    blocks = float(rows["blocks"].sum())
    return {"disturbed_share": float(rows["blocks_disturbed"].sum()) / blocks if blocks else float("nan")}


def _called(judged: Judged) -> Alarms:
    return np.asarray((judged.status == Status.REGRESSED) | (judged.status == Status.IMPROVED))


def _mean(values: Array) -> Array:
    there = np.isfinite(values)
    count = there.sum(axis=-1)
    return np.asarray(np.where(there, values, 0).sum(axis=-1) / np.where(count > 0, count, np.nan))


def _halves(rounds: int, splits: int, seed: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    order = np.random.default_rng(seed).permuted(np.tile(np.arange(rounds), (splits, 1)), axis=1)
    half = rounds // 2
    return order[:, :half], order[:, half : 2 * half]


def _pairs(rounds: int, splits: int, seed: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    firsts = 2 * np.arange(rounds // 2)
    swapped = np.random.default_rng(seed).integers(0, 2, (splits, len(firsts)))
    return firsts + swapped, firsts + 1 - swapped
