"""NVIDIA's driver: what it answers, through NVML or nvidia-smi, and which CUDA it runs."""

import re
import subprocess
from collections.abc import Iterator
from typing import Any

from harness.measuring.doctor.findings import Finding, ok, worthless
from harness.measuring.doctor.software import torch_version

# nvidia-smi -L; it wakes up every GPU where persistence mode is off.
NVIDIA_SMI_TIMEOUT_S = 20
DRIVER_ADVICE = "install NVIDIA's driver; in a container: docker run --gpus all; or measure with --device cpu"


def ask(nvml: Any, name: str, *arguments: object) -> Any:
    """Return what NVML answers, or None, as `Gpu` does."""
    try:
        answer = getattr(nvml, name)(*arguments)
    except Exception:  # noqa: BLE001 - NVMLError is made at run time, and any of them says: no answer
        return None
    return answer.decode(errors="replace") if isinstance(answer, bytes) else answer


def why_no_driver() -> str:
    """Return why NVML did not open, in its own words where it has any."""
    try:
        import pynvml

        pynvml.nvmlInit()
    except Exception as error:  # noqa: BLE001 - see `ask`
        return f"no NVIDIA driver answers: {error}"
    return "no NVIDIA driver answers"


def uuids_of_nvidia_smi() -> list[str]:
    """Return the GPUs of lines such as `GPU 0: NVIDIA H200 (UUID: GPU-5a1e)`; no MIG slices."""
    try:
        done = subprocess.run(
            ["nvidia-smi", "-L"], capture_output=True, text=True, timeout=NVIDIA_SMI_TIMEOUT_S, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return []
    return re.findall(r"^GPU \d+:.*\(UUID: (GPU-[^)]+)\)", done.stdout, re.MULTILINE)


def driver(nvml: Any) -> Iterator[Finding]:
    """Judge the driver: it runs every CUDA of its major version, and of older ones."""
    release = ask(nvml, "nvmlSystemGetDriverVersion")
    number = ask(nvml, "nvmlSystemGetCudaDriverVersion")
    if release is None and number is None:
        return
    found = f"{release or 'unknown version'}"
    found += f", CUDA up to {number // 1000}.{number % 1000 // 10}" if number else ""
    torch = torch_version() or ""
    built = re.search(r"\+cu(\d+)\d$", torch)
    if number and built and int(built[1]) > number // 1000:
        advice = "update the driver, or take an older build of torch: nox -s bench_cuda chooses one that fits"
        yield worthless("driver", f"{found}, but torch {torch} needs CUDA {built[1]}", advice)
    else:
        yield ok("driver", found)
