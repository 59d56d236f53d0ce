import time

from harness.measuring.clocks import monotonic_ns, thread_ns
from harness.measuring.sampling import Rule


def test_the_clock_counts_nanoseconds_and_never_goes_back():
    start = monotonic_ns()
    time.sleep(0.05)
    assert 45e6 < monotonic_ns() - start < 5e9
    reads = [monotonic_ns() for _ in range(1000)]
    assert reads == sorted(reads)
    assert all(isinstance(read, int) for read in reads)


def test_the_clock_is_none_that_anybody_sets():
    assert not time.get_clock_info("perf_counter").adjustable
    assert time.get_clock_info("perf_counter").monotonic


def test_reading_the_clock_is_less_than_a_thousandth_of_a_block():
    fastest = min(-monotonic_ns() + monotonic_ns() for _ in range(1000))
    assert 2 * fastest < Rule().block_ns / 1000


def test_the_clock_of_a_thread_stands_still_while_it_sleeps_and_not_while_it_works():
    start, began = thread_ns(), monotonic_ns()
    time.sleep(0.05)
    assert thread_ns() - start < (monotonic_ns() - began) / 2
    working = thread_ns()
    while thread_ns() - working < 10**6:
        pass
