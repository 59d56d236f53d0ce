import sys

import pytest
import torch

from harness.measuring import overhead
from harness.measuring.ceilings import Ceilings
from harness.measuring.overhead import STEPS, calls_per_step, count_calls, one_point_ns
from harness.training.engines.autograd import Autograd
from harness.training.engines.manual import Manual
from harness.training.loading import load_workload
from harness.training.trial import begin, problem_of

CPU = torch.device("cpu")
NO_LIMIT = Ceilings(1e30, {2**20: 1e30}, 1.0)


class LoopsElsewhere:
    """Makes all updates of a call in one call of C."""

    def __init__(self):
        self.lengths = []

    def prepare(self, problem, steps):
        self.batch_size = problem.batch_size
        return self

    def load(self, parameters): ...

    def __call__(self, inputs, targets):
        self.lengths.append(tuple(inputs.shape))
        return inputs.sum(-1)


def case_of(name="line", batch_size=100):
    workload = load_workload(name)
    problem = problem_of(workload, batch_size, CPU, torch.float32)
    return problem, begin(workload, batch_size, 0, CPU, torch.float32)


@pytest.fixture
def brief(monkeypatch):
    monkeypatch.setattr(overhead, "BUDGET_NS", 200_000)


# Calls


def test_every_call_is_counted_of_python_and_of_c():
    def one_call_of_c():
        len("")

    def three():
        one_call_of_c()
        abs(1)
        abs(2)

    assert count_calls(three) - count_calls(lambda: None) == 4


@pytest.mark.parametrize("fails", [False, True])
def test_whoever_listened_before_listens_again(fails):
    def heard(*_): ...

    def run():
        if fails:
            raise ValueError

    before = sys.getprofile()
    sys.setprofile(heard)
    try:
        if fails:
            with pytest.raises(ValueError):  # noqa: PT011
                count_calls(run)
        else:
            count_calls(run)
        assert sys.getprofile() is heard
    finally:
        sys.setprofile(before)


def test_an_engine_that_loops_elsewhere_makes_no_call_per_update_and_one_in_python_many():
    problem, trial = case_of()
    assert calls_per_step(LoopsElsewhere(), *trial.batches(2)) == 0
    manual, autograd = (calls_per_step(each().prepare(problem, 20), *trial.batches(2)) for each in (Manual, Autograd))
    assert 10 < manual < 100
    assert autograd > 2 * manual


# One point


def test_an_update_on_one_point_is_of_the_same_network_prepared_for_it(brief):
    problem, trial = case_of()
    engine = LoopsElsewhere()
    assert one_point_ns(engine, problem, trial, NO_LIMIT) > 0
    assert engine.batch_size == 1
    assert set(engine.lengths) == {(STEPS, 1, 1)}


def test_its_time_is_that_of_one_update(brief):
    ticks = iter(range(0, 10**12, 10**6))  # a clock by which each loop takes a millisecond
    problem, trial = case_of()
    assert one_point_ns(LoopsElsewhere(), problem, trial, NO_LIMIT, clock=lambda: next(ticks)) == 10**6 / STEPS


@pytest.mark.parametrize(("bytes_per_s", "known"), [(1e30, True), (1e3, False)])
def test_where_the_weights_alone_are_much_to_move_it_tells_nothing(brief, bytes_per_s, known):
    problem, trial = case_of("line_deep")
    found = one_point_ns(Manual(), problem, trial, Ceilings(1e30, {2**20: bytes_per_s}, 1.0))
    assert (found is not None) == known


def test_classes_are_points_too(brief):
    problem, trial = case_of("wide", 4)
    assert one_point_ns(LoopsElsewhere(), problem, trial, NO_LIMIT) > 0
