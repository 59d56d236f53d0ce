"""What is asserted: convergence, as the workload states it, and throughput, as the sweep states it."""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, Self

from harness.plan.case import MAX_BATCH_SIZE, whole_number
from harness.plan.catalogue import label, named
from harness.plan.errors import PlanError
from harness.plan.text import shown

MAX_RATIO = 1e6


@dataclass(frozen=True)
class ConvergenceTargets:
    """When a seed counts as converged, and what the seeds together must reach.

    max_loss, min_accuracy: a seed has converged when its final loss is below and its accuracy above these.
    min_converged_share: for the lower bound of the 95 % Wilson interval of the share of seeds converged.
    max_median_loss, min_median_accuracy: for the medians over seeds.

    Final loss and accuracy are of the whole data set after the last update; where the workload holds points out, its
    accuracy is of those. Each is a finite number, else PlanError:
    JSON has no other, and the journal keeps them.
    """

    max_loss: float
    min_accuracy: float
    min_converged_share: float
    max_median_loss: float
    min_median_accuracy: float

    def __post_init__(self) -> None:
        for part in fields(self):
            value = getattr(self, part.name)
            if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) <= 1e308:
                raise PlanError(f"{part.name} {shown(value)}: use a finite number")
        if not 0 <= self.min_converged_share <= 1:
            raise PlanError(f"min_converged_share {shown(self.min_converged_share)}: use a number from 0 to 1")

    @classmethod
    def from_json(cls, stored: object) -> Self:
        """Read a JSON object with these fields, and perhaps more; raises PlanError when it is something else."""
        names = [part.name for part in fields(cls)]
        if not isinstance(stored, dict) or not set(names) <= stored.keys():
            raise PlanError(f"{shown(stored)}: must be an object with {', '.join(names)}")
        return cls(**{name: stored[name] for name in names})


@dataclass(frozen=True)
class ThroughputTarget:
    """At least `min_ratio_to_autograd` times as fast as autograd in the same run.

    Applies to cases of this engine (name or `file.py:Name`) on this kind of device (`cpu` or `cuda`) whose batch size
    lies within the bounds; `workload` narrows it to one.
    """

    engine: str
    min_ratio_to_autograd: float
    device: str = "cpu"
    workload: str | None = None
    min_batch_size: int = 1
    max_batch_size: int = MAX_BATCH_SIZE

    @classmethod
    def from_table(cls, target: object) -> Self:
        """Read a target as a sweep file or a journal has it; raises PlanError in one line, without the place."""
        if not isinstance(target, Mapping):
            raise PlanError(f"{shown(target)}: is no table")
        only_known(target, {part.name for part in fields(cls)})
        ratio = target.get("min_ratio_to_autograd")
        if isinstance(ratio, bool) or not isinstance(ratio, int | float) or not 0 < ratio <= MAX_RATIO:
            raise PlanError("min_ratio_to_autograd must be a number above 0")
        if not isinstance(target.get("engine"), str):
            raise PlanError("engine must name one engine")
        workload = target.get("workload")
        if workload is not None and not (isinstance(workload, str) and workload):
            raise PlanError("workload must name one workload")
        for kind in ("engine", "workload"):
            if target.get(kind) is not None:
                named(kind, target[kind])
        if target.get("device", "cpu") not in ("cpu", "cuda"):
            raise PlanError("device must be cpu or cuda")
        for bound in ("min_batch_size", "max_batch_size"):
            whole_number(bound, target.get(bound, 1), 1, MAX_BATCH_SIZE)
        # In a journal a number may have lost its point.
        return cls(**{**target, "min_ratio_to_autograd": float(ratio)})

    def applies_to(self, workload: str, engine: str, device: str, batch_size: int) -> bool:
        """Whether a case with these labels is held to this target."""
        return (
            engine == label(self.engine)
            and device.partition(":")[0] == self.device
            and (self.workload is None or workload == label(self.workload))
            and self.min_batch_size <= batch_size <= self.max_batch_size
        )


def only_known(table: Mapping[str, Any], known: set[str]) -> None:
    """Raise PlanError for a key that is not among the known ones, naming these."""
    for key in table:
        if key not in known:
            raise PlanError(f"unknown key {shown(key)}; known are {', '.join(sorted(known))}")
