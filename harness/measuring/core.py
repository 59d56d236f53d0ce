"""How fast the core is right now, told by a piece of work that is always the same. Never imports torch.

What a virtual machine calls a CPU is mostly one of two hyperthreads of a core. What runs on the other one belongs to
somebody else, takes a third of the speed away for milliseconds or minutes, and is in no counter: no time is stolen,
nothing is preempted. The same work takes longer, that is all there is to see of it; so it is of a clock that cannot be
read.
"""

import hashlib
import sys
from bisect import insort
from collections.abc import Callable
from pathlib import Path
from time import perf_counter_ns

from harness.measuring.sampling import quantile_of

# Some 10 µs of Python, so that what it needs stays in the innermost caches; the best of three, as an interrupt is no
# slow core.
ADDITIONS = 400
TRIES = 3

# A shared core takes 1.4 to 1.7 times as long; alone, the times of one process lie within 10 % of each other, and turbo
# clocks wander by less than this.
SLOW_CORE = 1.3
# What is usual of a fast core: its least time may have been luck.
USUAL = 0.1


def work_id() -> str:
    """Return a name of the fixed work: of this file and of the interpreter's build, on which its time hangs."""
    return hashlib.sha256(Path(__file__).read_bytes() + sys.version.encode()).hexdigest()[:12]


def spin_ns() -> int:
    """Return how many nanoseconds the fixed work takes at this moment."""
    taken = []
    for _ in range(TRIES):
        start = perf_counter_ns()
        total = 0
        for number in range(ADDITIONS):
            total += number
        taken.append(perf_counter_ns() - start)
    return min(taken)


class CoreEvidence:
    """Evidence that the core was slow: the fixed work right before or after a block took long.

    fast_ns: what it takes on a fast core of this run, as far as that is known. spin_ns is replaced in tests.
    """

    def __init__(self, fast_ns: float | None = None, spin_ns: Callable[[], int] = spin_ns) -> None:
        self._fast_ns = fast_ns
        self._spin_ns = spin_ns
        self._seen: list[int] = []
        self._before = 0

    def begin(self) -> None:
        """Do the work, right before the block."""
        self._before = self._spin_ns()

    def end(self, taken_ns: int) -> str:  # noqa: ARG002
        """Do it again, right after; return `slow core` or nothing."""
        spins = (self._before, self._spin_ns())
        for spin in spins:
            insort(self._seen, spin)
        fast = min(filter(None, (self.usual_ns(), self._fast_ns)), default=0)
        return "slow core" if max(spins) > SLOW_CORE * fast else ""

    def afterwards(self) -> str:
        """Nothing: a moment later it may be another's turn."""
        return ""

    def usual_ns(self) -> float | None:
        """Return what the work took in this process where it was fast: the 10 % quantile; None before any."""
        return quantile_of(self._seen, USUAL) if self._seen else None
