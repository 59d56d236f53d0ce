import pandas as pd
import pytest

from harness.comparing.proof import depths, proven

WRONG = {
    "case_id": "a",
    "engine": "WrongSign",
    "kind": "mistake",
    "outcome": "ok",
    "reason": "",
    "trains_anyway": "no",
    "gate_seeds": 20,
    "caught_seeds": 20,
    "loss_p50": 3.0,
    "accuracy_p50": 0.1,
}
RIGHT = {**WRONG, "engine": "manual", "kind": "right", "caught_seeds": 0, "trains_anyway": "", "loss_p50": 0.02}
OLDEST = {**RIGHT, "engine": "finite_differences", "kind": "finite differences", "caught_seeds": 20}


def proof(*rows):
    return proven(pd.DataFrame(rows))


def test_a_proof_holds_where_every_mistake_is_caught_and_nothing_right_is_flagged():
    found = proof(WRONG, RIGHT, OLDEST)
    assert found.holds
    assert (len(found.wrong), len(found.right), len(found.oldest)) == (1, 1, 1)


@pytest.mark.parametrize(
    ("change", "part"),
    [
        ({**WRONG, "caught_seeds": 19}, "missed"),
        ({**RIGHT, "caught_seeds": 1}, "flagged"),
        ({**WRONG, "outcome": "crashed"}, "unfinished"),
        ({**RIGHT, "outcome": "interrupted"}, "unfinished"),
    ],
)
def test_a_single_seed_breaks_it(change, part):
    found = proof(WRONG, RIGHT, change)
    assert not found.holds
    assert [dict(row) for row in getattr(found, part)] == [change]


def test_what_cannot_be_done_here_breaks_nothing():
    assert proof(WRONG, RIGHT, {**RIGHT, "outcome": "unsupported"}).holds


def test_without_a_mistake_nothing_is_proven():
    assert not proof(RIGHT).holds


def test_the_nearest_to_the_lesson_is_so_by_loss_and_accuracy():
    near = {**WRONG, "engine": "near", "loss_p50": 0.6, "accuracy_p50": 0.45}
    other = {**WRONG, "engine": "other", "loss_p50": 0.5, "accuracy_p50": 0.9}
    diverged = {**WRONG, "engine": "diverged", "loss_p50": float("inf"), "accuracy_p50": 0.5}
    assert proof(other, near, diverged, WRONG).nearest["engine"] == "near"
    assert proof(diverged).nearest is None


def test_depths_are_those_of_autograd_at_batch_100():
    one = {"engine": "autograd", "workload": "line", "batch_size": 100, "epoch": 1}
    two = {**one, "workload": "line_deep"}
    table = pd.DataFrame([one, two, {**one, "engine": "manual"}, {**one, "batch_size": 10}])
    shallow, deep = depths(table)
    assert (len(shallow), len(deep)) == (1, 1)
    assert depths(pd.DataFrame([one])) is None
