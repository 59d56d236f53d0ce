import math
from dataclasses import replace
from typing import Any

import pytest

from harness.plan.targets import ConvergenceTargets, ThroughputTarget
from harness.tables.judge import Judgement, Status, combined, judge_convergence, judge_throughput

MET, MISSED, UNDECIDED = Status.MET, Status.MISSED, Status.UNDECIDED
BELOW = math.nextafter(0.75, 0)
CONVERGENCE = ConvergenceTargets(
    max_loss=0.1, min_accuracy=0.9, min_converged_share=0.75, max_median_loss=0.05, min_median_accuracy=0.9
)
CONVERGED = {
    "case_id": "line/manual/cpu/float32/b100",
    "converged_share": 0.9,
    "converged_low": 0.8,
    "converged_high": 0.95,
    "seeds": 64,
    "loss_p50": 0.02,
    "accuracy_p50": 1.0,
}
FAST = {
    "case_id": "line/manual/cpu/float32/b100",
    "workload": "line",
    "engine": "manual",
    "device": "cpu",
    "batch_size": 100,
    "ratio_to_autograd": 3.0,
    "ratio_low": 2.5,
    "ratio_high": 3.5,
}


def convergence(**measured: Any) -> list[Judgement]:
    return list(judge_convergence({**CONVERGED, **measured}, CONVERGENCE))


def throughput(*least: float, **measured: Any) -> list[Judgement]:
    return list(judge_throughput({**FAST, **measured}, [ThroughputTarget("manual", ratio) for ratio in least]))


@pytest.mark.parametrize(
    ("low", "high", "status"),
    [
        (0.8, 0.9, MET),
        (0.75, 0.9, MET),
        (0.75, 0.75, MET),
        (BELOW, 0.9, UNDECIDED),
        (0.5, 0.75, UNDECIDED),
        (0.5, BELOW, MISSED),
        (math.nan, math.nan, UNDECIDED),
    ],
)
def test_an_interval_meets_what_its_low_end_reaches_and_misses_what_its_high_end_does_not(low, high, status):
    assert convergence(converged_low=low, converged_high=high)[0].status is status
    assert throughput(0.75, ratio_low=low, ratio_high=high)[0].status is status


@pytest.mark.parametrize(
    ("loss", "status"),
    [
        (0.0, MET),
        (0.05, MET),
        (math.nextafter(0.05, 1), MISSED),
        (math.inf, MISSED),
        (math.nan, MISSED),
    ],
)
def test_a_median_loss_is_met_up_to_its_limit_and_missed_when_it_is_no_number(loss, status):
    assert [judgement.status for judgement in convergence(loss_p50=loss)] == [MET, status, MET]


@pytest.mark.parametrize(
    ("accuracy", "status"), [(1.0, MET), (0.9, MET), (math.nextafter(0.9, 0), MISSED), (math.nan, MISSED)]
)
def test_a_median_accuracy_is_met_from_its_limit_on_and_missed_when_it_is_no_number(accuracy, status):
    assert [judgement.status for judgement in convergence(accuracy_p50=accuracy)] == [MET, MET, status]


def test_every_judgement_names_the_case_the_target_and_what_was_measured():
    assert convergence() == [
        Judgement(FAST["case_id"], MET, "converged_share >= 0.75: 0.900 [0.800, 0.950] of 64 seeds"),
        Judgement(FAST["case_id"], MET, "loss_p50 <= 0.05: 0.02"),
        Judgement(FAST["case_id"], MET, "accuracy_p50 >= 0.9: 1.000"),
    ]
    assert throughput(4) == [Judgement(FAST["case_id"], MISSED, "ratio_to_autograd >= 4: 3.00 [2.50, 3.50]")]


def test_a_case_is_held_to_every_throughput_target_that_applies_and_to_no_other():
    targets = [ThroughputTarget("manual", 2), ThroughputTarget("manual", 3), ThroughputTarget("manual", 4)]
    others = [ThroughputTarget("compile", 9), replace(targets[0], device="cuda"), replace(targets[0], workload="x")]
    judgements = judge_throughput(FAST, [*others, *targets])
    assert [judgement.status for judgement in judgements] == [MET, UNDECIDED, MISSED]


def test_without_autograd_beside_it_throughput_is_undecided():
    nothing = dict.fromkeys(("ratio_to_autograd", "ratio_low", "ratio_high"), math.nan)
    (judgement,) = throughput(2, **nothing)
    assert judgement.status == UNDECIDED
    assert judgement.text == "ratio_to_autograd >= 2: no time of autograd beside it"


@pytest.mark.parametrize(
    ("statuses", "word"),
    [
        ([], ""),
        ([MET], "yes"),
        ([MET, MET], "yes"),
        ([MET, UNDECIDED, MET], "undecided"),
        ([MET, UNDECIDED, MISSED], "no"),
        ([MISSED, MET], "no"),
    ],
)
def test_one_missed_target_decides_then_one_undecided(statuses, word):
    assert combined(iter(statuses)) == word
