import math

import pytest
import torch
from torch import Tensor

from harness.plan.outcome import CaseEnded, Outcome
from harness.training.engines.autograd import Autograd
from harness.training.finite_differences import FiniteDifferences
from harness.training.loading import load_workload
from harness.training.proof import check_seed, engine_of, update_error
from harness.training.reference import float64_model, reference_step
from harness.training.trial import begin, problem_of

CPU = torch.device("cpu")


def place(dtype=torch.float32, seed=0):
    workload = load_workload("line")
    return problem_of(workload, 100, CPU, dtype), begin(workload, 100, seed, CPU, dtype)


@pytest.mark.parametrize(
    ("engine", "update", "tensor"),
    [
        ("ReluMaskForgotten", 1, "0."),  # what is above the ReLU is right
        ("BiasFromOneSample", 1, ".bias"),
        ("InputsForgotten", 1, ".weight"),
        ("StaleActivations", 2, "2.weight"),  # the first layer's are the data, which stays
        ("GradientsNotCleared", 2, ""),
        ("TargetsBroadcast", 1, "loss"),
    ],
)
def test_a_mistake_is_caught_with_its_update_and_tensor(engine, update, tensor):
    for seed in range(4):
        problem, trial = place(seed=seed)
        checked = check_seed(problem, engine_of(engine).prepare(problem, 20), trial, seed)
        assert (checked.seed, checked.caught, checked.update) == (seed, True, update)
        assert tensor in checked.tensor
        assert checked.share > 1


@pytest.mark.parametrize("engine", ["manual", "autograd"])
def test_a_right_engine_goes_through_and_its_first_updates_are_those_of_float64(engine):
    problem, trial = place()
    updates = engine_of(engine).prepare(problem, 20)
    checked = check_seed(problem, updates, trial, 0)
    assert (checked.caught, checked.update, checked.tensor) == (False, 0, "")
    assert 0 < checked.share <= 1
    assert 0 < update_error(problem, updates, trial) < 1e-4


def test_the_error_of_updates_is_their_distance_from_float64_over_their_length():
    problem, trial = place(torch.float64)
    assert update_error(problem, engine_of("FactorTwoLost").prepare(problem, 20), trial) == pytest.approx(0.5)
    assert update_error(problem, engine_of("WrongSign").prepare(problem, 20), trial) == pytest.approx(2)
    assert update_error(problem, engine_of("ClearedTooEarly").prepare(problem, 20), trial) == pytest.approx(1)


def test_what_ends_otherwise_than_by_a_wrong_update_is_no_catch():
    class NoLosses:
        def __init__(self, inner):
            self.load, self.parameters = inner.load, inner.parameters

        def __call__(self, inputs: Tensor, targets: Tensor) -> Tensor:
            return torch.zeros(2)

    problem, trial = place()
    with pytest.raises(CaseEnded) as ended:
        check_seed(problem, NoLosses(Autograd().prepare(problem, 20)), trial, 0)
    assert ended.value.outcome is Outcome.WRONG_GRADIENT


@pytest.mark.parametrize(("dtype", "limit"), [(torch.float64, 1e-6), (torch.float32, 0.05)])
def test_finite_differences_are_near_the_gradient(dtype, limit):
    problem, trial = place(dtype)
    updates = FiniteDifferences().prepare(problem, 20)
    assert 0 < update_error(problem, updates, trial) < limit
    updates.load(trial.parameters)
    losses = updates(*trial.batches(1))
    right, _ = reference_step(float64_model(problem), problem, trial.parameters, trial.inputs, trial.targets)
    assert math.isclose(losses.item(), right.item(), rel_tol=1e-5)


def test_finite_differences_make_as_many_forward_passes_as_they_say():
    problem, trial = place()
    updates = FiniteDifferences().prepare(problem, 20)
    passes = []
    forward_loss = updates._forward_loss
    updates._forward_loss = lambda *batch: passes.append(1) or forward_loss(*batch)
    updates.load(trial.parameters)
    updates(*trial.batches(1))
    assert len(passes) == updates.forward_passes == 63
