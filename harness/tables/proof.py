"""From the records of `harness prove` to its tables: `mistakes`, `epochs`, and `convergence` as a run has it."""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from statistics import median
from typing import Any

import pandas as pd

from harness.plan.case import Case
from harness.plan.outcome import Outcome
from harness.plan.proof import TRUTH, Kind, kind_of, what_of
from harness.plan.targets import ConvergenceTargets
from harness.tables.build import frame_of, over_seeds
from harness.tables.columns import CONVERGENCE, EPOCHS, MISTAKES, SCHEMA
from harness.tables.judge import combined, judge_convergence

Record = Mapping[str, Any]


def build_proof(run: Record, cases: Sequence[Case], records: Mapping[Case, Record]) -> dict[str, pd.DataFrame]:
    """Make the tables, by name; a case without a record was interrupted.

    run: `run_id`, `commit`, `dirty`, `machine` and `fingerprint` of all rows.
    """
    truths = {
        (case.workload, case.batch_size): record
        for case, record in records.items()
        if case.engine == TRUTH and record["outcome"] == Outcome.OK
    }
    mistakes, epochs, convergence = [], [], []
    for case in cases:
        record = records.get(case, _NOT_FINISHED)
        common = {**_labels(case, record), **run, "schema": SCHEMA, "case_id": case.case_id}
        mistakes.append({**common, **_mistake(common, case, record, truths.get((case.workload, case.batch_size)))})
        if record["outcome"] == Outcome.OK:
            if "losses" in record:
                epochs += [{**common, **epoch} for epoch in _epochs(record)]
            convergence += [{**common, **seed} for seed in record["convergence"]]
    return {
        "mistakes": frame_of(mistakes, MISTAKES),
        "epochs": frame_of(epochs, EPOCHS),
        "convergence": frame_of(convergence, CONVERGENCE),
    }


_NOT_FINISHED: Record = {"outcome": Outcome.INTERRUPTED, "reason": "not finished: the proof was interrupted"}


def _labels(case: Case, record: Record) -> dict[str, Any]:
    names = ("workload", "engine", "device", "dtype", "batch_size")
    return {**{name: getattr(case, name) for name in names}, "threads": record.get("threads")}


def _mistake(common: Record, case: Case, record: Record, truth: Record | None) -> dict[str, Any]:
    row = {
        "kind": kind_of(case.engine),
        "what": what_of(case.engine),
        **{name: record.get(name) for name in ("outcome", "reason", "seconds")},
    }
    if record["outcome"] != Outcome.OK:
        return row
    seeds = record["convergence"]
    row |= _gate(record["gate"]) | over_seeds(seeds) | _beside(seeds, truth)
    row |= {name: record.get(name) for name in ("update_error", "forward_passes", "ratio_to_autograd")}
    row["diverged_share"] = sum(seed["loss"] is None for seed in seeds) / len(seeds)
    targets = ConvergenceTargets.from_json(record["convergence_targets"])
    judged = list(judge_convergence({**common, **row}, targets))
    row["targets_met"] = combined(each.status for each in judged)
    row["targets"] = "; ".join(f"{each.status}: {each.text}" for each in judged)
    if row["kind"] is Kind.MISTAKE:
        row["trains_anyway"] = "yes" if row["targets_met"] == "yes" else "no"
    return row


def _gate(checked: Sequence[Record]) -> dict[str, Any]:
    """Return what the gate found over seeds."""
    caught = [each for each in checked if each["caught"]]
    through = [each["share"] for each in checked if not each["caught"]]
    row: dict[str, Any] = {
        "gate_seeds": len(checked),
        "caught_seeds": len(caught),
        "gate_share": max(through, default=None),
    }
    if caught:
        share = median(math.inf if each["share"] is None else each["share"] for each in caught)
        row["caught_update"] = median(each["update"] for each in caught)
        row["caught_by"] = Counter(each["tensor"] for each in caught).most_common(1)[0][0]
        row["error_over_limit"] = share if math.isfinite(share) else None
    return row


def _beside(seeds: Sequence[Record], truth: Record | None) -> dict[str, Any]:
    """Return how seeds ended beside the same seeds by autograd."""
    if truth is None:
        return {}
    theirs = truth["convergence"][: len(seeds)]  # both begin with seed 0
    same = sum(
        seed["loss"] is not None and seed["loss"] == right["loss"] for seed, right in zip(seeds, theirs, strict=True)
    )
    ratio = over_seeds(seeds)["loss_p50"] / over_seeds(theirs)["loss_p50"]
    return {"same_share": same / len(seeds), "loss_ratio": ratio if math.isfinite(ratio) else None}


def _epochs(record: Record) -> list[dict[str, Any]]:
    """Return how all seeds together stand after each epoch."""
    targets = record["convergence_targets"]
    rows = []
    for epoch, stands in enumerate(zip(*map(_stands, record["losses"], record["accuracies"]), strict=True), start=1):
        seeds = [
            {
                "loss": loss,
                "accuracy": accuracy,
                "converged": loss is not None and loss < targets["max_loss"] and accuracy > targets["min_accuracy"],
            }
            for loss, accuracy in stands
        ]
        rows.append({**over_seeds(seeds), "epoch": epoch})
    return rows


def _stands(losses: Sequence[float | None], accuracies: Sequence[float]) -> list[tuple[float | None, float]]:
    return list(zip(losses, accuracies, strict=True))
