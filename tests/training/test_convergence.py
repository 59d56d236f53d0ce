import itertools
import math

import pytest
import torch
from torch import Tensor, nn

from harness.training.convergence import train_seeds
from harness.training.engines.autograd import Autograd
from harness.training.engines.manual import Manual
from harness.training.loading import load_workload
from harness.training.trial import begin, problem_of
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


class HeldOut(Line):
    """`line`, judged on points that it never saw, far from those it did; drawn by the same generator."""

    def held_out(self, batch_size: int, seed: int) -> tuple[Tensor, Tensor]:
        inputs = 1 + torch.rand(50, 1)
        return inputs, -inputs


def test_points_held_out_tell_the_accuracy_and_nothing_else() -> None:
    problem = problem_of(Line(), 10, CPU, torch.float32)
    plain, held = (
        list(train_seeds(workload, problem, Manual().prepare(problem, 20), 4)) for workload in (Line(), HeldOut())
    )
    assert [result.loss for result in held] == [result.loss for result in plain]
    assert all(result.accuracy == 0 for result in held)
    assert all(result.r2 < 0 for result in held)
    assert not any(result.converged for result in held)
    assert any(result.converged for result in plain)


def test_accuracy_is_that_of_the_model_on_the_points_held_out() -> None:
    class Seen(Line):
        def held_out(self, batch_size: int, seed: int) -> tuple[Tensor, Tensor]:
            torch.manual_seed(seed)
            return self.data(batch_size, seed)

    problem = problem_of(Line(), 10, CPU, torch.float32)
    plain, seen = (
        list(train_seeds(workload, problem, Manual().prepare(problem, 20), 4)) for workload in (Line(), Seen())
    )
    assert seen == plain


def test_points_held_out_are_drawn_after_everything_else() -> None:
    """Or every seed of a workload would train on something else from the day that it holds points out."""
    plain, held = (begin(workload, 10, 3, CPU, torch.float64) for workload in (Line(), HeldOut()))
    assert plain.held_out is None
    assert held.held_out is not None
    assert held.held_out[0].dtype == torch.float64
    assert plain.orders is not None
    assert held.orders is not None
    drawn = [(each.inputs, each.targets, *each.parameters.values(), *each.orders) for each in (plain, held)]
    assert all(torch.equal(one, other) for one, other in zip(*drawn, strict=True))


@pytest.mark.parametrize(("inputs", "targets"), [(5, 4), (0, 0)])
def test_points_held_out_that_do_not_fit_are_refused(inputs: int, targets: int) -> None:
    class Odd(Line):
        def held_out(self, batch_size: int, seed: int) -> tuple[Tensor, Tensor]:
            return torch.rand(inputs, 1), torch.rand(targets, 1)

    with pytest.raises(ValueError, match=f"holds out {inputs} inputs and {targets} targets"):
        begin(Odd(), 10, 0, CPU, torch.float32)


def test_a_seed_that_diverges_has_not_converged() -> None:
    class Wild(Line):
        learning_rate = 1e6

    problem = problem_of(Wild(), 100, CPU, torch.float32)
    (result,) = train_seeds(Wild(), problem, Autograd().prepare(problem, 20), 1)
    assert not math.isfinite(result.loss)
    assert not result.converged
    assert result.epochs_to_target is None
