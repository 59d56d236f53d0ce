"""The parent's own clock as a second witness of every timed block.

The worker says when a block is about to begin and, when it has ended, how long it took; the parent, on another core,
reads its clock at both. What an engine does to the worker's clock does not reach it, nor what it does to times later.
On a busy machine the parent may have to wait for a core when a message wakes it; the kernel says for how long.
"""

import math
import resource
import time
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from harness.measuring.evidence import CheapFile
from harness.measuring.kernel import ROOT
from harness.measuring.sampling import QUANTILE, quantile_of
from harness.plan.outcome import Outcome

# A message takes some 20 to 100 µs to reach the parent, at both ends of a block; on a loaded machine more.
LIMIT_SHARE = 0.03
LIMIT_NS = 300_000
# No block has less than this share of the others' time by the worker's clock alone: the fastest are checked by the
# worker, and a wrong time could make others the fastest.
LIMIT_OF_ONE = 0.5
# Exact is when the parent was woken; a worker that lost its core right before or behind a block woke it late.
ENOUGH_EXACT = 3


class Bracket(NamedTuple):
    """What the parent heard of one block, in nanoseconds.

    began_ns, ended_ns: when it heard that it began and that it ended, by its own clock. told_ns: how long it took, as
    the worker said when it ended; 0 from a worker of a commit that does not say so. exact: whether that is when these
    messages came.
    """

    began_ns: int
    ended_ns: int
    told_ns: int = 0
    exact: bool = False

    @property
    def seen_ns(self) -> int:
        """How long it took by the parent's clock, messages included."""
        return self.ended_ns - self.began_ns


class Heard(NamedTuple):
    """When a message came, by the parent's clock in nanoseconds; exact: whether that is not when it was read."""

    ns: int
    exact: bool = False


class Listener:
    """Tells when a message came that woke the calling thread, though another process had its core for a while.

    The kernel counts how long a thread that could run had to wait (Linux); elsewhere nothing is exact.
    """

    def __init__(self) -> None:
        self._file = CheapFile(ROOT / "proc/thread-self/schedstat", size=100)
        self.close = self._file.close
        self._before = self._now()

    def sleeps(self) -> None:
        """Look, right before it sleeps."""
        self._before = self._now()

    def heard(self) -> Heard:
        """Return when it was woken; exact if it slept once and was not pushed aside, for it may wait then as well."""
        now_ns = time.monotonic_ns()  # first: who is pushed aside after it, is not exact
        waited, slept, pushed = (now - before for now, before in zip(self._now(), self._before, strict=True))
        exact = (slept, pushed) == (1, 0)
        return Heard(now_ns - (waited if exact else 0), exact)

    def _now(self) -> tuple[int, int, int]:
        fields = self._file.read().split()  # time that it ran, time that it waited for a core, how often it ran
        counts = bool(fields) and fields[-1] != b"0"  # some kernels have the file and count nothing
        usage = resource.getrusage(resource.RUSAGE_THREAD) if counts else None
        return (int(fields[1]), usage.ru_nvcsw, usage.ru_nivcsw) if usage else (0, 0, 0)


def witnessed(record: Mapping[str, Any], brackets: Sequence[Bracket]) -> dict[str, Any]:
    """Return the record, held against what the parent heard of each block.

    No block may be faster in the record than it was when it ended. Of the fastest quarter of the blocks that count – of
    those of which both messages are exact, if there are enough –, the one that both clocks saw most alike must be the
    same by both, within what a message takes; `clock_ratio` is the parent's 25 % quantile over the worker's. No block
    may be fast by the worker's clock alone – where nearly all were disturbed, messages are late as well, and the row
    says what it is worth –, and the step time must be that of the blocks. A record without times is returned as it is.
    """
    blocks_ns = record.get("blocks_ns")
    if record["outcome"] != Outcome.OK or not blocks_ns:
        return dict(record)
    if len(brackets) != len(blocks_ns):
        return _rejected(record, f"the worker says that it timed {len(blocks_ns)} blocks; {len(brackets)} were seen")
    for index, (taken, bracket) in enumerate(zip(blocks_ns, brackets, strict=True)):
        if taken < bracket.told_ns:  # longer is right: of several ranks the slowest counts
            return _rejected(
                record,
                f"the record contradicts itself: block {index + 1} takes {taken / 1e6:.9g} ms in it, and took "
                f"{bracket.told_ns / 1e6:.9g} ms when it ended",
            )
    outside = quantile_of([brackets[index].seen_ns for index in record["counted"]], QUANTILE)
    inside = quantile_of([blocks_ns[index] for index in record["counted"]], QUANTILE)
    # On a busy machine the parent hears late of many blocks, of the beginning as of the end, but hardly of all that the
    # step time hangs on: the fastest quarter. A clock that is wrong is wrong in each of them.
    fastest = sorted(record["counted"], key=blocks_ns.__getitem__)[: math.ceil(QUANTILE * len(record["counted"]))]
    exact = [index for index in fastest if brackets[index].exact]
    alike = min(
        exact if len(exact) >= ENOUGH_EXACT else fastest, key=lambda index: brackets[index].seen_ns - blocks_ns[index]
    )
    told, seen = blocks_ns[alike], brackets[alike].seen_ns
    if seen - told > LIMIT_SHARE * seen + LIMIT_NS:
        return _rejected(
            record,
            f"the worker's clock is not to be trusted: a block of {record['block_steps']} updates takes "
            f"{told / 1e6:.3g} ms by it and {seen / 1e6:.3g} ms by the parent's",
        )
    quiet = [] if record.get("blocks_disturbed") and len(record["counted"]) == len(blocks_ns) else record["counted"]
    for index in quiet:
        if blocks_ns[index] < LIMIT_OF_ONE * inside and brackets[index].seen_ns - LIMIT_NS > LIMIT_OF_ONE * outside:
            return _rejected(
                record,
                f"the worker's clock is not to be trusted: block {index + 1} takes {blocks_ns[index] / 1e6:.3g} ms by "
                f"it and {brackets[index].seen_ns / 1e6:.3g} ms by the parent's",
            )
    step_ns = inside / record["block_steps"]
    if abs(record["step_ns"] - step_ns) > 1e-9 * step_ns:
        return _rejected(
            record, f"the record contradicts itself: step_ns is {record['step_ns']:.6g}, its blocks say {step_ns:.6g}"
        )
    return {**record, "clock_ratio": outside / inside}


def _rejected(record: Mapping[str, Any], reason: str) -> dict[str, Any]:
    """Return the record without its times."""
    timed = ("_ns", "counted", "energy_per_step_j")
    kept = {name: value for name, value in record.items() if not name.endswith(timed)}
    return {**kept, "outcome": Outcome.REJECTED, "reason": reason}
