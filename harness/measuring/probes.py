"""What the process and torch say of themselves: faults, memory, compiled graphs."""

import resource
import sys
from dataclasses import dataclass

import torch

from harness.plan.outcome import CaseEnded, Outcome


def minor_faults() -> int:
    """Page faults without input or output so far; many per step mean that memory is taken anew at every step."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt


def peak_rss_bytes() -> int:
    """Most resident memory of this process so far, in bytes (Linux counts in KiB, macOS in bytes)."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


@dataclass(frozen=True)
class Compilation:
    """What torch.compile did in this process.

    graphs: compiled; breaks: graph breaks; recompiles: compilations of something that was compiled already.
    cache: `none` when nothing was compiled, `warm` when everything came from the compile cache, else `cold`.
    """

    graphs: int
    breaks: int
    recompiles: int
    cache: str


def compilation() -> Compilation:
    """Read torch's counters for this process."""
    if "torch._dynamo" not in sys.modules:  # importing it takes a second, and nothing was compiled without it
        return Compilation(0, 0, 0, "none")
    from torch._dynamo.utils import counters, get_compilation_metrics

    graphs = int(counters["stats"]["unique_graphs"])
    # A hit of the AOTAutograd cache never asks the graph cache.
    misses = counters["inductor"]["fxgraph_cache_miss"] + counters["aot_autograd"]["autograd_cache_miss"]
    return Compilation(
        graphs=graphs,
        breaks=sum(counters["graph_break"].values()),
        recompiles=sum(bool(metric.recompile_reason) for metric in get_compilation_metrics()),
        cache="none" if graphs == 0 else "cold" if misses else "warm",
    )


def assert_compiled_once(before: Compilation, after: Compilation) -> None:
    """Raise CaseEnded (rejected) for graph breaks, recompiles, or graphs that were compiled while blocks were timed."""
    if after.breaks or after.recompiles or after.graphs != before.graphs:
        raise CaseEnded(
            Outcome.REJECTED,
            f"the update does not stay compiled: {after.breaks} graph breaks, {after.recompiles} recompiles, "
            f"{after.graphs - before.graphs} graphs compiled while timed",
        )


def out_of_memory(error: BaseException) -> bool:
    """Whether an exception says that memory ran out, on the device or on the CPU."""
    # The CPU allocator raises a plain RuntimeError.
    return isinstance(error, MemoryError | torch.OutOfMemoryError) or "can't allocate memory" in str(error)
