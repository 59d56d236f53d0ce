"""The parent's own clock as a second witness of every timed block.

The worker says when a block is about to begin and when it has ended; the parent, on another core, reads its clock at
both. What an engine does to the worker's clock does not reach it.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from harness.measuring.sampling import QUANTILE, quantile_of
from harness.plan.outcome import Outcome

# A message takes some 20 to 100 µs to reach the parent, at both ends of a block; on a loaded machine more.
LIMIT_SHARE = 0.03
LIMIT_NS = 300_000
# No block has less than this share of the others' time by the worker's clock alone: the fastest are checked by the
# worker, and a wrong time could make others the fastest.
LIMIT_OF_ONE = 0.5


def witnessed(record: Mapping[str, Any], brackets: Sequence[tuple[int, int]]) -> dict[str, Any]:
    """Return the record, held against the parent's clock.

    brackets: when the parent heard that each block began and ended, in nanoseconds. Of the fastest quarter of the
    blocks that count, the one that both clocks saw most alike must be the same by both, within what a message takes;
    `clock_ratio` is the parent's 25 % quantile over the worker's. No block may be fast by the worker's clock alone –
    where nearly all were disturbed, messages are late as well, and the row says what it is worth –, and the step time
    must be that of the blocks. A record without times is returned as it is.
    """
    blocks_ns = record.get("blocks_ns")
    if record["outcome"] != Outcome.OK or not blocks_ns:
        return dict(record)
    if len(brackets) != len(blocks_ns):
        return _rejected(record, f"the worker says that it timed {len(blocks_ns)} blocks; {len(brackets)} were seen")
    outside = quantile_of([_seen_ns(brackets[index]) for index in record["counted"]], QUANTILE)
    inside = quantile_of([blocks_ns[index] for index in record["counted"]], QUANTILE)
    # On a busy machine the parent hears late of many blocks, but hardly of all that the step time hangs on: the fastest
    # quarter. A clock that is wrong is wrong in each of them.
    fastest = sorted(record["counted"], key=blocks_ns.__getitem__)[: math.ceil(QUANTILE * len(record["counted"]))]
    alike = min(fastest, key=lambda index: _seen_ns(brackets[index]) - blocks_ns[index])
    told, seen = blocks_ns[alike], _seen_ns(brackets[alike])
    if seen - told > LIMIT_SHARE * seen + LIMIT_NS:
        return _rejected(
            record,
            f"the worker's clock is not to be trusted: a block of {record['block_steps']} updates takes "
            f"{told / 1e6:.3g} ms by it and {seen / 1e6:.3g} ms by the parent's",
        )
    quiet = [] if record.get("blocks_disturbed") and len(record["counted"]) == len(blocks_ns) else record["counted"]
    for index in quiet:
        if blocks_ns[index] < LIMIT_OF_ONE * inside and _seen_ns(brackets[index]) - LIMIT_NS > LIMIT_OF_ONE * outside:
            return _rejected(
                record,
                f"the worker's clock is not to be trusted: block {index + 1} takes {blocks_ns[index] / 1e6:.3g} ms by "
                f"it and {_seen_ns(brackets[index]) / 1e6:.3g} ms by the parent's",
            )
    step_ns = inside / record["block_steps"]
    if abs(record["step_ns"] - step_ns) > 1e-9 * step_ns:
        return _rejected(
            record, f"the record contradicts itself: step_ns is {record['step_ns']:.6g}, its blocks say {step_ns:.6g}"
        )
    return {**record, "clock_ratio": outside / inside}


def _seen_ns(bracket: tuple[int, int]) -> int:
    return bracket[1] - bracket[0]


def _rejected(record: Mapping[str, Any], reason: str) -> dict[str, Any]:
    """Return the record without its times."""
    timed = ("_ns", "counted", "energy_per_step_j")
    kept = {name: value for name, value in record.items() if not name.endswith(timed)}
    return {**kept, "outcome": Outcome.REJECTED, "reason": reason}
