"""The rates of wrong verdicts, by a small simulation; `tests/benchmarks/error_rates.py` is the large one."""

import pytest
from scipy import stats

from tests.comparing.on_disk import disagreements
from tests.comparing.simulated import CASES, NONE, Change, InTurn, OneSession, TwoSessions, rates

TABLES = 500
FIVE_PERCENT = Change(1, 0.05)
TEN_OTHERS = Change(10, 0.10)


def at_most(limit, total=TABLES):
    """Return a count that a share of `limit` exceeds once in ten thousand times."""
    return stats.binom.ppf(0.9999, total, limit)


def at_least(limit, total=TABLES):
    """Return a count that a share of `limit` falls below once in ten thousand times."""
    return stats.binom.ppf(0.0001, total, limit)


@pytest.mark.parametrize("known", ["noise", "nothing"])
@pytest.mark.parametrize("paired", [True, False])
@pytest.mark.parametrize(
    ("noise", "spread", "rounds"),
    [("Gaussian", 0.05, 20), ("Gaussian", 0.05, 10), ("skewed", 0.02, 10), ("contaminated", 0.05, 10)],
)
def test_one_table_in_a_hundred_has_a_false_verdict_at_most(noise, spread, rounds, paired, known):
    found = rates(OneSession(noise, spread, rounds, paired, known), TABLES, [NONE, TEN_OTHERS])
    for change, seen in found.items():
        assert seen.false <= at_most(0.01), change


@pytest.mark.parametrize(("clock", "beside"), [(0.02, 0.0), (0.0, 1 / 3), (0.02, 1 / 6)])
def test_neither_the_clock_nor_a_neighbour_makes_a_false_verdict(clock, beside):
    found = rates(InTurn("Gaussian", 0.02, 10, clock, beside, CASES), TABLES, [NONE, TEN_OTHERS])
    for change, seen in found.items():
        assert seen.false <= at_most(0.01), change


@pytest.mark.parametrize("known", ["noise", "nothing"])
@pytest.mark.parametrize(
    ("noise", "paired", "power"),
    [
        ("Gaussian", True, 0.95),
        ("Gaussian", False, 0.95),
        ("contaminated", True, 0.8),
        ("contaminated", False, 0.8),
    ],
)
def test_ten_rounds_see_five_percent_at_a_spread_of_one(noise, paired, power, known):
    seen = rates(OneSession(noise, 0.01, 10, paired, known), TABLES, [FIVE_PERCENT])[FIVE_PERCENT]
    assert seen.found >= at_least(power)


@pytest.mark.parametrize("paired", [True, False])
def test_what_is_below_the_margin_is_no_change_however_certain(paired):
    all_cases = Change(CASES, 0.01)
    seen = rates(OneSession("Gaussian", 0.002, 20, paired, "noise"), 50, [all_cases])[all_cases]
    assert seen.found == 0


@pytest.mark.parametrize("known", ["noise", "nothing"])
def test_what_each_pair_shares_hides_no_slowdown(known):
    cell = OneSession("Gaussian", 0.01, 10, paired=True, known=known, drift="pair")
    assert rates(cell, TABLES, [FIVE_PERCENT])[FIVE_PERCENT].found >= at_least(0.95)


@pytest.mark.parametrize(("common", "own"), [(0.02, 0.0), (0.02, 0.01), (0.0, 0.02)])
def test_two_sessions_are_told_from_a_change_once_five_are_stored(common, own):
    many = 4 * TABLES
    seen = rates(TwoSessions("Gaussian", 0.01, 10, common, own, stored=5), many, [NONE])[NONE]
    assert seen.false <= at_most(0.01, many)


@pytest.mark.parametrize(
    "cell",
    [
        OneSession("contaminated", 0.01, 10, paired=True, known="noise"),
        OneSession("skewed", 0.05, 10, paired=False, known="nothing"),
        TwoSessions("Gaussian", 0.01, 10, 0.02, 0.01, stored=5),
        InTurn("Gaussian", 0.02, 10, 0.02, 1 / 6, cases=20),
    ],
)
def test_the_command_line_says_of_files_what_is_judged_here(cell):
    assert disagreements(cell, TEN_OTHERS, seed=1) == []
