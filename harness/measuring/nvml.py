"""What NVIDIA's management library says of one GPU; never changes a setting. Never imports torch.

Without the library, or on a GPU that does not answer a question (a MIG slice, an old one), the answer is None.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from types import ModuleType
from typing import Any

# Why clocks are lower than they could be. Idle, application clocks and the display's are facts, not disturbances.
# https://docs.nvidia.com/deploy/nvml-api/group__nvmlClocksEventReasons.html
DISTURBING_REASONS = {
    0x04: "power cap",
    0x08: "hardware slowdown",
    0x10: "sync boost",
    0x20: "software thermal slowdown",
    0x40: "hardware thermal slowdown",
    0x80: "power brake",
}


def library() -> ModuleType | None:
    """Return pynvml, initialised, or None where it is not installed or there is no driver."""
    try:
        import pynvml

        pynvml.nvmlInit()
    except Exception:  # noqa: BLE001 - pynvml's own errors, an OSError, or no pynvml: all say that there is none
        return None
    return pynvml  # type: ignore[no-any-return]


@dataclass(frozen=True)
class Gpu:
    """One GPU, or the GPU that a MIG slice is part of (is_slice). nvml: pynvml, or what stands in for it in tests."""

    nvml: Any
    handle: Any
    is_slice: bool = False

    @classmethod
    def by_uuid(cls, nvml: Any, uuid: str) -> "Gpu | None":
        """Return the GPU with this UUID (`GPU-…` or `MIG-…`), or None where NVML knows none."""
        try:
            handle = nvml.nvmlDeviceGetHandleByUUID(uuid.encode())
            if uuid.startswith("MIG-"):  # clocks and power are the whole GPU's
                handle = nvml.nvmlDeviceGetDeviceHandleFromMigDeviceHandle(handle)
        except Exception:  # noqa: BLE001 - see `_ask`
            return None
        return cls(nvml, handle, uuid.startswith("MIG-"))

    def clock_event_reasons(self) -> int | None:
        """Return the bits that say why clocks are held down."""
        for name in ("nvmlDeviceGetCurrentClocksEventReasons", "nvmlDeviceGetCurrentClocksThrottleReasons"):
            if hasattr(self.nvml, name):  # the second is the name before driver 535
                return self._number(name)
        return None

    def sm_clock_mhz(self) -> int | None:
        """Return the present clock of the multiprocessors."""
        return self._number("nvmlDeviceGetClockInfo", 1)  # NVML_CLOCK_SM

    def max_sm_clock_mhz(self) -> int | None:
        """Return the highest clock that the multiprocessors may have."""
        return self._number("nvmlDeviceGetMaxClockInfo", 1)

    def energy_mj(self) -> int | None:
        """Return millijoules since the driver was loaded, updated every 20 to 100 ms; of a slice nobody counts them."""
        return None if self.is_slice else self._number("nvmlDeviceGetTotalEnergyConsumption")

    def power_limit_mw(self) -> int | None:
        """Return the power cap in force, in milliwatts."""
        return self._number("nvmlDeviceGetEnforcedPowerLimit")

    def default_power_limit_mw(self) -> int | None:
        """Return the power cap that the GPU came with, in milliwatts."""
        return self._number("nvmlDeviceGetPowerManagementDefaultLimit")

    def temperature_c(self) -> int | None:
        """Return the temperature of the GPU in degrees Celsius."""
        return self._number("nvmlDeviceGetTemperature", 0)  # NVML_TEMPERATURE_GPU

    def persistence(self) -> bool | None:
        """Return whether the driver stays loaded when nobody uses the GPU."""
        answer = self._ask("nvmlDeviceGetPersistenceMode")
        return None if answer is None else bool(answer)

    def processes(self) -> int | None:
        """Return how many processes compute on the GPU, this one included if it does."""
        answer = self._ask("nvmlDeviceGetComputeRunningProcesses")
        return None if answer is None else len(answer)

    def busy_processes(self) -> int | None:
        """Return how many processes have computed in the last second, this one included; of a slice nobody knows."""
        since_us = int((time.time() - 1) * 1e6)
        answer = None if self.is_slice else self._ask("nvmlDeviceGetProcessUtilization", since_us)
        return None if answer is None else len({sample.pid for sample in answer if sample.smUtil > 0})

    def _number(self, name: str, *arguments: object) -> int | None:
        answer = self._ask(name, *arguments)
        return None if answer is None else int(answer)

    def _ask(self, name: str, *arguments: object) -> Any:
        try:
            return getattr(self.nvml, name)(self.handle, *arguments)
        except Exception:  # noqa: BLE001 - NVMLError is made at run time, and any of them says: no answer
            return None


def visible(uuids: Sequence[str], chosen: str | None) -> list[str]:
    """Return the GPUs and MIG slices that CUDA sees, in its order; like CUDA, end at the first that is not there.

    uuids: of all GPUs. chosen: CUDA_VISIBLE_DEVICES. Where CUDA sorts unlike GPUs by speed, its numbers are not those
    of NVML (CUDA_DEVICE_ORDER=PCI_BUS_ID).
    """
    if chosen is None:
        return list(uuids)
    seen: list[str] = []
    for name in (part.strip() for part in chosen.split(",")):
        if name.startswith("MIG-"):
            seen.append(name)
            continue
        numbered = [uuids[int(name)]] if name.isdecimal() and int(name) < len(uuids) else []
        found = numbered or [uuid for uuid in uuids if name.startswith("GPU-") and uuid.startswith(name)]
        if len(found) != 1:
            break
        seen += found
    return seen
