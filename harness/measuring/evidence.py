"""What disturbs a block, known by evidence and not by its being slow. Never imports torch.

CPU: the kernel took a core away (involuntary context switches), the thread did not run all the time (wall against
thread time), the container was stopped for its quota, the hypervisor took the core (steal), the clock fell; how fast a
core is, `measuring.core` tells. GPU: what `measuring.nvml` says of its clocks.
"""

import os
import resource
import statistics
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Protocol

from harness.measuring.kernel import ROOT
from harness.measuring.limits import tightest_quota
from harness.measuring.nvml import DISTURBING_REASONS, Gpu

# A thread that was kept from running for less than this share of a block did not lose more than the number is good for.
WAITED_SHARE = 0.01
# Turbo clocks wander by a few per cent; a block below this share of the usual clock was slowed.
SLOW_CLOCK = 0.93
# What is asked around each block may take this long; on machines with hundreds of CPUs /proc/stat takes longer.
CHEAP_NS = 100_000
# Counting the processes on a GPU takes up to a millisecond.
COUNTED_EVERY = 25


class Evidence(Protocol):
    """Watches one block after the other: `begin` and `end` right around it, quickly; `afterwards` takes longer."""

    def begin(self) -> None:
        """Look, right before the block."""
        ...

    def end(self, taken_ns: int) -> str:
        """Look again, right after it took so long; return what disturbed it, in a word or two, or nothing."""
        ...

    def afterwards(self) -> str:
        """Return what else disturbed it."""
        ...


class Together:
    """Several kinds of evidence as one; the first that has something to say is heard."""

    def __init__(self, *parts: Evidence) -> None:
        self._parts = parts

    def begin(self) -> None:
        """Look, right before the block."""
        for part in self._parts:
            part.begin()

    def end(self, taken_ns: int) -> str:
        """Return what the first part that was disturbed says."""
        return next(filter(None, [part.end(taken_ns) for part in self._parts]), "")

    def afterwards(self) -> str:
        """Return what the first part that was disturbed says."""
        return next(filter(None, [part.afterwards() for part in self._parts]), "")


class Delayed:
    """Evidence that the calling thread was ready to run and another process had its core, to the nanosecond (Linux).

    Threads of this process may take turns on one core: what they ran is no delay by others. root, process_time_ns and
    thread_time_ns are replaced in tests.
    """

    def __init__(
        self,
        root: Path = ROOT,
        process_time_ns: Callable[[], int] = time.process_time_ns,
        thread_time_ns: Callable[[], int] = time.thread_time_ns,
    ) -> None:
        self._file = CheapFile(root / "proc/thread-self/schedstat", size=100)
        self._process_time_ns = process_time_ns
        self._thread_time_ns = thread_time_ns
        self._before = 0

    def begin(self) -> None:
        """Look, right before the block."""
        self._before = self._others_ns()

    def end(self, taken_ns: int) -> str:
        """Return `preempted` where others had the core for more than the number is good for."""
        return "preempted" if self._others_ns() - self._before > WAITED_SHARE * taken_ns else ""

    def afterwards(self) -> str:
        """Nothing more."""
        return ""

    def _others_ns(self) -> int:
        fields = self._file.read().split()  # time that it ran, time that it waited for a core, how often it ran
        own_threads = self._process_time_ns() - self._thread_time_ns()
        return int(fields[1]) - own_threads if len(fields) == 3 else 0


class Crowded:
    """Evidence of more ranks than cores: they take turns in every block, and no time says how fast they would be."""

    def begin(self) -> None:
        """Nothing to look at."""

    def end(self, taken_ns: int) -> str:  # noqa: ARG002
        """Nothing: it is known anyway."""
        return ""

    def afterwards(self) -> str:
        """Return what disturbs every block."""
        return "fewer cores than ranks"


class CpuEvidence:
    """Evidence of this process and the CPUs that it runs on.

    cpus: the CPUs it is pinned to; none: all. alone: whether all work is done by the calling thread, so that its
    time must be the block's. root, thread_time_ns and switches are replaced in tests.
    """

    def __init__(
        self,
        cpus: Iterable[int] = (),
        *,
        alone: bool,
        root: Path = ROOT,
        thread_time_ns: Callable[[], int] = time.thread_time_ns,
        switches: Callable[[], int] = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_nivcsw,
    ) -> None:
        cpus = tuple(cpus)
        self._alone = alone
        self._thread_time_ns = thread_time_ns
        self._switches = switches
        self._steal = _Steal(cpus, root)
        self._stolen = self._steal.ticks()
        self._throttles = _Throttles(root)
        self._throttled = self._throttles.counts()
        self._frequency = _Frequency(cpus, root)
        self._before = (0, 0)

    def begin(self) -> None:
        """Look, right before the block."""
        self._before = (self._switches(), self._thread_time_ns())

    def end(self, taken_ns: int) -> str:
        """Return what disturbed the block: `preempted` or `waited`."""
        ran = self._thread_time_ns()
        switches = self._switches()
        switches_before, ran_before = self._before
        if switches != switches_before:
            return "preempted"
        return "waited" if self._alone and taken_ns - (ran - ran_before) > WAITED_SHARE * taken_ns else ""

    def afterwards(self) -> str:
        """Return what else did: `throttled`, `stolen` or `slow clock`."""
        throttled, self._throttled = self._throttled, self._throttles.counts()
        stolen, self._stolen = self._stolen, self._steal.ticks()
        slow = self._frequency.is_low()
        if self._throttled != throttled:
            return "throttled"
        return "stolen" if self._stolen != stolen else "slow clock" if slow else ""


class GpuEvidence:
    """Evidence of one GPU: why its clocks are held down, whether they fell, and whether others compute on it."""

    def __init__(self, gpu: Gpu) -> None:
        self._gpu = gpu
        self._clock = _Dips()
        self._shared = False
        self._seen = 0

    def begin(self) -> None:
        """Nothing: what NVML tells of the present is asked after the block."""

    def end(self, taken_ns: int) -> str:  # noqa: ARG002
        """Nothing: NVML may take its time."""
        return ""

    def afterwards(self) -> str:
        """Return what disturbed the block: `shared GPU`, one of DISTURBING_REASONS, or `slow GPU clock`."""
        if self._seen % COUNTED_EVERY == 0:
            self._shared = (self._gpu.busy_processes() or 0) > 1  # this one is among them
        self._seen += 1
        if self._shared:
            return "shared GPU"
        reasons = self._gpu.clock_event_reasons() or 0
        for bit, name in DISTURBING_REASONS.items():
            if reasons & bit:
                return name
        return "slow GPU clock" if self._clock.is_one(self._gpu.sm_clock_mhz() or 0) else ""


class _Dips:
    """Tells when a clock dips below what it usually is. A level that it settles at is a fact, and no dip."""

    def __init__(self) -> None:
        self._seen: list[int] = []

    def is_one(self, clock: int) -> bool:
        if clock <= 0:
            return False
        self._seen.append(clock)
        return clock < SLOW_CLOCK * statistics.median(self._seen)


class _Steal:
    """Counts the ticks that the hypervisor gave to somebody else."""

    def __init__(self, cpus: tuple[int, ...], root: Path) -> None:
        self._names = {f"cpu{cpu}".encode() for cpu in cpus} or {b"cpu"}
        self._file = CheapFile(root / "proc/stat", size=1 << 20)

    def ticks(self) -> int:
        ticks = 0
        for line in self._file.read().splitlines():
            fields = line.split()
            if not fields or not fields[0].startswith(b"cpu"):
                break
            if fields[0] in self._names and len(fields) > 8:
                ticks += int(fields[8])
        return ticks


class _Throttles:
    """Counts how often, and for how long, the kernel stopped the container for its quota; asks only where it has one.

    The kernel counts when it lets the container go on, so that a process which was stopped finds itself counted.
    """

    def __init__(self, root: Path) -> None:
        quota = tightest_quota(root)
        self._file = None if quota is None else CheapFile(quota.counts, size=4096)

    def counts(self) -> list[bytes]:
        if self._file is None:
            return []
        wanted = (b"nr_throttled ", b"throttled_usec ", b"throttled_time ")  # the last one: version 1, in nanoseconds
        return [line for line in self._file.read().splitlines() if line.startswith(wanted)]


class _Frequency:
    """Watches the clock of the one CPU that the process is pinned to; of several, idle ones would say nothing."""

    def __init__(self, cpus: tuple[int, ...], root: Path) -> None:
        paths = [root / f"sys/devices/system/cpu/cpu{cpu}/cpufreq/scaling_cur_freq" for cpu in cpus]
        self._file = CheapFile(paths[0] if len(paths) == 1 else Path(os.devnull), size=64)
        self._clock = _Dips()

    def is_low(self) -> bool:
        text = self._file.read().strip()
        return self._clock.is_one(int(text) if text.isdigit() else 0)


class CheapFile:
    """A file of the kernel's that is read again and again, as long as that is cheap."""

    def __init__(self, path: Path, size: int) -> None:
        self._size = size
        try:
            self._descriptor = os.open(path, os.O_RDONLY)
        except OSError:
            self._descriptor = -1
            return
        taken = []
        for _ in range(3):
            start = time.perf_counter_ns()
            self.read()
            taken.append(time.perf_counter_ns() - start)
        if min(taken) > CHEAP_NS:
            self.close()

    def close(self) -> None:
        """Read no more: from now on there is nothing in it."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
        self._descriptor = -1

    def read(self) -> bytes:
        """Return what is in it; nothing where it is not there, or not cheap."""
        if self._descriptor < 0:
            return b""
        try:
            return os.pread(self._descriptor, self._size, 0)
        except OSError:  # a CPU that went offline
            return b""
