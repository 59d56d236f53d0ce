import time

import pytest
import torch

from harness.measuring.clocks import monotonic_ns, synchronizer
from harness.measuring.sampling import Rule


def test_the_clock_counts_nanoseconds_and_never_goes_back():
    start = monotonic_ns()
    time.sleep(0.05)
    assert 45e6 < monotonic_ns() - start < 5e9
    reads = [monotonic_ns() for _ in range(1000)]
    assert reads == sorted(reads)
    assert all(isinstance(read, int) for read in reads)


def test_reading_the_clock_is_less_than_a_thousandth_of_a_block():
    fastest = min(-monotonic_ns() + monotonic_ns() for _ in range(1000))
    assert 2 * fastest < Rule().block_ns / 1000


def test_on_a_cpu_there_is_nothing_to_wait_for(monkeypatch):
    monkeypatch.setattr(torch.cuda, "synchronize", lambda _device: pytest.fail("a GPU was waited for"))
    assert synchronizer(torch.device("cpu"))() is None


@pytest.mark.parametrize("name", ["cuda", "cuda:0", "cuda:3"])
def test_on_a_gpu_the_one_that_is_used_is_waited_for_at_every_call(monkeypatch, name):
    waited = []
    monkeypatch.setattr(torch.cuda, "synchronize", waited.append)
    synchronize = synchronizer(torch.device(name))
    assert waited == []
    synchronize()
    synchronize()
    assert waited == [torch.device(name)] * 2


@pytest.mark.cuda
def test_waiting_for_the_gpu_waits_for_its_work():
    synchronize = synchronizer(torch.device("cuda"))
    left = torch.randn(8192, 8192, device="cuda")
    torch.mm(left, left)
    synchronize()
    start = monotonic_ns()
    for _ in range(20):
        torch.mm(left, left)
    given = monotonic_ns() - start
    synchronize()
    assert monotonic_ns() - start > 2 * given
