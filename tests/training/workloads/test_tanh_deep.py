from typing import Any

import pytest
import torch
from torch import nn

from harness.plan.outcome import CaseEnded
from harness.training.convergence import train_seeds
from harness.training.engines.autograd import Autograd
from harness.training.engines.manual import Manual
from harness.training.gate import GATE_UPDATES, check_updates
from harness.training.layers import chain
from harness.training.trial import begin, problem_of
from harness.training.workloads.tanh_deep import TanhDeep
from tests import mistakes

CPU = torch.device("cpu")


def test_it_has_eight_hidden_layers_of_sixteen() -> None:
    layers = [layer for _, layer in chain(TanhDeep().model(0))]
    assert [layer.out_features for layer in layers if isinstance(layer, nn.Linear)] == [16] * 8 + [1]
    assert sum(isinstance(layer, nn.Tanh) for layer in layers) == 8


@pytest.mark.parametrize("batch_size", [1, 10, 100, 1000])
def test_an_epoch_has_as_many_updates_at_every_batch_size(batch_size: int) -> None:
    inputs, _ = next(begin(TanhDeep(), batch_size, 0, CPU, torch.float32).epochs())
    assert len(inputs) == 25


@pytest.mark.parametrize("engine", [Manual(), Autograd()])
@pytest.mark.parametrize("batch_size", [10, 100, 1000])
def test_an_honest_engine_passes_the_gate(batch_size: int, engine: Any) -> None:
    problem = problem_of(TanhDeep(), batch_size, CPU, torch.float32)
    updates = engine.prepare(problem, 20)
    for seed in range(2):
        trial = begin(TanhDeep(), batch_size, seed, CPU, torch.float32)
        updates.load(trial.parameters)
        assert 0 < check_updates(problem, updates, *trial.batches(GATE_UPDATES)) < 0.1


# Through eight layers the bound is the worst case of many roundings: activations rounded to float16 stay below it.
OF_RELU = {
    *(mistakes.ReluMaskForgotten, mistakes.MaskFromTheGradient, mistakes.MaskInverted),
    *(mistakes.ValueInsteadOfSlope, mistakes.SlopeOfAnotherActivation),
}
# Transposed inputs need as many points as units.
CAUGHT = set(mistakes.ALL) - {
    *OF_RELU,
    *(mistakes.StaleActivations, mistakes.ForwardInHalfPrecision, mistakes.InputsTransposed),
}


@pytest.mark.parametrize("mistake", sorted(CAUGHT, key=lambda mistake: mistake.__name__))
@pytest.mark.parametrize("batch_size", [10, 100])
def test_a_mistake_is_caught_through_all_layers(batch_size: int, mistake: Any) -> None:
    problem = problem_of(TanhDeep(), batch_size, CPU, torch.float32)
    updates, trial = mistake().prepare(problem, 20), begin(TanhDeep(), batch_size, 0, CPU, torch.float32)
    updates.load(trial.parameters)
    with pytest.raises(CaseEnded, match="off by"):
        check_updates(problem, updates, *trial.batches(GATE_UPDATES))


def test_it_converges() -> None:
    problem = problem_of(TanhDeep(), 100, CPU, torch.float32)
    results = list(train_seeds(TanhDeep(), problem, Manual().prepare(problem, 20), 2))
    assert [result.converged for result in results] == [True] * 2
