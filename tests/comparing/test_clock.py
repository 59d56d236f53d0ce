"""What the core's clock did to pairs of step times is taken out of them; what an arm does is not."""

import math

import numpy as np
import pytest

from harness.comparing.clock import FEWEST_PAIRS, FEWEST_ROUNDS, judge_clocked, without_clock
from harness.comparing.judge import judge
from harness.comparing.rounds import least_seen, rounds_for
from tests.comparing.simulated import NOISES

SLOPE = 0.9
FIVE_PERCENT = math.log(1.05)
Sides = tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]


def drawn(
    tables: int, cases: int = 2, rounds: int = 12, *, clock: float = 0.04, noise: str = "Gaussian", seed: int = 1
) -> Sides:
    """Logs of step times, spread 2 % without the clock, and of the fixed work, `[tables, cases, rounds]` each."""
    draws, shape = np.random.default_rng(seed), (tables, cases, rounds)
    times = [NOISES[noise](draws, shape, 0.02) + 10.8 for _ in range(2)]
    speeds = [draws.normal(0, clock, shape) for _ in range(2)]
    base, new = (time + SLOPE * speed for time, speed in zip(times, speeds, strict=True))
    base_work, new_work = (9.2 + speed + draws.normal(0, 0.008, shape) for speed in speeds)
    return base, new, base_work, new_work


def called(sides: Sides, known: float = math.nan) -> np.ndarray:
    base, new, *_ = sides
    spreads = np.full(base.shape[:-1], known)
    return judge_clocked(base, new, without_clock(*sides), known=spreads).status


def changed(status: np.ndarray) -> float:
    """The share of tables with any change."""
    return float(np.isin(status, ["regressed", "improved"]).any(axis=-1).mean())


def test_a_slowdown_is_seen_that_hides_in_what_the_clock_does():
    sides = drawn(500)
    sides[1][:, 0] += FIVE_PERCENT
    blind = judge(*sides[:2], paired=True).status
    assert (blind[:, 0] == "regressed").mean() < 0.35
    assert (called(sides)[:, 0] == "regressed").mean() > 0.8


@pytest.mark.parametrize(("clock", "cases"), [(0.04, 2), (0.02, 26)])
def test_as_many_rounds_as_are_said_to_be_needed_see_a_slowdown_and_fewer_do_not(clock, cases):
    own, spread = math.hypot(0.02, SLOPE * 0.008), math.hypot(0.02, SLOPE * clock)
    needed = int(rounds_for(spread, 0.05, cases=cases, left=own / spread))
    assert needed < rounds_for(spread, 0.05, cases=cases)
    found = {}
    for rounds in (needed, FEWEST_ROUNDS):
        sides = drawn(600, cases, rounds, clock=clock)
        sides[1][:, 0] += FIVE_PERCENT
        found[rounds] = (called(sides, spread)[:, 0] == "regressed").mean()
    assert found[needed] >= 0.92  # 95 % of two conditions, and the chance of so few tables
    assert found[FEWEST_ROUNDS] < 0.85


def test_where_the_clock_is_not_taken_out_as_many_rounds_are_needed_as_ever():
    few = ((FEWEST_ROUNDS - 1, 26, True), (FEWEST_ROUNDS, 26, False), ((FEWEST_PAIRS - 1) // 2, 2, True))
    for rounds, cases, paired in few:
        before = least_seen(0.04, rounds, cases=cases, paired=paired)
        assert least_seen(0.04, rounds, cases=cases, paired=paired, left=0.5) == before
    assert least_seen(0.04, FEWEST_ROUNDS, left=0.5) < least_seen(0.04, FEWEST_ROUNDS)


def test_however_little_is_left_half_of_a_change_must_show_in_the_pairs_as_they_are():
    half = 1.645 * 0.04 * math.sqrt(2 / FEWEST_ROUNDS)
    assert math.log1p(least_seen(0.04, FEWEST_ROUNDS, left=0.01)) == pytest.approx(2 * half, rel=1e-3)


@pytest.mark.parametrize("noise", ["Gaussian", "skewed", "contaminated"])
@pytest.mark.parametrize(("cases", "rounds"), [(1, 24), (2, 12), (2, 20), (10, 10)])
@pytest.mark.parametrize("clock", [0.002, 0.04])
def test_hardly_a_table_of_what_did_not_change_has_a_change(noise, cases, rounds, clock):
    sides = drawn(1500, cases, rounds, clock=clock, noise=noise)
    for known in (math.nan, 0.02):  # that is of a clock that was steady
        assert changed(called(sides, known)) <= 0.012  # 1 %, and less than one standard error of so few tables


def test_what_is_left_is_a_share_of_the_spread():
    found = without_clock(*drawn(200, 10, 20))
    assert np.median(found.left) == pytest.approx(
        math.hypot(0.02, SLOPE * 0.008) / math.hypot(0.02, SLOPE * 0.04), abs=0.05
    )


def test_a_slope_of_one_half_is_found():
    base, new, base_work, new_work = drawn(200, 4, 20)
    base, new = base - 0.4 * (base_work - 9.2), new - 0.4 * (new_work - 9.2)
    found = without_clock(base, new, base_work, new_work)
    taken = (base - found.base)[..., 1] / (base_work[..., 1] - (base_work + new_work).mean(axis=-1) / 2)
    assert np.median(taken[found.left < 1]) == pytest.approx(0.5, abs=0.08)


def test_where_the_clock_explains_little_nothing_is_touched():
    sides = drawn(100, clock=0.003)
    found = without_clock(*sides)
    untouched = found.left == 1
    assert untouched.mean() > 0.95
    np.testing.assert_array_equal(found.new[untouched], sides[1][untouched])
    np.testing.assert_array_equal(found.base[untouched], sides[0][untouched])


def test_what_an_arm_does_to_the_clock_is_its_own():
    base, new, base_work, new_work = drawn(200)
    sides = base, new + SLOPE * 0.15, base_work, new_work + 0.15
    assert (called(sides) == "regressed").mean() > 0.9
    assert (without_clock(*sides).left == 1).mean() > 0.9


@pytest.mark.parametrize("rounds", [12, 20])
def test_a_slowdown_by_an_arm_s_own_clock_that_its_rounds_do_not_show_is_hardly_called_the_same(rounds):
    base, new, base_work, new_work = drawn(400, 2, rounds)
    status = called((base, new + SLOPE * 0.05, base_work, new_work + 0.05))
    assert (status == "same").mean() < 0.12
    assert (status == "improved").mean() < 0.01


@pytest.mark.parametrize("rounds", [12, 20])
def test_an_arm_that_slows_the_work_and_not_the_update_is_hardly_called_faster(rounds):
    base, new, base_work, new_work = drawn(400, 2, rounds)
    assert (called((base, new, base_work, new_work + 0.05)) == "improved").mean() < 0.1


def test_a_case_that_no_clock_moves_is_seen_as_if_it_were_alone():
    sides = drawn(300, 4)
    quiet = np.random.default_rng(7).normal(10.8, 0.007, (2, 300, 12))
    sides[0][:, 0], sides[1][:, 0] = quiet[0], quiet[1] + math.log(1.03)
    status = called(sides)
    assert (status[:, 0] == "regressed").mean() > 0.95
    assert changed(status[:, 1:]) <= 0.02


def test_a_case_whose_arm_changes_the_clock_is_left_alone_and_others_are_not():
    base, new, base_work, new_work = drawn(200, 6)
    new[:, 0], new_work[:, 0] = new[:, 0] + SLOPE * 0.15, new_work[:, 0] + 0.15
    found = without_clock(base, new, base_work, new_work)
    assert (found.left[:, 0] == 1).mean() > 0.95
    assert (found.left[:, 1:] < 1).mean() > 0.95


def test_few_pairs_tell_no_slope():
    assert (without_clock(*drawn(50, 1, FEWEST_PAIRS - 1)).left == 1).all()
    assert (without_clock(*drawn(50, 1, FEWEST_PAIRS)).left < 1).mean() > 0.9
    assert (without_clock(*drawn(50, 10, FEWEST_ROUNDS - 1)).left == 1).all()
    assert (without_clock(*drawn(50, 10, FEWEST_ROUNDS)).left < 1).mean() > 0.9


@pytest.mark.parametrize("side", [2, 3])
def test_a_case_that_does_not_say_how_fast_its_core_was_in_every_round_is_left_alone(side):
    sides = drawn(50, 4)
    sides[side][:, 1, 3] = math.nan
    found = without_clock(*sides)
    assert (found.left[:, 1] == 1).all()
    np.testing.assert_array_equal(found.new[:, 1], sides[1][:, 1])
    assert (found.left[:, 0] < 1).mean() > 0.9


@pytest.mark.parametrize("side", [0, 1])
def test_a_round_without_a_time_stays_one(side):
    sides = drawn(50, 4)
    sides[side][:, 1, 3] = math.nan
    found = without_clock(*sides)
    gone = np.isnan((found.base, found.new)[side])
    assert gone[:, 1, 3].all()
    assert gone.sum() == 50
    assert (found.left[:, 1] < 1).mean() > 0.9


def test_nothing_known_of_any_core_changes_nothing():
    base, new, work, _ = drawn(20)
    found = without_clock(base, new, np.full_like(work, math.nan), np.full_like(work, math.nan))
    np.testing.assert_array_equal(found.base, base)
    np.testing.assert_array_equal(found.new, new)
    assert (found.left == 1).all()


def test_times_stay_those_of_this_machine_and_their_ratio_is_the_same_where_the_clocks_were():
    base, new, base_work, new_work = drawn(300, 2, 30)
    found = without_clock(base, new, base_work, new_work)
    both = (found.base + found.new).mean(axis=-1) - (base + new).mean(axis=-1)
    assert np.abs(both).max() < 1e-9


def test_one_process_on_a_slow_core_does_not_make_the_slope():
    base, new, base_work, new_work = drawn(200)
    new[:, 0, 0] += 0.8  # a neighbour who takes more from the update than from the work
    new_work[:, 0, 0] += 0.4
    found = without_clock(base, new, base_work, new_work)
    assert (found.left[:, 1] < 1).mean() > 0.9
    slope = (new - found.new)[:, 1, 5] / (new_work[:, 1, 5] - (base_work + new_work)[:, 1].mean(axis=-1) / 2)
    assert np.median(slope[found.left[:, 1] < 1]) == pytest.approx(SLOPE, abs=0.1)
