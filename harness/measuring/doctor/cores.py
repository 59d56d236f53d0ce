"""What this process may use: cores, their hyperthreads, a quota of CPU time, memory."""

import os
from collections.abc import Iterator, Sequence
from pathlib import Path

from harness.measuring.cpus import cpu_list, physical_cores
from harness.measuring.doctor.findings import Finding, gib, ok, warning, worthless
from harness.measuring.kernel import is_virtual, read_counts, read_text
from harness.measuring.limits import cpu_quota, memory_limit_bytes

# Importing torch takes about 0.4 GiB, a compiled engine's first call with g++ beside it some 1.5 GiB.
SCARCE_MEMORY_BYTES, TOO_LITTLE_MEMORY_BYTES = 2 * 2**30, 2**30


def allowed_cpus() -> list[int]:
    """Return the CPUs that this process may run on; all of them where the system does not say."""
    if hasattr(os, "sched_getaffinity"):
        return sorted(os.sched_getaffinity(0))
    return list(range(os.cpu_count() or 1))


def cores_and_hyperthreads(allowed: Sequence[int], root: Path) -> Iterator[Finding]:
    """Judge whether there is a core for the worker alone, and who else may run on it."""
    cores = physical_cores(allowed, root)
    if len(cores) == 1:
        yield warning(
            "cores",
            "one core only: the worker shares it with the program that started it and with all else",
            "give the machine or the container a second one",
        )
    else:
        yield ok("cores", f"{len(cores)}: one for the program that waits, the rest for the worker's threads")
    yield from _neighbours(allowed, cores, root)


def _neighbours(allowed: Sequence[int], cores: Sequence[Sequence[int]], root: Path) -> Iterator[Finding]:
    """Judge hyperthreads: two CPUs of one core slow each other."""
    siblings: set[int] = set()
    for cpu in allowed:
        text = read_text(root / f"sys/devices/system/cpu/cpu{cpu}/topology/thread_siblings_list")
        try:
            siblings.update(cpu_list(text or ""))
        except ValueError:
            return
    foreign = siblings - set(allowed)
    if foreign:
        yield warning(
            "hyperthreads",
            f"{len(foreign)} CPUs that share a core with those of this process are not its own",
            "whoever runs there takes up to half a core: allow whole cores (taskset, docker --cpuset-cpus)",
        )
    elif len(cores) < len(allowed):
        yield ok(
            "hyperthreads",
            f"{len(allowed)} CPUs on {len(cores)} cores: threads are placed on distinct cores, "
            "but other programs may run on their neighbours",
        )
    else:
        told = ", as far as this virtual machine is told" if is_virtual(root) else ""
        yield ok("hyperthreads", f"none: no two CPUs share a core{told}")


def quota(allowed: Sequence[int], root: Path) -> Iterator[Finding]:
    """Judge the container's quota of CPU time against its cores."""
    allotted = cpu_quota(root)
    if allotted is None:
        if (root / "sys/fs/cgroup").is_dir():
            yield ok("CPU quota", "none")
        return
    cores = len(physical_cores(allowed, root))
    found = f"{allotted:g} CPUs' time for {cores} cores"
    advice = "raise it (docker --cpus, Kubernetes limits.cpu), or allow whole cores instead (docker --cpuset-cpus)"
    if allotted < 1:
        yield worthless("CPU quota", f"{found}: the kernel stops every thread again and again", advice)
    elif allotted < cores:
        yield warning("CPU quota", f"{found}: worker and everything beside it may be stopped together", advice)
    else:
        yield ok("CPU quota", found)


def memory(root: Path) -> Iterator[Finding]:
    """Judge the least of what the machine has and its control groups allow."""
    limits = {}
    if "MemTotal" in (machine := read_counts(root / "proc/meminfo")):
        limits["the machine's"] = machine["MemTotal"] * 1024
    if (limit := memory_limit_bytes(root)) is not None:
        limits["the container's"] = limit
    if not limits:
        return
    whose, size = min(limits.items(), key=lambda item: item[1])
    found = f"{gib(size)}, {whose}"
    advice = "raise the limit (docker --memory), or take a larger machine"
    if size < TOO_LITTLE_MEMORY_BYTES:
        yield worthless("memory", f"{found}: cases will end as `out_of_memory` or swap", advice)
    elif size < SCARCE_MEMORY_BYTES:
        yield warning("memory", f"{found}: compiled engines may end as `out_of_memory`", advice)
    else:
        yield ok("memory", found)
