from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from harness.plan.errors import PlanError
from harness.plan.outcome import CaseEnded, Outcome
from harness.training.contract import Problem, Updates
from harness.training.engines.autograd import Autograd
from harness.training.engines.ensemble import Ensemble
from harness.training.engines.manual import Manual
from harness.training.gate import TimedBlock, check_block, copied
from harness.training.loading import load_workload
from harness.training.members import LOOKED_AT, OneOfMany, all_members, looked_at, members_of, prepared, stacked
from harness.training.trial import VARIED_WEIGHTS, Trial, begin, problem_of, varied
from tests.several import MEMBERS, Several

CPU = torch.device("cpu")


@pytest.fixture
def case() -> tuple[Problem, Trial, Several]:
    workload = load_workload("line")
    problem = problem_of(workload, 10, CPU, torch.float32)
    return problem, begin(workload, 10, 0, CPU, torch.float32), Several().prepare(problem, 20)


def one_of(several: Several, member: int | None = None) -> OneOfMany:
    return OneOfMany(several, MEMBERS, member)


# One of them


def test_an_engine_of_one_model_is_left_as_it_is(case: Any) -> None:
    problem, trial, _ = case
    updates = prepared(Manual(), problem, 20)
    assert not isinstance(updates, OneOfMany)
    block = TimedBlock({}, torch.zeros(3), {})
    assert all_members(updates, trial) == (updates, trial)
    assert list(looked_at(updates, block)) == [(updates, block)]
    assert members_of(Manual()) is None


@pytest.mark.parametrize("members", [0, -1, 2.0, "64", True])
def test_what_is_no_number_of_members_is_refused_in_one_line(members: Any) -> None:
    with pytest.raises(PlanError, match=r"members .*: use a whole number from 1"):
        members_of(SimpleNamespace(members=members))


def test_every_member_is_looked_at_sooner_or_later_and_gets_exactly_the_weights(case: Any) -> None:
    _, trial, several = case
    one, seen = one_of(several), set()
    for _ in range(200):
        one.load(trial.parameters)
        assert all(torch.equal(value, trial.parameters[name]) for name, value in one.parameters().items())
        same = [torch.equal(row, trial.parameters["0.weight"]) for row in several.loaded["0.weight"]]
        assert sum(same) == 1
        seen.add(same.index(True))
    assert seen == set(range(MEMBERS))


def test_the_others_get_variations_that_differ_in_every_number_and_at_every_load(case: Any) -> None:
    _, trial, several = case
    one, seen = one_of(several), set()
    for _ in range(2):
        one.load(trial.parameters)
        factors = several.loaded["0.weight"] / trial.parameters["0.weight"]
        assert ((factors - 1).abs() <= VARIED_WEIGHTS + 1e-6).all()
        seen |= set(factors.flatten().tolist()) - {1.0}
    assert len(seen) > 0.95 * 2 * (MEMBERS - 1) * 10


def test_its_losses_and_weights_are_those_of_a_model_trained_alone(case: Any) -> None:
    problem, trial, several = case
    alone = Manual().prepare(problem, 20)
    alone.load(trial.parameters)
    expected = alone(*trial.batches(7)).clone()
    for _ in range(10):
        one = one_of(several)
        one.load(trial.parameters)
        assert torch.equal(one(*trial.batches(7)), expected)
        assert all(torch.equal(value, alone.parameters()[name]) for name, value in one.parameters().items())


@pytest.mark.parametrize("losses", [torch.zeros(3), torch.zeros(3, MEMBERS + 1), torch.zeros(MEMBERS, 3)])
def test_losses_that_are_not_of_steps_and_members_are_no_losses(case: Any, losses: Tensor) -> None:
    _, trial, several = case
    several.__class__ = type("Wrong", (Several,), {"__call__": lambda *_: losses})
    with pytest.raises(CaseEnded, match="3 updates of 5 members return losses of shape") as ended:
        one_of(several)(*trial.batches(3))
    assert ended.value.outcome is Outcome.WRONG_GRADIENT


@pytest.mark.parametrize("stack", [torch.zeros(()), torch.zeros(10, 1)])
def test_weights_that_are_no_stack_are_told_by_their_name(case: Any, stack: Tensor) -> None:
    _, _, several = case
    several.__class__ = type("Wrong", (Several,), {"parameters": lambda _: {"0.weight": stack}})
    with pytest.raises(CaseEnded, match=r"the engine's 0\.weight is .*no stack of 5 members"):
        one_of(several).parameters()


# All of them


def timed(several: Several, trial: Trial, steps: int = 30) -> tuple[TimedBlock, Tensor, Tensor]:
    """A block as `measuring.timing` makes it, and its batches."""
    everyone, start = all_members(one_of(several), trial)
    begun = varied(start.parameters, 1)
    inputs, targets = trial.batches(steps)
    everyone.load(begun)
    losses = everyone(inputs, targets)
    return TimedBlock(begun, losses, copied(everyone.parameters())), inputs, targets


def test_each_member_of_a_timed_block_has_a_start_of_its_own(case: Any) -> None:
    _, trial, several = case
    everyone, start = all_members(one_of(several), trial)
    assert everyone is several
    begun = varied(start.parameters, 1)
    assert {name: stack.shape for name, stack in begun.items()} == {
        name: (MEMBERS, *value.shape) for name, value in trial.parameters.items()
    }
    assert len(set(begun["0.weight"].flatten().tolist())) == MEMBERS * 10


def test_members_that_are_looked_at_are_chosen_anew_for_each_block_and_each_is_what_was_timed(case: Any) -> None:
    _, trial, several = case
    block, _, _ = timed(several, trial)
    seen = set()
    for _ in range(50):
        found = list(looked_at(one_of(several), block))
        assert len(found) == LOOKED_AT
        for updates, part in found:
            [member] = [at for at in range(MEMBERS) if torch.equal(part.losses, block.losses[:, at])]
            updates.load(part.start)
            assert torch.equal(several.loaded["0.weight"][member], block.start["0.weight"][member])
            assert torch.equal(part.end["0.weight"], block.end["0.weight"][member])
            seen.add(member)
    assert seen == set(range(MEMBERS))


def test_a_timed_block_of_honest_members_passes(case: Any) -> None:
    problem, trial, several = case
    block, inputs, targets = timed(several, trial)
    for updates, part in looked_at(one_of(several), block):
        check_block(problem, updates, inputs, targets, part)


@pytest.mark.parametrize("left_out", [{0}, {4}])
def test_a_member_that_was_not_trained_while_timed_is_found_whichever_it_is(case: Any, left_out: set[int]) -> None:
    problem, trial, several = case
    several.left_out = left_out
    block, inputs, targets = timed(several, trial)
    several.left_out = set()

    def look() -> None:
        for _ in range(10):  # four of five are looked at each time
            for updates, part in looked_at(one_of(several), block):
                check_block(problem, updates, inputs, targets, part)

    with pytest.raises(CaseEnded) as ended:
        look()
    assert ended.value.outcome is Outcome.REJECTED


def test_timed_losses_of_another_shape_are_rejected(case: Any) -> None:
    _, trial, several = case
    block, _, _ = timed(several, trial)
    with pytest.raises(CaseEnded, match="updates of 5 members return losses of shape") as ended:
        list(looked_at(one_of(several), replace(block, losses=block.losses[:, 0])))
    assert ended.value.outcome is Outcome.REJECTED


# The ensemble


@pytest.fixture
def few(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[Problem], Updates]]:
    """Makes an ensemble of three members; what its compiled graph computes, the contract's tests hold to the gate."""
    monkeypatch.setattr(Ensemble, "members", 3)
    with torch.compiler.set_stance("force_eager"):
        yield lambda problem: Ensemble().prepare(problem, 20)


@pytest.mark.parametrize(
    ("workload", "dtype", "tolerance"), [("line_deep", torch.float32, 1e-4), ("line", torch.float64, 1e-12)]
)
def test_each_member_of_the_ensemble_trains_as_autograd_trains_it_alone(
    few: Any, workload: str, dtype: torch.dtype, tolerance: float
) -> None:
    loaded = load_workload(workload)
    problem = problem_of(loaded, 10, CPU, dtype)
    trial = begin(loaded, 10, 0, CPU, dtype)
    assert_trained_as_alone(few(problem), problem, trial.parameters, *trial.batches(20), tolerance)


def test_the_ensemble_trains_classes_by_cross_entropy_too(few: Any) -> None:
    torch.manual_seed(0)
    problem = Problem(nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 3)), nn.CrossEntropyLoss(), 0.1, 8)
    inputs, targets = torch.randn(5, 8, 4), torch.randint(0, 3, (5, 8))
    assert_trained_as_alone(few(problem), problem, copied(dict(problem.template.named_parameters())), inputs, targets)


def assert_trained_as_alone(
    everyone: Updates,
    problem: Problem,
    parameters: Mapping[str, Tensor],
    inputs: Tensor,
    targets: Tensor,
    tolerance: float = 1e-5,
) -> None:
    start = varied(stacked(parameters, 3), 7)
    everyone.load(start)
    losses = everyone(inputs, targets)
    assert losses.shape == (len(inputs), 3)
    alone = Autograd().prepare(problem, 20)
    for member in range(3):
        alone.load({name: stack[member] for name, stack in start.items()})
        torch.testing.assert_close(alone(inputs, targets), losses[:, member], rtol=tolerance, atol=0)
        for name, value in alone.parameters().items():
            torch.testing.assert_close(value, everyone.parameters()[name][member], rtol=tolerance, atol=tolerance)
