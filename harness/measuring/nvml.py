"""What NVIDIA's management library says of one GPU; never changes a setting. Never imports torch.

Without the library, or on a GPU that does not answer a question (a MIG slice, an old one), the answer is None.
"""

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
    """One GPU, or the GPU that a MIG slice is part of. nvml: pynvml, or what stands in for it in tests."""

    nvml: Any
    handle: Any

    @classmethod
    def by_uuid(cls, nvml: Any, uuid: str) -> "Gpu | None":
        """Return the GPU with this UUID (`GPU-…` or `MIG-…`), or None where NVML knows none."""
        try:
            handle = nvml.nvmlDeviceGetHandleByUUID(uuid.encode())
            if uuid.startswith("MIG-"):  # clocks, power and energy are the whole GPU's
                handle = nvml.nvmlDeviceGetDeviceHandleFromMigDeviceHandle(handle)
        except Exception:  # noqa: BLE001 - see `_ask`
            return None
        return cls(nvml, handle)

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
        """Return millijoules since the driver was loaded; updated every 20 to 100 ms."""
        return self._number("nvmlDeviceGetTotalEnergyConsumption")

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

    def _number(self, name: str, *arguments: object) -> int | None:
        answer = self._ask(name, *arguments)
        return None if answer is None else int(answer)

    def _ask(self, name: str, *arguments: object) -> Any:
        try:
            return getattr(self.nvml, name)(self.handle, *arguments)
        except Exception:  # noqa: BLE001 - NVMLError is made at run time, and any of them says: no answer
            return None
