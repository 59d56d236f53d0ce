import math
from dataclasses import asdict, replace

import pandas as pd
import pytest

from harness.plan.case import Case
from harness.plan.proof import plan_proof
from harness.tables.files import read_table, write_frames
from harness.tables.proof import build_proof
from harness.training.workloads.line import Line

RUN = {"run_id": "a", "commit": "b", "dirty": False, "machine": "c", "fingerprint": "d"}
TRUTH = Case("line", "autograd", "cpu", "float32", 100)
WRONG = replace(TRUTH, engine="ReluMaskForgotten")


def record(losses, *, accuracy=1.0, **changes):
    converged = [loss is not None and loss < 0.1 and accuracy > 0.9 for loss in losses]
    return {
        "outcome": "ok",
        "reason": "",
        "seconds": 1.5,
        "threads": 1,
        "forward_passes": 1,
        "update_error": 0.5,
        "convergence_targets": asdict(Line.targets),
        "gate": [{"seed": 0, "caught": False, "update": 0, "tensor": "", "share": 0.1}],
        "convergence": [
            {"seed": seed, "updates": 2, "loss": loss, "accuracy": accuracy, "r2": 0.5, "converged": here}
            for seed, (loss, here) in enumerate(zip(losses, converged, strict=True))
        ],
        "losses": [[1.0, loss] for loss in losses],
        "accuracies": [[0.2, accuracy] for _ in losses],
        **changes,
    }


def caught(*found):
    return [
        {"seed": seed, "caught": True, "update": update, "tensor": tensor, "share": share}
        for seed, (update, tensor, share) in enumerate(found)
    ]


def row(tables, case):
    return tables["mistakes"].set_index("case_id").loc[case.case_id]


GOOD = [0.01, 0.02, 0.03] * 20


def test_a_mistake_that_meets_the_targets_trains_anyway():
    tables = build_proof(RUN, [TRUTH, WRONG], {TRUTH: record(GOOD), WRONG: record([2 * loss for loss in GOOD])})
    assert (row(tables, WRONG)["kind"], row(tables, WRONG)["trains_anyway"]) == ("mistake", "yes")
    assert row(tables, WRONG)["loss_ratio"] == pytest.approx(2)
    assert (row(tables, TRUTH)["kind"], row(tables, TRUTH)["trains_anyway"]) == ("right", "")
    assert row(tables, TRUTH)["targets_met"] == "yes"


@pytest.mark.parametrize(
    "ending",
    [
        {"losses": [5 * loss for loss in GOOD]},  # median loss
        {"losses": GOOD, "accuracy": 0.5},
        {"losses": [0.02] * 31 + [0.5] * 29},  # share of seeds
        {"losses": [None] * 60},
    ],
)
def test_one_that_misses_a_target_does_not(ending):
    found = row(build_proof(RUN, [TRUTH, WRONG], {TRUTH: record(GOOD), WRONG: record(**ending)}), WRONG)
    assert (found["targets_met"], found["trains_anyway"]) == ("no", "no")


def test_one_that_may_or_may_not_meet_a_target_is_not_said_to_train():
    share_of_three_quarters = [0.02] * 45 + [0.5] * 15
    found = row(build_proof(RUN, [WRONG], {WRONG: record(share_of_three_quarters)}), WRONG)
    assert (found["targets_met"], found["trains_anyway"]) == ("undecided", "no")


def test_the_gate_is_told_by_most_seeds():
    gate = caught((2, "0.weight", 10.0), (1, "loss", 30.0), (1, "0.weight", 20.0))
    found = row(build_proof(RUN, [WRONG], {WRONG: record(GOOD, gate=gate)}), WRONG)
    assert (found["gate_seeds"], found["caught_seeds"], found["caught_update"]) == (3, 3, 1)
    assert (found["caught_by"], found["error_over_limit"]) == ("0.weight", 20)
    assert math.isnan(found["gate_share"])


def test_an_error_that_is_no_number_is_empty_and_what_diverged_is_counted():
    gate = caught((1, "loss", None))
    found = row(build_proof(RUN, [WRONG], {WRONG: record([None, 0.02, None, None], gate=gate)}), WRONG)
    assert math.isnan(found["error_over_limit"])
    assert found["diverged_share"] == 0.75
    assert found["loss_p50"] == math.inf


def test_seeds_that_end_as_autograd_are_counted_bit_for_bit():
    other = replace(TRUTH, engine="manual")
    losses = [*GOOD[:-1], math.nextafter(GOOD[-1], 1)]
    tables = build_proof(RUN, [TRUTH, other], {TRUTH: record(GOOD), other: record(losses)})
    assert row(tables, other)["same_share"] == pytest.approx(59 / 60)
    assert row(tables, TRUTH)["same_share"] == 1


def test_fewer_seeds_are_held_against_the_same_of_autograd():
    other = replace(TRUTH, engine="finite_differences")
    tables = build_proof(RUN, [TRUTH, other], {TRUTH: record([0.01, 0.03, 0.5, 0.5]), other: record([0.01, 0.06])})
    assert row(tables, other)["same_share"] == 0.5
    assert row(tables, other)["loss_ratio"] == pytest.approx(0.035 / 0.02)


def test_epochs_say_how_all_seeds_stand():
    epochs = build_proof(RUN, [TRUTH], {TRUTH: record([0.02, 0.04, None])})["epochs"]
    assert list(epochs["epoch"]) == [1, 2]
    assert list(epochs["converged_share"]) == pytest.approx([0, 2 / 3])
    assert list(epochs["loss_p50"]) == [1.0, 0.04]
    assert list(epochs["seeds"]) == [3, 3]


def test_what_was_not_finished_is_a_row():
    tables = build_proof(RUN, [TRUTH, WRONG], {TRUTH: record(GOOD)})
    assert row(tables, WRONG)["outcome"] == "interrupted"
    assert "not finished" in row(tables, WRONG)["reason"]
    assert set(tables["convergence"]["engine"]) == {"autograd"}


def test_the_tables_are_read_back(tmp_path):
    tables = build_proof(RUN, plan_proof(), {TRUTH: record(GOOD), WRONG: record([None] * 60)})
    write_frames(tmp_path, tables)
    for name, table in tables.items():
        pd.testing.assert_frame_equal(read_table(tmp_path, name), table, check_dtype=False)
