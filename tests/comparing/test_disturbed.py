"""A pair of which a side was disturbed from beginning to end is left out, by that evidence alone."""

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
import pytest

from harness.comparing.compare import compare_runs
from harness.comparing.compared import Compared, Disturbed, Status
from harness.comparing.disturbed import left_out, throughout
from harness.comparing.judge import judge
from harness.comparing.pairs import Evidence, judge_pairs
from harness.comparing.run import Run
from tests.comparing.test_compare import QUIET, run

Sides = tuple[np.ndarray, np.ndarray, Evidence]

ROUNDS = 16
NEIGHBOUR = math.log(1.6)


def evidence(*rows: tuple[int, int, str], core_ns: float = 9000.0) -> pd.DataFrame:
    return pd.DataFrame(rows, columns=["blocks", "blocks_disturbed", "disturbances"]).assign(core_ns=core_ns)


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
        ((324, 323, "shared GPU 300, preempted 23"), False),
        ((324, 323, "what, a stranger wrote 7x, preempted 23"), True),
        ((324, 0, ""), False),
        ((4, 0, ""), False),
    ],
)
def test_the_evidence_is_of_blocks_and_of_what_comes_from_elsewhere(row, found):
    assert throughout(evidence(row), 9000).tolist() == [found]


@pytest.mark.parametrize(
    ("core_ns", "found"), [(13000, True), (11800, True), (11600, False), (9000, False), (math.nan, False)]
)
def test_so_is_a_core_that_was_slow_against_the_fastest_of_the_session(core_ns, found):
    assert throughout(evidence((148, 3, "preempted 3"), core_ns=core_ns), 9000).tolist() == [found]
    assert throughout(evidence((148, 0, ""), core_ns=core_ns), 9000).tolist() == [found]
    assert throughout(evidence((148, 3, "preempted 3"), core_ns=core_ns), math.nan).tolist() == [False]


def test_without_evidence_nothing_is_known():
    unknown = pd.DataFrame({"blocks": [math.nan], "blocks_disturbed": [math.nan], "disturbances": [""]})
    assert throughout(unknown.assign(core_ns=math.nan), math.nan).tolist() == [False]
    assert throughout(unknown.drop(columns="disturbances"), 9000).tolist() == [False]


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
    (found,) = left_out(*masks(base, new)).out
    assert np.flatnonzero(found).tolist() == out


def test_a_side_that_is_disturbed_more_often_than_by_chance_keeps_its_pairs():
    base, new, *disturbed = (np.zeros((1, 30)), np.zeros((1, 30)), *np.zeros((2, 1, 30), dtype=bool))
    disturbed[1][0, :9] = True
    assert (left_out(base, new, *disturbed).out.sum(), left_out(base, new, *disturbed).kept.sum()) == (0, 9)
    disturbed[0][0, 10] = True
    assert (left_out(base, new, *disturbed).out.sum(), left_out(base, new, *disturbed).kept.sum()) == (10, 0)


def test_in_a_table_of_many_cases_one_is_so_by_chance_but_not_all_of_them():
    base, new, *disturbed = (np.zeros((54, 30)), np.zeros((54, 30)), *np.zeros((2, 54, 30), dtype=bool))
    disturbed[1][0, :9] = True
    disturbed[0][1:6, 0] = True
    assert left_out(base, new, *disturbed).out.sum() == 14
    disturbed[1][6:30, 0] = True
    assert not left_out(base, new, *disturbed).out.any()


@pytest.mark.parametrize(
    ("base", "new", "doubtful"), [([], [1, 2, 3, 4, 5], True), ([], [1, 2, 3, 4], False), ([7], [1, 2, 3, 4, 5], False)]
)
def test_a_side_that_might_be_disturbed_by_itself_is_doubtful_from_five_to_none_on(base, new, doubtful):
    assert left_out(*masks(base, new)).doubtful.tolist() == [doubtful]


@pytest.mark.parametrize(
    ("base", "new", "spoilt"),
    [
        ([1, 2, 3, 4], [9, 10, 11, 12], False),  # half: these are left out
        ([1, 2, 3, 4, 5], [9, 10, 11, 12], True),
        (list(range(ROUNDS)), list(range(ROUNDS)), False),  # always there
        (list(range(1, ROUNDS)), list(range(ROUNDS)), False),
        (list(range(2, ROUNDS)), list(range(1, ROUNDS - 1)), True),
        ([], list(range(ROUNDS)), False),  # one side's own
    ],
)
def test_a_neighbour_that_came_and_went_for_most_of_the_time_spoils_a_case(base, new, spoilt):
    found = left_out(*masks(base, new))
    assert found.spoilt.tolist() == [spoilt]
    assert not (found.spoilt & found.out.any(axis=-1)).any()


def test_rounds_that_a_side_lacks_are_no_pairs():
    base, new, *disturbed = masks([0, 1, 2], [])
    new[0, 3:14] = math.nan  # five pairs are left, of which three are more than half
    assert not left_out(base, new, *disturbed).out.any()


# By simulation: processes beside a neighbour, and a core whose clock goes up and down


def drawn(tables: int, rounds: int, cases: int = 2, rate: float = 1 / 6, clock: float = 0.0) -> Sides:
    draws, shape = np.random.default_rng(0), (tables, cases, rounds)
    disturbed = [draws.random(shape) < rate for _ in range(2)]
    work = [draws.normal(0, clock, shape) + NEIGHBOUR * draws.uniform(0.5, 1, shape) * each for each in disturbed]
    base, new = (draws.normal(0, 0.02, shape) + 0.9 * each for each in work)
    known = [each + draws.normal(0, 0.008, shape) for each in work] if clock else [np.full(shape, math.nan)] * 2
    return base, new, Evidence((known[0], known[1]), (disturbed[0], disturbed[1]))


def statuses(sides: Sides) -> np.ndarray:
    base, new, evidence = sides
    return judge_pairs(base, new, evidence, known=np.full(base.shape[:-1], math.nan)).found.status


@pytest.mark.parametrize(("cases", "tables"), [(1, 4000), (2, 4000), (54, 400)])
@pytest.mark.parametrize(("rate", "clock"), [(1 / 6, 0.0), (1 / 3, 0.0), (1 / 2, 0.0), (1 / 6, 0.04)])
def test_hardly_a_table_of_what_did_not_change_has_a_change(cases, tables, rate, clock):
    status = statuses(drawn(tables, 10, cases, rate, clock))
    # 1 %, and two standard errors of so few tables.
    assert np.isin(status, [Status.REGRESSED, Status.IMPROVED]).any(axis=-1).mean() <= 0.01 + 2 * (0.01 / tables) ** 0.5


@pytest.mark.parametrize(("clock", "rounds"), [(0.0, ROUNDS), (0.04, 24)])
def test_a_slowdown_is_seen_that_hides_behind_neighbours(clock, rounds):
    base, new, evidence = drawn(500, rounds, clock=clock)
    new[:, 0] += math.log(1.06)
    blind = judge(base, new, paired=True).status
    assert (blind[:, 0] == "regressed").mean() < 0.4
    assert (statuses((base, new, evidence))[:, 0] == "regressed").mean() > 0.75


def test_what_is_left_out_tells_nothing_of_the_clock_either():
    base, new, evidence = drawn(300, 24, clock=0.04)
    judged = judge_pairs(base, new, evidence, known=np.full(base.shape[:-1], math.nan))
    loud = tuple(np.where(judged.pairs.out, work + 1, work) for work in evidence.work)
    again = judge_pairs(base, new, replace(evidence, work=loud), known=np.full(base.shape[:-1], math.nan))
    assert judged.pairs.out.any()
    np.testing.assert_array_equal(judged.left, again.left)
    np.testing.assert_array_equal(judged.found.table.effect, again.found.table.effect)


def test_what_one_side_alone_loses_is_never_called_the_same():
    base, new, evidence = drawn(1, ROUNDS, 1, rate=0)
    quiet = statuses((base / 10, new / 10, evidence))
    disturbed = (evidence.disturbed[0], np.arange(ROUNDS)[None, None] < 5)
    assert quiet.item() == "same"
    assert statuses((base / 10, new / 10, replace(evidence, disturbed=disturbed))).item() == "undecided"


# Two runs that were measured in turn


def told(side: Run, disturbed: list[int], factor: float = 1.6, **columns: Any) -> Run:
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
            **columns,
        ),
    )


def compared(base: list[int], new: list[int], **columns: Any) -> Compared:
    slower = tuple(1.05 * step_ns for step_ns in QUIET[1:] + QUIET[:1])
    return compare_runs(told(run("base", QUIET), base), told(run("new", slower), new, **columns))


def test_what_is_left_out_is_counted_and_the_rest_decides():
    found = compared([2, 6], [4, 6])
    (case,) = found.cases
    assert (case.status, found.disturbed) == (Status.REGRESSED, Disturbed(3, 0, 2, 2))
    assert (case.rounds_base, case.rounds_new) == (7, 7)
    assert case.change == pytest.approx(0.05, abs=0.01)
    assert found.aggregate is not None
    assert found.aggregate.change == pytest.approx(case.change, abs=0.01)


@pytest.mark.parametrize(("side", "disturbed"), [("base", Disturbed(1, 0, 1, 0)), ("new", Disturbed(1, 0, 0, 1))])
def test_what_the_first_process_of_a_session_could_not_know_is_known_by_the_other_side(side, disturbed):
    def found(others: float) -> Compared:
        cores = {name: [12_000.0] + [10_000.0] * 9 if name == side else others for name in ("base", "new")}
        return compare_runs(*(told(run(name, QUIET), [], core_ns=core_ns) for name, core_ns in cores.items()))

    assert found(10_000.0).disturbed == Disturbed()
    assert (found(9_000.0).disturbed, found(9_000.0).cases[0].rounds_new) == (disturbed, 9)


def test_what_is_kept_is_counted_as_well():
    found = compared([1, 2, 3], [5, 6, 7])
    assert (found.cases[0].rounds_new, found.disturbed) == (10, Disturbed(0, 6, 3, 3))
    assert found.cases[0].status is Status.UNDECIDED


def test_two_sessions_and_sides_that_tell_by_another_work_keep_all():
    base, new = told(run("base", QUIET, session="monday"), [2]), told(run("new", QUIET, session="friday"), [])
    assert compare_runs(base, new).disturbed == Disturbed()
    assert compared([2], [4, 6], core_work="another").disturbed == Disturbed()


def test_a_round_of_few_cases_counts_for_them_and_not_for_the_mean_of_all():
    draws = np.random.default_rng(2)
    names = [f"line/e{number}/cpu/float32/b100" for number in range(8)]
    sides = [run(side, {name: tuple(1000 * np.exp(draws.normal(0, 0.005, 14))) for name in names}) for side in "ab"]
    some = [
        replace(side, measurements=side.measurements[lambda rows: (rows["round"] < 10) | (rows["case_id"] == names[0])])
        for side in sides
    ]
    whole = [replace(side, measurements=side.measurements[lambda rows: rows["round"] < 10]) for side in sides]
    found, planned = compare_runs(*some), compare_runs(*whole)
    assert found.cases[0].rounds_new == 14
    assert found.aggregate == planned.aggregate


@pytest.mark.parametrize(("lost", "share"), [([2, 4, 6, 8], 1), ([1, 2, 4, 5, 6, 8, 10, 12, 14, 16], 2 / 1.5)])
def test_rounds_needed_are_more_where_more_will_be_lost_than_is_made_up_for(lost, share):
    noisy = np.random.default_rng(1).normal([[0], [0.05]], 0.05, (2, 20))
    sides = [run(name, tuple(1000 * np.exp(logs))) for name, logs in zip(("base", "new"), noisy, strict=True)]
    some = compare_runs(told(sides[0], lost[::2], 1), told(sides[1], lost[1::2], 1)).cases[0]
    alone = compare_runs(*(replace(side, measurements=side.measurements.drop(index=lost)) for side in sides)).cases[0]
    assert some.status is alone.status is Status.UNDECIDED
    assert (some.change, some.low, some.rounds_new) == (alone.change, alone.low, 20 - len(lost))
    assert some.rounds_needed == math.ceil(alone.rounds_needed * share)
