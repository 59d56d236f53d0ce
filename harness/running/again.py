"""Which process is measured again: one that was disturbed from beginning to end.

A neighbour on the other hyperthread of the core may stay for longer than a process times its blocks. That process then
tells how fast the neighbour lets it be, and says so: nearly all of its blocks were disturbed. Whether it is measured
again hangs on that evidence alone, never on its time.
"""

from collections.abc import Mapping
from typing import Any

from harness.measuring.sampling import ENOUGH_BLOCKS
from harness.plan.outcome import Outcome
from harness.plan.presets import Sampling

# On a machine whose neighbour works a fifth of the time, for some seconds, three in a hundred stay disturbed.
MOST_AGAIN = 3
# Some blocks look undisturbed by luck.
QUIET_SHARE = 0.1
# Who times for less than it takes to start a process only wants to see whether all works.
WORTH_BUDGET_NS = 1_000_000_000
# Where every process is disturbed, so many are measured again for nothing; each that is not pays for half of one more.
CREDIT = 6.0
CREDIT_PER_QUIET = 0.5
# And where every process is from some time on, as the core has become another one, no more than so many in a row.
MOST_IN_VAIN = 6
# What comes from elsewhere, and may be over. A quota, and threads of the engine's own that it waits for, come again.
PASSING = ("slow core", "preempted", "stolen")
# Where two arms are measured in turn: of the rounds, so many more may make up for pairs that stayed disturbed.
SPARE_SHARE = 0.5
# Endings that are no word against what was measured before them.
NO_WORD_AGAINST = (Outcome.TIMEOUT, Outcome.OUT_OF_MEMORY)


def quiet_blocks(record: Mapping[str, Any]) -> int:
    """Return how many of a record's blocks nothing is known to have disturbed."""
    return int(record.get("blocks") or 0) - int(record.get("blocks_disturbed") or 0)


def disturbed_throughout(record: Mapping[str, Any]) -> bool:
    """Whether a record has a time, and hardly a block that was not disturbed."""
    if record["outcome"] != Outcome.OK or not record.get("blocks_disturbed"):
        return False
    return bool(quiet_blocks(record) < max(ENOUGH_BLOCKS, QUIET_SHARE * record["blocks"]))


def may_pass(record: Mapping[str, Any]) -> bool:
    """Whether most of what disturbed a record's blocks comes from elsewhere and may be over."""
    disturbances: Mapping[str, int] = record.get("disturbances", {})
    return 2 * sum(disturbances.get(name, 0) for name in PASSING) > sum(disturbances.values())


def worth_it(sampling: Sampling) -> bool:
    """Whether processes time for so long that it is worth to measure one again."""
    return sampling.budget_ns >= WORTH_BUDGET_NS


def best_of(before: Mapping[str, Any], again: Mapping[str, Any]) -> dict[str, Any]:
    """Return the record of two processes, one after the other, of the same round of a case.

    All that is measured is that of the process with more undisturbed blocks, the later one if they have equally many;
    what only the other found stays: the cold compile, convergence, the machine's ceilings. Seconds and phases are those
    of both. A process that ends without a time is the case's end, unless that is no word against the other.
    """
    phases = [record.get("phases_ns", {}) for record in (before, again)]
    spent = {
        "phases_ns": {name: sum(phase.get(name, 0) for phase in phases) for name in {**phases[0], **phases[1]}},
        "seconds": before.get("seconds", 0.0) + again.get("seconds", 0.0),
    }
    if again["outcome"] != Outcome.OK:
        return {**(before if again["outcome"] in NO_WORD_AGAINST else again), **spent}
    chosen, other = (again, before) if quiet_blocks(again) >= quiet_blocks(before) else (before, again)
    return {**other, **chosen, **spent}
