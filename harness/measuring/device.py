"""What is different about measuring on a CPU and on a GPU: when work is done, what disturbs it, what it costs.

`Cuda` is the only place where the program asks torch about a GPU; tests put something else in the place of
`torch.cuda` and of NVML.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch

from harness.measuring import nvml
from harness.measuring.core import CoreEvidence, work_id
from harness.measuring.evidence import CpuEvidence, Delayed, Evidence, GpuEvidence, Together
from harness.measuring.sampling import quantile_of

# How many kernel launches may wait in the queue of a stream before the next one blocks: 1024; half is on the safe side.
QUEUED_LAUNCHES = 500
# The energy counter is updated every 20 to 100 ms.
ENERGY_NS = 2_000_000_000


class Device(Protocol):
    """The device of a case while it is measured."""

    def synchronize(self) -> None:
        """Wait until the device has done everything that it was given."""
        ...

    def evidence(self, cpus: Iterable[int], threads: int, *, takes_turns: bool = False) -> Evidence:
        """Return what tells whether a block was disturbed, for a process pinned to these CPUs.

        takes_turns: whether the thread that computes shares its core with others of its process.
        """
        ...

    def begin(self) -> None:
        """Look at what is to be told after the timed blocks."""
        ...

    def end(self) -> dict[str, Any]:
        """Return what is to be told after the timed blocks, as columns."""
        ...

    def inside(self, run: Callable[[int], Any], steps: int, latency_ns: float) -> dict[str, Any]:
        """Return what happens on the device during an update, as columns; run(steps) does not wait for it.

        steps: the most that run may be asked for. latency_ns: what one update takes from the call to its end. Called
        after all timing: it may slow things down.
        """
        ...


class Cpu:
    """A CPU has done its work when the call returns.

    fast_core_ns: what `measuring.core` takes on a fast core of this run, as far as that is known.
    """

    def __init__(self, fast_core_ns: float | None = None) -> None:
        self._core = CoreEvidence(fast_core_ns)

    def synchronize(self) -> None:
        """Nothing is pending."""

    def evidence(self, cpus: Iterable[int], threads: int, *, takes_turns: bool = False) -> Evidence:
        """With one thread, all work is done by the thread that calls; if it takes turns, a switch says nothing."""
        if takes_turns:
            return Together(Delayed(), CpuEvidence(cpus, alone=False, switches=lambda: 0), self._core)
        return Together(CpuEvidence(cpus, alone=threads == 1), self._core)

    def begin(self) -> None:
        """Nothing: memory is the process's, and its energy cannot be read without privileges."""

    def end(self) -> dict[str, Any]:
        """Return how fast the core was where it was fast, and by what."""
        return {"core_ns": self._core.usual_ns(), "core_work": work_id()}

    def inside(self, run: Callable[[int], Any], steps: int, latency_ns: float) -> dict[str, Any]:  # noqa: ARG002
        """Nothing."""
        return {}


@dataclass(frozen=True)
class Activity:
    """What the profiler saw of one call or one kernel. name: as CUPTI calls it. on_device: a kernel, copy or fill."""

    name: str
    on_device: bool
    duration_ns: float


class Cuda:
    """One GPU. cuda: `torch.cuda`; gpu: what NVML says of it, if it says anything; profile: `profile_cuda`."""

    def __init__(
        self,
        device: torch.device,
        *,
        cuda: Any = torch.cuda,
        library: Any = None,
        profile: "Callable[[Callable[[], Any]], Sequence[Activity]] | None" = None,
    ) -> None:
        # torch wants a number here, and `cuda` is the first: another was made current by nobody.
        device = torch.device("cuda", device.index or 0)
        self._device = device
        self._cuda = cuda
        self._profile = profile or profile_cuda
        cuda.set_device(device)
        uuid = str(getattr(cuda.get_device_properties(device), "uuid", ""))
        library = library or nvml.library()
        # torch gives the UUID without NVML's prefix; a slice's looks no different.
        names = [uuid] if uuid.startswith(("GPU-", "MIG-")) else [f"GPU-{uuid}", f"MIG-{uuid}"]
        found = (nvml.Gpu.by_uuid(library, name) for name in names if library and uuid)
        self._gpu = next((gpu for gpu in found if gpu is not None), None)

    def synchronize(self) -> None:
        """Wait for all streams of the GPU."""
        self._cuda.synchronize(self._device)

    def evidence(
        self,
        cpus: Iterable[int],
        threads: int,  # noqa: ARG002
        *,
        takes_turns: bool = False,  # noqa: ARG002
    ) -> Evidence:
        """Watch the host as well: it launches the work. That it waits for the GPU is no disturbance."""
        host = CpuEvidence(cpus, alone=False)
        return Together(host, GpuEvidence(self._gpu)) if self._gpu else host

    def begin(self) -> None:
        """Forget what memory was used before the timed blocks."""
        self._cuda.reset_peak_memory_stats(self._device)

    def end(self) -> dict[str, Any]:
        """Return peak memory and the state of the GPU."""
        facts: dict[str, Any] = {
            "peak_allocated_bytes": self._cuda.max_memory_allocated(self._device),
            "peak_reserved_bytes": self._cuda.max_memory_reserved(self._device),
        }
        if self._gpu is not None:
            facts["sm_clock_mhz"] = self._gpu.sm_clock_mhz()
            facts["gpu_temperature_c"] = self._gpu.temperature_c()
            limit_mw = self._gpu.power_limit_mw()
            facts["power_limit_w"] = None if limit_mw is None else limit_mw / 1000
            facts["gpu_processes"] = self._gpu.processes()
        return facts

    def inside(self, run: Callable[[int], Any], steps: int, latency_ns: float) -> dict[str, Any]:
        """Return launches and kernels per update, the profiler's sum of kernels, device time by events, and energy."""
        energy_j = self._energy_j(run, steps, latency_ns)
        facts: dict[str, Any] = {} if energy_j is None else {"energy_per_step_j": energy_j}

        def work() -> None:
            run(steps)
            self.synchronize()

        try:
            seen = self._profile(work)
        except RuntimeError as error:  # no permission to trace, or another tracer is at work
            return facts | {"device_note": f"the profiler does not work here: {error}".splitlines()[0]}
        launches = [activity for activity in seen if not activity.on_device and _launches(activity.name)]
        kernels = [activity for activity in seen if activity.on_device]
        if not kernels:  # CUPTI may not look: torch's profiler then only warns, and sees the CPU alone
            return facts | {"device_note": "the profiler does not work here: it saw nothing on the GPU"}
        facts |= {
            "launches_per_step": len(launches) / steps,
            "graph_launches_per_step": sum("GraphLaunch" in activity.name for activity in launches) / steps,
            "kernels_per_step": len(kernels) / steps,
            "kernel_ns": sum(kernel.duration_ns for kernel in kernels) / steps,
        }
        queued = max(1, min(steps, int(QUEUED_LAUNCHES / max(1.0, len(launches) / steps))))
        facts["device_ns"] = self._device_ns(run, queued, latency_ns)
        return facts

    def _energy_j(self, run: Callable[[int], Any], steps: int, latency_ns: float) -> float | None:
        """Return joules per update of the whole GPU: its counter before and after some seconds of updates alone."""
        before = self._gpu.energy_mj() if self._gpu else None
        if self._gpu is None or before is None:
            return None
        calls = max(1, int(ENERGY_NS / (steps * latency_ns)))
        for _ in range(calls):
            run(steps)
            self.synchronize()
        after = self._gpu.energy_mj()
        return None if after is None else (after - before) / 1000 / (calls * steps)

    def _device_ns(self, run: Callable[[int], Any], steps: int, latency_ns: float, repeats: int = 20) -> float:
        """Time updates by events while the host is ahead: the GPU sleeps until all of them wait in its queue."""
        # Twice as long as all calls take at 2 cycles a nanosecond; no GPU has 4.
        cycles = int(2 * 2 * steps * latency_ns)
        taken = []
        for _ in range(repeats):
            before, after = self._cuda.Event(enable_timing=True), self._cuda.Event(enable_timing=True)
            self.synchronize()
            if hasattr(self._cuda, "_sleep"):
                self._cuda._sleep(cycles)
            before.record()
            run(steps)
            after.record()
            self.synchronize()
            taken.append(before.elapsed_time(after) * 1e6 / steps)
        return quantile_of(taken, 0.5)


def device_of(device: torch.device, fast_core_ns: float | None = None) -> Device:
    """Return how the device of a case is measured; fast_core_ns: as `Cpu` takes it."""
    return Cuda(device) if device.type == "cuda" else Cpu(fast_core_ns)


def profile_cuda(run: Callable[[], Any]) -> Sequence[Activity]:
    """Return what CUPTI saw on host and device while run() ran; raises RuntimeError where it may not look."""
    from torch._C._autograd import DeviceType
    from torch.profiler import ProfilerActivity, profile

    with profile(activities=[ProfilerActivity.CPU, ProfilerActivity.CUDA]) as profiler:
        run()
    return [
        Activity(event.name, event.device_type == DeviceType.CUDA, event.time_range.elapsed_us() * 1000)
        for event in profiler.events() or ()
        if not event.is_user_annotation
    ]


def _launches(name: str) -> bool:
    """Whether a call of the CUDA runtime or driver puts work on the GPU."""
    return name.startswith(("cudaLaunch", "cuLaunch", "cudaGraphLaunch", "cudaMemcpy", "cudaMemset"))
