"""The catalogue of mistakes: each is another one, and changes what the right gradients do."""

import itertools

import pytest
import torch
from torch import Tensor

from harness.plan.mistakes import MISTAKES, Mistake
from harness.training.contract import Updates
from harness.training.engines.manual import Manual
from harness.training.loading import load_workload
from harness.training.mistakes.mistaken import Mistaken
from harness.training.proof import engine_of
from harness.training.trial import begin, problem_of

CPU = torch.device("cpu")
SEEDS = 3


def after(updates: Updates, place: Mistake, seed: int = 0, steps: int = 3) -> dict[str, Tensor]:
    workload = load_workload(place.workload)
    trial = begin(workload, place.batch_size, seed, CPU, torch.float64)
    updates.load(trial.parameters)
    updates(*trial.batches(steps))
    return {name: value.clone() for name, value in updates.parameters().items()}


def made(name: str | None, place: Mistake) -> Updates:
    problem = problem_of(load_workload(place.workload), place.batch_size, CPU, torch.float64)
    return (Manual() if name is None else engine_of(name)).prepare(problem, 20)


def apart(one: dict[str, Tensor], other: dict[str, Tensor]) -> float:
    return max((one[name] - value).abs().nan_to_num(1e9).max().item() for name, value in other.items())


def test_there_are_at_least_twenty_and_each_says_something_else():
    assert len(MISTAKES) >= 20
    assert len({mistake.what for mistake in MISTAKES.values()}) == len(MISTAKES)
    assert all(mistake.target.endswith(f":{name}") for name, mistake in MISTAKES.items())


@pytest.mark.parametrize("place", [Mistake("", "", "line", 100), Mistake("", "", "line_deep", 10)])
def test_what_mistakes_are_made_of_is_right_to_the_last_bit(place):
    problem = problem_of(load_workload(place.workload), place.batch_size, CPU, torch.float64)
    taken_apart, right = Mistaken().prepare(problem, 20), Manual().prepare(problem, 20)
    for seed in range(SEEDS):
        assert apart(after(taken_apart, place, seed, 20), after(right, place, seed, 20)) == 0


@pytest.mark.parametrize("name", MISTAKES)
def test_each_changes_an_update_of_every_seed(name):
    place = MISTAKES[name]
    wrong, right = made(name, place), made(None, place)
    for seed in range(SEEDS):
        # Rounding to half precision changes least.
        assert apart(after(wrong, place, seed), after(right, place, seed)) > 1e-7


def test_no_two_do_the_same():
    by_place = itertools.groupby(
        sorted(MISTAKES, key=lambda name: (MISTAKES[name].workload, MISTAKES[name].batch_size)),
        key=lambda name: (MISTAKES[name].workload, MISTAKES[name].batch_size),
    )
    for _, names in by_place:
        ends = {name: after(made(name, MISTAKES[name]), MISTAKES[name]) for name in names}
        for one, other in itertools.combinations(ends, 2):
            assert apart(ends[one], ends[other]) > 1e-7, (one, other)


@pytest.mark.parametrize("name", MISTAKES)
def test_nothing_of_a_seed_is_left_in_the_next(name):
    place = MISTAKES[name]
    used, fresh = made(name, place), made(name, place)
    after(used, place, seed=1, steps=5)
    assert apart(after(used, place), after(fresh, place)) == 0
