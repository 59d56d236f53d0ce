"""How long a sweep will take, before anything of it has been measured."""

from harness.plan.case import Case
from harness.plan.catalogue import ENGINES, WORKLOADS, Entry
from harness.plan.sweep import Sweep

# An engine of the user's own is assumed to be like autograd, a workload like `line`.
_UNKNOWN = Entry("", "", process_s=2.5)
# The machine's ceilings.
_FLOOR_S = 0.4
# torchrun starts, and its ranks find each other.
_RANKS_S = 5.0


def process_seconds(case: Case, round_number: int, sweep: Sweep) -> float:
    """Seconds that one process of this case takes on two cores; round 0 has more to do."""
    entry = ENGINES.get(case.engine, _UNKNOWN)
    workload = WORKLOADS.get(case.workload, WORKLOADS["line"])
    first_round = entry.compile_s + workload.seed_s * sweep.seeds + _FLOOR_S
    started = entry.process_s + workload.process_s + (_RANKS_S if case.ranks > 1 else 0.0)
    return started + sweep.sampling.budget_ns / 1e9 + (first_round if round_number == 0 else 0.0)


def sweep_seconds(sweep: Sweep) -> float:
    """Seconds that the whole sweep takes on two cores."""
    return sum(process_seconds(case, number, sweep) for number, case in sweep.schedule())
