from dataclasses import replace

import pytest

from harness.plan.case import Case
from harness.plan.catalogue import ENGINES
from harness.plan.estimate import process_seconds, sweep_seconds
from harness.plan.presets import PRESETS
from harness.plan.sweep import Axes, Sweep, plan_sweep


def case(engine: str) -> Case:
    return Case("line", engine, "cpu", "float32", 100)


SWEEP = Sweep((case("manual"),), seeds=64)
MORE = replace(SWEEP, seeds=640)


@pytest.mark.parametrize("engine", ENGINES)
def test_the_first_round_of_a_case_adds_its_compiling_and_its_seeds(engine):
    first, later = (process_seconds(case(engine), number, SWEEP) for number in (0, 1))
    assert later == ENGINES[engine].process_s + 1.5 > 1.5
    assert first > later + ENGINES[engine].compile_s


def test_more_seeds_take_longer_in_the_first_round_only():
    assert process_seconds(case("manual"), 0, MORE) > process_seconds(case("manual"), 0, SWEEP)
    assert process_seconds(case("manual"), 1, MORE) == process_seconds(case("manual"), 1, SWEEP)


def test_a_workload_whose_seeds_train_longer_takes_longer():
    digits = replace(case("manual"), workload="digits")
    assert process_seconds(digits, 0, MORE) > 2 * process_seconds(case("manual"), 0, MORE)
    assert process_seconds(replace(case("manual"), workload="wide"), 1, SWEEP) > process_seconds(digits, 1, SWEEP)


def test_a_users_workload_is_expected_to_take_as_long_as_line():
    mine = replace(case("manual"), workload="/home/me/own.py:Mine")
    assert process_seconds(mine, 0, SWEEP) == process_seconds(case("manual"), 0, SWEEP)


def test_a_thorough_preset_takes_longer_by_its_budget():
    rigorous = replace(SWEEP, sampling=PRESETS["rigorous"].sampling)
    assert process_seconds(case("manual"), 1, rigorous) - process_seconds(case("manual"), 1, SWEEP) == pytest.approx(
        6.5
    )


def test_several_ranks_take_longer_to_start():
    several = replace(case("ddp"), ranks=2)
    assert process_seconds(several, 1, SWEEP) > process_seconds(case("ddp"), 1, SWEEP)


def test_a_users_engine_is_expected_to_take_as_long_as_autograd():
    for number in (0, 1):
        mine = process_seconds(case("/home/me/own.py:Fast"), number, SWEEP)
        assert mine == process_seconds(case("autograd"), number, SWEEP)


def test_a_sweep_takes_as_long_as_all_its_processes():
    sweep = Sweep((case("manual"), case("compile")), rounds=3, seeds=10)
    parts = [process_seconds(each, number, sweep) for each in sweep.cases for number in range(3)]
    assert sweep_seconds(sweep) == pytest.approx(sum(parts))
    assert sweep_seconds(replace(sweep, rounds=1)) < sweep_seconds(sweep)


def test_the_standard_sweep_is_done_within_a_coffee_break():
    assert 60 < sweep_seconds(plan_sweep(None, Axes())) < 20 * 60
