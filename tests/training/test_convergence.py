import itertools
import math

import pytest
import torch
from torch import nn

from harness.training.convergence import train_seeds
from harness.training.engines.autograd import Autograd
from harness.training.engines.manual import Manual
from harness.training.loading import load_workload
from harness.training.trial import problem_of
from harness.training.workloads.line import Line

CPU = torch.device("cpu")


def lesson(seed: int, sizes: list[int]) -> tuple[float, float]:
    """The lesson's script: final loss and accuracy of one seed, full batch of 100."""
    torch.manual_seed(seed)
    x = torch.linspace(-1, 1, 100).unsqueeze(1)
    y = 2 * x + 1 + 0.1 * torch.randn(x.shape)
    layers: list[nn.Module] = []
    for width, height in itertools.pairwise(sizes):
        layers += [nn.Linear(width, height), nn.ReLU()]
    model = nn.Sequential(*layers[:-1])
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for _ in range(20):
        optimizer.zero_grad()
        nn.functional.mse_loss(model(x), y).backward()
        optimizer.step()
    with torch.no_grad():
        outputs = model(x)
        return nn.functional.mse_loss(outputs, y).item(), ((outputs - y).abs() <= 0.5).float().mean().item()


@pytest.mark.parametrize(
    ("workload", "sizes", "converged"), [("line", [1, 10, 1], 58), ("line_deep", [1, 10, 10, 1], 49)]
)
def test_every_seed_gives_the_lessons_digits(workload: str, sizes: list[int], converged: int) -> None:
    loaded = load_workload(workload)
    problem = problem_of(loaded, 100, CPU, torch.float32)
    results = list(train_seeds(loaded, problem, Autograd().prepare(problem, 20), 64))
    for result in results:
        assert (result.loss, result.accuracy) == lesson(result.seed, sizes)
        assert result.updates == 20
    assert sum(result.converged for result in results) == converged


@pytest.mark.parametrize(("workload", "limit", "exceptions"), [("line", 2e-5, 0), ("line_deep", 1e-4, 1)])
def test_gradients_by_hand_end_where_autograd_ends_without_asking_it(
    workload: str, limit: float, exceptions: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    loaded = load_workload(workload)
    problem = problem_of(loaded, 100, CPU, torch.float32)
    theirs = list(train_seeds(loaded, problem, Autograd().prepare(problem, 20), 64))

    def asked(*_: object, **__: object) -> None:
        raise AssertionError("the manual engine asked autograd")

    monkeypatch.setattr(torch.Tensor, "backward", asked)
    monkeypatch.setattr(torch.autograd, "grad", asked)
    monkeypatch.setattr(torch.autograd, "backward", asked)
    mine = list(train_seeds(loaded, problem, Manual().prepare(problem, 20), 64))
    differences = [abs(a.loss - b.loss) / b.loss for a, b in zip(mine, theirs, strict=True)]
    assert sum(difference > limit for difference in differences) <= exceptions


def test_small_batches_make_their_updates() -> None:
    loaded = load_workload("line")
    problem = problem_of(loaded, 10, CPU, torch.float32)
    (result,) = train_seeds(loaded, problem, Manual().prepare(problem, 20), 1)
    assert result.updates == 200
    assert result.converged
    assert result.epochs_to_target is not None
    assert 1 <= result.epochs_to_target <= 20
    assert 0.9 < result.r2 <= 1


def test_a_seed_that_diverges_has_not_converged() -> None:
    class Wild(Line):
        learning_rate = 1e6

    problem = problem_of(Wild(), 100, CPU, torch.float32)
    (result,) = train_seeds(Wild(), problem, Autograd().prepare(problem, 20), 1)
    assert not math.isfinite(result.loss)
    assert not result.converged
    assert result.epochs_to_target is None
