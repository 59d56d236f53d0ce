"""How far above the machine's floor a case is, and what its time consists of, from the records of a run.

A floor is a time that no engine can beat: neither launches nor calls from Python are in it, for an engine may make many
updates in one. What bounds a case is said only where at least half of its time is explained.
"""

from bisect import bisect_left
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from statistics import median
from typing import Any

# Of the step time: what explains less of it does not bound it.
EXPLAINS = 0.5

Record = Mapping[str, Any]
Place = tuple[Any, ...]


@dataclass(frozen=True)
class Ceilings:
    """The best that any process of a run reached at one place; 0 where none was measured.

    copies: of each number of bytes that an update moves, in order, the best rate of a copy of as many or more.
    """

    flops_per_s: float
    launch_ns: float
    copies: Sequence[tuple[float, float]]

    def copy_bytes_per_s(self, moved_bytes: float) -> float:
        """Return the best rate with at least so many bytes: what is smaller may stay in a nearer cache."""
        index = bisect_left(self.copies, (moved_bytes, 0.0))
        return self.copies[index][1] if index < len(self.copies) else 0.0


def place_of(row: Record) -> Place:
    """Return what cases have alike whose ceilings are the same: machine, device, dtype and threads."""
    return tuple(row.get(name) for name in ("machine", "fingerprint", "node", "device", "dtype", "threads"))


def ceilings_of(cases: Iterable[tuple[Record, Sequence[Record]]]) -> dict[Place, Ceilings]:
    """Return the ceilings of each place, from what the rows of each case have alike, and its records."""
    beside: dict[Place, list[Record]] = defaultdict(list)
    for common, records in cases:
        beside[place_of(common)] += records
    return {place: _best(records) for place, records in beside.items()}


def floor_of(step_ns: float, records: Sequence[Record], ceilings: Ceilings) -> dict[str, Any]:
    """Return `floor_ns`, `above_floor` and `bound_by` of a case with a time; nothing where no ceilings were measured.

    records: of the case. ceilings: of its place; what one process reached, another could.
    """
    flops, moved_bytes = (next(iter(_told(records, name)), None) for name in ("flops_per_step", "bytes_per_step"))
    bytes_per_s = ceilings.copy_bytes_per_s(moved_bytes or 0)
    if flops is None or moved_bytes is None or not ceilings.flops_per_s or not bytes_per_s:
        return {}
    parts = {"arithmetic": 1e9 * flops / ceilings.flops_per_s, "bandwidth": 1e9 * moved_bytes / bytes_per_s}
    floor_ns = max(parts.values())
    if not floor_ns:
        return {}
    parts |= _overhead(step_ns, records, ceilings)
    largest = max(parts, key=parts.__getitem__)
    bound_by = largest if parts[largest] >= EXPLAINS * step_ns else ""
    return {"floor_ns": floor_ns, "above_floor": step_ns / floor_ns, "bound_by": bound_by}


def _overhead(step_ns: float, records: Sequence[Record], ceilings: Ceilings) -> dict[str, float]:
    """Return the part of an update that does none of its work, by what it is spent on, as far as that is known.

    On a GPU it is the time that no kernel runs in: `launch` where launching explains at least half of it, else
    `python`. On a CPU it is what an update takes on a batch of one point, where Python makes calls for each update: an
    engine that loops elsewhere has overhead of another kind.
    """
    kernels_ns, one_point_ns = _median(records, "kernel_ns"), _median(records, "one_point_ns")
    if kernels_ns is not None:
        waiting_ns = step_ns - kernels_ns
        launching_ns = (_median(records, "launches_per_step") or 0.0) * ceilings.launch_ns
        return {"launch" if launching_ns >= EXPLAINS * waiting_ns else "python": waiting_ns}
    if one_point_ns is not None and (_median(records, "calls_per_step") or 0) >= 1:
        return {"python": min(one_point_ns, step_ns)}
    return {}


def _best(records: Sequence[Record]) -> Ceilings:
    rates: dict[float, float] = defaultdict(float)
    for record in records:
        moved_bytes, rate = record.get("bytes_per_step"), record.get("ceiling_copy_bytes_per_s")
        if moved_bytes is not None and rate is not None:
            rates[moved_bytes] = max(rates[moved_bytes], rate)
    sizes = sorted(rates, reverse=True)
    copies = [*zip(sizes, accumulate((rates[size] for size in sizes), max), strict=True)]
    return Ceilings(
        flops_per_s=max(_told(records, "ceiling_flops_per_s"), default=0.0),
        launch_ns=min(_told(records, "ceiling_launch_ns"), default=0.0),
        copies=copies[::-1],
    )


def _told(records: Iterable[Record], name: str) -> list[float]:
    return [record[name] for record in records if record.get(name) is not None]


def _median(records: Sequence[Record], name: str) -> float | None:
    told = _told(records, name)
    return median(told) if told else None
