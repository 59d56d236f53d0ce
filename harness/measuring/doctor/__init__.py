"""What will spoil a measurement on this machine, each with what to do about it. Never imports torch, changes nothing.

Every finding comes from something that the system itself says. What it does not say makes no finding, or one that is
`ok` and says so: on macOS, in a container or on a virtual machine there are fewer lines, never a failure.
"""

import os
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from harness.measuring.doctor import activity, clocks, cores, environment, gpu, software
from harness.measuring.doctor.findings import Finding, Severity
from harness.measuring.kernel import ROOT
from harness.measuring.nvml import library

__all__ = ["Finding", "Severity", "examine"]


def examine(
    device: str = "cpu",
    root: Path = ROOT,
    nvml: Callable[[], Any] = library,
    *,
    sleep: Callable[[float], object] = time.sleep,
    clock_ns: Callable[[], int] = time.perf_counter_ns,
) -> list[Finding]:
    """Look at this machine for half a second, and for a CUDA device at its GPU; raises nothing.

    device: `cpu`, `cuda` or `cuda:N`. nvml: opens pynvml, or returns None; only called for a CUDA device. root, sleep
    and clock_ns are replaced in tests.
    """
    cuda = device.startswith("cuda")
    # Before the interval: where the driver was not loaded, opening it keeps the GPU busy for a moment.
    opened = nvml() if cuda else None
    allowed = cores.allowed_cpus()
    before = activity.Counters.read(root, allowed)
    if before != activity.Counters():
        sleep(activity.INTERVAL_S)
    after = activity.Counters.read(root, allowed)
    findings = [
        *software.torch_build(device),
        *software.toolchain(device),
        *software.cache_folder(),
        *environment.variables(os.environ, cuda=cuda),
        *environment.debugger(root),
        *cores.cores_and_hyperthreads(allowed, root),
        *cores.quota(allowed, root),
        *activity.throttling(before, after),
        *activity.load(before, after, root),
        *activity.steal(before, after),
        *cores.memory(root),
        *activity.swapping(before, after, root),
        *clocks.governor(allowed, root),
        *clocks.turbo(root),
        *clocks.clock(clock_ns, root),
        *(gpu.chosen_gpu(device, opened) if cuda else ()),
    ]
    return [replace(finding, found=_one_line(finding.found)) for finding in findings]


def _one_line(text: str) -> str:
    """Return what came out of a file or a variable without what would break, colour or move the line."""
    return "".join(sign if sign.isprintable() else "?" for sign in " ".join(text.split()))
