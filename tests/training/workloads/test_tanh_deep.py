from typing import Any

import pytest
import torch
from torch import nn

from harness.training.convergence import train_seeds
from harness.training.engines.autograd import Autograd
from harness.training.engines.manual import Manual
from harness.training.gate import GATE_UPDATES, check_updates
from harness.training.layers import chain
from harness.training.trial import begin, problem_of
from harness.training.workloads.tanh_deep import TanhDeep

CPU = torch.device("cpu")


def test_it_has_eight_hidden_layers_of_sixteen() -> None:
    layers = [layer for _, layer in chain(TanhDeep().model(0))]
    assert [layer.out_features for layer in layers if isinstance(layer, nn.Linear)] == [16] * 8 + [1]
    assert sum(isinstance(layer, nn.Tanh) for layer in layers) == 8


@pytest.mark.parametrize("batch_size", [1, 10, 100, 1000])
def test_an_epoch_has_the_same_updates_at_every_batch_size_that_fills_it(batch_size: int) -> None:
    inputs, _ = next(begin(TanhDeep(), batch_size, 0, CPU, torch.float32).epochs())
    assert len(inputs) == (100 if batch_size == 1 else 20)


@pytest.mark.parametrize("engine", [Manual(), Autograd()])
@pytest.mark.parametrize("batch_size", [10, 100, 1000])
def test_an_honest_engine_passes_the_gate(batch_size: int, engine: Any) -> None:
    problem = problem_of(TanhDeep(), batch_size, CPU, torch.float32)
    updates = engine.prepare(problem, 20)
    for seed in range(2):
        trial = begin(TanhDeep(), batch_size, seed, CPU, torch.float32)
        updates.load(trial.parameters)
        assert 0 < check_updates(problem, updates, *trial.batches(GATE_UPDATES)) < 0.5


def test_it_converges() -> None:
    problem = problem_of(TanhDeep(), 100, CPU, torch.float32)
    results = list(train_seeds(TanhDeep(), problem, Manual().prepare(problem, 20), 4))
    assert [result.converged for result in results] == [True] * 4
