"""Who trains together with this process, and what that changes about measuring it.

Several ranks measure one block: all wait for each other, then each times its own part, and the slowest rank's time
counts. The waiting is outside the clock; what it leaves is that they begin within the time of a message, some 100 µs,
which is why their blocks are longer.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Protocol

from harness.measuring.clocks import Clock
from harness.measuring.device import Device
from harness.measuring.evidence import Crowded, Evidence, Together
from harness.training import ranks

# A hundred microseconds of beginning apart is 0.2 % of such a block.
BLOCK_NS = 50_000_000


class Peers(Protocol):
    """What the timing asks of whoever trains together."""

    def clock(self, clock: Clock) -> Clock:
        """Return a clock that tells all the same, for what they must decide alike; not for what is measured."""
        ...

    def agreed(self, taken_ns: int, disturbance: str) -> tuple[int, str]:
        """Return how long a block took for all, and what disturbed it anywhere."""
        ...

    def evidence(self, device: Device, cpus: Iterable[int], threads: int) -> Evidence:
        """Return what tells whether a block was disturbed."""
        ...

    def threads(self, threads: int) -> int:
        """Return how many threads a process of a case of so many has work for."""
        ...


class Alone:
    """A process that trains by itself, with no threads but torch's."""

    def clock(self, clock: Clock) -> Clock:
        """Return the clock itself."""
        return clock

    def agreed(self, taken_ns: int, disturbance: str) -> tuple[int, str]:
        """Return what this process saw."""
        return taken_ns, disturbance

    def evidence(self, device: Device, cpus: Iterable[int], threads: int) -> Evidence:
        """Return the device's own."""
        return device.evidence(cpus, threads)

    def threads(self, threads: int) -> int:
        """Return the case's own."""
        return threads


ALONE = Alone()


@dataclass(frozen=True)
class Ranks:
    """A rank among others, or the only one of an engine for several.

    crowded: whether all ranks together have fewer cores than threads.

    Each has a thread besides for what they tell each other. On the core of a rank it takes turns with the one that
    computes: neither a switch between the two nor waiting for other ranks is a disturbance.
    """

    crowded: bool = False

    def clock(self, clock: Clock) -> Clock:
        """Return the latest time that any rank reads; each reading waits for all."""
        return lambda: max(ranks.told_all(clock()))

    def agreed(self, taken_ns: int, disturbance: str) -> tuple[int, str]:
        """Return the slowest rank's time and the first disturbance of any."""
        said = ranks.told_all((taken_ns, disturbance))
        return max(taken for taken, _ in said), next((reason for _, reason in said if reason), "")

    def evidence(self, device: Device, cpus: Iterable[int], threads: int) -> Evidence:
        """Return the device's own, of what comes from outside: threads of this process take turns."""
        evidence = device.evidence(cpus, threads, takes_turns=True)
        return Together(Crowded(), evidence) if self.crowded else evidence

    def threads(self, threads: int) -> int:
        """Return one more: it may use no more cores than it is pinned to anyway."""
        return threads + 1
