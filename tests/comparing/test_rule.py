"""The rule against figures: by hand, and by simulation of normal logs from one process each."""

import math
from dataclasses import replace

import numpy as np
import pytest
from scipy import stats

from harness.comparing.rounds import MOST_ROUNDS, detectable, least_seen, rounds_for, rounds_needed
from harness.comparing.rule import LEAST_MARGIN, clipped, compare_case, holm, margin, spread, verdicts, welch
from harness.plan.presets import LEAST_ROUNDS

CASES = 54
TABLES = 300
QUIET = 0.01
FIVE_PERCENT = math.log(1.05)


def sides(rounds, *, slower=0.0, bursts=0.0, drift=0.0, tables=TABLES, seed=1, modes=0.0):
    """Return base and new, [tables, cases, rounds]; of each table only the first case may be slower."""
    draws = np.random.default_rng(seed)
    base, new = draws.normal(0, QUIET, (2, tables, CASES, rounds))
    for side in (base, new):
        side += np.log1p(bursts) * (draws.random(side.shape) < 0.1)
        side += np.log1p(modes) * (draws.random(side.shape) < 0.5)
    shared = draws.normal(0, drift, (tables, 1, rounds))
    new[:, 0] += slower
    return base + shared, new + shared


def called(base, new, *, paired=False, known=QUIET):
    table = compare_case(base, new, paired=paired, spread=known)
    return verdicts(table, margin(known, table.rounds))


def unclipped(base, new):
    """The same rule of verdicts, Welch on logs that are not clipped."""
    effect, error, freedom, rounds = welch(base, new)
    error = np.maximum(error, QUIET * np.sqrt(2 / rounds))
    p = 2 * stats.t.sf(np.abs(effect) / error, freedom)
    return (holm(p) <= 0.005) & (np.abs(effect) >= margin(QUIET, rounds))


def power(found):
    return (found[:, 0] == "regressed").mean()


def false_alarms(found):
    """Return the share of tables in which a case that did not change is called changed."""
    return np.isin(found[:, 1:], ["regressed", "improved"]).any(axis=-1).mean()


# By simulation


@pytest.mark.parametrize(("rounds", "least", "most"), [(10, 0.99, 1.0), (5, 0.3, 0.6), (3, 0.0, 0.03)])
def test_five_percent_at_a_spread_of_one_is_seen_by_ten_rounds_half_the_time_by_five_and_not_by_three(
    rounds, least, most
):
    found = called(*sides(rounds, slower=FIVE_PERCENT))
    assert least <= power(found) <= most
    assert false_alarms(found) <= 0.01


@pytest.mark.parametrize("rounds", [5, 10])
def test_tables_in_which_nothing_differs_raise_no_false_alarm(rounds):
    assert false_alarms(called(*sides(rounds))) <= 0.004
    assert false_alarms(called(*sides(rounds), paired=True)) <= 0.004


def test_ten_rounds_say_same_of_nearly_every_case_that_is_the_same():
    assert (called(*sides(10)) == "same").mean() > 0.97


def test_clipping_keeps_the_power_that_bursts_take():
    base, new = sides(10, slower=FIVE_PERCENT, bursts=0.3)
    assert unclipped(base, new)[:, 0].mean() < 0.2
    assert power(called(base, new)) > 0.93


@pytest.mark.parametrize(("rounds", "most"), [(5, 0.08), (10, 0.01)])
def test_bursts_that_hit_most_rounds_of_a_side_are_not_clipped_into_certainty(rounds, most):
    assert false_alarms(called(*sides(rounds, bursts=0.3))) <= most


def test_pairing_takes_out_what_rounds_have_in_common():
    base, new = sides(10, slower=FIVE_PERCENT, drift=0.03)
    assert power(called(base, new)) < 0.25
    assert power(called(base, new, paired=True)) > 0.95


def test_the_floor_of_the_standard_error_is_what_holds_two_modes_back():
    base, new = sides(5, modes=0.05)
    known = float(np.median(spread(base)))  # as an A/A run of the machine would tell
    with_floor, without = called(base, new, known=known), called(base, new, known=0.0)
    assert false_alarms(with_floor) <= 0.01
    assert false_alarms(without) > 0.1


@pytest.mark.parametrize(("sensitivity", "paired"), [(0.05, True), (0.05, False), (0.03, True), (0.1, False)])
def test_the_rounds_suggested_see_what_they_promise_and_not_much_fewer_would(sensitivity, paired):
    rounds = int(rounds_for(QUIET, sensitivity, cases=CASES, paired=paired))
    found = called(*sides(rounds, slower=math.log1p(sensitivity), tables=1000, seed=7), paired=paired)
    assert power(found) > 0.93
    fewer = called(*sides(rounds - 2, slower=math.log1p(sensitivity), tables=300, seed=7), paired=paired)
    assert power(fewer) < 0.95


# By hand


def test_the_spread_is_the_scaled_mad():
    logs = [0.0, 0.01, 0.02, 0.03, 5.0]  # median 0.02, deviations 0.02 0.01 0 0.01 4.98
    assert spread(logs) == pytest.approx(1.4826 * 0.01)
    assert spread([logs, [math.nan, 0.0, 0.02, math.nan, math.inf]]) == pytest.approx([1.4826 * 0.01, 1.4826 * 0.01])


def test_a_side_is_clipped_three_scaled_mads_from_its_median():
    logs = [0.0, 0.01, 0.02, 0.03, 0.04, 1.0, math.nan]  # median 0.025, deviations .005 .005 .015 .015 .025 .975
    limit = 0.025 + 3 * 1.4826 * 0.015
    assert clipped(logs)[:6] == pytest.approx([0.0, 0.01, 0.02, 0.03, 0.04, limit])
    assert math.isnan(clipped(logs)[6])


def test_a_second_mode_is_not_clipped_nor_are_rounds_that_are_mostly_equal():
    for logs in ([0.0, 0.001, 0.002, 1.0, 1.001], [0.0, 0.0, 0.0, 0.5]):
        assert clipped(logs).tolist() == logs


def test_welch_is_scipys():
    base, new = [0.0, 0.02, -0.02, 0.03], [0.2, 0.18, 0.24]  # nothing to clip
    known = stats.ttest_ind(new, base, equal_var=False)
    table = compare_case(base, new, paired=False, spread=0.0)
    assert table.p == pytest.approx(known.pvalue)
    for level, low, high in ((0.9, table.low90, table.high90), (0.95, table.low95, table.high95)):
        assert (low, high) == pytest.approx(tuple(known.confidence_interval(level)))
    assert table.rounds == pytest.approx(2 / (1 / 4 + 1 / 3))


def test_paired_is_scipys():
    base, new = [0.0, 0.5, -0.3, 0.1], [0.05, 0.56, -0.23, 0.14]
    known = stats.ttest_rel(new, base)
    table = compare_case(base, new, paired=True, spread=0.0)
    assert table.p == pytest.approx(known.pvalue)
    assert (table.low95, table.high95) == pytest.approx(tuple(known.confidence_interval(0.95)))


@pytest.mark.parametrize("paired", [False, True])
def test_the_standard_error_is_never_below_what_the_spread_implies(paired):
    base, new = [0.0, 0.001, 0.002, 0.003], [0.05, 0.0511, 0.052, 0.0532]
    table = compare_case(base, new, paired=paired, spread=0.02)
    freedom = 3 if paired else 6
    error = 0.02 * math.sqrt(2 / 4)
    assert table.standard_error == pytest.approx(error)
    assert table.p == pytest.approx(2 * stats.t.sf(table.effect / error, freedom))
    assert table.high95 - table.effect == pytest.approx(stats.t.ppf(0.975, freedom) * error)
    unequal = compare_case(base, new[:2], paired=False, spread=0.02)
    assert unequal.standard_error == pytest.approx(math.sqrt(0.02**2 / 4 + 0.02**2 / 2))


WIDE = [-0.02, -0.01, -0.005, 0.0, 0.0, 0.005, 0.01, 0.02, 0.03, -0.03]  # scaled MAD 0.0111


def test_a_clipped_pair_counts_for_no_freedom_and_none_is_left_out():
    plain = compare_case(np.zeros(10), WIDE, paired=True, spread=0.0)
    assert (plain.freedom, plain.used) == (9, 10)
    once = compare_case(np.zeros(10), [*WIDE[:9], 0.9], paired=True, spread=0.0)
    assert (once.freedom, once.used, once.rounds) == (8, 10, 10)
    assert once.effect == pytest.approx(np.mean(clipped([*WIDE[:9], 0.9])))


def test_a_clipped_round_counts_for_no_freedom_of_welch_either():
    base, new = WIDE, [*WIDE[:9], 0.06]  # between 3 and 8 of the common spread
    found = compare_case(base, new, paired=False, spread=0.0)
    assert (found.used, found.rounds) == (10, 10)
    limited = clipped(new)
    assert limited[9] < 0.06
    one, two = np.var(base, ddof=1) / 10, np.var(limited, ddof=1) / 10
    assert found.freedom == pytest.approx((one + two) ** 2 / (one**2 / 9 + two**2 / 8))
    floored = compare_case(base, new, paired=False, spread=1.0)
    assert floored.freedom == 2 * 10 - 2 - 1


def test_both_sides_are_limited_by_their_common_spread():
    """Rounds that happen to lie close together do not make an outlier of their neighbour."""
    close = [0.0, 0.0001, 0.0002, 0.0003, 0.0004, 0.0005, 0.0006, 0.0007, 0.0008, 0.02]
    assert clipped(close)[9] < 0.01
    found = compare_case(WIDE, close, paired=False, spread=0.0)
    assert found.effect == pytest.approx(np.mean(close) - np.mean(WIDE))
    assert found.used == 10


def test_a_round_far_from_all_others_is_left_out_of_its_side():
    far = compare_case(WIDE, [*WIDE[:9], 0.9], paired=False, spread=0.01)
    without = compare_case(WIDE, WIDE[:9], paired=False, spread=0.01)
    assert (far.effect, far.standard_error, far.p) == (without.effect, without.standard_error, without.p)
    assert far.rounds == 10
    assert far.used == pytest.approx(2 / (1 / 10 + 1 / 9))
    second_mode = compare_case(WIDE, [*WIDE[:6], 0.9, 0.9, 0.9, 0.9], paired=False, spread=0.01)
    assert second_mode.used == 10


def test_a_floor_of_the_rounds_own_spread_has_their_freedom_and_one_from_elsewhere_that_of_equal_sides():
    base, new = WIDE, [0.1 * log for log in WIDE]
    error = compare_case(base, new, paired=False, spread=0.0)
    own = compare_case(base, new, paired=False, spread=1.0, own=True)
    known = compare_case(base, new, paired=False, spread=1.0)
    assert own.standard_error == known.standard_error > error.standard_error
    assert own.freedom == error.freedom < 10
    assert known.freedom == 18


def test_holm_by_hand():
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.9, 0.8]) == pytest.approx([1.0, 1.0])


def test_holm_does_not_count_cases_without_a_p():
    adjusted = holm([[0.02, math.nan, 0.01], [math.nan, math.nan, math.nan]])
    assert adjusted[0] == pytest.approx([0.02, math.nan, 0.02], nan_ok=True)
    assert np.isnan(adjusted[1]).all()


def test_the_margin_is_two_percent_or_three_standard_errors():
    assert margin(0.01, 10) == pytest.approx(math.log(1.02))
    assert margin(0.02, 4) == pytest.approx(3 * 0.02 * math.sqrt(0.5))
    assert margin(math.nan, 10) == margin(0.0, 10) == LEAST_MARGIN


EVEN = np.array([-1.0, -0.5, 0.0, 0.5, 1.0, -1.0, -0.5, 0.0, 0.5, 1.0])


@pytest.mark.parametrize(
    ("effect", "noise", "verdict"),
    [
        (0.05, 0.002, "regressed"),
        (-0.05, 0.002, "improved"),
        (0.0, 0.002, "same"),
        (0.015, 0.002, "same"),  # beyond doubt, and less than anybody minds
        (-0.0195, 0.004, "undecided"),  # its interval reaches beyond the margin
        (0.05, 0.05, "undecided"),
    ],
)
def test_the_four_verdicts(effect, noise, verdict):
    base, new = EVEN[None] * noise, EVEN[None] * noise + effect
    table = compare_case(base, new, paired=False, spread=noise)
    assert verdicts(table, LEAST_MARGIN).tolist() == [verdict]


def test_an_effect_below_the_margin_is_never_a_change_however_certain():
    table = compare_case(EVEN[None] * 0.002, EVEN[None] * 0.002 + 0.05, paired=False, spread=0.002)
    assert verdicts(table, 0.06, within=0.06).tolist() == ["same"]
    assert verdicts(table, 0.06).tolist() == ["undecided"]  # what is 5 % or more is the same to nobody
    assert verdicts(table, 0.0505).tolist() == ["undecided"]


def test_the_same_p_counts_less_in_a_larger_table():
    base, new = EVEN[None] * 0.02, EVEN[None] * 0.02 + 0.03
    alone = compare_case(base, new, paired=False, spread=0.0)
    assert 0.00025 < alone.p[0] < 0.005
    among = compare_case(np.repeat(base, 20, 0), np.concatenate([new, *[base] * 19]), paired=False, spread=0.0)
    assert verdicts(alone, LEAST_MARGIN)[0] == "regressed"
    assert verdicts(among, LEAST_MARGIN)[0] == "undecided"


# Rounds


def test_rounds_needed_would_decide_if_all_stays_as_it_is():
    base, new = EVEN[None, :4] * 0.04, EVEN[None, :4] * 0.04 + 0.05
    table = compare_case(base, new, paired=False, spread=0.01)
    assert verdicts(table, margin(0.01, 4)).tolist() == ["undecided"]
    (needed,) = rounds_needed(table, 0.01)
    deviation = float(table.standard_error[0]) * math.sqrt(2)

    def p(rounds):
        return 2 * stats.t.sf(0.05 / (deviation * math.sqrt(2 / rounds)), 2 * rounds - 2)

    assert needed > 4
    assert p(needed) <= 0.005 < p(needed - 1)


def test_pairs_have_half_of_the_freedom_to_decide_by():
    table = compare_case(np.zeros((1, 4)), EVEN[None, :4] * 0.06 + 0.05, paired=True, spread=0.01)
    (needed,) = rounds_needed(table, 0.01)
    deviation = float(table.standard_error[0]) * 2

    def p(rounds):
        return 2 * stats.t.sf(float(table.effect[0]) / (deviation / math.sqrt(rounds)), rounds - 1)

    assert p(needed) <= 0.005 < p(needed - 1)


def test_what_is_decided_would_be_by_more_rounds_than_it_has():
    table = compare_case(EVEN[None] * 0.002, EVEN[None] * 0.002 + 0.05, paired=False, spread=0.002)
    assert rounds_needed(table, 0.002) == [11]


def test_rounds_needed_for_the_same_are_those_whose_interval_is_within_the_margin():
    noise = EVEN[None, :3] * 0.02
    table = compare_case(noise, noise, paired=True, spread=0.02)
    (needed,) = rounds_needed(table, 0.02)

    def within(rounds):
        half = stats.t.ppf(0.95, rounds - 1) * 0.02 * math.sqrt(2 / rounds)
        return half < max(LEAST_MARGIN, 3 * 0.02 * math.sqrt(2 / rounds))

    assert within(needed)
    assert not any(within(rounds) for rounds in range(LEAST_ROUNDS, int(needed)))


def test_more_rounds_than_there_are_are_needed_however_many_of_them_are_left_out():
    base, new = np.array([WIDE]), np.array([[*WIDE[:8], 0.9, 0.9]]) + 0.025
    table = compare_case(base, new, paired=False, spread=0.02)
    assert table.used < table.rounds == 10
    assert verdicts(table, margin(0.02, table.used)).tolist() == ["undecided"]
    (needed,) = rounds_needed(table, 0.02)
    assert 10 < needed < 20
    (of_whole,) = rounds_needed(replace(table, rounds=table.used), 0.02)
    assert needed > of_whole  # as many will be left out again


def test_an_effect_at_the_margin_is_not_decided_by_any_number_of_rounds():
    base = EVEN[None] * 0.01
    table = compare_case(base, base + LEAST_MARGIN * 0.999, paired=False, spread=0.01)
    assert np.isnan(rounds_needed(table, 0.01)).all()


def test_more_noise_or_less_effect_or_a_larger_table_needs_more_rounds():
    assert rounds_for(0.02, 0.05) > rounds_for(0.01, 0.05) > rounds_for(0.01, 0.1) >= 2
    assert rounds_for(0.01, 0.05, cases=54) > rounds_for(0.01, 0.05, cases=2)
    assert rounds_for(0.01, 0.05) >= rounds_for(0.01, 0.05, paired=False)


def test_rounds_for_is_the_first_number_that_sees_enough():
    for wanted in (0.03, 0.05):
        rounds = int(rounds_for(0.01, wanted))
        assert least_seen(0.01, rounds) <= wanted < least_seen(0.01, rounds - 1)


def test_what_no_number_of_rounds_sees_has_none():
    assert math.isnan(rounds_for(0.3, 0.02))
    assert math.isnan(rounds_for(0.01, 0.01))  # below the margin
    assert math.isnan(rounds_for(math.nan, 0.05))
    assert math.isnan(least_seen(math.nan, 3))
    assert least_seen(0.3, MOST_ROUNDS) > 0.02
    assert math.isfinite(least_seen(1000.0, 2))


def test_two_percent_is_the_margin_itself_and_then_noise_is_not_what_limits():
    rounds = int(rounds_for(0.005, 0.02))
    assert margin(0.005, rounds) == LEAST_MARGIN
    assert 0.005 * detectable(rounds) <= LEAST_MARGIN


# Little or nothing to go by


@pytest.mark.parametrize("paired", [False, True])
def test_one_round_has_an_effect_and_no_verdict(paired):
    table = compare_case([[0.0]], [[0.5]], paired=paired, spread=0.01)
    assert table.effect == pytest.approx([0.5])
    for unknown in (table.p, table.low90, table.high95, table.standard_error):
        assert np.isnan(unknown).all()
    assert verdicts(table, margin(0.01, table.rounds)).tolist() == ["undecided"]
    assert rounds_needed(table, 0.01)[0] >= 2


@pytest.mark.parametrize("paired", [False, True])
@pytest.mark.parametrize("effect", [0.0, 0.5])
def test_equal_rounds_tell_nothing_of_the_noise_unless_the_machines_is_known(paired, effect):
    base = np.full((1, 6), 0.1)  # whose sum over 6 is not quite the same
    unknown = compare_case(base, base + effect, paired=paired, spread=0.0)
    assert verdicts(unknown, LEAST_MARGIN).tolist() == ["undecided"]
    assert np.isnan(unknown.p).all()
    assert np.isnan(rounds_needed(unknown, 0.0)).all()
    known = compare_case(base, base + effect, paired=paired, spread=0.005)
    assert verdicts(known, margin(0.005, 6)).tolist() == ["regressed" if effect else "same"]


def test_a_case_that_is_missing_on_a_side_changes_nothing_for_the_others():
    base, new = sides(10, slower=FIVE_PERCENT, tables=1)
    alone = called(base[:, :3], new[:, :3])
    gone = np.full((1, 1, 10), math.nan)
    for with_gap in (
        called(np.concatenate([base[:, :3], gone], 1), new[:, :4]),
        called(base[:, :4], np.concatenate([new[:, :3], gone], 1)),
    ):
        assert with_gap[0].tolist() == [*alone[0].tolist(), "undecided"]


def test_rounds_without_a_time_are_left_out_and_pairs_with_them():
    base, new = np.array([0.0, 0.01, math.nan, 0.03, -math.inf]), np.array([0.1, 0.12, 0.4, math.nan, 0.2])
    assert compare_case(base, new, paired=True, spread=0.0) == compare_case(base[:2], new[:2], paired=True, spread=0.0)
    unpaired = compare_case(base, new, paired=False, spread=0.0)
    assert unpaired == compare_case(base[[0, 1, 3]], new[[0, 1, 2, 4]], paired=False, spread=0.0)


def test_pairs_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match="3 rounds cannot be paired with 1"):
        compare_case([0.0, 0.1, 0.2], [0.0], paired=True, spread=0.0)


def test_no_rounds_at_all_are_undecided():
    table = compare_case(np.empty((2, 0)), np.empty((2, 0)), paired=False, spread=0.01)
    assert np.isnan(table.effect).all()
    assert verdicts(table, LEAST_MARGIN).tolist() == ["undecided", "undecided"]
    assert np.isnan(spread(np.empty((2, 0)))).all()


def test_many_tables_at_once_get_the_verdicts_of_each_alone():
    base, new = sides(6, slower=FIVE_PERCENT, tables=3, bursts=0.2)
    together = called(base, new)
    for number in range(3):
        assert together[number].tolist() == called(base[number], new[number]).tolist()
