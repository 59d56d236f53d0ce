"""Which CPUs a worker runs on and which its parent sleeps on. Never imports torch.

Where there are two cores, worker and parent never share one: a parent that wakes up would take it from the worker.
"""

import contextlib
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from harness.measuring.kernel import ROOT
from harness.measuring.limits import cpu_quota


@dataclass(frozen=True)
class Placement:
    """Where a worker runs.

    worker, parent: numbers of logical CPUs; empty where the system cannot pin (macOS). threads: torch's intra-op
    threads, of each rank; None leaves it to torch.
    """

    worker: tuple[int, ...]
    parent: tuple[int, ...]
    threads: int | None


def place(
    device: str, threads: int | None, allowed: Iterable[int] | None = None, root: Path = ROOT, ranks: int = 1
) -> Placement:
    """Choose CPUs and threads for a case; threads None: one for each core that is left, within the container's quota.

    A CPU case gets one logical CPU per thread, each on a core of its own. A CUDA case gets every CPU but the parent's:
    there autograd and the driver have threads of their own. Only a case with more threads than cores that are left
    takes the parent's core as well.

    Several ranks share all that equally, and each has at least one thread; `share_of` says which CPUs are whose.
    """
    if allowed is None:
        if not hasattr(os, "sched_getaffinity"):
            shared = threads is None and ranks > 1
            return Placement((), (), max(1, (os.cpu_count() or 1) // ranks) if shared else threads)
        allowed = os.sched_getaffinity(0)
    cores = physical_cores(allowed, root)
    # The first core answers most interrupts: the parent may have it.
    parent, free = tuple(cores[0]), cores[1:]
    if not free:
        everything = tuple(sorted(allowed))
        return Placement(everything, everything, threads or 1)
    if threads is None:
        quota = cpu_quota(root)
        threads = len(free) if quota is None else max(1, min(len(free), int(quota)))
        threads = max(1, threads // ranks)
    wanted = ranks * threads
    if wanted > len(free):
        # Ranks sleep while they wait for each other: a core of its own is worth more to each than to the parent.
        whole = ranks > 1 and not device.startswith("cuda") and wanted <= len(cores)
        return Placement(
            tuple(core[0] for core in cores[-wanted:]) if whole else tuple(sorted(allowed)), parent, threads
        )
    if device.startswith("cuda"):
        return Placement(tuple(sorted(cpu for core in free for cpu in core)), parent, threads)
    return Placement(tuple(core[0] for core in free[-wanted:]), parent, threads)


def share_of(cpus: tuple[int, ...], rank: int, ranks: int, threads: int | None, device: str) -> tuple[int, ...]:
    """Return the CPUs of one rank: its own where there is one for each thread of all ranks, else all of them."""
    if threads is None or device.startswith("cuda") or len(cpus) != ranks * threads:
        return cpus
    return cpus[rank * threads : (rank + 1) * threads]


def crowded(cpus: tuple[int, ...], ranks: int, threads: int, root: Path = ROOT) -> bool:
    """Whether several ranks have fewer cores than threads, all together; False where nobody is pinned."""
    return ranks > 1 and bool(cpus) and len(physical_cores(cpus, root)) < ranks * threads


def pin(cpus: Iterable[int]) -> None:
    """Keep this process, and whatever it starts, on these CPUs; none: leave it where it is."""
    wanted = set(cpus)
    if wanted and hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, wanted)


@contextlib.contextmanager
def away_from_workers() -> Iterator[frozenset[int] | None]:
    """Keep this process on the parent's CPUs as long as this lasts; yields all CPUs that it may use."""
    if not hasattr(os, "sched_getaffinity"):
        yield None
        return
    allowed = frozenset(os.sched_getaffinity(0))
    pin(place("cpu", 1, allowed).parent)
    try:
        yield allowed
    finally:
        pin(allowed)


def physical_cores(allowed: Iterable[int], root: Path = ROOT) -> list[list[int]]:
    """Return the logical CPUs grouped by the core that they share, lowest first."""
    cores: dict[frozenset[int], list[int]] = {}
    for cpu in sorted(allowed):
        try:
            text = (root / f"sys/devices/system/cpu/cpu{cpu}/topology/thread_siblings_list").read_text("utf-8")
            core = frozenset(cpu_list(text))
        except (OSError, ValueError):
            core = frozenset([cpu])
        cores.setdefault(core, []).append(cpu)
    return list(cores.values())


def cpu_list(text: str) -> list[int]:
    """Read the kernel's `0-3,8`; raises ValueError when it is something else."""
    cpus: list[int] = []
    for part in text.strip().split(","):
        low, dash, high = part.partition("-")
        cpus += range(int(low), int(high if dash else low) + 1)
    return cpus
