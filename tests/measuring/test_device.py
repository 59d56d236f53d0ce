import statistics
import time
from types import SimpleNamespace

import pytest
import torch

from harness.measuring import device as device_module
from harness.measuring.core import work_id
from harness.measuring.device import QUEUED_LAUNCHES, Activity, Cpu, Cuda, device_of

UUID = "11111111-2222-3333-4444-555555555555"
CUDA = torch.device("cuda:1")


class FakeGpu:
    """A host that launches and a GPU that works, each with a time of its own; stands in for `torch.cuda`.

    An update is `kernels` kernels of `kernel_ns`. The host takes `launch_ns` to launch each, or all of them at once
    where they are a captured graph. Of launches that wait, the queue holds `queue`: the next one blocks.
    """

    device = CUDA

    def __init__(self, kernels=10, kernel_ns=2_000, launch_ns=20_000, *, graph=False, uuid=UUID, ghz=3.0, queue=1024):
        self.kernels, self.kernel_ns, self.launch_ns = kernels, kernel_ns, launch_ns
        self.graph, self.uuid, self.ghz, self.queue = graph, uuid, ghz, queue
        self.host = self.stream = 0.0
        self.waiting = []
        self.log = []

    # What the engine does

    def run(self, steps):
        self.log.append(("run", steps))
        for _ in range(steps):
            if self.graph:
                self._launch(self.kernels * self.kernel_ns)
            else:
                for _ in range(self.kernels):
                    self._launch(self.kernel_ns)

    def _launch(self, work_ns):
        self.host += self.launch_ns
        self.waiting = [end for end in self.waiting if end > self.host]
        if len(self.waiting) >= self.queue:
            self.host = self.waiting[0]
        self.stream = max(self.stream, self.host) + work_ns
        self.waiting.append(self.stream)

    def latency_ns(self):
        start = self.host
        self.run(1)
        self.synchronize(self.device)
        self.log.clear()
        return self.host - start

    def profile(self, work):
        """What CUPTI would see of it."""
        self.log.clear()
        work()
        steps = sum(steps for kind, steps in self.log if kind == "run")
        assert self.log[-1][0] == "synchronize"
        launch = "cudaGraphLaunch" if self.graph else "cudaLaunchKernel"
        host = [Activity(launch, False, 3_000.0)] * (steps * (1 if self.graph else self.kernels))
        noise = [Activity("aten::mm", False, 9_000.0), Activity("cudaDeviceSynchronize", False, 1e6)]
        self.log.clear()
        return [*host, *noise, *[Activity("gemm", True, float(self.kernel_ns))] * (steps * self.kernels)]

    # What torch.cuda offers

    def set_device(self, device):
        if device.index is None:
            raise ValueError(f"Expected a torch.device with a specified index or an integer, but got: {device}")
        assert device == self.device
        self.log.append(("set_device", device))

    def get_device_properties(self, device):
        assert device == self.device
        return SimpleNamespace() if self.uuid is None else SimpleNamespace(uuid=self.uuid)

    def synchronize(self, device):
        assert device == self.device
        self.log.append(("synchronize", None))
        self.host = max(self.host, self.stream)

    def reset_peak_memory_stats(self, device):
        self.log.append(("reset_peak_memory_stats", device))

    def max_memory_allocated(self, device):
        assert device == self.device
        return 1 << 20

    def max_memory_reserved(self, device):
        assert device == self.device
        return 2 << 20

    def _sleep(self, cycles):
        assert isinstance(cycles, int)
        self.log.append(("sleep", cycles))
        self.stream = max(self.stream, self.host) + cycles / self.ghz

    def Event(self, enable_timing):  # noqa: N802 - torch's name
        assert enable_timing
        return FakeEvent(self)


class FakeEvent:
    def __init__(self, gpu):
        self.gpu, self.at = gpu, None

    def record(self):
        self.gpu.log.append(("record", None))
        self.at = max(self.gpu.stream, self.gpu.host)

    def elapsed_time(self, other):
        assert self.gpu.log[-1][0] == "synchronize"
        return (other.at - self.at) / 1e6


class FakeNvml:
    """NVML with one GPU, which a slice may be part of; `broken`: questions that raise, `log`: where it is told."""

    def __init__(self, known=f"GPU-{UUID}", broken=(), log=None):
        self.known, self.broken, self.log = known, broken, [] if log is None else log
        self.energy = iter(range(1_000_000, 10_000_000, 30_000))
        self.handles = set()

    def nvmlDeviceGetHandleByUUID(self, uuid):  # noqa: N802 - NVML's names
        if uuid.decode() != self.known:
            raise ValueError("Not Found")
        return self.known

    def nvmlDeviceGetDeviceHandleFromMigDeviceHandle(self, handle):  # noqa: N802
        return f"whole GPU of {handle}"

    def __getattr__(self, name):
        answers = {
            "nvmlDeviceGetTotalEnergyConsumption": lambda: next(self.energy),
            "nvmlDeviceGetClockInfo": lambda: 1980,
            "nvmlDeviceGetTemperature": lambda: 41,
            "nvmlDeviceGetEnforcedPowerLimit": lambda: 650_500,
            "nvmlDeviceGetComputeRunningProcesses": lambda: [None, None],
            "nvmlDeviceGetProcessUtilization": lambda: [SimpleNamespace(pid=pid, smUtil=40) for pid in (1, 2)],
            "nvmlDeviceGetCurrentClocksEventReasons": lambda: 0x04,
        }
        if name not in answers:
            raise AttributeError(name)

        def ask(handle, *_):
            self.handles.add(handle)
            self.log.append((name, None))
            if name in self.broken:
                raise ValueError("Not Supported")
            return answers[name]()

        return ask


@pytest.fixture(autouse=True)
def no_real_gpu(monkeypatch):
    monkeypatch.setattr(device_module.nvml, "library", lambda: None)
    monkeypatch.setattr(device_module, "ENERGY_NS", 50_000_000)


def measured(gpu, library=None, profile=None):
    return Cuda(CUDA, cuda=gpu, library=library, profile=profile or gpu.profile)


# The CPU


def test_a_cpu_has_nothing_to_wait_for_and_tells_how_fast_its_core_was():
    cpu = device_of(torch.device("cpu"))
    assert isinstance(cpu, Cpu)
    cpu.synchronize()
    cpu.begin()
    assert cpu.end() == {"core_ns": None, "core_work": work_id()}
    evidence = cpu.evidence((), 1)
    evidence.begin()
    evidence.end(1)
    assert cpu.end()["core_ns"] > 0
    assert cpu.inside(lambda _steps: pytest.fail("a CPU ran once more"), 10, 1.0) == {}


@pytest.mark.parametrize(("threads", "alone"), [(1, True), (2, False)])
def test_on_a_cpu_one_thread_is_alone_and_two_wait_for_each_other(monkeypatch, threads, alone):
    made = []
    monkeypatch.setattr(device_module, "CpuEvidence", lambda cpus, *, alone: made.append((cpus, alone)))
    Cpu().evidence((1, 2), threads)
    assert made == [((1, 2), alone)]


# Which GPU


def test_the_gpu_of_the_case_is_made_the_present_one_and_waited_for():
    gpu = FakeGpu()
    measured(gpu).synchronize()
    assert gpu.log == [("set_device", CUDA), ("synchronize", None)]


def test_without_a_number_it_is_the_first_gpu():
    class First(FakeGpu):
        device = torch.device("cuda:0")

    gpu = First()
    device = Cuda(torch.device("cuda"), cuda=gpu, profile=gpu.profile)
    device.synchronize()
    device.begin()
    kinds = ("set_device", "synchronize", "reset_peak_memory_stats")
    assert gpu.log == list(zip(kinds, (First.device, None, First.device), strict=True))
    assert device.end()["peak_allocated_bytes"] == 1 << 20


@pytest.mark.parametrize(
    ("says", "known", "asked"),
    [
        (UUID, f"GPU-{UUID}", f"GPU-{UUID}"),
        (f"GPU-{UUID}", f"GPU-{UUID}", f"GPU-{UUID}"),
        (f"MIG-{UUID}", f"MIG-{UUID}", f"whole GPU of MIG-{UUID}"),
        (UUID, f"MIG-{UUID}", f"whole GPU of MIG-{UUID}"),
    ],
    ids=["bare", "with prefix", "slice with prefix", "bare slice"],
)
def test_nvml_is_asked_about_the_gpu_that_torch_uses(says, known, asked):
    library = FakeNvml(known)
    facts = measured(FakeGpu(uuid=says), library).end()
    assert facts["sm_clock_mhz"] == 1980
    assert library.handles == {asked}


# What the timed blocks cost


def test_memory_and_the_state_of_the_gpu_are_columns():
    gpu, library = FakeGpu(), FakeNvml()
    device = measured(gpu, library)
    gpu.log.clear()
    device.begin()
    assert gpu.log == [("reset_peak_memory_stats", CUDA)]
    assert device.end() == {
        "peak_allocated_bytes": 1 << 20,
        "peak_reserved_bytes": 2 << 20,
        "sm_clock_mhz": 1980,
        "gpu_temperature_c": 41,
        "power_limit_w": 650.5,
        "gpu_processes": 2,
    }


@pytest.mark.parametrize("library", [None, FakeNvml(known="GPU-another")])
@pytest.mark.parametrize("uuid", [UUID, None])
def test_without_nvml_there_is_memory_alone(library, uuid):
    device = measured(FakeGpu(uuid=uuid), library)
    device.begin()
    assert device.end() == {"peak_allocated_bytes": 1 << 20, "peak_reserved_bytes": 2 << 20}


def test_what_the_gpu_does_not_answer_is_left_empty():
    broken = [
        "nvmlDeviceGetClockInfo",
        "nvmlDeviceGetTemperature",
        "nvmlDeviceGetEnforcedPowerLimit",
        "nvmlDeviceGetComputeRunningProcesses",
    ]
    device = measured(FakeGpu(), FakeNvml(broken=broken))
    device.begin()
    facts = device.end()
    for name in ("sm_clock_mhz", "gpu_temperature_c", "power_limit_w", "gpu_processes"):
        assert facts[name] is None


# What disturbs it


def test_a_gpu_is_watched_and_so_is_the_host_which_may_wait_for_it(monkeypatch):
    heard = []

    class Host:
        def __init__(self, cpus, *, alone):
            heard.append((cpus, alone))

        def begin(self): ...

        def end(self, taken_ns):
            return ""

        def afterwards(self):
            return ""

    monkeypatch.setattr(device_module, "CpuEvidence", Host)
    library = FakeNvml()
    evidence = measured(FakeGpu(), library).evidence((1, 2), threads=1)
    evidence.begin()
    assert evidence.end(10**7) == ""
    assert evidence.afterwards() == "shared GPU"
    assert heard == [((1, 2), False)]
    assert isinstance(measured(FakeGpu()).evidence((1,), 1), Host)


# What an update costs


def refused(_work):
    raise RuntimeError("CUPTI_ERROR_INSUFFICIENT_PRIVILEGES\nand much more")


@pytest.mark.parametrize(("latency_ns", "calls"), [(1e6, 5), (1e5, 50), (3.3e6, 1), (1e9, 1)])
def test_the_energy_of_an_update_is_from_a_run_of_its_own_with_nothing_else_between_two_reads(latency_ns, calls):
    gpu = FakeGpu()
    device = measured(gpu, FakeNvml(log=gpu.log), profile=refused)
    gpu.log.clear()
    facts = device.inside(gpu.run, 10, latency_ns)
    read = ("nvmlDeviceGetTotalEnergyConsumption", None)
    assert gpu.log == [read, *[("run", 10), ("synchronize", None)] * calls, read]
    assert facts["energy_per_step_j"] == pytest.approx(30.0 / (10 * calls))
    assert list(facts) == ["energy_per_step_j", "device_note"]


def test_energy_is_told_with_what_the_profiler_saw():
    gpu = FakeGpu(kernels=4)
    facts = measured(gpu, FakeNvml()).inside(gpu.run, 5, 1e6)
    assert facts["energy_per_step_j"] == pytest.approx(30.0 / 50)
    assert facts["kernels_per_step"] == 4


@pytest.mark.parametrize(
    "library",
    [None, FakeNvml(broken=["nvmlDeviceGetTotalEnergyConsumption"]), FakeNvml(known=f"MIG-{UUID}")],
    ids=["no NVML", "no answer", "a slice"],
)
def test_where_nobody_counts_energy_no_update_is_run_for_it(library):
    gpu = FakeGpu()
    device = measured(gpu, library, profile=refused)
    gpu.log.clear()
    assert list(device.inside(gpu.run, 10, 1e6)) == ["device_note"]
    assert gpu.log == []


# What happens inside


@pytest.mark.parametrize("most", [1, 3, 10])
def test_no_more_updates_are_asked_for_than_there_are_batches(most):
    asked = []

    class Counting(FakeGpu):
        def run(self, steps):
            asked.append(steps)
            super().run(steps)

    gpu = Counting(kernels=7)
    latency_ns = gpu.latency_ns()
    facts = measured(gpu, FakeNvml()).inside(gpu.run, most, latency_ns)
    assert max(asked) == most
    assert (facts["launches_per_step"], facts["kernels_per_step"], facts["kernel_ns"]) == (7, 7, 14_000)
    assert facts["device_ns"] == pytest.approx(14_000)


def test_an_eager_update_is_as_many_launches_as_kernels_and_its_device_time_is_theirs():
    gpu = FakeGpu(kernels=10, kernel_ns=2_000, launch_ns=20_000)
    latency_ns = gpu.latency_ns()
    assert latency_ns >= 10 * 20_000
    facts = measured(gpu).inside(gpu.run, 10, latency_ns)
    assert facts == {
        "launches_per_step": 10,
        "graph_launches_per_step": 0,
        "kernels_per_step": 10,
        "kernel_ns": 20_000,
        # The host takes 200 µs to launch them: had the GPU not slept, it would have waited for each.
        "device_ns": pytest.approx(20_000, rel=1e-9),
    }


def test_a_captured_graph_is_one_launch_of_many_kernels():
    gpu = FakeGpu(kernels=10, kernel_ns=2_000, launch_ns=9_000, graph=True)
    facts = measured(gpu).inside(gpu.run, 10, gpu.latency_ns())
    assert (facts["launches_per_step"], facts["graph_launches_per_step"], facts["kernels_per_step"]) == (1, 1, 10)
    assert facts["kernel_ns"] == 20_000
    assert facts["device_ns"] == pytest.approx(20_000)


def test_an_update_that_the_gpu_is_busy_with_has_the_device_time_of_its_kernels():
    gpu = FakeGpu(kernels=10, kernel_ns=3_000_000, launch_ns=5_000)
    assert measured(gpu).inside(gpu.run, 10, gpu.latency_ns())["device_ns"] == pytest.approx(30_000_000)


@pytest.mark.parametrize("ghz", [0.3, 1.0, 1.98, 3.0, 3.9])
@pytest.mark.parametrize("kernels", [1, 10, 300, 900])
def test_the_gpu_sleeps_until_all_updates_wait_in_its_queue_whatever_its_clock(ghz, kernels):
    gpu = FakeGpu(kernels=kernels, kernel_ns=100, launch_ns=20_000, ghz=ghz)
    latency_ns = gpu.latency_ns()
    facts = measured(gpu).inside(gpu.run, 10, latency_ns)
    [cycles] = {cycles for kind, cycles in gpu.log if kind == "sleep"}
    [steps] = {steps for kind, steps in gpu.log if kind == "run"}
    assert cycles / ghz >= steps * latency_ns
    assert facts["device_ns"] == pytest.approx(100 * kernels)


@pytest.mark.parametrize(("kernels", "steps"), [(1, 10), (50, 10), (100, 5), (300, 1), (900, 1)])
def test_no_more_launches_wait_than_the_queue_holds(kernels, steps):
    gpu = FakeGpu(kernels=kernels)
    measured(gpu).inside(gpu.run, 10, gpu.latency_ns())
    assert {each for kind, each in gpu.log if kind == "run"} == {steps}
    assert steps == 1 or steps * kernels <= QUEUED_LAUNCHES


def test_each_time_the_gpu_is_idle_then_asleep_and_the_events_are_around_the_work_alone():
    gpu = FakeGpu(kernels=1)
    measured(gpu).inside(gpu.run, 10, gpu.latency_ns())
    order = ["synchronize", "sleep", "record", "run", "record", "synchronize"]
    kinds = [kind for kind, _ in gpu.log]
    assert kinds == order * (len(kinds) // len(order))
    assert kinds.count("run") >= 10


def test_a_torch_that_cannot_sleep_still_has_a_device_time():
    class Sleepless(FakeGpu):
        _sleep = property()  # is not there

    gpu = Sleepless(kernels=10, kernel_ns=50_000, launch_ns=1_000)
    assert measured(gpu).inside(gpu.run, 10, gpu.latency_ns())["device_ns"] == pytest.approx(500_000, rel=0.01)


def test_one_slow_time_in_many_does_not_move_the_device_time():
    class Stalling(FakeGpu):
        def run(self, steps):
            super().run(steps)
            if len(self.log) < 8:  # the first after the profiler's
                self.stream += 1e9

    gpu = Stalling(kernels=10)
    assert measured(gpu).inside(gpu.run, 10, 250_000.0)["device_ns"] == pytest.approx(20_000)


def test_only_calls_that_put_work_on_the_gpu_are_launches():
    names = {
        "cudaLaunchKernel": True,
        "cudaLaunchKernelExC": True,
        "cuLaunchKernel": True,
        "cuLaunchKernelEx": True,
        "cudaGraphLaunch": True,
        "cudaMemcpyAsync": True,
        "cudaMemsetAsync": True,
        "cudaDeviceSynchronize": False,
        "cudaEventRecord": False,
        "cudaStreamIsCapturing": False,
        "aten::addmm": False,
    }
    for name, launches in names.items():
        seen = [Activity(name, False, 1.0)] * 20 + [Activity(name, True, 1.0)] * 10
        gpu = FakeGpu()
        facts = measured(gpu, profile=lambda _work, seen=seen: seen).inside(gpu.run, 10, 1e5)
        assert facts["launches_per_step"] == (2 if launches else 0), name
        assert facts["kernels_per_step"] == 1


def test_without_the_permission_to_trace_there_is_a_note_in_one_line():
    gpu = FakeGpu()
    facts = measured(gpu, profile=refused).inside(gpu.run, 10, 1e5)
    assert facts == {"device_note": "the profiler does not work here: CUPTI_ERROR_INSUFFICIENT_PRIVILEGES"}


def test_a_profiler_that_sees_nothing_on_the_gpu_is_not_taken_for_an_update_without_kernels():
    # So it is where CUPTI may not look: torch warns on stderr and goes on with the CPU alone.
    gpu = FakeGpu()
    facts = measured(gpu, profile=lambda _work: [Activity("aten::mm", False, 9_000.0)]).inside(gpu.run, 10, 1e5)
    assert list(facts) == ["device_note"]


# A real GPU


@pytest.fixture
def heavy():
    left = torch.randn(4096, 4096, device="cuda")
    out = torch.empty_like(left)

    def run(steps):
        for _ in range(steps):
            torch.mm(left, left, out=out)
            torch.mm(left, left, out=out)

    run(20)
    torch.cuda.synchronize()
    return run


@pytest.mark.cuda
def test_the_device_time_of_matrix_products_is_that_of_an_independent_loop_and_of_the_profiler(heavy):
    device = Cuda(torch.device("cuda", 0))
    start = time.perf_counter_ns()
    heavy(1)
    torch.cuda.synchronize()
    facts = device.inside(heavy, 10, float(time.perf_counter_ns() - start))
    if "device_note" in facts:
        pytest.skip(facts["device_note"])
    taken = []
    for _ in range(20):
        before, after = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        before.record()
        heavy(20)
        after.record()
        torch.cuda.synchronize()
        taken.append(before.elapsed_time(after) * 1e6 / 20)
    assert facts["device_ns"] == pytest.approx(statistics.median(taken), rel=0.05)
    assert facts["device_ns"] == pytest.approx(facts["kernel_ns"], rel=0.05)
    assert facts["launches_per_step"] == 2
    assert facts["kernels_per_step"] >= 2


@pytest.mark.cuda
def test_a_graph_that_is_replayed_is_one_launch(heavy):
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        heavy(1)

    def replay(steps):
        for _ in range(steps):
            graph.replay()

    facts = Cuda(torch.device("cuda", 0)).inside(replay, 10, 1e6)
    if "device_note" in facts:
        pytest.skip(facts["device_note"])
    assert (facts["launches_per_step"], facts["graph_launches_per_step"]) == (1, 1)
    assert facts["kernels_per_step"] >= 2


@pytest.mark.cuda
def test_a_real_gpu_tells_its_memory_and_waits(heavy):
    device = Cuda(torch.device("cuda", 0))
    device.begin()
    start = time.perf_counter_ns()
    heavy(50)
    given = time.perf_counter_ns() - start
    device.synchronize()
    assert time.perf_counter_ns() - start > 2 * given
    assert device.end()["peak_allocated_bytes"] >= 2 * 4 * 4096**2
