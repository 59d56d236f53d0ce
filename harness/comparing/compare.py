"""Two runs, case by case: what may be compared, outcomes before times, and a verdict with a known error rate.

Rounds of one session, in which both sides were measured in turn, carry a firm verdict (`comparing.rule`). Two sessions
differ by more than their rounds tell – temperature, neighbours, a reboot –, so a comparison of them is advisory: slower
or faster only beyond what sessions of this machine differ by (`comparing.sessions`).
"""

import math
from collections.abc import Collection, Mapping

import numpy as np
from scipy import special

from harness.comparing.comparable import check_comparable, warnings
from harness.comparing.compared import Aggregate, CaseResult, Compared, Disturbed, Status
from harness.comparing.disturbed import throughout
from harness.comparing.judge import ASSUMED_SPREAD, MANY_CASES, Judged, judge
from harness.comparing.outcomes import before_times
from harness.comparing.pairs import Evidence, JudgedPairs, judge_pairs
from harness.comparing.rounds import MOST_ROUNDS, rounds_needed
from harness.comparing.rule import Array, clipped, moments, welch
from harness.comparing.run import Run
from harness.comparing.sessions import SessionSpread
from harness.plan.errors import NotComparable
from harness.running.again import SPARE_SHARE
from harness.running.session import typed


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
    statuses = before_times(base, new, vary)
    names = [name for name, (status, _) in statuses.items() if status is None]
    if all(status in (Status.NEW, Status.MISSING, Status.CHANGED) for status, _ in statuses.values()):
        sides = " and in ".join(f"{side.name} (run {side.only('run_id')})" for side in (base, new))
        why = next((reason for status, reason in statuses.values() if status is Status.CHANGED), "")
        flags = " ".join(f"--vary {part.partition(':')[0]}" for part in why.split("; "))
        do = f"name runs of the same cases, or measure both by: {typed('ab', 'BASE', 'NEW')}"
        raise NotComparable(
            f"no case is both in {sides}" + (f": {why}; if that is meant, {flags}" if why else f": {do}")
        )
    shared = set(base.measurements["round"]) & set(new.measurements["round"])
    then, now = _logs(base, names, shared), _logs(new, names, shared)
    # All cases or none: a case measured in rounds of its own would lose them.
    paired = firm and bool((np.isfinite(now - then).sum(axis=-1) > 1).all()) and bool(names)
    if not paired:
        then, now = _logs(base, names), _logs(new, names)
    known = np.array([(spreads or {}).get(name, math.nan) for name in names], dtype=float)
    pairs, disturbed = None, Disturbed()
    if paired:
        evidence = _evidence(base, new, names, shared)
        pairs = judge_pairs(then, now, evidence, known=known, least=least)
        found, then, now = pairs.found, pairs.base, pairs.new
        disturbed = _disturbed(pairs, evidence)
    else:
        found = judge(then, now, paired=False, known=known, least=least, sessions=None if firm else sessions, firm=firm)
    needed = _needed(found, least, firm=firm)
    if pairs is not None:
        needed = _with_lost(needed, pairs)
    timed = dict(zip(names, _results(names, then, now, found, needed), strict=True))
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
        disturbed=disturbed,
        clocked=1.0 if pairs is None else float(pairs.left.min()),
        varied=varied,
        warnings=warnings(base, new, float(np.nanmin(np.append(found.table.rounds, math.inf)))),
    )


def _evidence(base: Run, new: Run, names: list[str], shared: set[int]) -> Evidence | None:
    """Return what both sides tell of the core, where they tell it by the same work."""
    if not _same_work(base, new):
        return None
    tables = [side.measurements for side in (base, new)]
    fast_ns = float(np.fmin(*(table["core_ns"].min() for table in tables)))
    marked = [table.assign(step_ns=np.where(throughout(table, fast_ns), 1.0, np.nan)) for table in tables]
    one, other = (np.isfinite(_logs(Run("", table), names, shared)) for table in marked)
    work, also = (_logs(side, names, shared, column="core_ns") for side in (base, new))
    return Evidence((work, also), (one, other))


def _disturbed(judged: JudgedPairs, evidence: Evidence | None) -> Disturbed:
    if evidence is None:
        return Disturbed()
    either = judged.pairs.out | judged.pairs.kept
    base, new = (int((either & side).sum()) for side in evidence.disturbed)
    return Disturbed(int(judged.pairs.out.sum()), int(judged.pairs.kept.sum()), base, new)


def _with_lost(needed: Array, judged: JudgedPairs) -> Array:
    """Return how many rounds to ask for, as a share of their pairs will be lost and not all be made up for."""
    there = np.isfinite(judged.new - judged.base).sum(axis=-1)
    lost = judged.pairs.out.sum(axis=-1) / np.where(there > 0, there, 1)
    rounds = np.ceil(needed * np.fmax(1, (1 + lost) / (1 + SPARE_SHARE)))
    return np.where(rounds <= MOST_ROUNDS, rounds, np.nan)


def _logs(run: Run, names: list[str], shared: set[int] | None = None, column: str = "step_ns") -> Array:
    """Return the log step times `[cases, rounds]`, NaN where a round has none; of the shared rounds only, if given.

    column: of which the logs are, if not of step times.
    """
    table = run.measurements
    rounds = np.array(sorted(shared if shared is not None else set(table["round"])))
    place = table["case_id"].map({name: number for number, name in enumerate(names)}).to_numpy(dtype=float)
    number = table["round"].to_numpy()
    kept = np.isfinite(place) & np.isin(number, rounds)
    logs = np.full((len(names), len(rounds)), np.nan)
    if kept.any() and column in table:
        times = table[column].to_numpy(dtype=float)[kept]
        logs[place[kept].astype(int), np.searchsorted(rounds, number[kept])] = np.log(times)
    return logs


def _same_work(base: Run, new: Run) -> bool:
    """Whether the fixed work that tells how fast a core was is known, and the same in all processes of both sides."""
    tables = (base.measurements, new.measurements)
    if not all("core_work" in table for table in tables):
        return False
    one, other = (set(table["core_work"].unique()) - {""} for table in tables)
    return one == other and len(one) == 1


def _needed(found: Judged, least: float | None, *, firm: bool) -> Array:
    """Return how many rounds a side would decide each undecided case; NaN for the others, and of two sessions."""
    undecided = found.status == Status.UNDECIDED
    if not firm or not undecided.any():
        return np.full(undecided.shape, np.nan)
    chosen = None if least is None else math.log1p(least)
    return np.where(undecided, rounds_needed(found.table, found.spread, chosen=chosen), np.nan)


def _results(names: list[str], then: Array, now: Array, found: Judged, needed: Array) -> list[CaseResult]:
    sides = np.array([moments(clipped(logs))[0] for logs in (then, now)])
    rows = []
    for number, name in enumerate(names):
        effect = float(found.table.effect[number])
        # So that the two times differ by the change, which is of pairs, or without outliers: the sides' means may not.
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
                rounds_needed=float(needed[number]),
            )
        )
    return rows


def _aggregate(then: Array, now: Array, *, paired: bool, between: SessionSpread | None) -> Aggregate | None:
    """Return the mean change over cases; over rounds, since what disturbs a round disturbs many of its cases."""
    there = np.isfinite(then).any(axis=-1) & np.isfinite(now).any(axis=-1)
    if not there.any():
        return None
    if paired:
        pairs = clipped(now[there] - then[there])
        # A round of a few cases, in which these made up for lost pairs, would count as much as one of all.
        pairs = pairs[:, np.isfinite(pairs).mean(axis=0) >= MANY_CASES]
        ratios = _by_round(pairs) if pairs.size else np.array([])
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
