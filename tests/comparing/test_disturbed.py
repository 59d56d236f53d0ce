"""A pair of which a side was disturbed from beginning to end is left out, by that evidence alone."""

import math
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from harness.comparing.compare import compare_runs
from harness.comparing.compared import Compared, Status
from harness.comparing.disturbed import pairs_left_out, throughout
from harness.comparing.judge import judge
from harness.comparing.run import Run
from tests.comparing.test_compare import QUIET, run

ROUNDS = 16
NEIGHBOUR = math.log(1.6)


def evidence(*rows: tuple[int, int, str]) -> pd.DataFrame:
    return pd.DataFrame(rows, columns=["blocks", "blocks_disturbed", "disturbances"])


@pytest.mark.parametrize(
    ("row", "found"),
    [
        ((324, 323, "slow core 323"), True),
        ((324, 292, "slow core 290, preempted 2"), True),
        ((324, 291, "slow core 291"), False),  # a tenth was quiet
        ((40, 33, "stolen 33"), True),
        ((40, 32, "stolen 32"), False),  # eight are enough
        ((324, 323, "waited 200, slow core 123"), False),  # the engine's own threads
        ((324, 323, "throttled 323"), False),
        ((324, 0, ""), False),
        ((4, 0, ""), False),
    ],
)
def test_the_evidence_is_of_blocks_and_of_what_comes_from_elsewhere(row, found):
    assert throughout(evidence(row)).tolist() == [found]


def test_without_evidence_nothing_is_known():
    unknown = pd.DataFrame({"blocks": [math.nan], "blocks_disturbed": [math.nan], "disturbances": [""]})
    assert throughout(unknown).tolist() == [False]
    assert throughout(unknown.drop(columns="disturbances")).tolist() == [False]


def masks(base: list[int], new: list[int], cases: int = 1) -> tuple[np.ndarray, ...]:
    """Logs of cases, and of the first one the rounds in which a side was disturbed."""
    logs = np.zeros((2, cases, ROUNDS))
    disturbed = np.zeros((2, cases, ROUNDS), dtype=bool)
    disturbed[0, 0, base] = disturbed[1, 0, new] = True
    return *logs, *disturbed


@pytest.mark.parametrize(
    ("base", "new", "out"),
    [
        ([], [], []),
        ([3], [], [3]),
        ([3], [3, 9], [3, 9]),
        ([1, 2, 3], [11, 12], [1, 2, 3, 11, 12]),
        ([1, 2, 3, 4], [9, 10, 11, 12], [1, 2, 3, 4, 9, 10, 11, 12]),
        ([1, 2, 3, 4, 5], [9, 10, 11, 12], []),  # more than half
        ([1, 2, 3, 4, 5], [], [1, 2, 3, 4, 5]),
    ],
)
def test_a_pair_goes_with_either_side_unless_they_are_many(base, new, out):
    (found,) = pairs_left_out(*masks(base, new))
    assert np.flatnonzero(found).tolist() == out


def test_a_side_that_is_disturbed_more_often_than_by_chance_keeps_its_pairs():
    base, new, *disturbed = (np.zeros((1, 30)), np.zeros((1, 30)), *np.zeros((2, 1, 30), dtype=bool))
    disturbed[1][0, :8] = True
    assert not pairs_left_out(base, new, *disturbed).any()
    disturbed[0][0, 10] = True
    assert pairs_left_out(base, new, *disturbed).sum() == 9


def test_so_does_a_table_whose_cases_are_each_disturbed_in_the_same_side():
    base, new, *disturbed = (np.zeros((8, ROUNDS)), np.zeros((8, ROUNDS)), *np.zeros((2, 8, ROUNDS), dtype=bool))
    disturbed[1][:7, 0] = True
    assert pairs_left_out(base, new, *disturbed).sum() == 7
    disturbed[1][7, 0] = True
    assert not pairs_left_out(base, new, *disturbed).any()


def test_rounds_that_a_side_lacks_are_no_pairs():
    base, new, *disturbed = masks([0, 1, 2], [])
    new[0, 3:14] = math.nan  # five pairs are left, of which three are more than half
    assert not pairs_left_out(base, new, *disturbed).any()


# By simulation: a sixth of all processes beside a neighbour


def drawn(tables: int, rounds: int = ROUNDS, cases: int = 2, seed: int = 0) -> tuple[np.ndarray, ...]:
    draws, shape = np.random.default_rng(seed), (tables, cases, rounds)
    disturbed = [draws.random(shape) < 1 / 6 for _ in range(2)]
    sides = [draws.normal(0, 0.02, shape) + NEIGHBOUR * draws.uniform(0.5, 1, shape) * each for each in disturbed]
    return *sides, *disturbed


def without(base: np.ndarray, new: np.ndarray, *disturbed: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    out = pairs_left_out(base, new, *disturbed)
    return np.where(out, np.nan, base), np.where(out, np.nan, new)


@pytest.mark.parametrize(("cases", "tables"), [(1, 4000), (2, 4000), (10, 2000), (54, 500)])
@pytest.mark.parametrize("rounds", [10, ROUNDS])
def test_hardly_a_table_of_what_did_not_change_has_a_change(rounds, cases, tables):
    status = judge(*without(*drawn(tables, rounds, cases)), paired=True).status
    assert np.isin(status, [Status.REGRESSED, Status.IMPROVED]).any(axis=-1).mean() <= 0.01


def test_a_slowdown_is_seen_that_hides_behind_neighbours():
    base, new, *disturbed = drawn(500)
    new[:, 0] += math.log(1.06)
    blind = judge(base, new, paired=True).status
    found = judge(*without(base, new, *disturbed), paired=True).status
    assert (blind[:, 0] == "regressed").mean() < 0.4
    assert (found[:, 0] == "regressed").mean() > 0.75


# Two runs that were measured in turn


def told(side: Run, disturbed: list[int], factor: float = 1.6) -> Run:
    """The run with rounds that were disturbed throughout, and so many times as slow."""
    table = side.measurements
    there = table["round"].isin(disturbed)
    return replace(
        side,
        measurements=table.assign(
            step_ns=np.where(there, factor * table["step_ns"], table["step_ns"]),
            blocks=200,
            blocks_disturbed=np.where(there, 200, 3),
            disturbances=np.where(there, "slow core 199, preempted 1", "preempted 3"),
        ),
    )


def compared(base: list[int], new: list[int], change: float = 1.05, factor: float = 1.6) -> Compared:
    slower = tuple(change * step_ns for step_ns in QUIET[1:] + QUIET[:1])
    return compare_runs(told(run("base", QUIET), base, factor), told(run("new", slower), new, factor))


def test_what_is_left_out_is_counted_and_the_rest_decides():
    found = compared([2], [4, 6])
    (case,) = found.cases
    assert (case.status, found.left_out) == (Status.REGRESSED, 3)
    assert (case.rounds_base, case.rounds_new) == (7, 7)
    assert case.change == pytest.approx(0.05, abs=0.01)
    assert found.aggregate is not None
    assert found.aggregate.change == pytest.approx(case.change, abs=0.01)


def test_two_sessions_keep_all():
    base, new = told(run("base", QUIET, session="monday"), [2]), told(run("new", QUIET, session="friday"), [])
    assert compare_runs(base, new).left_out == 0


def test_rounds_needed_are_as_many_as_lose_the_same_share_again():
    noisy = np.random.default_rng(1).normal([[0], [0.05]], 0.05, (2, 20))
    sides = [run(name, tuple(1000 * np.exp(logs))) for name, logs in zip(("base", "new"), noisy, strict=True)]
    some = compare_runs(told(sides[0], [2, 4], 1), told(sides[1], [6, 8], 1)).cases[0]
    few = [replace(side, measurements=side.measurements.drop(index=[2, 4, 6, 8])) for side in sides]
    alone = compare_runs(*few).cases[0]
    assert some.status is alone.status is Status.UNDECIDED
    assert (some.change, some.low, some.rounds_new) == (alone.change, alone.low, 16)
    assert some.rounds_needed == math.ceil(alone.rounds_needed * 20 / 16)
