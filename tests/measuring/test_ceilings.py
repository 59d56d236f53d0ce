import pytest
import torch

from harness.measuring import ceilings
from harness.measuring.ceilings import Ceilings, least_ns, measure
from harness.measuring.clocks import monotonic_ns, thread_ns
from harness.measuring.work import Work

CPU = torch.device("cpu")
RATES = {2**14: 10e9, 2**18: 40e9, 2**22: 20e9, 2**26: 5e9}


class Clock:
    """Stands still but for what calls take; a loop is disturbed once in a while."""

    def __init__(self, call_ns=100, wait_ns=0, disturbed_ns=0):
        self.now, self.calls, self.waits = 0, 0, 0
        self.call_ns, self.wait_ns, self.disturbed_ns = call_ns, wait_ns, disturbed_ns

    def __call__(self):
        return self.now

    def call(self):
        self.now += self.call_ns
        self.calls += 1

    def wait(self):
        self.waits += 1
        self.now += self.wait_ns + (self.disturbed_ns if self.waits % 3 else 0)


# The shortest time of a call


def test_a_call_takes_what_the_clock_says_by_the_time_its_budget_is_spent():
    clock = Clock(call_ns=100)
    assert least_ns(clock.call, clock, 1_000_000, clock.wait) == 100
    assert 1_000_000 <= clock.now < 1_200_000


def test_a_call_that_takes_longer_than_the_budget_is_made_once_more_after_the_first():
    clock = Clock(call_ns=5_000_000)
    assert least_ns(clock.call, clock, 1_000_000, clock.wait) == 5_000_000
    assert clock.calls == 2


def test_waiting_for_the_device_is_in_the_time_of_a_loop_and_shared_by_its_calls():
    clock = Clock(call_ns=100, wait_ns=1_000)
    least = least_ns(clock.call, clock, 10_000_000, clock.wait)
    assert 100 < least < 102


def test_loops_that_are_disturbed_do_not_count():
    clock = Clock(call_ns=100, disturbed_ns=500_000)
    assert least_ns(clock.call, clock, 10_000_000, clock.wait) == 100


# What follows from the ceilings


@pytest.mark.parametrize(
    ("working_set", "rate"),
    [(1, 40e9), (2**14, 40e9), (2**18, 40e9), (2**18 + 1, 20e9), (2**22, 20e9), (2**22 + 1, 5e9), (2**40, 5e9)],
)
def test_a_working_set_moves_no_faster_than_the_best_set_that_is_as_large(working_set, rate):
    assert Ceilings(1e9, RATES, 600.0).copy_rate(working_set) == rate


def test_the_floor_is_the_larger_of_arithmetic_and_bandwidth():
    best = Ceilings(100e9, RATES, 600.0)
    assert best.floor_ns(Work(flops=10_000, moved_bytes=1048, working_set_bytes=924)) == pytest.approx(100)
    assert best.floor_ns(Work(flops=100, moved_bytes=80_000, working_set_bytes=80_000)) == pytest.approx(2_000)


# Measured


@pytest.fixture
def brief(monkeypatch):
    monkeypatch.setattr(ceilings, "BUDGET_NS", 300_000)
    monkeypatch.setattr(ceilings, "WORKING_SETS", (2**14, 2**18))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_every_ceiling_of_a_cpu_is_a_positive_number_in_every_dtype(brief, dtype):
    best = measure(CPU, dtype, 1)
    assert 1e8 < best.flops_per_s < 1e15
    assert best.copy_bytes_per_s.keys() == {2**14, 2**18}
    assert all(1e7 < rate < 1e14 for rate in best.copy_bytes_per_s.values())
    assert 10 < best.call_ns < 1e7
    assert best.launch_ns is None


def test_the_threads_asked_for_are_those_that_measure_and_are_given_back(brief, monkeypatch):
    before, seen = torch.get_num_threads(), set()
    mm = torch.mm

    def multiply(*matrices, out):
        seen.add(torch.get_num_threads())
        return mm(*matrices, out=out)

    monkeypatch.setattr(torch, "mm", multiply)
    measure(CPU, torch.float32, before + 1)
    assert seen == {before + 1}
    assert torch.get_num_threads() == before


@pytest.mark.parametrize(
    ("device", "threads", "clock"), [("cpu", 1, thread_ns), ("cpu", 2, monotonic_ns), ("cuda", 1, monotonic_ns)]
)
def test_where_one_thread_does_all_nobody_elses_work_is_in_its_clock(monkeypatch, device, threads, clock):
    monkeypatch.setattr(ceilings, "_measured", lambda _device, _dtype, asked: asked)
    assert measure(torch.device(device), torch.float32, threads) is clock


def test_a_narrow_dtype_that_is_slow_here_does_not_lower_the_ceiling(brief, monkeypatch):
    rates = {torch.float32: 7e9, torch.bfloat16: 1e9, torch.float64: 3e9}
    monkeypatch.setattr(ceilings, "_flops_per_s", lambda _device, dtype, _least: rates[dtype])
    assert [measure(CPU, dtype, 1).flops_per_s for dtype in (torch.bfloat16, torch.float64)] == [7e9, 3e9]


@pytest.mark.cuda
def test_a_gpu_has_a_shortest_launch():
    best = measure(torch.device("cuda"), torch.float32, 1)
    assert 500 < best.launch_ns < 1e6
    assert best.flops_per_s > 1e11
