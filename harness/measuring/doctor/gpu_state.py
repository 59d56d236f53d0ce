"""How one GPU is set and what it does now: power, clocks, heat, other processes."""

from collections.abc import Iterator

from harness.measuring.doctor.driver import ask
from harness.measuring.doctor.findings import Finding, ok, warning, worthless
from harness.measuring.nvml import DISTURBING_REASONS, Gpu

# NVIDIA's data-centre GPUs slow down at 85 to 90 °C, some gaming GPUs at 83 °C.
HOT_C = 85
# Per cent of the last fraction of a second; an idle GPU has 0, one that draws a desktop a few.
GPU_BUSY_PERCENT = 5
_COMPUTE_EXCLUSIVE, _COMPUTE_PROHIBITED = (1, 3), 2  # NVML_COMPUTEMODE_…


def settings(gpu: Gpu, uuid: str) -> Iterator[Finding]:
    """Judge what stays until somebody changes it: persistence mode, power limit, MIG."""
    persistence = gpu.persistence()
    if persistence is False:
        found = "off: the driver is loaded anew for every worker"
        yield warning("persistence mode", found, "sudo nvidia-smi -pm 1")
    elif persistence:
        yield ok("persistence mode", "on")

    limit, default = gpu.power_limit_mw(), gpu.default_power_limit_mw()
    if limit is not None and default is not None and limit < default:
        found = (
            f"{limit / 1000:.0f} W instead of {default / 1000:.0f} W: clocks fall earlier than on others of its kind"
        )
        yield warning("power limit", found, f"sudo nvidia-smi -pl {default / 1000:.0f}")
    elif limit is not None:
        yield ok("power limit", f"{limit / 1000:.0f} W")

    mig = ask(gpu.nvml, "nvmlDeviceGetMigMode", gpu.handle)
    if mig and mig[0]:
        slices = "a slice" if uuid.startswith("MIG-") else "a GPU that is cut into slices"
        yield ok("MIG", f"on: {slices} is measured; clocks, power and heat are those of the whole GPU")


def state(gpu: Gpu) -> Iterator[Finding]:
    """Judge what changes from one moment to the next: clocks, temperature, other processes."""
    now_mhz, max_mhz, reasons = gpu.sm_clock_mhz(), gpu.max_sm_clock_mhz(), gpu.clock_event_reasons()
    held = [name for bit, name in DISTURBING_REASONS.items() if (reasons or 0) & bit]
    parts = [f"{now_mhz} of {max_mhz} MHz now" if now_mhz is not None and max_mhz is not None else ""]
    parts += (
        [f"held down by {', '.join(held)}"] if held else ["never locked by this program: they follow load and heat"]
    )
    found = "; ".join(filter(None, parts))
    if held:
        yield warning("GPU clocks", found, "see nvidia-smi -q -d PERFORMANCE,POWER; let it cool down")
    else:
        yield ok("GPU clocks", found)

    temperature = gpu.temperature_c()
    if temperature is not None and temperature >= HOT_C:
        yield warning("temperature", f"{temperature} °C: it will slow down", "let it cool down; see to its fans")
    elif temperature is not None:
        yield ok("temperature", f"{temperature} °C")
    yield from _others_on_the_gpu(gpu)


def _others_on_the_gpu(gpu: Gpu) -> Iterator[Finding]:
    mode = ask(gpu.nvml, "nvmlDeviceGetComputeMode", gpu.handle)
    processes = gpu.processes()
    if mode == _COMPUTE_PROHIBITED:
        yield worthless("compute mode", "prohibited: nothing may run on the GPU", "sudo nvidia-smi -c DEFAULT")
    elif mode in _COMPUTE_EXCLUSIVE and processes:
        found = "exclusive, and another process has the GPU"
        yield worthless("compute mode", found, "stop that process, or sudo nvidia-smi -c DEFAULT")
    elif mode in _COMPUTE_EXCLUSIVE:
        yield ok("compute mode", "exclusive: one process at a time")

    rates = ask(gpu.nvml, "nvmlDeviceGetUtilizationRates", gpu.handle)
    busy = rates.gpu if rates is not None else None
    if processes is None and busy is None:
        return
    parts = [
        f"other processes: {processes}" if processes is not None else "",
        f"busy {busy} %" if busy is not None else "",
    ]
    found = ", ".join(filter(None, parts))
    advice = "stop them, `nvidia-smi` names them, or choose another GPU with --device cuda:N"
    if (busy or 0) > GPU_BUSY_PERCENT and not processes and gpu.persistence() is False:
        # Without persistence mode the driver was loaded for this question, and that itself counts as work.
        yield warning("GPU load", f"{found}, perhaps by loading the driver", "sudo nvidia-smi -pm 1, and look again")
    elif (busy or 0) > GPU_BUSY_PERCENT:
        yield worthless("GPU load", found, advice)
    elif processes:
        yield warning("GPU load", found, advice)
    else:
        yield ok("GPU load", found)
