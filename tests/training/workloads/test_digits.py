import sys
from importlib.util import find_spec
from typing import Any

import pytest
import torch

from harness.plan.outcome import CaseEnded, Outcome
from harness.training.convergence import SeedResult, train_seeds
from harness.training.engines.autograd import Autograd
from harness.training.engines.frozen import Frozen
from harness.training.engines.manual import Manual
from harness.training.loading import load_workload
from harness.training.steps import StepUpdates, autograd_step
from harness.training.trial import begin, problem_of
from harness.training.workloads import digits
from harness.training.workloads.digits import Digits

CPU = torch.device("cpu")


def test_without_scikit_learn_it_is_unsupported_and_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "sklearn", None)
    monkeypatch.setattr(digits, "_in_fixed_order", digits._in_fixed_order.__wrapped__)
    with pytest.raises(CaseEnded, match=r"pip install -e '\.\[digits\]'") as ended:
        begin(Digits(), 32, 0, CPU, torch.float32)
    assert ended.value.outcome is Outcome.UNSUPPORTED


def test_its_network_needs_no_data() -> None:
    """So that what an engine cannot do is said by the engine, whatever is installed."""
    problem = problem_of(Digits(), 32, CPU, torch.float32)
    assert sum(value.numel() for value in problem.template.parameters()) == 2410
    assert Manual().unsupported(problem, None) is None
    assert "MSELoss" in (Frozen().unsupported(problem, None) or "")


@pytest.mark.skipif(find_spec("sklearn") is None, reason="needs scikit-learn")
class TestWithScikitLearn:
    @pytest.mark.parametrize(
        ("batch_size", "points"), [(10, 1500), (150, 1500), (151, 1510), (1000, 10_000), (2048, 20_480)]
    )
    def test_an_epoch_has_at_least_ten_updates_of_repeated_points(self, batch_size: int, points: int) -> None:
        inputs, classes = Digits().data(batch_size, 0)
        assert inputs.shape == (points, 64)
        assert classes.shape == (points,)
        assert (inputs.dtype, classes.dtype) == (torch.float32, torch.int64)
        again = range(0, points - 1500, 1500)
        assert all(torch.equal(inputs[:10], inputs[1500 + start :][:10]) for start in again)

    def test_trained_on_and_held_out_are_all_digits_each_once(self) -> None:
        from sklearn.datasets import load_digits

        (inputs, classes), (held_out, held_out_classes) = Digits().data(32, 0), Digits().held_out(32, 0)
        assert len(held_out) == len(held_out_classes) == 297
        ours = torch.cat([torch.cat([inputs, held_out]), torch.cat([classes, held_out_classes]).unsqueeze(1)], 1)
        pixels, digit = load_digits(return_X_y=True)
        theirs = torch.cat([torch.from_numpy(pixels) / 16, torch.from_numpy(digit).unsqueeze(1)], 1).float()
        assert sorted(ours.tolist()) == sorted(theirs.tolist())
        assert set(held_out_classes.tolist()) == set(range(10))

    def test_the_same_digits_are_held_out_for_every_seed_and_batch_size(self) -> None:
        one, other = (begin(Digits(), size, seed, CPU, torch.float32).held_out for size, seed in ((32, 0), (1000, 5)))
        assert one is not None
        assert other is not None
        assert torch.equal(one[0], other[0])
        # The order is numpy's, which keeps it; another would hold out other digits.
        assert one[1][:10].tolist() == [2, 2, 9, 8, 8, 3, 6, 0, 4, 4]

    def test_a_seed_draws_weights_and_shuffles_only(self) -> None:
        one, other = (begin(Digits(), 32, seed, CPU, torch.float32) for seed in (0, 1))
        assert torch.equal(one.inputs, other.inputs)
        assert not torch.equal(one.parameters["0.weight"], other.parameters["0.weight"])
        assert one.orders is not None
        assert other.orders is not None
        assert not torch.equal(one.orders[0], other.orders[0])

    def test_every_engine_ends_with_the_same_losses_for_the_same_seed(self) -> None:
        class Steps(Autograd):
            """What `compile_step` compiles."""

            def prepare(self, problem: Any, steps: int) -> Any:
                model = problem.model()
                return StepUpdates(model, autograd_step(problem, model))

        def trained(engine: Any) -> list[SeedResult]:
            problem = problem_of(Digits(), 32, CPU, torch.float32)
            return list(train_seeds(Digits(), problem, engine.prepare(problem, 20), 2))

        autograd, manual, steps = (trained(engine) for engine in (Autograd(), Manual(), Steps()))
        for one, two, three in zip(autograd, manual, steps, strict=True):
            assert (one.updates, one.converged) == (920, True)
            assert one.accuracy > 0.93
            for other in (two, three):
                assert other.loss == pytest.approx(one.loss, rel=1e-3)
                assert other.accuracy == pytest.approx(one.accuracy, abs=1.01 / 297)
        assert autograd[0].loss != pytest.approx(autograd[1].loss, rel=1e-2)


def test_accuracy_is_the_share_of_digits_that_are_right() -> None:
    outputs = torch.tensor([[0.0, 1.0], [2.0, 1.0], [0.0, 3.0], [0.0, 3.0]])
    assert load_workload("digits").accuracy(outputs, torch.tensor([1, 0, 1, 0])).item() == 0.75
