import math
import statistics

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.tables.statistics import log_interval, wilson_interval

# Student's t at 97.5 %, from a printed table.
T_975 = {1: 12.7062, 2: 4.30265, 4: 2.77645, 9: 2.26216}

times = st.lists(st.floats(1, 1e12), min_size=2, max_size=12)


@pytest.mark.parametrize(
    "values",
    [
        [100.0, 110.0],
        [100.0, 110.0, 95.0],
        [1.0, 2.0, 4.0, 8.0, 16.0],
        [5e9, 6e9, 5.5e9, 5.1e9, 5e9, 7e9, 5e9, 6.2e9, 5.9e9, 5.3e9],
    ],
)
def test_the_interval_is_students_on_the_logs_around_the_geometric_mean(values):
    logs = [math.log(value) for value in values]
    half = T_975[len(values) - 1] * statistics.stdev(logs) / math.sqrt(len(values))
    mean = statistics.geometric_mean(values)
    assert log_interval(values) == pytest.approx((mean, mean / math.exp(half), mean * math.exp(half)), rel=1e-4)


def test_one_value_has_no_interval():
    centre, low, high = log_interval([123.0])
    assert centre == pytest.approx(123)
    assert math.isnan(low)
    assert math.isnan(high)


def test_equal_values_have_an_interval_without_width():
    assert log_interval([7.0] * 5) == pytest.approx((7, 7, 7))


@given(times)
def test_an_interval_holds_its_centre_which_lies_among_the_values(values):
    centre, low, high = log_interval(values)
    assert low <= centre <= high
    assert min(values) * (1 - 1e-9) <= centre <= max(values) * (1 + 1e-9)


@given(times, st.floats(1e-3, 1e3))
def test_an_interval_does_not_depend_on_the_unit_of_time(values, factor):
    scaled = log_interval([value * factor for value in values])
    assert [math.log(end) for end in scaled if end > 0 and math.isfinite(end)] == pytest.approx(
        [math.log(end * factor) for end in log_interval(values) if end > 0 and math.isfinite(end)], abs=1e-6
    )


def wilson(successes: int, trials: int, z: float = 1.959963984540054) -> tuple[float, float]:
    """Return the interval by the formula of Wilson's paper of 1927."""
    share = successes / trials
    middle = share + z * z / (2 * trials)
    half = z * math.sqrt(share * (1 - share) / trials + z * z / (4 * trials**2))
    return (middle - half) / (1 + z * z / trials), (middle + half) / (1 + z * z / trials)


@given(st.integers(1, 2000).flatmap(lambda trials: st.tuples(st.integers(0, trials), st.just(trials))))
def test_a_share_has_wilsons_interval_which_stays_within_0_and_1(counts):
    low, high = wilson_interval(*counts)
    assert (low, high) == pytest.approx(wilson(*counts), abs=1e-9)
    assert 0 <= low <= counts[0] / counts[1] <= high <= 1


def test_58_of_64_seeds_are_enough_for_three_quarters_and_8_of_8_are_not():
    assert wilson_interval(58, 64)[0] == pytest.approx(0.8102, abs=1e-4)
    assert wilson_interval(8, 8)[0] < 0.75
