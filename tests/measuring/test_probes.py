import mmap
import re
import sys
from pathlib import Path

import pytest
import torch
from torch._dynamo.utils import clear_compilation_metrics, counters

from harness.measuring.probes import (
    Compilation,
    assert_compiled_once,
    compilation,
    minor_faults,
    out_of_memory,
    peak_rss_bytes,
)
from harness.plan.outcome import CaseEnded, Outcome

PAGE = mmap.PAGESIZE
linux = pytest.mark.skipif(sys.platform != "linux", reason="other kernels count faults otherwise")


@pytest.fixture
def nothing_compiled():
    """What torch counts, as in a fresh process; afterwards as well."""

    def reset():
        torch._dynamo.reset()
        counters.clear()
        clear_compilation_metrics()

    reset()
    yield
    reset()


def compiled(function, **options):
    """Traced by dynamo but run as it is: graphs are counted without a compiler."""
    return torch.compile(function, backend="eager", dynamic=False, **options)


# The process


@linux
def test_memory_that_is_touched_for_the_first_time_is_a_fault_a_page():
    before = minor_faults()
    with mmap.mmap(-1, 256 * PAGE) as memory:
        for page in range(256):
            memory[page * PAGE] = 1
    assert 256 <= minor_faults() - before < 2000


@linux
def test_memory_that_is_used_again_is_no_fault():
    with mmap.mmap(-1, 256 * PAGE) as memory:
        for page in range(256):
            memory[page * PAGE] = 1
        before = minor_faults()
        for page in range(256):
            memory[page * PAGE] = 2
        assert minor_faults() - before < 64


def test_the_most_memory_is_told_in_bytes():
    peak = peak_rss_bytes()
    assert peak > 50 * 2**20  # torch alone is more
    if sys.platform == "linux":
        told = int(re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())[1]) * 1024
        assert peak == pytest.approx(told, rel=0.1)


# The compiler


def test_where_nothing_is_compiled_nothing_is_counted(nothing_compiled):
    assert compilation() == Compilation(graphs=0, breaks=0, recompiles=0, cache="none")


def test_one_graph_is_counted_once_however_often_it_runs(nothing_compiled):
    update = compiled(lambda x: x * 2)
    for _ in range(5):
        update(torch.ones(3))
    state = compilation()
    assert (state.graphs, state.breaks, state.recompiles) == (1, 0, 0)
    assert_compiled_once(state, state)


def test_another_shape_is_a_recompilation_and_rejected(nothing_compiled):
    update = compiled(lambda x: x * 2)
    update(torch.ones(3))
    update(torch.ones(4))
    state = compilation()
    assert (state.graphs, state.recompiles) == (2, 1)
    with pytest.raises(CaseEnded, match="0 graph breaks, 1 recompiles"):
        assert_compiled_once(state, state)


def test_a_graph_break_is_counted_and_rejected(nothing_compiled):
    def update(x):
        x = x * 2
        torch._dynamo.graph_break()
        return x + 1

    compiled(update)(torch.ones(3))
    state = compilation()
    assert state.breaks == 1
    with pytest.raises(CaseEnded, match="1 graph breaks"):
        assert_compiled_once(state, state)


@pytest.mark.parametrize(("graphs", "breaks", "recompiles"), [(2, 0, 0), (1, 1, 0), (1, 0, 1), (9, 0, 8)])
def test_breaks_recompiles_and_graphs_compiled_while_timed_are_rejected_with_the_counts(graphs, breaks, recompiles):
    said = f"{breaks} graph breaks, {recompiles} recompiles, {graphs - 1} graphs"
    with pytest.raises(CaseEnded, match=said) as ended:
        assert_compiled_once(Compilation(1, 0, 0, "cold"), Compilation(graphs, breaks, recompiles, "cold"))
    assert ended.value.outcome is Outcome.REJECTED


@pytest.mark.parametrize("graphs", [0, 1, 2])
def test_as_many_graphs_as_before_the_timing_are_accepted(graphs):
    state = Compilation(graphs, 0, 0, "warm")
    assert_compiled_once(state, state)


@pytest.mark.parametrize(
    ("inductor", "aot", "cache"),
    [
        ({"fxgraph_cache_miss": 1}, {}, "cold"),
        ({}, {"autograd_cache_miss": 1}, "cold"),
        ({"fxgraph_cache_hit": 1}, {"autograd_cache_hit": 1}, "warm"),
        ({}, {"autograd_cache_hit": 1}, "warm"),
    ],
)
def test_the_cache_is_warm_when_everything_came_from_it(nothing_compiled, inductor, aot, cache):
    counters["stats"]["unique_graphs"] = 1
    counters["inductor"].update(inductor)
    counters["aot_autograd"].update(aot)
    assert compilation().cache == cache


# Memory that ran out


def test_an_allocation_that_no_machine_can_make_is_out_of_memory():
    with pytest.raises(RuntimeError) as failure:
        torch.empty(10**14)
    assert out_of_memory(failure.value)


@pytest.mark.parametrize("error", [MemoryError(), torch.OutOfMemoryError("CUDA out of memory."), MemoryError("no")])
def test_what_says_that_memory_ran_out_is_out_of_memory(error):
    assert out_of_memory(error)


@pytest.mark.parametrize("error", [RuntimeError("shapes do not match"), ValueError("memory"), KeyboardInterrupt()])
def test_every_other_error_is_not(error):
    assert not out_of_memory(error)
