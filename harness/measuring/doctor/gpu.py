"""Which GPU a CUDA device is: whether CUDA sees it there, and the one to ask about clocks, power and load."""

import importlib.util
import os
from collections.abc import Iterator
from typing import Any

from harness.measuring.doctor.driver import DRIVER_ADVICE, ask, driver, uuids_of_nvidia_smi, why_no_driver
from harness.measuring.doctor.findings import Finding, ok, warning, worthless
from harness.measuring.doctor.gpu_state import settings, state
from harness.measuring.nvml import Gpu, visible


def chosen_gpu(device: str, nvml: Any) -> Iterator[Finding]:
    """Judge the driver and the GPU that this device is. nvml: pynvml, or None where it did not open."""
    if nvml is None and importlib.util.find_spec("pynvml") is None:
        yield warning(
            "NVML",
            "pynvml is not installed: nobody sees when the GPU's clocks are held down",
            "pip install nvidia-ml-py",
        )
        uuids = uuids_of_nvidia_smi()
    elif nvml is None:
        yield worthless("GPU", why_no_driver(), DRIVER_ADVICE)
        return
    else:
        yield from driver(nvml)
        handles = [ask(nvml, "nvmlDeviceGetHandleByIndex", i) for i in range(ask(nvml, "nvmlDeviceGetCount") or 0)]
        answers = [ask(nvml, "nvmlDeviceGetUUID", handle) for handle in handles if handle is not None]
        uuids = [uuid for uuid in answers if uuid]
    if not uuids:
        yield worthless("GPU", "none: no NVIDIA driver shows one", DRIVER_ADVICE)
        return
    seen_uuids = visible(uuids, os.environ.get("CUDA_VISIBLE_DEVICES"))
    number = device.partition(":")[2] or "0"
    if not number.isdecimal() or int(number) >= len(seen_uuids):
        seen = f"CUDA sees {len(seen_uuids)} of {len(uuids)} GPUs"
        yield worthless("GPU", f"{device} is not there: {seen}", "see nvidia-smi -L and CUDA_VISIBLE_DEVICES")
        return
    if nvml is None:
        yield ok("GPU", f"{device} is there")
        return
    gpu = Gpu.by_uuid(nvml, seen_uuids[int(number)])
    if gpu is None:
        yield worthless("GPU", f"{device} ({seen_uuids[int(number)]}) does not answer", "see nvidia-smi")
        return
    yield ok("GPU", f"{device} is {ask(nvml, 'nvmlDeviceGetName', gpu.handle) or seen_uuids[int(number)]}")
    yield from settings(gpu, seen_uuids[int(number)])
    yield from state(gpu)
