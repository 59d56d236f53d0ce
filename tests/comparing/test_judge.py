"""What all cases of a round share, taken out of tables that are large enough to tell it."""

import math

import numpy as np
import pytest

from harness.comparing.judge import ASSUMED_SPREAD, SHARING_CASES, judge, pairing_pays, without_rounds
from harness.comparing.rule import compare_case, margin
from tests.comparing.simulated import NOISES

ROUNDS = 10
FIVE_PERCENT = math.log(1.05)


def table(
    cases: int = SHARING_CASES, *, noise: str = "Gaussian", drift: float = 0.03, of_pairs: float = 0.0, seed: int = 1
) -> tuple[np.ndarray, np.ndarray]:
    """Return both sides `[cases, rounds]`, spread 1 %: rounds drift alike for all cases, pairs each for itself."""
    draws = np.random.default_rng(seed)
    base, new = (NOISES[noise](draws, (cases, ROUNDS), 0.01) for _ in range(2))
    shared = draws.normal(0, drift, ROUNDS) + draws.normal(0, of_pairs, (cases, ROUNDS))
    speed = draws.normal(12, 2, (cases, 1))
    return base + shared + speed, new + shared + speed


# What a round did to all


@pytest.mark.parametrize("slower", [0.0, FIVE_PERCENT, 1.0])
def test_what_all_cases_of_a_round_share_is_taken_out_and_no_change(slower):
    base, new = table(drift=0.0)
    new = new + slower
    shared = np.linspace(-0.5, 0.5, ROUNDS) ** 3
    plain, drifting = without_rounds(base, new), without_rounds(base + shared, new + shared)
    # Exactly, but for the medians of the sides, that move a little with the order of the rounds.
    np.testing.assert_allclose(drifting, plain, atol=0.03)
    assert np.ptp(np.median(drifting[0], axis=0)) < 0.02
    np.testing.assert_allclose(drifting[1] - drifting[0], new - base, atol=1e-12)


def test_a_round_of_few_cases_tells_nothing_of_the_round():
    base, new = table()
    base[3:, -2:] = new[3:, -2:] = math.nan
    before, after = without_rounds(base, new)
    assert (before[:3, -2:] == base[:3, -2:]).all()
    assert (after[:3, -2:] == new[:3, -2:]).all()
    assert np.ptp(np.median(before[:, :-2], axis=0)) < np.ptp(np.median(base[:, :-2], axis=0)) / 2


def test_a_round_without_a_time_of_one_case_is_left_so():
    base, new = table()
    base[3, 4] = math.nan
    before, after = without_rounds(base, new)
    assert np.argwhere(np.isnan(before)).tolist() == [[3, 4]]
    assert np.isfinite(after).all()


def test_a_table_of_twenty_cases_is_compared_without_it_and_a_smaller_one_in_pairs():
    base, new = table()
    assert not judge(base, new, paired=True).table.paired.any()
    assert judge(base[1:], new[1:], paired=True).table.paired.all()
    assert judge(base, new, paired=True).table.freedom.max() > ROUNDS


def test_amid_bursts_it_sees_what_pairs_do_not():
    seen = {True: 0, False: 0}
    for seed in range(50):
        base, new = table(54, noise="contaminated", seed=seed)
        new[0] += FIVE_PERCENT
        small = slice(0, SHARING_CASES - 1)
        seen[True] += judge(base, new, paired=True, known=0.01).status[0] == "regressed"
        seen[False] += judge(base[small], new[small], paired=True, known=0.01).status[0] == "regressed"
    assert seen[True] > 40
    assert seen[False] < 35


def test_the_spread_of_these_rounds_is_that_without_what_they_share():
    base, new = table(drift=0.2)
    assert np.median(judge(base, new, paired=True).spread) < 0.02
    assert np.median(judge(base, new, paired=False).spread) > 0.05


def test_that_spread_gives_them_no_freedom_that_one_measured_elsewhere_does():
    base, new = np.random.default_rng(1).normal(0, 0.05, (2, SHARING_CASES, ROUNDS))
    bare = compare_case(base, new, paired=False, spread=0.0)
    own = judge(base, new, paired=False).table
    assert (own.standard_error > bare.standard_error).any()
    np.testing.assert_array_equal(own.freedom, bare.freedom)
    assert (judge(base, new, paired=False, known=1.0).table.freedom > bare.freedom).any()
    assumed = judge(base / 50, new / 50, paired=False).table
    assert (assumed.freedom > bare.freedom).any()  # one percent is not of these rounds


def test_rounds_that_are_left_out_narrow_no_margin():
    base, new = table(drift=0.0)
    new[:, :2] += 1.0
    judged = judge(base, new, paired=False, known=0.02)
    assert (judged.table.used < ROUNDS).all()
    np.testing.assert_array_equal(judged.margin, margin(0.02, judged.table.used))


# Pairs that have more in common


def test_where_each_pair_drifts_for_itself_it_stays_paired():
    together = table(of_pairs=0.03)
    assert pairing_pays(*without_rounds(*together))
    assert not pairing_pays(*without_rounds(*table()))
    base, new = together
    new[0] += FIVE_PERCENT
    judged = judge(base, new, paired=True)
    assert judged.table.paired.all()
    assert judged.status[0] == "regressed"


def test_tables_judged_together_get_what_each_gets_alone():
    tables = [table(seed=2), table(of_pairs=0.03, seed=3), table(noise="contaminated", seed=4)]
    base, new = (np.stack(sides) for sides in zip(*tables, strict=True))
    new[:, 0] += FIVE_PERCENT
    together = judge(base, new, paired=True)
    assert together.table.paired.any(axis=1).tolist() == [False, True, False]
    for number in range(len(tables)):
        alone = judge(base[number], new[number], paired=True)
        assert together.status[number].tolist() == alone.status.tolist()
        np.testing.assert_array_equal(together.spread[number], alone.spread)
        for name, values in vars(alone.table).items():
            np.testing.assert_array_equal(getattr(together.table, name)[number], values)


# Little to go by


@pytest.mark.parametrize("rounds", [0, 1])
def test_hardly_any_rounds_are_undecided(rounds):
    base, new = table()
    judged = judge(base[:, :rounds], new[:, :rounds], paired=True)
    assert set(judged.status) == {"undecided"}


def test_equal_rounds_have_the_spread_that_is_assumed():
    same = np.full((SHARING_CASES, ROUNDS), 12.0)
    judged = judge(same, same, paired=True)
    assert set(judged.spread) == {ASSUMED_SPREAD}
    assert set(judged.status) == {"same"}
