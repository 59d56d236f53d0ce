"""Runs the explainer of one case in a process of its own, as a worker is run."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from harness.measuring.cpus import away_from_workers, place
from harness.measuring.protocol import Request
from harness.plan.sweep import Sweep
from harness.running.launcher import WORKER
from harness.running.session import launchers, this_machine

EXPLAINER = (*WORKER[:-1], "harness.measuring.explainer")


def explain(sweep: Sweep, cache: Path, timeout_s: float | None) -> Mapping[str, Any]:
    """Return the record of a sweep's only case, with `inside` where it has times and the profiler may look.

    cache: a folder for compile caches. Raises PlanError where this machine cannot run the case at all.
    """
    (case,) = sweep.cases
    this_machine(sweep)
    with away_from_workers() as allowed:
        where = place(case.device, case.threads, allowed)
        launcher = replace(launchers(sweep, cache, timeout_s)(case), command=EXPLAINER)
        return launcher.measure(Request(case, 0, 0, sweep.sampling, where.worker, where.threads))
