"""The clock that blocks are timed by, and what makes a device finish its work before the clock is read."""

import time
from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

Clock = Callable[[], int]  # nanoseconds since some fixed moment

monotonic_ns: Clock = time.perf_counter_ns


def synchronizer(device: "torch.device") -> Callable[[], None]:
    """Return a function that waits until the device has done everything it was given; on a CPU nothing is pending."""
    if device.type == "cuda":
        import torch

        return lambda: torch.cuda.synchronize(device)
    return lambda: None
