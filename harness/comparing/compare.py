"""Two runs, case by case: what may be compared, outcomes before times, and a verdict with a known error rate.

Rounds of one session, in which both sides were measured in turn, carry a firm verdict (`comparing.rule`). Two sessions
differ by more than their rounds tell – temperature, neighbours, a reboot –, so a comparison of them is advisory: slower
or faster only beyond what sessions of this machine differ by (`comparing.sessions`).
"""

import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray
from scipy import special

from harness.comparing.rule import (
    MOST_SAME,
    Array,
    Comparison,
    Verdict,
    clipped,
    compare_case,
    holm,
    margin,
    moments,
    rounds_needed,
    spread,
    verdicts,
    welch,
)
from harness.comparing.sessions import SessionSpread
from harness.measuring.machine import COMPARABLE
from harness.plan.errors import NotComparable, PlanError
from harness.plan.text import printable
from harness.tables.cells import environment_of

# Of a process, where the machine was never measured against itself and its rounds do not spread more.
ASSUMED_SPREAD = 0.01
# What else a user may declare to differ: these are of a case, not of a machine.
CASE_KEYS = ("threads", "workload")
# Facts that make two runs less alike, but may be wanted to differ.
_WARNED = ("gpu_driver", "gpu_power_limit_w", "gpu_uuid", "system", "compiler", "numpy", "triton")
FEW_ROUNDS = 5

# What is read of a run: columns of the tables `measurements` and `summary`.
MEASURED = (
    *("case_id", "round", "outcome", "reason", "step_ns", "threads", "run_id", "commit", "dirty", "machine"),
    *("fingerprint", "session", "workload_digest", "environment"),
)
SUMMARISED = (
    *("case_id", "outcome", "reason", "threads", "workload_digest", "rounds"),
    *("converged_share", "converged_low", "converged_high"),
)


class Status(StrEnum):
    """What is said of a case.

    regressed, improved, same, undecided: by the rule, in one session. slower, faster, within (what sessions differ by):
    between two sessions, advisory. lost: `ok` in the base and not any more. converges_less: in fewer seeds. fixed:
    `ok` only now. failing: on neither side. new, missing: on one side only. changed: another thing under the same name.
    """

    REGRESSED = "regressed"
    IMPROVED = "improved"
    SAME = "same"
    UNDECIDED = "undecided"
    SLOWER = "slower"
    FASTER = "faster"
    WITHIN = "within"
    LOST = "lost"
    CONVERGES_LESS = "converges_less"
    FIXED = "fixed"
    FAILING = "failing"
    NEW = "new"
    MISSING = "missing"
    CHANGED = "changed"


_FAILED = (Status.REGRESSED, Status.SLOWER, Status.LOST, Status.CONVERGES_LESS)
_FIRM = (Status.REGRESSED, Status.IMPROVED, Status.SAME)


@dataclass(frozen=True)
class Run:
    """One side of a comparison.

    name: as the user called it. measurements: its table, of one run. summary: the table, where it is known: it knows
    what was to be measured, and what did not converge. facts: of its machine, as far as they are known.
    """

    name: str
    measurements: pd.DataFrame
    summary: pd.DataFrame | None = None
    facts: Mapping[str, Any] = field(default_factory=dict)

    def only(self, column: str) -> str:
        """Return the one value of a column that is the same in all rows; empty where the table has none."""
        values = self.measurements[column].unique() if column in self.measurements else [""]
        if len(values) > 1:
            raise NotComparable(
                f"{self.name} holds rows of {len(values)} different {column}: compare takes one run a side"
            )
        return str(values[0]) if len(values) else ""

    @property
    def session(self) -> str:
        """The session in which it was measured."""
        return self.only("session") or self.only("run_id")

    def environment(self) -> Mapping[str, str]:
        """Return what its fingerprint is made of, by name; nothing where neither table nor facts tell."""
        told = environment_of(self.only("environment"))
        return told or {name: str(self.facts[name]) for name in COMPARABLE if name in self.facts}


@dataclass(frozen=True)
class CaseResult:
    """One case against its base.

    change: of the step time, 0.05 is 5 % slower, with its 95 % interval. p: adjusted over the table. margin: the least
    change that counts. spread: between processes, from `noise`, the `rounds` themselves, or `assumed`. rounds_needed: a
    side, of one session, until an undecided case is decided; NaN where no number of rounds would.
    """

    case_id: str
    status: Status
    reason: str = ""
    base_ns: float = math.nan
    new_ns: float = math.nan
    change: float = math.nan
    low: float = math.nan
    high: float = math.nan
    p: float = math.nan
    margin: float = math.nan
    spread: float = math.nan
    spread_from: str = ""
    rounds_base: int = 0
    rounds_new: int = 0
    rounds_needed: float = math.nan

    @property
    def failed(self) -> bool:
        """Whether this is a regression."""
        return self.status in _FAILED


@dataclass(frozen=True)
class Aggregate:
    """Geometric mean of the changes of all cases that are `ok` on both sides, with its 95 % interval."""

    cases: int
    change: float
    low: float
    high: float


@dataclass(frozen=True)
class Compared:
    """A whole comparison.

    firm: whether both sides were measured in one session; paired: in the same rounds. sessions: what is known of how
    this machine's sessions differ, None for nothing. varied: what differs as declared, with both values.
    """

    base: Run
    new: Run
    cases: tuple[CaseResult, ...]
    aggregate: Aggregate | None
    firm: bool
    paired: bool
    sessions: SessionSpread | None = None
    varied: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()

    @property
    def failed(self) -> tuple[CaseResult, ...]:
        """The regressions."""
        return tuple(case for case in self.cases if case.failed)

    @property
    def lost(self) -> bool:
        """Whether a case that was right is not any more: no question of noise, nor of sessions."""
        return any(case.status in (Status.LOST, Status.CONVERGES_LESS) for case in self.cases)

    @property
    def undecided(self) -> bool:
        """Whether any case is, or is another thing than it was, or nothing has a time on both sides."""
        return self.aggregate is None or bool(self.of(Status.UNDECIDED, Status.CHANGED))

    def of(self, *statuses: Status) -> tuple[CaseResult, ...]:
        """Return the cases with one of these statuses."""
        return tuple(case for case in self.cases if case.status in statuses)


def compare_runs(
    base: Run,
    new: Run,
    *,
    vary: Collection[str] = (),
    spreads: Mapping[str, float] | None = None,
    least: float | None = None,
    sessions: SessionSpread | None = None,
) -> Compared:
    """Compare two runs; changes are of step times, new over base.

    vary: keys of the environment, `threads` or `workload`, that are meant to differ. spreads: between processes by
    case, as `harness noise` measured them. least: the smallest change that counts, 0.02 is 2 %, instead of the rule's.
    sessions: how sessions of this machine differ, for two that do. Raises PlanError for an unknown key, NotComparable,
    naming keys and both values, for runs that are not comparable or share no case.
    """
    varied = check_comparable(base, new, vary)
    firm = base.session == new.session
    statuses = _before_times(base, new, vary)
    names = [name for name, (status, _) in statuses.items() if status is None]
    if all(status in (Status.NEW, Status.MISSING, Status.CHANGED) for status, _ in statuses.values()):
        why = next((f": {reason}" for status, reason in statuses.values() if status is Status.CHANGED), "")
        raise NotComparable(f"no case is both in {base.name} and in {new.name}{why}")
    shared = set(base.measurements["round"]) & set(new.measurements["round"])
    then, now = _logs(base, names, shared), _logs(new, names, shared)
    # All cases or none: a case measured in rounds of its own would lose them.
    paired = firm and bool((np.isfinite(now - then).sum(axis=-1) > 1).all()) and bool(names)
    if not paired:
        then, now = _logs(base, names), _logs(new, names)
    known = np.array([(spreads or {}).get(name, math.nan) for name in names], dtype=float)
    found = judge(then, now, paired=paired, known=known, least=least, sessions=None if firm else sessions, firm=firm)
    timed = dict(zip(names, _results(names, then, now, found), strict=True))
    cases = tuple(
        timed[name] if status is None else CaseResult(name, status, reason)
        for name, (status, reason) in statuses.items()
    )
    return Compared(
        base=base,
        new=new,
        cases=cases,
        aggregate=_aggregate(then, now, paired=paired, between=None if firm else (sessions or SessionSpread())),
        firm=firm,
        paired=paired,
        sessions=None if firm else sessions,
        varied=varied,
        warnings=_warnings(base, new, float(np.nanmin(np.append(found.table.rounds, math.inf)))),
    )


def check_comparable(base: Run, new: Run, vary: Collection[str] = ()) -> tuple[str, ...]:
    """Return what differs as declared, `key: base's and new's value`; raises NotComparable for all else that does."""
    for key in vary:
        if key not in (*COMPARABLE, *CASE_KEYS):
            raise PlanError(f"--vary {printable(key)}: use one of {', '.join((*COMPARABLE, *CASE_KEYS))}")
    for run in (base, new):
        if run.measurements.empty:
            raise NotComparable(f"{run.name} holds no measurements")
    if base.only("run_id") == new.only("run_id"):
        raise NotComparable(f"{base.name} and {new.name} are the same run, {base.only('run_id')}")
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
        raise NotComparable(f"{'; '.join(differing[key] for key in undeclared)}; if that is meant, add {flags}")
    return tuple(differing.values())


@dataclass(frozen=True)
class Judged:
    """Arrays `[..., cases]`: comparison, adjusted p, margin, spread, statuses, rounds a side that would decide it."""

    table: Comparison
    p: Array
    margin: Array
    spread: Array
    from_noise: NDArray[np.bool_]
    status: NDArray[np.str_]
    rounds_needed: Array


def judge(
    base: Array,
    new: Array,
    *,
    paired: bool,
    known: ArrayLike = math.nan,
    least: float | None = None,
    sessions: SessionSpread | None = None,
    firm: bool = True,
) -> Judged:
    """Judge log step times `[..., cases, rounds]` of one table, or of many.

    known: spread of a process, `[..., cases]`, NaN where it was not measured; then it is that of these rounds, but at
    least ASSUMED_SPREAD. firm: of one session; else the margin is what sessions differ by.
    """
    shape = base.shape[:-1]
    known = np.broadcast_to(np.asarray(known, dtype=float), shape)
    own = _own_spread(base, new, paired=paired)
    spreads = np.where(known > 0, known, np.fmax(ASSUMED_SPREAD, own))
    table = compare_case(base, new, paired=paired, spread=spreads)
    chosen = None if least is None else math.log1p(least)
    if firm:
        limit = margin(spreads, table.rounds) if chosen is None else np.full(shape, chosen)
        status = verdicts(table, limit, within=MOST_SAME if chosen is None else chosen)
        undecided = status == Verdict.UNDECIDED
        needed = np.full(shape, np.nan)
        if undecided.any():
            needed = np.where(undecided, rounds_needed(table, spreads, chosen=chosen), np.nan)
    else:
        between = sessions or SessionSpread()
        limit = between.margin(spreads)
        limit = np.fmax(limit, chosen) if chosen is not None else limit
        # Noise widens an assumed margin, and proves nothing.
        near = np.minimum(limit, between.margin(np.zeros(shape)) if chosen is None else limit)
        status = np.select(
            [table.low95 > limit, table.high95 < -limit, (table.low95 > -near) & (table.high95 < near)],
            [np.str_(Status.SLOWER), np.str_(Status.FASTER), np.str_(Status.WITHIN)],
            np.str_(Status.UNDECIDED),
        )
        needed = np.full(shape, np.nan)
    # Of two sessions, rounds tell no p: these differ by more.
    p = holm(table.p) if firm else np.full(shape, np.nan)
    return Judged(table, p, limit, spreads, np.asarray(known > 0), status, needed)


def _before_times(base: Run, new: Run, vary: Collection[str]) -> dict[str, tuple[Status | None, str]]:
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


_CASE_COLUMNS = ("outcome", "reason", "threads", "workload_digest")
_SHARES = ("converged_share", "converged_low", "converged_high")


def _cases(run: Run) -> dict[str, dict[str, Any]]:
    """Return of each case of a run how it ended and what it is, from the summary where there is one."""
    failed_last = run.measurements.assign(_failed=run.measurements["outcome"] != "ok").sort_values(
        "_failed", kind="stable", ascending=False
    )
    measured = failed_last.drop_duplicates("case_id").set_index("case_id")
    order = list(dict.fromkeys(run.measurements["case_id"]))
    rows = measured.loc[order]
    cases = _as_dicts(rows, _CASE_COLUMNS) if order else {}
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


def _logs(run: Run, names: list[str], shared: set[int] | None = None) -> Array:
    """Return the log step times `[cases, rounds]`, NaN where a round has none; of the shared rounds only, if given."""
    table = run.measurements
    rounds = np.array(sorted(shared if shared is not None else set(table["round"])))
    place = table["case_id"].map({name: number for number, name in enumerate(names)}).to_numpy(dtype=float)
    number = table["round"].to_numpy()
    kept = np.isfinite(place) & np.isin(number, rounds)
    logs = np.full((len(names), len(rounds)), np.nan)
    if kept.any():
        times = table["step_ns"].to_numpy(dtype=float)[kept]
        logs[place[kept].astype(int), np.searchsorted(rounds, number[kept])] = np.log(times)
    return logs


def _own_spread(base: Array, new: Array, *, paired: bool) -> Array:
    """Return the spread of a process as these rounds have it; NaN where there are fewer than two."""
    if paired:
        return spread(new - base) / math.sqrt(2)
    return np.sqrt((spread(base) ** 2 + spread(new) ** 2) / 2)


def _results(names: list[str], then: Array, now: Array, found: Judged) -> list[CaseResult]:
    sides = np.array([moments(clipped(logs))[0] for logs in (then, now)])
    rows = []
    for number, name in enumerate(names):
        effect = float(found.table.effect[number])
        # So that the two times differ by the change, which is taken pair by pair: the means of the sides may not.
        middle = float(sides[:, number].mean())
        own = found.spread[number] > ASSUMED_SPREAD
        rows.append(
            CaseResult(
                case_id=name,
                status=Status(str(found.status[number])),
                base_ns=math.exp(middle - effect / 2),
                new_ns=math.exp(middle + effect / 2),
                change=math.expm1(effect),
                low=float(np.expm1(found.table.low95[number])),
                high=float(np.expm1(found.table.high95[number])),
                p=float(found.p[number]),
                margin=float(np.expm1(found.margin[number])),
                spread=float(found.spread[number]),
                spread_from="noise" if found.from_noise[number] else "rounds" if own else "assumed",
                rounds_base=int(np.isfinite(then[number]).sum()),
                rounds_new=int(np.isfinite(now[number]).sum()),
                rounds_needed=float(found.rounds_needed[number]),
            )
        )
    return rows


def _aggregate(then: Array, now: Array, *, paired: bool, between: SessionSpread | None) -> Aggregate | None:
    """Return the mean change over cases; over rounds, since what disturbs a round disturbs many of its cases."""
    there = np.isfinite(then).any(axis=-1) & np.isfinite(now).any(axis=-1)
    if not there.any():
        return None
    if paired:
        ratios = _by_round(clipped(now[there] - then[there]))
        ratios = ratios[np.isfinite(ratios)]
        effect, freedom = float(ratios.mean()) if len(ratios) else math.nan, float(len(ratios) - 1)
        error = float(ratios.std(ddof=1) / math.sqrt(len(ratios))) if freedom > 0 else math.nan
    else:
        difference, deviation, free, _ = welch(*(_by_round(clipped(logs[there])) for logs in (then, now)))
        effect, error, freedom = float(difference), float(deviation), float(free)
    half = float(special.stdtrit(freedom, 0.975)) * error if error > 0 else math.nan
    if between is not None:
        half = math.hypot(half, between.common_margin)
    low, high = math.expm1(effect - half), math.expm1(effect + half)
    return Aggregate(int(there.sum()), math.expm1(effect), low, high)


def _by_round(logs: Array) -> Array:
    """Return the mean over cases of each round, as if no case were missing in any."""
    centre = np.array([row[np.isfinite(row)].mean() for row in logs])[:, None]
    there = np.isfinite(logs)
    count = there.sum(axis=0)
    deviations = np.where(there, logs - centre, 0).sum(axis=0) / np.where(count > 0, count, np.nan)
    return np.asarray(centre.mean() + deviations)


def _warnings(base: Run, new: Run, rounds: float) -> tuple[str, ...]:
    told = [
        f"{key} differs: {_value(base.facts, key)} and {_value(new.facts, key)}"
        for key in _WARNED
        if base.facts and new.facts and base.facts.get(key) != new.facts.get(key)
    ]
    for run in (base, new):
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
    if rounds < FEW_ROUNDS:
        told.append(f"{rounds:g} rounds a side are too few to see a slowdown of 5 %: use 10")
    return tuple(told)


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
