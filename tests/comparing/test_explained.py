from typing import Any

import pytest
from rich.console import Console

from harness.comparing.explained import explained
from harness.reporting.explain import show_explained

QUIET: dict[str, Any] = {
    "profiled_ns": 100_000.0,
    "machinery_ns": 10_000.0,
    "work_ns": 80_000.0,
    "operations": 10.0,
    "machinery": 5.0,
    "least_ns": 500.0,
    "allocations": 0.0,
    "allocated_bytes": 0.0,
    "parts": [{"name": "aten::addmm", "per_step": 2.0, "self_ns": 70_000.0}],
    "kernels": [],
    "breaks": {},
    "recompiles": [],
}
KERNELS = [
    {"name": "gemm", "per_step": 1.0, "self_ns": 6000.0},
    {"name": "elementwise", "per_step": 30.0, "self_ns": 3000.0},
]


def record(step_ns: float = 100_000.0, *, graphs: int = 0, **inside: Any) -> dict[str, Any]:
    compiled = {"graphs": graphs, "graph_breaks": len(inside.get("breaks", {})), "recompiles": 0}
    return {"step_ns": step_ns, "minor_faults_per_step": 0.0, **compiled, "inside": QUIET | inside}


def test_time_inside_operations_is_work_and_the_longest_is_named():
    found = explained(record())
    assert found.bound == "work"
    assert "75% of the time is inside operations, most in aten::addmm" in found.why
    assert "takes no memory" in found.why


def test_shares_add_up_and_calling_is_taken_from_the_operations():
    shares = {share.name: share.share for share in explained(record()).shares}
    assert shares == pytest.approx(
        {"outside torch": 0.1, "torch's machinery": 0.1, "calling operations": 0.05, "work": 0.75}
    )


@pytest.mark.parametrize(
    "inside",
    [
        {"work_ns": 30_000.0},
        {"machinery_ns": 60_000.0, "work_ns": 30_000.0},
        {"operations": 160.0},  # 160 × 500 ns are all of the work
    ],
    ids=["Python", "autograd", "calls"],
)
def test_whatever_is_no_work_is_overhead(inside):
    found = explained(record(**inside))
    assert found.bound == "overhead"
    assert "Overhead-bound" in found.why
    assert sum(share.share for share in found.shares) == pytest.approx(1)


def test_an_engine_that_torch_cannot_see_is_said_to_be_so():
    found = explained(record(operations=0.05, work_ns=100.0))
    assert "cannot look" in found.why
    assert "Overhead" not in found.why


def test_memory_that_is_taken_is_told_with_its_page_faults():
    taken = record(allocations=12.0, allocated_bytes=48_000.0) | {"minor_faults_per_step": 109.0}
    assert "takes memory 12 times per update, 48,000 bytes, and has 109 page faults" in explained(taken).why


def test_a_gpu_that_idles_is_bound_by_launches():
    found = explained(record(80_000.0, kernels=KERNELS))
    assert found.bound == "launches"
    assert "31 kernels for 9 µs of work in an update of 80 µs" in found.why
    assert "capture the update" in found.why


def test_a_captured_update_is_not_told_to_be_captured():
    found = explained(record(80_000.0, kernels=KERNELS) | {"graph_launches_per_step": 1.0})
    assert "only fewer kernels help" in found.why


def test_a_gpu_that_is_full_is_bound_by_its_kernels():
    found = explained(record(10_000.0, kernels=KERNELS))
    assert found.bound == "work"
    assert "kernels fill 90% of the update, most in gemm and elementwise" in found.why


def test_the_screen_names_graph_breaks_with_their_reasons():
    console = Console(width=120)
    broken = record(graphs=2, breaks={"call to print": 3}, recompiles=["size mismatch at index 0"])
    with console.capture() as capture:
        show_explained(console, "line/mine/cpu/float32/b100", broken, explained(broken))
    text = capture.get()
    assert "graph break, 3 times: call to print" in text
    assert "recompiled: size mismatch" in text
    assert "aten::addmm" in text
