"""What the container allows: CPU time, memory, shared memory. Where nobody set a limit, nothing is told.

Limits stand in the control group of this process and in those above it, and the least of them holds. Never imports
torch.
"""

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from harness.measuring.kernel import ROOT, control_groups, read_counts, read_text

# What Docker and Kubernetes, and podman, give a container when nobody asks: no limit that anybody chose.
USUAL_SHM_BYTES = (64 * 2**20, 64_000 * 2**10)
# Linux gives half of the memory by itself, as counted when it was mounted.
USUAL_SHM_SHARE = 0.45


@dataclass(frozen=True)
class Quota:
    """How many CPUs' time may be used, and the file that counts how often that was used up."""

    cpus: float
    counts: Path


def tightest_quota(root: Path = ROOT) -> Quota | None:
    """Return the least of the quotas that hold, or None without one."""
    folders = list(dict.fromkeys(control_groups(root, "cpu")))
    limits = [((read_text(folder / "cpu.max") or "").split(), folder) for folder in folders]
    if not any(fields for fields, _ in limits):  # version 1, in two files
        names = ("cpu.cfs_quota_us", "cpu.cfs_period_us")
        limits = [([read_text(folder / name) or "" for name in names], folder) for folder in folders]
    quotas = [Quota(cpus, folder / "cpu.stat") for fields, folder in limits if (cpus := _cpus_of(fields)) is not None]
    return min(quotas, key=lambda quota: quota.cpus, default=None)


def _cpus_of(fields: list[str]) -> float | None:
    """Read quota and period: `200000 100000`; without a limit the quota is `max` or, in version 1, -1."""
    try:
        quota, period = (float(field) for field in fields)
    except ValueError:
        return None
    return quota / period if quota > 0 and period > 0 else None


def cpu_quota(root: Path = ROOT) -> float | None:
    """Return how many CPUs' time the container may use, or None without a limit."""
    quota = tightest_quota(root)
    return None if quota is None else quota.cpus


def memory_limit_bytes(root: Path = ROOT) -> int | None:
    """Return how much memory the container may use, or None without a limit below what the machine has."""
    total = _memory_bytes(root)
    limits = [limit for limit in _memory_limits(root) if total is None or limit < total]
    return min(limits, default=None)


def _memory_limits(root: Path) -> Iterator[int]:
    for folder in control_groups(root, "memory"):
        for name in ("memory.max", "memory.limit_in_bytes"):
            text = read_text(folder / name) or ""
            if text.isdecimal():  # version 2 says "max"; version 1 a number larger than any machine
                yield int(text)


def shm_limit_bytes(root: Path = ROOT) -> int | None:
    """Return the size of /dev/shm where somebody chose it, or None where it is what everybody gets."""
    try:
        stat = os.statvfs(root / "dev/shm")
    except OSError:
        return None
    size = stat.f_blocks * stat.f_frsize
    total = _memory_bytes(root)
    chosen = total is not None and 0 < size < USUAL_SHM_SHARE * total and size not in USUAL_SHM_BYTES
    return size if chosen else None


def _memory_bytes(root: Path) -> int | None:
    kib = read_counts(root / "proc/meminfo").get("MemTotal")
    return None if kib is None else kib * 1024
