"""What a row says besides its time, so that the table can tell how far above the machine's floor it is, and why."""

from typing import Any

from harness.measuring.ceilings import Ceilings
from harness.measuring.overhead import calls_per_step, one_point_ns
from harness.measuring.work import work_of
from harness.training.contract import Engine, Problem, Updates
from harness.training.trial import Trial


def floor_facts(problem: Problem, trial: Trial, ceilings: Ceilings) -> dict[str, Any]:
    """Return the work of an update and the machine's ceilings for it, as columns."""
    inputs, targets = trial.batches(1)
    work = work_of(problem, inputs[0], targets[0])
    return {
        "flops_per_step": work.flops,
        "bytes_per_step": work.moved_bytes,
        "ceiling_flops_per_s": ceilings.flops_per_s,
        "ceiling_copy_bytes_per_s": ceilings.copy_rate(work.working_set_bytes),
        "ceiling_call_ns": ceilings.call_ns,
        "ceiling_launch_ns": ceilings.launch_ns,
    }


def overhead_facts(
    engine: Engine, updates: Updates, problem: Problem, trial: Trial, ceilings: Ceilings
) -> dict[str, Any]:
    """Return what an update takes whatever its work, as columns; only for an engine that does not compile.

    Runs the engine, and prepares it once more.
    """
    if problem.device.type != "cpu" or (trial.max_steps() or 2) < 2:
        return {}
    return {
        "calls_per_step": calls_per_step(updates, *trial.batches(2)),
        "one_point_ns": one_point_ns(engine, problem, trial, ceilings),
    }
