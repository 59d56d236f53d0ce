import math
import statistics
from dataclasses import fields
from typing import Any

import pandas as pd
import pytest

from harness.plan.case import Case
from harness.plan.sweep import Sweep
from harness.plan.targets import ThroughputTarget
from harness.tables.build import build_tables
from harness.tables.cells import environment_of
from harness.tables.columns import TABLES
from harness.tables.files import Tables

AUTOGRAD = Case("line", "autograd", "cpu", "float32", 100)
MANUAL = Case("line", "manual", "cpu", "float32", 100)
TWO_ENGINES = Sweep((MANUAL, AUTOGRAD), targets=(ThroughputTarget("manual", 2.0),))
T_975 = 4.302652729911275  # of Student's t, two degrees of freedom
TARGETS = {
    "max_loss": 0.1,
    "min_accuracy": 0.9,
    "min_converged_share": 0.75,
    "max_median_loss": 0.05,
    "min_median_accuracy": 0.9,
}


def seeds(converged: int, total: int, loss: float | None = 0.02, bad_loss: float | None = 0.4) -> list[dict[str, Any]]:
    """Return how `total` seeds ended, the first of them converged."""
    good = {"updates": 20, "loss": loss, "accuracy": 1.0, "r2": 0.98, "converged": True, "epochs_to_target": 12}
    bad = {"updates": 20, "loss": bad_loss, "accuracy": 0.4, "r2": None, "converged": False, "epochs_to_target": None}
    return [{"seed": seed, **(good if seed < converged else bad)} for seed in range(total)]


def record(case: Case, number: int, step_ns: float | None = 1000.0, **facts: Any) -> dict[str, Any]:
    """Return a record of the journal: without a time where step_ns is None, with convergence in round 0."""
    found: dict[str, Any] = {"kind": "record", "case_id": case.case_id, "round": number, "outcome": "ok", "reason": ""}
    found |= {"threads": 2, "import_ns": 3e9, "setup_ns": 2e7, "seconds": 5.0, "convergence_targets": TARGETS}
    if step_ns is not None:
        found |= {"step_ns": step_ns, "step_median_ns": step_ns * 1.1, "step_min_ns": step_ns * 0.9}
        found |= {"blocks": 40, "blocks_disturbed": 4, "block_steps": 50, "stop_rule": "budget"}
        found |= {"graphs": 0, "graph_breaks": 0, "recompiles": 0, "gate_share": 0.1, "peak_rss_bytes": 2**28}
        if number == 0:
            found["convergence"] = seeds(64, 64)
    return {**found, **facts}


def crashed(case: Case, number: int, reason: str = "killed by SIGSEGV in phase timing") -> dict[str, Any]:
    return record(case, number, None, outcome="crashed", reason=reason)


def tables(sweep: Sweep, *records: dict[str, Any], **more: Any) -> Tables:
    header = {
        "kind": "run",
        "format": 1,
        "run_id": "20260101T000000Z-0123456789",
        "commit": "0123456789" * 4,
        "dirty": True,
        "machine": "amd-epyc-9654-2c",
        "fingerprint": "00aa11bb22cc",
        "sweep": sweep.to_json(),
        **more,
    }
    return build_tables(header, records)


def row(found: Tables, case: Case) -> pd.Series:
    return found.summary.set_index("case_id").loc[case.case_id]


def rounds(case: Case, *steps_ns: float) -> list[dict[str, Any]]:
    return [record(case, number, step_ns) for number, step_ns in enumerate(steps_ns)]


# What is in the tables


@pytest.mark.parametrize("table", [part.name for part in fields(Tables)])
@pytest.mark.parametrize(
    "records", [[], [crashed(MANUAL, 0)], rounds(MANUAL, 500, 510)], ids=["nothing", "a crash", "times"]
)
def test_the_columns_written_are_the_columns_described(table, records):
    found = getattr(tables(TWO_ENGINES, *records), table)
    assert list(found.columns) == [column.name for column in TABLES[table]]


def test_a_row_is_of_the_machine_that_its_record_names_where_a_run_spans_several():
    place = {"machine": "nvidia-h200", "fingerprint": "cc22bb11aa00", "node": "0a1b2c3d4e5f"}
    there = record(MANUAL, 0, 500, **place, environment={"torch": "2.13.0+cpu", "cpus": 8})
    found = tables(TWO_ENGINES, there, record(AUTOGRAD, 0))
    for table in (found.measurements, found.summary, found.convergence):
        by_case = table.drop_duplicates("case_id").set_index("case_id")
        assert tuple(by_case.loc[MANUAL.case_id, ["machine", "fingerprint"]]) == ("nvidia-h200", "cc22bb11aa00")
        assert tuple(by_case.loc[AUTOGRAD.case_id, ["machine", "fingerprint"]]) == ("amd-epyc-9654-2c", "00aa11bb22cc")
    by_case = found.measurements.set_index("case_id")
    assert by_case["node"].to_dict() == {MANUAL.case_id: "0a1b2c3d4e5f", AUTOGRAD.case_id: ""}
    assert environment_of(by_case.loc[MANUAL.case_id, "environment"]) == {"torch": "2.13.0+cpu", "cpus": "8"}
    assert environment_of(row(found, MANUAL)["environment"]) == {"torch": "2.13.0+cpu", "cpus": "8"}
    assert environment_of(row(found, AUTOGRAD)["environment"]) == {}


def test_a_crash_on_another_machine_is_a_row_of_that_machine():
    there = {"machine": "nvidia-h200", "fingerprint": "cc22bb11aa00", "node": "0a1b2c3d4e5f"}
    found = tables(TWO_ENGINES, record(MANUAL, 0, 500), {**crashed(MANUAL, 1), **there}).measurements
    assert found["machine"].tolist() == ["amd-epyc-9654-2c", "nvidia-h200"]
    assert found["fingerprint"].tolist() == ["00aa11bb22cc", "cc22bb11aa00"]


@pytest.mark.parametrize(("table", "rows"), [("measurements", 5), ("convergence", 128), ("summary", 2)])
def test_every_row_says_which_case_of_which_run_at_which_commit_on_which_machine(table, rows):
    records = [*rounds(MANUAL, 500, 510), *rounds(AUTOGRAD, 1000, 1010), crashed(AUTOGRAD, 2)]
    found = getattr(tables(TWO_ENGINES, *records), table)
    assert len(found) == rows
    assert set(found["case_id"]) == {MANUAL.case_id, AUTOGRAD.case_id}
    assert set(found["engine"]) == {"manual", "autograd"}
    for name, value in (
        ("schema", 1),
        ("run_id", "20260101T000000Z-0123456789"),
        ("commit", "0123456789" * 4),
        ("dirty", True),
        ("machine", "amd-epyc-9654-2c"),
        ("fingerprint", "00aa11bb22cc"),
        ("workload", "line"),
        ("device", "cpu"),
        ("dtype", "float32"),
        ("batch_size", 100),
        ("threads", 2),
    ):
        assert set(found[name]) == {value}, name


def test_every_row_says_of_which_session_it_is_and_what_its_fingerprint_is_made_of():
    records = [*rounds(MANUAL, 500, 510), crashed(AUTOGRAD, 0)]
    environment = {"cpu_model": "AMD EPYC; 2 = two", "cpus": 2, "gpu_mig": False}
    found = tables(TWO_ENGINES, *records, session="monday", environment=environment)
    for table in (found.measurements, found.summary):
        assert set(table["session"]) == {"monday"}
        assert set(table["environment"]) == {"cpu_model=AMD EPYC, 2 = two; cpus=2; gpu_mig=False"}
    assert environment_of(found.summary["environment"][0]) == {
        "cpu_model": "AMD EPYC, 2 = two",
        "cpus": "2",
        "gpu_mig": "False",
    }


def test_a_run_of_before_is_its_own_session_and_says_nothing_of_its_environment():
    found = tables(TWO_ENGINES, *rounds(MANUAL, 500, 510))
    for table in (found.measurements, found.summary):
        assert set(table["session"]) == {"20260101T000000Z-0123456789"}
        assert set(table["environment"]) == {""}


def test_what_was_trained_is_of_the_case_also_where_a_round_did_not_come_so_far():
    records = [record(MANUAL, 0, 500, workload_digest="0123456789ab"), crashed(MANUAL, 1), crashed(AUTOGRAD, 0)]
    found = tables(TWO_ENGINES, *records)
    assert row(found, MANUAL)["workload_digest"] == "0123456789ab"
    assert row(found, AUTOGRAD)["workload_digest"] == ""
    assert found.measurements["workload_digest"].tolist() == ["0123456789ab"] * 2 + [""]


def test_the_summary_is_in_the_order_of_the_plan_whatever_the_order_of_measuring():
    records = [*rounds(AUTOGRAD, 1000, 1010), *rounds(MANUAL, 500, 510)]
    for order in (records, records[::-1]):
        assert list(tables(TWO_ENGINES, *order).summary["case_id"]) == [MANUAL.case_id, AUTOGRAD.case_id]


def test_a_measurement_keeps_what_its_process_found():
    facts = {"first_call_cold_ns": 9e9, "graphs": 1, "peak_rss_bytes": 3 * 2**28, "unheard_of": "by this version"}
    (found,) = tables(TWO_ENGINES, record(MANUAL, 0, 500.0, **facts)).measurements.to_dict("records")
    assert "unheard_of" not in found
    assert (found["round"], found["outcome"], found["step_ns"], found["block_steps"]) == (0, "ok", 500, 50)
    assert (found["first_call_cold_ns"], found["graphs"], found["peak_rss_bytes"]) == (9e9, 1, 3 * 2**28)


def test_a_count_with_gaps_stays_a_whole_number():
    found = tables(TWO_ENGINES, record(MANUAL, 0, 500.0), crashed(AUTOGRAD, 0))
    assert found.measurements["blocks"].dtype == "Int64"
    assert found.measurements["blocks"].isna().tolist() == [False, True]
    assert row(found, MANUAL)["seeds"] == 64
    assert pd.isna(row(found, AUTOGRAD)["seeds"])


def test_a_users_file_goes_by_its_short_name():
    mine = Case("line", "/home/me/own.py:Fast", "cpu", "float32", 100)
    found = tables(Sweep((mine,)), record(mine, 0))
    assert {*found.summary["engine"], *found.measurements["engine"]} == {"own.py:Fast"}


# Times


def test_the_step_time_is_the_geometric_mean_of_the_rounds_with_students_interval():
    steps = [1000.0, 1100.0, 1300.0]
    found = row(tables(TWO_ENGINES, *rounds(AUTOGRAD, *steps)), AUTOGRAD)
    mean = statistics.geometric_mean(steps)
    width = math.exp(T_975 * statistics.stdev(map(math.log, steps)) / math.sqrt(3))
    assert found["step_ns"] == pytest.approx(mean, rel=1e-12)
    assert found["step_ns_low"] == pytest.approx(mean / width, rel=1e-9)
    assert found["step_ns_high"] == pytest.approx(mean * width, rel=1e-9)
    assert found["samples_per_s"] == pytest.approx(100 / (mean * 1e-9), rel=1e-12)
    assert found["rounds"] == 3


def test_a_drift_that_hits_both_engines_of_a_round_cancels_in_the_ratio():
    found = row(tables(TWO_ENGINES, *rounds(AUTOGRAD, 900, 1800, 7200), *rounds(MANUAL, 300, 600, 2400)), MANUAL)
    assert [found["ratio_to_autograd"], found["ratio_low"], found["ratio_high"]] == pytest.approx([3] * 3, rel=1e-12)
    assert found["step_ns_high"] > 10 * found["step_ns"]
    assert found["targets_met"] == "yes"


def test_the_ratio_is_the_geometric_mean_of_the_rounds_ratios_with_students_interval():
    ours, theirs = [500.0, 520.0, 480.0], [1000.0, 1300.0, 900.0]
    records = [*rounds(MANUAL, *ours), *rounds(AUTOGRAD, *theirs)]
    ratios = [their / our for their, our in zip(theirs, ours, strict=True)]
    mean = statistics.geometric_mean(ratios)
    width = math.exp(T_975 * statistics.stdev(map(math.log, ratios)) / math.sqrt(3))
    for order in (records, records[::-1], records[::2] + records[1::2]):
        found = row(tables(TWO_ENGINES, *order), MANUAL)
        assert found["ratio_to_autograd"] == pytest.approx(mean, rel=1e-12)
        assert found["ratio_low"] == pytest.approx(mean / width, rel=1e-9)
        assert found["ratio_high"] == pytest.approx(mean * width, rel=1e-9)


def test_a_round_that_autograd_lacks_is_in_the_step_time_and_not_in_the_ratio():
    records = [*rounds(MANUAL, 500, 600, 9000), *rounds(AUTOGRAD, 1000, 1200)]
    found = row(tables(TWO_ENGINES, *records), MANUAL)
    assert found["ratio_to_autograd"] == pytest.approx(2, rel=1e-12)
    assert found["step_ns"] == pytest.approx(statistics.geometric_mean([500, 600, 9000]))


def test_autograd_is_once_as_fast_as_itself():
    found = row(tables(TWO_ENGINES, *rounds(AUTOGRAD, 1000, 1500)), AUTOGRAD)
    assert (found["ratio_to_autograd"], found["ratio_low"], found["ratio_high"]) == (1, 1, 1)


@pytest.mark.parametrize(
    "other",
    [
        Case("line_deep", "autograd", "cpu", "float32", 100),
        Case("line", "autograd", "cuda", "float32", 100),
        Case("line", "autograd", "cpu", "float64", 100),
        Case("line", "autograd", "cpu", "float32", 10),
        Case("line", "autograd", "cpu", "float32", 100, 1),
    ],
    ids=["workload", "device", "dtype", "batch size", "threads"],
)
def test_an_engine_is_compared_with_autograd_at_the_same_work_alone(other):
    sweep = Sweep((MANUAL, other), targets=TWO_ENGINES.targets)
    found = row(tables(sweep, *rounds(MANUAL, 500, 510), *rounds(other, 1000, 1010)), MANUAL)
    assert math.isnan(found["ratio_to_autograd"])
    assert "undecided: ratio_to_autograd >= 2: no time of autograd beside it" in found["targets"]
    assert found["targets_met"] == "undecided"


# Several members


def test_a_row_tells_the_models_that_were_trained_at_once_and_all_their_points():
    sweep = Sweep((MANUAL, AUTOGRAD))
    found = tables(sweep, record(MANUAL, 0, 500, members=64), *rounds(AUTOGRAD, 1000))  # one of before there were any
    for table in (found.summary, found.measurements):
        assert table.set_index("case_id")["members"].to_dict() == {MANUAL.case_id: 64, AUTOGRAD.case_id: 1}
    # 64 updates of 100 points each take 64 × 500 ns.
    assert row(found, MANUAL)["samples_per_s"] == pytest.approx(64 * 100 / (64 * 500e-9))


# The floor

FLOOR = {"flops_per_step": 10_000, "bytes_per_step": 1_048, "ceiling_flops_per_s": 100e9}
FLOOR |= {"ceiling_copy_bytes_per_s": 50e9, "ceiling_call_ns": 600.0, "calls_per_step": 27.0, "one_point_ns": 700.0}


def test_every_case_with_a_time_is_so_far_above_the_best_ceilings_of_the_run():
    better = {**FLOOR, "ceiling_flops_per_s": 200e9}
    records = [record(MANUAL, 0, 1000.0, **FLOOR), record(MANUAL, 1, 1000.0), record(AUTOGRAD, 0, 4000.0, **better)]
    found = tables(TWO_ENGINES, *records)
    cells = found.summary.set_index("engine")[["floor_ns", "above_floor", "bound_by"]]
    assert tuple(cells.loc["manual"]) == (50, pytest.approx(20), "python")
    assert tuple(cells.loc["autograd"]) == (50, pytest.approx(80), "")
    measured = found.measurements.set_index(["engine", "round"])
    assert measured["ceiling_flops_per_s"].to_dict() == {
        ("manual", 0): 100e9,
        ("manual", 1): pytest.approx(math.nan, nan_ok=True),
        ("autograd", 0): 200e9,
    }
    assert measured.loc[("manual", 0), "bytes_per_step"] == 1_048


@pytest.mark.parametrize(
    "records",
    [rounds(MANUAL, 500.0), [record(MANUAL, 0, 500.0, **FLOOR), crashed(MANUAL, 1)]],
    ids=["an old journal", "a crash"],
)
def test_without_ceilings_or_a_time_there_is_no_floor(records):
    found = row(tables(TWO_ENGINES, *records), MANUAL)
    assert math.isnan(found["floor_ns"])
    assert math.isnan(found["above_floor"])
    assert found["bound_by"] == ""


# Several ranks

ONE_RANK = Case("line", "ddp", "cpu", "float32", 100)
TWO_RANKS = Case("line", "ddp", "cpu", "float32", 100, ranks=2)
RANKS = Sweep((AUTOGRAD, TWO_RANKS, ONE_RANK))


def test_every_row_tells_its_ranks_and_the_points_of_each():
    found = tables(RANKS, *rounds(ONE_RANK, 1000), *rounds(TWO_RANKS, 600))
    for table in (found.summary, found.measurements):
        cells = table.set_index("case_id")[["ranks", "batch_per_rank"]]
        assert tuple(cells.loc[ONE_RANK.case_id]) == (1, 100)
        assert tuple(cells.loc[TWO_RANKS.case_id]) == (2, 50)
    assert row(found, TWO_RANKS)["samples_per_s"] == pytest.approx(100 / 600e-9)


def test_scaling_is_one_ranks_time_over_ranks_times_theirs_by_round_with_students_interval():
    one, two = [1000.0, 1200.0, 900.0], [600.0, 630.0, 590.0]
    ratios = [single / (2 * each) for single, each in zip(one, two, strict=True)]
    width = math.exp(T_975 * statistics.stdev(map(math.log, ratios)) / math.sqrt(3))
    mean = statistics.geometric_mean(ratios)
    found = tables(RANKS, *rounds(ONE_RANK, *one), *rounds(TWO_RANKS, *two))
    cells = row(found, TWO_RANKS)[["scaling_efficiency", "scaling_low", "scaling_high"]]
    assert list(cells) == pytest.approx([mean, mean / width, mean * width], rel=1e-9)
    assert row(found, ONE_RANK)[["scaling_efficiency", "scaling_low", "scaling_high"]].isna().all()


@pytest.mark.parametrize(
    "single",
    [
        [],
        [crashed(ONE_RANK, 0)],
        [record(ONE_RANK, 1, 1000.0)],
        [record(ONE_RANK, 0, 1000.0, threads=4)],
        rounds(AUTOGRAD, 1000.0),
    ],
    ids=["not measured", "crashed", "another round", "more threads", "another engine"],
)
def test_without_one_rank_at_the_same_work_in_the_same_round_there_is_no_scaling(single):
    found = row(tables(RANKS, *single, *rounds(TWO_RANKS, 600.0)), TWO_RANKS)
    assert found[["scaling_efficiency", "scaling_low", "scaling_high"]].isna().all()
    assert found["step_ns"] == pytest.approx(600)


def test_ranks_that_failed_have_no_scaling():
    found = row(tables(RANKS, *rounds(ONE_RANK, 1000.0), crashed(TWO_RANKS, 0)), TWO_RANKS)
    assert math.isnan(found["scaling_efficiency"])


def test_several_ranks_are_compared_with_one_process_of_autograd():
    found = row(tables(RANKS, *rounds(AUTOGRAD, 900.0), *rounds(TWO_RANKS, 600.0)), TWO_RANKS)
    assert found["ratio_to_autograd"] == pytest.approx(1.5)
    two = Case("line", "autograd", "cpu", "float32", 100, ranks=2)
    found = row(tables(Sweep((two, TWO_RANKS)), *rounds(two, 900.0), *rounds(TWO_RANKS, 600.0)), TWO_RANKS)
    assert math.isnan(found["ratio_to_autograd"])


def test_after_one_round_there_is_a_time_without_an_interval_and_throughput_is_undecided():
    found = row(tables(TWO_ENGINES, record(MANUAL, 0, 500.0), record(AUTOGRAD, 0, 1900.0)), MANUAL)
    assert found["step_ns"] == pytest.approx(500)
    assert found["ratio_to_autograd"] == pytest.approx(3.8)
    for name in ("step_ns_low", "step_ns_high", "ratio_low", "ratio_high"):
        assert math.isnan(found[name]), name
    assert found["targets_met"] == "undecided"
    assert "undecided: ratio_to_autograd >= 2: 3.80" in found["targets"]


@pytest.mark.parametrize(
    ("manual", "status", "word"),
    [((330, 340, 330), "met", "yes"), ((990, 980, 990), "missed", "no"), ((400, 500, 600), "undecided", "undecided")],
)
def test_a_throughput_target_is_met_missed_or_undecided_by_the_ratios_interval(manual, status, word):
    found = row(tables(TWO_ENGINES, *rounds(MANUAL, *manual), *rounds(AUTOGRAD, 1000, 1010, 1005)), MANUAL)
    assert f"{status}: ratio_to_autograd >= 2: " in found["targets"]
    assert found["targets_met"] == word
    assert found["outcome"] == "ok"


# Phases and probes


def test_phases_are_medians_of_the_rounds_and_a_cold_compile_stays_apart_from_the_warm_ones():
    records = [
        record(MANUAL, 0, 500, first_call_cold_ns=9e9, import_ns=3e9, setup_ns=5e7),
        record(MANUAL, 1, 500, first_call_warm_ns=2e9, import_ns=1e9, setup_ns=1e7),
        record(MANUAL, 2, 500, first_call_warm_ns=4e9, import_ns=2e9, setup_ns=2e7),
    ]
    found = row(tables(TWO_ENGINES, *records), MANUAL)
    assert (found["first_call_cold_ns"], found["first_call_warm_ns"]) == (9e9, 3e9)
    assert (found["import_ns"], found["setup_ns"]) == (2e9, 2e7)


def test_probes_are_the_worst_of_the_rounds_and_the_disturbed_blocks_a_share_of_all():
    records = [
        record(MANUAL, 0, 500, blocks=30, blocks_disturbed=0, gate_share=0.2, graph_breaks=0, peak_rss_bytes=10),
        record(MANUAL, 1, 500, blocks=10, blocks_disturbed=5, gate_share=0.1, graph_breaks=2, peak_rss_bytes=7),
    ]
    found = row(tables(TWO_ENGINES, *records), MANUAL)
    assert found["disturbed_share"] == pytest.approx(5 / 40)
    assert (found["gate_share"], found["graph_breaks"], found["peak_rss_bytes"]) == (0.2, 2, 10)


# Outcomes


@pytest.mark.parametrize("outcome", ["crashed", "wrong_gradient", "rejected", "timeout", "out_of_memory"])
def test_a_case_that_fails_in_a_later_round_has_that_outcome_its_reason_no_time_and_no_ratio(outcome):
    failed = record(MANUAL, 1, None, outcome=outcome, reason="the reason of it")
    found = row(tables(TWO_ENGINES, record(MANUAL, 0, 500.0), failed, *rounds(AUTOGRAD, 1000, 1010)), MANUAL)
    assert (found["outcome"], found["reason"]) == (outcome, "the reason of it")
    for name in ("step_ns", "step_ns_low", "step_ns_high", "samples_per_s", "ratio_to_autograd", "ratio_low"):
        assert math.isnan(found[name]), name
    assert "ratio_to_autograd" not in found["targets"]
    assert found["rounds"] == 2


def test_a_case_that_converged_and_then_failed_has_met_nothing():
    found = row(tables(TWO_ENGINES, record(MANUAL, 0, 500), crashed(MANUAL, 1), *rounds(AUTOGRAD, 1000, 1010)), MANUAL)
    assert (found["targets_met"], found["targets"]) == ("", "")
    assert found["converged_share"] == 1


def test_nothing_is_compared_with_an_autograd_that_failed_in_one_of_its_rounds():
    found = tables(TWO_ENGINES, *rounds(MANUAL, 500, 510), record(AUTOGRAD, 0, 1000), crashed(AUTOGRAD, 1))
    assert math.isnan(row(found, MANUAL)["ratio_to_autograd"])
    assert row(found, MANUAL)["step_ns"] > 0


def test_the_rounds_of_a_case_that_failed_later_stay_in_the_measurements():
    found = tables(TWO_ENGINES, record(MANUAL, 0, 500.0), crashed(MANUAL, 1)).measurements
    assert found["outcome"].tolist() == ["ok", "crashed"]
    assert found["reason"].tolist() == ["", "killed by SIGSEGV in phase timing"]
    assert found["step_ns"].isna().tolist() == [False, True]


def test_an_unsupported_case_is_a_row_with_its_reason_and_nothing_judged():
    reason = "no rule for LayerNorm"
    found = row(tables(TWO_ENGINES, record(MANUAL, 0, None, outcome="unsupported", reason=reason)), MANUAL)
    assert (found["outcome"], found["reason"]) == ("unsupported", reason)
    assert (found["targets_met"], found["targets"]) == ("", "")


def test_a_case_without_a_record_is_interrupted():
    found = tables(TWO_ENGINES, record(MANUAL, 0, 500.0))
    assert row(found, AUTOGRAD)["outcome"] == "interrupted"
    assert row(found, AUTOGRAD)["reason"]
    assert row(found, AUTOGRAD)["rounds"] == 0
    assert row(found, AUTOGRAD)["targets_met"] == ""
    assert math.isnan(row(found, AUTOGRAD)["step_ns"])
    assert row(found, MANUAL)["outcome"] == "ok"


def test_a_run_that_was_interrupted_at_once_has_a_summary_and_empty_tables():
    found = tables(TWO_ENGINES)
    assert found.summary["outcome"].tolist() == ["interrupted", "interrupted"]
    assert len(found.measurements) == len(found.convergence) == 0


# Convergence


def test_convergence_that_is_clearly_missed_is_the_outcome_with_the_missed_targets_and_withholds_the_time():
    records = [record(MANUAL, 0, 500.0, convergence=seeds(20, 64)), record(MANUAL, 1, 510.0)]
    found = row(tables(TWO_ENGINES, *records, *rounds(AUTOGRAD, 1000, 1010)), MANUAL)
    assert found["outcome"] == "not_converged"
    for text in (
        "converged_share >= 0.75: 0.312",
        "of 64 seeds",
        "loss_p50 <= 0.05: 0.4",
        "accuracy_p50 >= 0.9: 0.400",
    ):
        assert text in found["reason"]
        assert f"missed: {text}" in found["targets"] or text == "of 64 seeds"
    assert found["targets_met"] == "no"
    assert math.isnan(found["step_ns"])
    assert math.isnan(found["ratio_to_autograd"])
    assert found["converged_share"] == 20 / 64


def test_a_crash_is_the_outcome_even_where_convergence_was_missed_too():
    records = [record(MANUAL, 0, 500.0, convergence=seeds(20, 64)), crashed(MANUAL, 1)]
    found = row(tables(TWO_ENGINES, *records), MANUAL)
    assert (found["outcome"], found["reason"]) == ("crashed", "killed by SIGSEGV in phase timing")
    assert found["targets_met"] == ""


def test_few_seeds_leave_the_share_undecided_and_the_time_stays():
    few = record(AUTOGRAD, 0, 1000.0, convergence=seeds(8, 8))
    found = row(tables(TWO_ENGINES, few, record(AUTOGRAD, 1, 1010.0)), AUTOGRAD)
    assert (found["outcome"], found["targets_met"]) == ("ok", "undecided")
    assert "undecided: converged_share >= 0.75: 1.000" in found["targets"]
    assert found["step_ns"] == pytest.approx(math.sqrt(1000 * 1010))


def test_quantiles_shares_and_medians_are_those_of_the_seeds():
    few = [{**each, "loss": 0.01 * (index + 1)} for index, each in enumerate(seeds(58, 64))]
    found = row(tables(TWO_ENGINES, record(AUTOGRAD, 0, 1000.0, convergence=few)), AUTOGRAD)
    losses = sorted(each["loss"] for each in few)
    assert found["loss_p50"] == pytest.approx(statistics.median(losses))
    # Linear between the 64 order statistics: 0.05 · 63 = 3.15.
    assert found["loss_p05"] == pytest.approx(losses[3] + 0.15 * (losses[4] - losses[3]))
    assert found["loss_p95"] == pytest.approx(losses[59] + 0.85 * (losses[60] - losses[59]))
    assert (found["accuracy_p50"], found["r2_p50"], found["epochs_to_target_p50"]) == (1.0, 0.98, 12)
    assert found["converged_share"] == 58 / 64
    assert (found["converged_low"], found["converged_high"]) == pytest.approx((0.8102, 0.9561), abs=1e-3)


def test_a_loss_that_is_no_number_counts_as_worse_than_any_and_stays_empty_in_its_own_row():
    found = tables(TWO_ENGINES, record(AUTOGRAD, 0, 1000.0, convergence=seeds(60, 64, bad_loss=None)))
    assert row(found, AUTOGRAD)["loss_p50"] == pytest.approx(0.02)
    assert row(found, AUTOGRAD)["loss_p05"] == pytest.approx(0.02)
    assert row(found, AUTOGRAD)["loss_p95"] == math.inf
    assert row(found, AUTOGRAD)["converged_share"] == 60 / 64
    assert row(found, AUTOGRAD)["targets_met"] == "yes"
    assert found.convergence["loss"].isna().sum() == 4


def test_a_run_whose_losses_are_all_no_number_has_not_converged():
    lost = [{**each, "accuracy": None} for each in seeds(0, 64, bad_loss=None)]
    found = row(tables(TWO_ENGINES, record(AUTOGRAD, 0, 1000.0, convergence=lost)), AUTOGRAD)
    assert found["outcome"] == "not_converged"
    assert found["loss_p50"] == math.inf
    assert found["accuracy_p50"] == 0
    assert found["converged_share"] == 0
    assert math.isnan(found["step_ns"])


def test_there_is_one_row_for_each_seed_of_each_case():
    found = tables(TWO_ENGINES, record(MANUAL, 0), record(AUTOGRAD, 0), record(AUTOGRAD, 1)).convergence
    for case in (MANUAL, AUTOGRAD):
        assert found[found["case_id"] == case.case_id]["seed"].tolist() == list(range(64))
