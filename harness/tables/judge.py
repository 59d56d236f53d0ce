"""Targets against what was measured: met, missed or undecided. Needs no torch: targets travel in the records."""

import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from harness.plan.targets import ConvergenceTargets, ThroughputTarget


class Status(StrEnum):
    """Whether a target is met; undecided where its interval holds both answers."""

    MET = "met"
    MISSED = "missed"
    UNDECIDED = "undecided"


@dataclass(frozen=True)
class Judgement:
    """One target of one case. text: the target and what was measured, in one line."""

    case_id: str
    status: Status
    text: str


def judge_convergence(row: Mapping[str, Any], targets: ConvergenceTargets) -> Iterator[Judgement]:
    """Judge a row of the summary against its workload's targets."""
    case_id = row["case_id"]
    share = _interval_status(row["converged_low"], row["converged_high"], targets.min_converged_share)
    yield Judgement(
        case_id,
        share,
        f"converged_share >= {targets.min_converged_share:g}: {row['converged_share']:.3f} "
        f"[{row['converged_low']:.3f}, {row['converged_high']:.3f}] of {row['seeds']} seeds",
    )
    loss, accuracy = row["loss_p50"], row["accuracy_p50"]
    # Written so that a NaN misses.
    yield Judgement(
        case_id,
        Status.MET if loss <= targets.max_median_loss else Status.MISSED,
        f"loss_p50 <= {targets.max_median_loss:g}: {loss:.4g}",
    )
    yield Judgement(
        case_id,
        Status.MET if accuracy >= targets.min_median_accuracy else Status.MISSED,
        f"accuracy_p50 >= {targets.min_median_accuracy:g}: {accuracy:.3f}",
    )


def judge_throughput(row: Mapping[str, Any], targets: Iterable[ThroughputTarget]) -> Iterator[Judgement]:
    """Judge a row of the summary against the throughput targets that apply to it.

    Without a ratio they are undecided: there is no time of autograd beside this one.
    """
    for target in targets:
        if target.applies_to(row["workload"], row["engine"], row["device"], row["batch_size"]):
            least = target.min_ratio_to_autograd
            yield Judgement(
                row["case_id"],
                _interval_status(row["ratio_low"], row["ratio_high"], least),
                f"ratio_to_autograd >= {least:g}: {_ratio(row)}",
            )


def combined(statuses: Iterable[Status]) -> str:
    """Return `targets_met`: `no` if one is missed, else `undecided` if one is, else `yes`; empty for none."""
    seen = set(statuses)
    if not seen:
        return ""
    if Status.MISSED in seen:
        return "no"
    return "undecided" if Status.UNDECIDED in seen else "yes"


def _ratio(row: Mapping[str, Any]) -> str:
    if math.isnan(row["ratio_to_autograd"]):
        return "no time of autograd beside it"
    if math.isnan(row["ratio_low"]):
        return f"{row['ratio_to_autograd']:.2f} (one round has no interval)"
    return f"{row['ratio_to_autograd']:.2f} [{row['ratio_low']:.2f}, {row['ratio_high']:.2f}]"


def _interval_status(low: float, high: float, least: float) -> Status:
    """Met if the whole interval reaches `least`, missed if none of it does; an unknown interval decides nothing."""
    if low >= least:
        return Status.MET
    return Status.MISSED if high < least else Status.UNDECIDED
