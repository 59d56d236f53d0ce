"""How many cores a process keeps busy: work of other threads and processes is work outside the clock. No torch."""

import contextlib
import os
import time
from pathlib import Path

from harness.plan.outcome import CaseEnded, Outcome

# A thread more than the case has would show as 1.
SPARE_CORES = 0.25
# With one thread, all work is the calling thread's; the interpreter's others take next to nothing.
OTHER_THREADS = 0.05


class Busy:
    """How many cores this process keeps busy, and how much of that is not the calling thread's."""

    def __init__(self) -> None:
        self._before = self._now()

    def check(self, threads: int) -> None:
        """Raise CaseEnded (rejected) when it was more than a case of so many threads may use."""
        wall, process, thread, others = (now - was for now, was in zip(self._now(), self._before, strict=True))
        cores = (process + others) / max(1, wall)
        if cores > threads + SPARE_CORES:
            raise CaseEnded(
                Outcome.REJECTED, f"while timed, it keeps {cores:.1f} cores busy and the case has {threads} thread(s)"
            )
        elsewhere = (process + others - thread) / max(1, wall)
        if threads == 1 and elsewhere > OTHER_THREADS:
            raise CaseEnded(
                Outcome.REJECTED,
                f"while timed, {elsewhere:.0%} of a core is used by other threads or processes than the one that is "
                "timed, and the case has 1 thread",
            )

    @staticmethod
    def _now() -> tuple[int, int, int, int]:
        return time.monotonic_ns(), time.process_time_ns(), time.thread_time_ns(), _descendants_ns()


def _descendants_ns(proc: Path = Path("/proc")) -> int:
    """CPU time of all processes that this one has started, to a clock tick; 0 where there is no /proc."""
    parents: dict[int, tuple[int, int]] = {}
    for path in proc.glob("[0-9]*/stat"):
        with contextlib.suppress(OSError, ValueError, IndexError):  # it has just ended
            fields = path.read_text("utf-8", errors="replace").rpartition(")")[2].split()
            parents[int(path.parent.name)] = int(fields[1]), int(fields[11]) + int(fields[12])
    waited = os.times()
    found = {os.getpid()}
    # A process is usually younger than its parent, but numbers begin again.
    for _ in range(3):
        found |= {pid for pid, (parent, _) in parents.items() if parent in found}
    ticks = sum(parents[pid][1] for pid in found - {os.getpid()} if pid in parents)
    return ticks * (10**9 // os.sysconf("SC_CLK_TCK")) + int((waited.children_user + waited.children_system) * 1e9)
