"""What is asserted: convergence, as the workload states it, and throughput, as the sweep states it."""

from dataclasses import dataclass

from harness.plan.case import MAX_BATCH_SIZE
from harness.plan.catalogue import label


@dataclass(frozen=True)
class ConvergenceTargets:
    """When a seed counts as converged, and what the seeds together must reach.

    max_loss, min_accuracy: a seed has converged when its final loss is below and its accuracy above these.
    min_converged_share: for the lower bound of the 95 % Wilson interval of the share of seeds converged.
    max_median_loss, min_median_accuracy: for the medians over seeds.

    Final loss and accuracy are of the whole data set after the last update.
    """

    max_loss: float
    min_accuracy: float
    min_converged_share: float
    max_median_loss: float
    min_median_accuracy: float


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

    def applies_to(self, workload: str, engine: str, device: str, batch_size: int) -> bool:
        """Whether a case with these labels is held to this target."""
        return (
            engine == label(self.engine)
            and device.partition(":")[0] == self.device
            and (self.workload is None or workload == label(self.workload))
            and self.min_batch_size <= batch_size <= self.max_batch_size
        )
