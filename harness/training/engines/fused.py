"""All updates of a call in one piece of code written for this very network: what the machine can do.

On the CPU that is C++ (`engines/fused_cpu.py`), on CUDA one kernel (`engines/fused_triton.py`).
"""

import importlib

from harness.plan.case import Case
from harness.training.contract import Engine, Problem, Updates


class Fused:
    """One call of compiled code makes all updates; nothing is launched or allocated per update."""

    def unsupported(self, problem: Problem, case: Case) -> str | None:
        """Name what no code was written for on the case's device."""
        return _on(problem.device.type).unsupported(problem, case)

    def prepare(self, problem: Problem, steps: int) -> Updates:
        """Write, compile and load the code of this problem."""
        return _on(problem.device.type).prepare(problem, steps)


def _on(device: str) -> Engine:
    # Neither is there for the other: triton is no part of a CPU's torch.
    name, made = ("fused_triton", "FusedTriton") if device == "cuda" else ("fused_cpu", "FusedCpu")
    engine: Engine = getattr(importlib.import_module(f"harness.training.engines.{name}"), made)()
    return engine
