"""From the journal's records to the tables of a run."""

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd

from harness.plan.case import Case
from harness.plan.catalogue import label
from harness.plan.errors import PlanError
from harness.plan.outcome import Outcome
from harness.plan.shard import shard_by_case, sweep_of
from harness.plan.sweep import Sweep
from harness.plan.targets import ConvergenceTargets
from harness.running.records import PLACE
from harness.tables.cells import Value, checked, environment_cell, series
from harness.tables.columns import CONVERGENCE, EPOCHS, MEASUREMENTS, PHASES, SCHEMA, SUMMARY, Column
from harness.tables.files import Tables
from harness.tables.floor import ceilings_of, floor_of, place_of
from harness.tables.judge import Judgement, Status, combined, judge_convergence, judge_throughput
from harness.tables.statistics import log_interval, wilson_interval

YARDSTICK = "autograd"

Record = Mapping[str, Any]


def build_tables(header: Record, records: Sequence[Record]) -> Tables:
    """Make the tables of a run from its journal's header and entries; only finished records count."""
    sweep = sweep_of(header)
    identities = _identities(header, sweep)
    by_case: dict[str, list[Record]] = {case.case_id: [] for case in sweep.cases}
    for record in records:
        if record["kind"] == "record":
            by_case[record["case_id"]].append(record)

    common_by_case = {
        case.case_id: {
            **_labels(case, by_case[case.case_id]),
            **identities[case.case_id],
            **_place(next(iter(by_case[case.case_id]), {})),
            "case_id": case.case_id,
        }
        for case in sweep.cases
    }
    # First, for it checks every value that the summary is made of.
    measurements = frame_of(
        [
            {**_measurement(record), **common, **_place(record)}
            for case_id, common in common_by_case.items()
            for record in by_case[case_id]
        ],
        MEASUREMENTS,
    )
    ceilings = ceilings_of((common, by_case[case_id]) for case_id, common in common_by_case.items())
    convergence, epochs, summary = [], [], []
    for case in sweep.cases:
        mine, common = by_case[case.case_id], common_by_case[case.case_id]
        seeds: Sequence[Record] = next((record["convergence"] for record in mine if "convergence" in record), [])
        convergence += [{**seed, **common} for seed in seeds]
        curve: Sequence[Record] = next((record["epochs"] for record in mine if "epochs" in record), [])
        epochs += [{**epoch, **common} for epoch in curve]
        yardstick = by_case.get(_yardstick(case, sweep), [])
        summary.append(_summarise(common, mine, seeds, _timed(yardstick), sweep))
        if summary[-1]["outcome"] is Outcome.OK and case.ranks > 1:
            summary[-1] |= _scaling(case, mine, _timed(by_case.get(replace(case, ranks=1).case_id, [])))
        elif summary[-1]["outcome"] is Outcome.OK:
            summary[-1] |= floor_of(summary[-1]["step_ns"], mine, ceilings[place_of(common)])
    return Tables(
        measurements, frame_of(convergence, CONVERGENCE), frame_of(epochs, EPOCHS), frame_of(summary, SUMMARY)
    )


def _identities(header: Record, sweep: Sweep) -> dict[str, Record]:
    """Return what the rows of each case say of run and machine, by `case_id`: each shard has its own machine."""
    run = {name: header[name] for name in ("run_id", "commit", "dirty")}
    run |= {"schema": SCHEMA, "session": header.get("session", header["run_id"])}

    def on(part: Record) -> Record:
        machine = {name: part[name] for name in ("machine", "fingerprint")}
        return {**run, **machine, "environment": environment_cell(part.get("environment", {}))}

    if "shards" not in header:
        return dict.fromkeys((case.case_id for case in sweep.cases), on(header))
    shards = {part["shard"]["index"]: on(part) for part in header["shards"]}
    dealt = shard_by_case(sweep.cases, header["shards"][0]["shard"]["count"])
    return {case_id: shards[index] for case_id, index in dealt.items()}


def _labels(case: Case, records: Sequence[Record]) -> dict[str, Any]:
    threads = next((record["threads"] for record in records if "threads" in record), case.threads)
    return {
        "workload": label(case.workload),
        "engine": label(case.engine),
        "device": case.device,
        "dtype": case.dtype,
        "batch_size": case.batch_size,
        "threads": threads,
        "ranks": case.ranks,
        "batch_per_rank": case.batch_size // case.ranks,
        "members": next((record["members"] for record in records if "members" in record), 1),
        "workload_digest": next((record["workload_digest"] for record in records if "workload_digest" in record), ""),
    }


def _place(record: Record) -> dict[str, Any]:
    """Return what a record says of its machine, where its run spans several; else the header does."""
    told = {name: record[name] for name in PLACE if name in record}
    return told | ({"environment": environment_cell(record["environment"])} if "environment" in record else {})


def _measurement(record: Record) -> dict[str, Any]:
    """Return a record with what it has in parts put into single cells."""
    phases = record.get("phases_ns", {})
    return {
        **record,
        "disturbances": _told(record.get("disturbances", {})),
        "cpus": _cpus(record.get("cpus", [])),
        **{f"phase_{name}_ns": phases.get(name) for name in PHASES},
    }


def _told(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{reason} {count}" for reason, count in sorted(counts.items(), key=lambda item: -item[1]))


def _cpus(cpus: Iterable[int]) -> str:
    """Write CPU numbers as the kernel does, `0-3,8`."""
    ranges: list[list[int]] = []
    for cpu in sorted(cpus):
        if ranges and cpu == ranges[-1][-1] + 1:
            ranges[-1].append(cpu)
        else:
            ranges.append([cpu])
    return ",".join(f"{each[0]}-{each[-1]}" if len(each) > 1 else f"{each[0]}" for each in ranges)


def _yardstick(case: Case, sweep: Sweep) -> str:
    return next(
        (
            other.case_id
            for other in sweep.cases
            if (other.engine, other.ranks) == (YARDSTICK, 1) and other.group == case.group
        ),
        "",
    )


def _summarise(
    common: Record,
    records: Sequence[Record],
    seeds: Sequence[Record],
    yardstick: Sequence[Record],
    sweep: Sweep,
) -> dict[str, Any]:
    outcome, reason = _ending(records)
    row: dict[str, Any] = {**common, "outcome": outcome, "reason": reason, "rounds": len(records)}
    row |= _phases(records)
    judgements: list[Judgement] = []
    if seeds:
        row |= over_seeds(seeds)
    # Whatever a case reached before it failed is no promise kept.
    if seeds and outcome is Outcome.OK:
        targets = ConvergenceTargets.from_json(
            next(record["convergence_targets"] for record in records if "convergence" in record)
        )
        judgements += judge_convergence(row, targets)
        missed = [judgement.text for judgement in judgements if judgement.status is Status.MISSED]
        if missed:
            row["outcome"], row["reason"] = Outcome.NOT_CONVERGED, "; ".join(missed)
    if row["outcome"] is Outcome.OK:
        row |= _times(records, yardstick, row["batch_size"], own=row["engine"] == YARDSTICK)
        judgements += judge_throughput(row, sweep.targets)
    row["targets_met"] = combined(judgement.status for judgement in judgements)
    row["targets"] = "; ".join(f"{judgement.status}: {judgement.text}" for judgement in judgements)
    return row


def _ending(records: Sequence[Record]) -> tuple[Outcome, str]:
    if not records:
        return Outcome.INTERRUPTED, "not measured: the run ended before it"
    for record in records:
        if record["outcome"] != Outcome.OK:
            return Outcome(record["outcome"]), record["reason"]
    return Outcome.OK, ""


_MEDIANS = ("latency_ns", "device_ns", "kernels_per_step", "launches_per_step", "energy_per_step_j")
_MAXIMA = (
    *("gate_share", "graphs", "graph_breaks", "recompiles", "attempts"),
    *("peak_rss_bytes", "peak_allocated_bytes", "peak_reserved_bytes"),
)


def _phases(records: Sequence[Record]) -> dict[str, Any]:
    blocks = sum(_values(records, "blocks"))
    return {
        "import_ns": _median(_values(records, "import_ns")),
        "setup_ns": _median(_values(records, "setup_ns")),
        "first_call_cold_ns": _median(_values(records, "first_call_cold_ns")),
        "first_call_warm_ns": _median(_values(records, "first_call_warm_ns")),
        "disturbed_share": sum(_values(records, "blocks_disturbed")) / blocks if blocks else math.nan,
        "disturbances": _told(sum((Counter(record.get("disturbances", {})) for record in records), Counter())),
        "cpus": "; ".join(dict.fromkeys(_cpus(record["cpus"]) for record in records if record.get("cpus"))),
        **{name: _median(_values(records, name)) for name in _MEDIANS},
        **{name: max(_values(records, name), default=math.nan) for name in _MAXIMA},
    }


def over_seeds(seeds: Sequence[Record]) -> dict[str, Any]:
    """Return what the final losses and accuracies of seeds come to, by the names of the summary's columns."""
    # A loss that is no number is worse than any number.
    losses = [math.inf if seed["loss"] is None else float(seed["loss"]) for seed in seeds]
    with np.errstate(all="ignore"):  # the difference of two losses may be too large for a number
        low, middle, high = np.quantile(
            losses, [0.05, 0.5, 0.95], method="linear" if np.isfinite(losses).all() else "higher"
        )
    converged = sum(seed["converged"] for seed in seeds)
    interval = wilson_interval(converged, len(seeds))
    return {
        "seeds": len(seeds),
        "loss_p05": float(low),
        "loss_p50": float(middle),
        "loss_p95": float(high),
        "accuracy_p50": _median([seed["accuracy"] or 0.0 for seed in seeds]),
        "r2_p50": _median(_values(seeds, "r2")),
        "epochs_to_target_p50": _median(_values(seeds, "epochs_to_target")),
        "converged_share": converged / len(seeds),
        "converged_low": interval[0],
        "converged_high": interval[1],
    }


def _times(records: Sequence[Record], yardstick: Sequence[Record], batch_size: int, *, own: bool) -> dict[str, Any]:
    step, low, high = log_interval(_values(records, "step_ns"))
    row = {
        "step_ns": step,
        "step_ns_low": low,
        "step_ns_high": high,
        "samples_per_s": batch_size * 1e9 / step,
        "ratio_to_autograd": math.nan,
        "ratio_low": math.nan,
        "ratio_high": math.nan,
    }
    theirs = {record["round"]: record["step_ns"] for record in yardstick}
    pairs = [theirs[record["round"]] / record["step_ns"] for record in records if record["round"] in theirs]
    if own:
        row |= {"ratio_to_autograd": 1.0, "ratio_low": 1.0, "ratio_high": 1.0}
    elif pairs:
        row["ratio_to_autograd"], row["ratio_low"], row["ratio_high"] = log_interval(pairs)
    return row


def _scaling(case: Case, records: Sequence[Record], single: Sequence[Record]) -> dict[str, Any]:
    """Return how well a case of several ranks scales, from the rounds that it shares with that of one rank."""
    alone = {(record["round"], record.get("threads")): record["step_ns"] for record in single}
    pairs = [
        alone[key] / (case.ranks * record["step_ns"])
        for record in records
        if (key := (record["round"], record.get("threads"))) in alone
    ]
    if not pairs:
        return {}
    return dict(zip(("scaling_efficiency", "scaling_low", "scaling_high"), log_interval(pairs), strict=True))


def _timed(records: Sequence[Record]) -> Sequence[Record]:
    """Return the records of a case that has times, or none."""
    return records if _ending(records)[0] is Outcome.OK else []


def _values(rows: Iterable[Record], name: str) -> list[float]:
    return [row[name] for row in rows if row.get(name) is not None]


def _median(values: Sequence[float]) -> float:
    # Large numbers of strangers may overflow to infinity, which is shown as such.
    with np.errstate(all="ignore"):
        return float(np.median(np.asarray(values, dtype=float))) if values else math.nan


def frame_of(rows: Sequence[Mapping[str, Any]], columns: tuple[Column, ...]) -> pd.DataFrame:
    """Return a table of these columns, each cell checked; raises PlanError, in one line, for one that cannot be."""
    cells: dict[str, list[Value]] = {column.name: [] for column in columns}
    for row in rows:
        for column in columns:
            try:
                cells[column.name].append(checked(column, row.get(column.name)))
            except PlanError as error:
                raise PlanError(f"{row['case_id']}: {error}") from error
    frame = pd.DataFrame({column.name: series(column, cells[column.name]) for column in columns})
    # A count with gaps stays a whole number.
    whole = [column.name for column in columns if column.unit in ("count", "bytes")]
    return frame.astype(dict.fromkeys(whole, "Int64"))
