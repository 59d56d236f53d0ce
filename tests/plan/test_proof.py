import pytest

from harness.plan.mistakes import MISTAKES
from harness.plan.proof import (
    GATE_SEEDS,
    OLDEST_SEEDS,
    TRUTH,
    Kind,
    gate_seeds,
    kind_of,
    plan_proof,
    training_seeds,
    what_of,
)


def test_every_mistake_is_looked_at_once_where_it_shows():
    cases = plan_proof()
    assert len({case.case_id for case in cases}) == len(cases)
    looked_at = {
        case.engine: (case.workload, case.batch_size) for case in cases if kind_of(case.engine) is Kind.MISTAKE
    }
    assert looked_at == {name: (mistake.workload, mistake.batch_size) for name, mistake in MISTAKES.items()}


def test_wherever_something_is_looked_at_there_is_the_truth_to_hold_it_against():
    cases = plan_proof()
    with_truth = {(case.workload, case.batch_size) for case in cases if case.engine == TRUTH}
    assert {(case.workload, case.batch_size) for case in cases} == with_truth


@pytest.mark.parametrize(
    ("engine", "kind", "gated", "trained"),
    [
        ("manual", Kind.RIGHT, 1000, 1000),
        ("WrongSign", Kind.MISTAKE, GATE_SEEDS, 1000),
        ("finite_differences", Kind.OLDEST, GATE_SEEDS, OLDEST_SEEDS),
    ],
)
def test_right_engines_are_gated_from_every_seed(engine, kind, gated, trained):
    assert (kind_of(engine), gate_seeds(engine, 1000), training_seeds(engine, 1000)) == (kind, gated, trained)
    assert gate_seeds(engine, 8) == training_seeds(engine, 8) == 8


def test_only_mistakes_are_told_in_words():
    assert what_of("WrongSign")
    assert what_of("autograd") == ""
