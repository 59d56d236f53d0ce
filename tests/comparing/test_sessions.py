"""How much sessions differ, against figures by hand and by simulation."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from harness.comparing.sessions import ASSUMED, LEAST_SESSIONS, LEVEL, SessionSpread, session_means, session_spread


def stored(sessions: int, cases: int, *, common: float, own: float, seed: int = 1) -> np.ndarray:
    """Return `[sessions, cases]` logs of a machine whose sessions differ by that much."""
    draws = np.random.default_rng(seed)
    base = draws.normal(12, 2, cases)
    return base + draws.normal(0, common, (sessions, 1)) + draws.normal(0, own, (sessions, cases))


# What is assumed


@pytest.mark.parametrize("sessions", range(LEAST_SESSIONS))
def test_with_too_few_sessions_the_spread_is_what_is_assumed(sessions):
    found = session_spread(stored(sessions, 20, common=0.5, own=0.5))
    assert found == SessionSpread()
    assert not found.measured
    assert found.common_margin == 3 * math.sqrt(2) * ASSUMED


def test_what_is_assumed_makes_a_margin_of_eight_and_a_half_percent():
    assert math.expm1(SessionSpread().common_margin) == pytest.approx(0.0885, abs=0.001)


def test_a_case_whose_processes_spread_more_than_sessions_are_assumed_to_has_a_wider_margin():
    margins = SessionSpread().margin([math.nan, 0.0, 0.01, 0.02, 0.05])
    narrow = 3 * math.sqrt(2) * ASSUMED
    assert margins.tolist() == pytest.approx([narrow] * 4 + [narrow * 2.5])


def test_sessions_without_a_case_in_all_of_them_tell_nothing():
    logs = stored(6, 6, common=0.01, own=0.0)
    logs[np.arange(6), np.arange(6)] = np.nan
    assert session_spread(logs) == SessionSpread()
    assert session_spread(np.empty((7, 0))) == SessionSpread()


# What is measured


def test_the_spread_of_sessions_by_hand():
    shared = np.array([0.0, 0.01, 0.02, 0.03, 0.04])
    found = session_spread(np.array([5.0, 9.0, 1.0]) + shared[:, None])
    assert (found.sessions, found.cases) == (5, 3)
    assert found.common == pytest.approx(shared.std(ddof=1))
    assert found.own == pytest.approx(0, abs=1e-12)
    critical = stats.t.ppf(1 - LEVEL / 4, 4)
    assert found.common_margin == pytest.approx(critical * math.sqrt(2) * found.common)
    assert found.margin([0.01, 0.5]).tolist() == pytest.approx([found.common_margin] * 2)


def test_the_common_part_and_that_of_each_case_are_told_apart():
    found = session_spread(stored(200, 40, common=0.03, own=0.01))
    assert found.common == pytest.approx(0.03, rel=0.15)
    assert found.own == pytest.approx(0.01, rel=0.1)


def test_what_few_sessions_tell_of_the_cases_own_part_is_not_too_little():
    estimates = [session_spread(stored(5, 20, common=0.02, own=0.01, seed=seed)).own for seed in range(300)]
    assert np.mean(estimates) == pytest.approx(0.01, rel=0.05)


def test_only_cases_of_all_sessions_count():
    logs = stored(8, 5, common=0.01, own=0.002)
    holes = np.c_[logs, np.full(8, np.nan)]
    holes[0, 5] = 3.0
    assert session_spread(holes) == session_spread(logs)


def test_one_case_alone_has_no_part_of_its_own():
    found = session_spread(stored(9, 1, common=0.02, own=0.0))
    assert found.own == 0
    assert found.margin(0.01) == pytest.approx(found.common_margin)


def test_fewer_sessions_are_trusted_less():
    spreads = [SessionSpread(sessions, 0.01, 0.005, 20) for sessions in (5, 10, 20)]
    common = [each.common_margin for each in spreads]
    own = [float(each.margin(0.0)) - each.common_margin for each in spreads]
    assert common == sorted(common, reverse=True)
    assert own == sorted(own, reverse=True)


@pytest.mark.parametrize("sessions", [5, 10, 20])
@pytest.mark.parametrize(("common", "own"), [(0.02, 0.005), (0.005, 0.02), (0.02, 0.0)])
def test_a_further_session_of_the_same_machine_lies_within_the_margin_of_each_stored_one(sessions, common, own):
    """Of tables of twenty cases, no more than LEVEL have any case beyond it."""
    beyond = 0
    for seed in range(400):
        logs = stored(sessions + 2, 20, common=common, own=own, seed=seed)
        found = session_spread(logs[2:])
        beyond += bool((np.abs(logs[0] - logs[1]) > found.margin(np.zeros(20))).any())
    assert beyond / 400 <= LEVEL


# What is no property of a session


def test_a_burst_in_one_round_of_ten_moves_no_session():
    quiet = np.random.default_rng(3).normal(12, 0.01, (6, 20, 10))
    burst = quiet.copy()
    burst[:, :, 4] += 0.6
    moved = np.abs(session_means(burst) - session_means(quiet))
    assert np.quantile(moved, 0.95) < 0.01  # the burst is 0.06 of a mean
    assert session_means(quiet) == pytest.approx(quiet.mean(axis=-1), abs=0.003)


def test_rounds_without_a_time_are_left_out_and_a_case_without_any_has_no_mean():
    rounds = [[[1.0, 2.0, math.nan], [math.nan] * 3]]
    assert session_means(rounds)[0] == pytest.approx([1.5, math.nan], nan_ok=True)


# A change that stayed


def changed(sessions: int, at: int, *, by: float = 0.3, seed: int = 1) -> np.ndarray:
    logs = stored(sessions, 10, common=0.005, own=0.002, seed=seed)
    logs[at:] += by
    return logs


@pytest.mark.parametrize(("sessions", "at"), [(8, 4), (8, 2), (10, 8), (20, 13)])
def test_a_change_of_all_cases_that_stayed_is_no_spread_of_sessions(sessions, at):
    found = session_spread(changed(sessions, at))
    assert found.changed
    assert 0.001 < found.common < 0.01
    critical = stats.t.ppf(1 - LEVEL / 4, sessions - 2)
    assert found.common_margin == pytest.approx(critical * math.sqrt(2) * found.common)


def test_the_spread_before_and_after_a_change_by_hand():
    shared = np.array([0.0, 0.01, 0.0, 0.01, 1.0, 1.01, 1.0, 1.01])  # all 0.005 from the mean of their part
    found = session_spread(np.array([5.0, 9.0]) + shared[:, None])
    assert found.common == pytest.approx(math.sqrt(8 * 0.005**2 / 6))


@pytest.mark.parametrize(("sessions", "at"), [(7, 3), (8, 7), (8, 1)])
def test_among_few_sessions_or_of_one_alone_it_cannot_be_told(sessions, at):
    found = session_spread(changed(sessions, at))
    assert not found.changed
    assert found.common > 0.08


def test_what_explains_less_than_three_quarters_of_the_deviation_is_no_change():
    assert not session_spread(changed(10, 5, by=0.01)).changed


@pytest.mark.parametrize("sessions", [8, 20])
def test_sessions_that_only_spread_or_drift_are_not_taken_for_changed(sessions):
    assert not any(session_spread(stored(sessions, 20, common=0.02, own=0.0, seed=seed)).changed for seed in range(500))
    drift = np.linspace(0, 0.2, sessions)[:, None]
    assert not session_spread(stored(sessions, 20, common=0.002, own=0.0) + drift).changed


@settings(max_examples=50)
@given(st.integers(5, 9), st.integers(1, 6), st.floats(-20, 20), st.integers(0, 2**31))
def test_neither_the_speed_of_the_machine_nor_the_order_of_sessions_and_cases_changes_the_spread(
    sessions, cases, faster, seed
):
    logs = stored(sessions, cases, common=0.02, own=0.01, seed=seed)
    expected = session_spread(logs)
    draws = np.random.default_rng(seed)
    found = session_spread(logs[draws.permutation(sessions)][:, draws.permutation(cases)] + faster)
    assert (found.sessions, found.cases) == (expected.sessions, expected.cases)
    assert (found.common, found.own) == pytest.approx((expected.common, expected.own), abs=1e-9)
