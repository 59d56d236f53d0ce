"""Which engine is fastest at which batch size, where two of them cross, and when preparing one has paid for itself.

All from the rounds of one run: engines of one group – equal workload, device, dtype and threads – are compared in pairs
of the same round, and every ratio has its 95 % t-interval on the logs.
"""

import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy import special

from harness.comparing.rule import Array

YARDSTICK = "autograd"

# What is read of the table `measurements`.
READ = (
    *("case_id", "workload", "engine", "device", "dtype", "batch_size", "threads", "ranks", "round", "outcome"),
    *("step_ns", "setup_ns", "first_call_cold_ns", "first_call_warm_ns", "machine", "commit", "dirty"),
)
_PREPARING = ("setup_ns", "first_call_cold_ns", "first_call_warm_ns")
_GROUP = ["workload", "device", "dtype", "threads", "machine"]


@dataclass(frozen=True)
class Standing:
    """One engine at one batch size.

    step_ns: geometric mean of its rounds. behind: its step time over the fastest one's, with interval; NaN where it
    shares no two rounds with that.
    """

    engine: str
    step_ns: float
    behind: float
    low: float
    high: float

    @property
    def level(self) -> bool:
        """Whether these rounds do not tell it from the fastest."""
        return not self.low > 1


@dataclass(frozen=True)
class Size:
    """The engines at one batch size, the fastest first."""

    batch_size: int
    standings: tuple[Standing, ...]

    @property
    def fastest(self) -> Standing:
        """The engine with the least step time."""
        return self.standings[0]


@dataclass(frozen=True)
class Crossing:
    """Where one engine overtakes another as batches grow.

    batch_size: by straight lines between the measured ones, both axes logarithmic. low, high: the same of the ends of
    the ratios' intervals; NaN where these do not cross within what was measured.
    """

    below: str
    above: str
    batch_size: float
    low: float
    high: float


@dataclass(frozen=True)
class BreakEven:
    """After how many updates an engine has made up for what preparing it costs more than `autograd`'s.

    cold, warm: with an empty compile cache and with a filled one; infinite where an update is not faster, 0 where to
    prepare it costs no more, NaN where it was not measured. low, high: of the interval of the time saved per update.
    """

    engine: str
    batch_size: int
    cold: float
    cold_low: float
    cold_high: float
    warm: float
    warm_low: float
    warm_high: float


@dataclass(frozen=True)
class Group:
    """All engines of one workload, device, dtype and number of threads. rounds: the fewest that any of them has."""

    workload: str
    device: str
    dtype: str
    threads: int
    rounds: int
    sizes: tuple[Size, ...]
    crossings: tuple[Crossing, ...]
    break_evens: tuple[BreakEven, ...]


def crossovers(measurements: pd.DataFrame) -> list[Group]:
    """Return the groups of a run's table `measurements` (columns READ) that have times of two engines or more."""
    timed = measurements[(measurements["outcome"] == "ok") & measurements["step_ns"].notna()]
    # Several ranks share a batch: that is another machine, and `scaling_efficiency` tells of it.
    timed = timed[timed["ranks"].fillna(1) == 1]
    failed = set(measurements.loc[measurements["outcome"] != "ok", "case_id"])
    timed = timed[~timed["case_id"].isin(failed)]
    groups = [
        _group(rows) for _, rows in timed.groupby(_GROUP, sort=False, dropna=False) if rows["engine"].nunique() > 1
    ]
    return [group for group in groups if group.sizes]


def _group(rows: pd.DataFrame) -> Group:
    by_size = {
        int(str(size)): _logs(cases) for size, cases in rows.groupby("batch_size") if cases["engine"].nunique() > 1
    }
    first = rows.iloc[0]
    sizes = tuple(Size(size, _standings(logs)) for size, logs in by_size.items())
    return Group(
        workload=str(first["workload"]),
        device=str(first["device"]),
        dtype=str(first["dtype"]),
        threads=0 if pd.isna(first["threads"]) else int(first["threads"]),
        rounds=int(rows.groupby("case_id")["round"].nunique().min()),
        sizes=sizes,
        crossings=tuple(_crossings(sizes, by_size)),
        break_evens=tuple(_break_evens(rows, by_size)),
    )


def _logs(cases: pd.DataFrame) -> pd.DataFrame:
    """Return log step times in ns `[rounds, engines]` of one batch size, NaN where a round has none."""
    table = cases.pivot(index="round", columns="engine", values="step_ns")
    return pd.DataFrame(np.log(table.astype(float)), columns=list(dict.fromkeys(cases["engine"])))


def _standings(logs: pd.DataFrame) -> tuple[Standing, ...]:
    means = logs.mean().sort_values(kind="stable")
    fastest = logs[means.index[0]].to_numpy()
    found = []
    for engine, mean in means.items():
        ratio, half = _interval(logs[engine].to_numpy() - fastest)
        found.append(
            Standing(str(engine), math.exp(mean), math.exp(ratio), math.exp(ratio - half), math.exp(ratio + half))
        )
    return tuple(found)


def _interval(values: Array) -> tuple[float, float]:
    """Return mean and half width of the 95 % t-interval of what is finite; NaN of too few."""
    there = values[np.isfinite(values)]
    if not len(there):
        return math.nan, math.nan
    half = math.nan
    if len(there) > 1:
        half = float(special.stdtrit(len(there) - 1, 0.975) * there.std(ddof=1) / math.sqrt(len(there)))
    return float(there.mean()), half


def _crossings(sizes: Sequence[Size], by_size: dict[int, pd.DataFrame]) -> Iterator[Crossing]:
    for left, right in itertools.pairwise(sizes):
        below, above = left.fastest.engine, right.fastest.engine
        shared = [size for size, logs in by_size.items() if below in logs and above in logs]
        if below == above or left.batch_size not in shared or right.batch_size not in shared:
            continue
        at = np.log(np.array(shared, dtype=float))
        found = [_interval(by_size[size][below].to_numpy() - by_size[size][above].to_numpy()) for size in shared]
        ratio, half = np.array(found).T
        place = shared.index(left.batch_size)
        yield Crossing(
            below,
            above,
            _root(at, ratio, place, rightwards=True),
            # Where `above` may be the faster one already, and where it surely is.
            _root(at, ratio + half, place + 1, rightwards=False),
            _root(at, ratio - half, place, rightwards=True),
        )


def _root(at: Array, curve: Array, start: int, *, rightwards: bool) -> float:
    """Return the batch size at which a curve of logs rises through 0, walking from a place; NaN where it never does."""
    places = range(start, len(at) - 1) if rightwards else range(start - 1, -1, -1)
    for place in places:
        low, high = curve[place], curve[place + 1]
        if low <= 0 < high:
            return float(np.exp(at[place] + (at[place + 1] - at[place]) * -low / (high - low)))
    return math.nan


def _break_evens(rows: pd.DataFrame, by_size: dict[int, pd.DataFrame]) -> Iterator[BreakEven]:
    of_case = rows.groupby(["batch_size", "engine"])[list(_PREPARING)].median().to_dict("index")
    for size, logs in by_size.items():
        if YARDSTICK not in logs:
            continue
        yardstick = of_case[size, YARDSTICK]
        usual = yardstick["setup_ns"] + yardstick["first_call_warm_ns"]
        for engine in logs:
            if engine == YARDSTICK:
                continue
            mine = of_case[size, engine]
            saved, half = _interval(np.exp(logs[YARDSTICK].to_numpy()) - np.exp(logs[engine].to_numpy()))
            told = []
            for first_call in ("first_call_cold_ns", "first_call_warm_ns"):
                extra = mine["setup_ns"] + mine[first_call] - usual
                told += [_updates(extra, gain) for gain in (saved, saved + half, saved - half)]
            yield BreakEven(str(engine), size, *told)


def _updates(extra_ns: float, saved_ns: float) -> float:
    """Return how many updates, each so much faster, make up for so much time; infinite where none do."""
    if math.isnan(extra_ns) or math.isnan(saved_ns):
        return math.nan
    if saved_ns <= 0:
        return math.inf
    return max(0.0, extra_ns / saved_ns)
