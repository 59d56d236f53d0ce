import sys
from types import SimpleNamespace

import pytest

from harness.measuring import nvml
from harness.measuring.nvml import Gpu, visible

UUID = "GPU-11111111-2222-3333-4444-555555555555"
SLICE = "MIG-99999999-2222-3333-4444-555555555555"


class RefusedError(Exception):
    """As pynvml's NVMLError: of no type that anybody could know beforehand."""


class FakeNvml:
    """NVML with one GPU and one slice of it; `answers` by function, an exception is raised."""

    def __init__(self, **answers):
        self.asked = []
        for name, answer in answers.items():
            setattr(self, name, lambda *arguments, name=name, answer=answer: self._answer(name, arguments, answer))

    def nvmlDeviceGetHandleByUUID(self, uuid):  # noqa: N802 - NVML's names
        assert isinstance(uuid, bytes)
        if uuid.decode() not in (UUID, SLICE):
            raise RefusedError("Not Found")
        return uuid.decode()

    def nvmlDeviceGetDeviceHandleFromMigDeviceHandle(self, handle):  # noqa: N802
        assert handle == SLICE
        return UUID

    def _answer(self, name, arguments, answer):
        self.asked.append((name, *arguments))
        if isinstance(answer, Exception):
            raise answer
        return answer


QUESTIONS = {
    "sm_clock_mhz": ("nvmlDeviceGetClockInfo", 1980, (1,)),
    "max_sm_clock_mhz": ("nvmlDeviceGetMaxClockInfo", 2100, (1,)),
    "energy_mj": ("nvmlDeviceGetTotalEnergyConsumption", 123456789, ()),
    "power_limit_mw": ("nvmlDeviceGetEnforcedPowerLimit", 700_000, ()),
    "default_power_limit_mw": ("nvmlDeviceGetPowerManagementDefaultLimit", 650_000, ()),
    "temperature_c": ("nvmlDeviceGetTemperature", 41, (0,)),
    "clock_event_reasons": ("nvmlDeviceGetCurrentClocksEventReasons", 0x24, ()),
}


@pytest.mark.parametrize(("question", "call"), QUESTIONS.items(), ids=QUESTIONS)
def test_a_question_is_asked_of_the_gpu_with_this_uuid_and_answered_with_a_number(question, call):
    name, answer, more = call
    library = FakeNvml(**{name: answer})
    gpu = Gpu.by_uuid(library, UUID)
    assert getattr(gpu, question)() == answer
    assert library.asked == [(name, UUID, *more)]


OTHERS = {
    "persistence": "nvmlDeviceGetPersistenceMode",
    "processes": "nvmlDeviceGetComputeRunningProcesses",
    "busy_processes": "nvmlDeviceGetProcessUtilization",
}


@pytest.mark.parametrize("question", [*QUESTIONS, *OTHERS])
@pytest.mark.parametrize("absent", [True, False])
def test_a_question_that_the_gpu_or_the_driver_does_not_know_has_no_answer(question, absent):
    call = OTHERS.get(question) or QUESTIONS[question][0]
    library = FakeNvml() if absent else FakeNvml(**{call: RefusedError("Not Supported")})
    assert getattr(Gpu.by_uuid(library, UUID), question)() is None


@pytest.mark.parametrize(("answer", "means"), [(0, False), (1, True)])
def test_whether_the_driver_stays_loaded_is_yes_or_no(answer, means):
    assert Gpu.by_uuid(FakeNvml(nvmlDeviceGetPersistenceMode=answer), UUID).persistence() is means


@pytest.mark.parametrize("count", [0, 1, 3])
def test_processes_on_the_gpu_are_counted(count):
    gpu = Gpu.by_uuid(FakeNvml(nvmlDeviceGetComputeRunningProcesses=[object()] * count), UUID)
    assert gpu.processes() == count


@pytest.mark.parametrize(
    ("samples", "count"),
    [([], 0), ([(1, 50)], 1), ([(1, 50), (1, 20)], 1), ([(1, 50), (2, 0)], 1), ([(1, 0), (2, 1), (3, 99)], 2)],
)
def test_processes_that_computed_in_the_last_second_are_counted_once_each(monkeypatch, samples, count):
    monkeypatch.setattr(nvml.time, "time", lambda: 1_700_000_000.25)
    seen = [SimpleNamespace(pid=pid, smUtil=share, memUtil=7) for pid, share in samples]
    library = FakeNvml(nvmlDeviceGetProcessUtilization=seen)
    assert Gpu.by_uuid(library, UUID).busy_processes() == count
    assert library.asked == [("nvmlDeviceGetProcessUtilization", UUID, 1_699_999_999_250_000)]


def test_a_driver_before_535_is_asked_by_the_older_name():
    library = FakeNvml(nvmlDeviceGetCurrentClocksThrottleReasons=0x40)
    assert Gpu.by_uuid(library, UUID).clock_event_reasons() == 0x40


def test_a_newer_driver_is_asked_by_the_newer_name_alone():
    library = FakeNvml(nvmlDeviceGetCurrentClocksThrottleReasons=1, nvmlDeviceGetCurrentClocksEventReasons=2)
    assert Gpu.by_uuid(library, UUID).clock_event_reasons() == 2
    assert [name for name, *_ in library.asked] == ["nvmlDeviceGetCurrentClocksEventReasons"]


def test_a_slice_is_asked_through_the_gpu_that_it_is_part_of():
    library = FakeNvml(nvmlDeviceGetClockInfo=1980)
    gpu = Gpu.by_uuid(library, SLICE)
    assert (gpu.handle, gpu.is_slice) == (UUID, True)
    assert gpu.sm_clock_mhz() == 1980
    assert not Gpu.by_uuid(library, UUID).is_slice


@pytest.mark.parametrize(
    ("question", "answers"),
    [
        ("energy_mj", {"nvmlDeviceGetTotalEnergyConsumption": 5}),
        ("busy_processes", {"nvmlDeviceGetProcessUtilization": [SimpleNamespace(pid=1, smUtil=9)]}),
    ],
)
def test_what_the_whole_gpu_does_is_not_told_of_a_slice(question, answers):
    library = FakeNvml(**answers)
    assert getattr(Gpu.by_uuid(library, SLICE), question)() is None
    assert library.asked == []
    assert getattr(Gpu.by_uuid(library, UUID), question)() is not None


GPUS = ("GPU-aa11", "GPU-aa22", "GPU-bb33")


@pytest.mark.parametrize(
    ("chosen", "seen"),
    [
        (None, [0, 1, 2]),
        ("", []),
        ("1", [1]),
        ("2,0", [2, 0]),
        (" 2 , 0 ", [2, 0]),
        ("GPU-bb33", [2]),
        ("GPU-b,GPU-aa1", [2, 0]),
        ("GPU-aa,0", []),  # two begin so
        ("0,3,1", [0]),
        ("0,-1,1", [0]),
        ("0,NoDevFiles,1", [0]),
        ("0,bb33,1", [0]),
        ("0,GPU-cc,1", [0]),
    ],
)
def test_cuda_sees_the_gpus_that_are_named_up_to_the_first_that_is_not_there(chosen, seen):
    assert visible(GPUS, chosen) == [GPUS[index] for index in seen]


def test_slices_are_named_by_their_own_uuid():
    assert visible(GPUS, f"{SLICE},0") == [SLICE, GPUS[0]]


@pytest.mark.parametrize("uuid", ["GPU-0", "", "11111111-2222-3333-4444-555555555555"])
def test_a_gpu_that_nvml_does_not_know_is_none(uuid):
    assert Gpu.by_uuid(FakeNvml(), uuid) is None


def test_without_the_library_there_is_none(monkeypatch):
    monkeypatch.setitem(sys.modules, "pynvml", None)
    assert nvml.library() is None


def test_the_library_without_a_driver_is_none(monkeypatch):
    def refuse():
        raise RefusedError("NVML Shared Library Not Found")

    monkeypatch.setitem(sys.modules, "pynvml", SimpleNamespace(nvmlInit=refuse))
    assert nvml.library() is None


def test_the_library_is_initialised_before_it_is_used(monkeypatch):
    calls = []
    fake = SimpleNamespace(nvmlInit=lambda: calls.append("init"))
    monkeypatch.setitem(sys.modules, "pynvml", fake)
    assert nvml.library() is fake
    assert calls == ["init"]


def test_every_question_has_the_name_and_the_constants_that_nvml_has():
    pynvml = pytest.importorskip("pynvml", reason="nvidia-ml-py is not installed")
    for name in (*OTHERS.values(), *(name for name, *_ in QUESTIONS.values())):
        assert callable(getattr(pynvml, name))
    assert {"pid", "smUtil"} <= {name for name, _ in pynvml.c_nvmlProcessUtilizationSample_t._fields_}
    assert pynvml.NVML_CLOCK_SM == 1
    assert pynvml.NVML_TEMPERATURE_GPU == 0
    names = {
        0x04: "SwPowerCap",
        0x08: "HwSlowdown",
        0x10: "SyncBoost",
        0x20: "SwThermalSlowdown",
        0x40: "HwThermalSlowdown",
        0x80: "HwPowerBrakeSlowdown",
    }
    assert set(names) == set(nvml.DISTURBING_REASONS)
    for bit, name in names.items():
        for kind in ("EventReason", "ThrottleReason"):
            assert getattr(pynvml, f"nvmlClocks{kind}{name}", bit) == bit
    assert {bit for name, bit in vars(pynvml).items() if name.startswith("nvmlClocksThrottleReasonSw")} >= {0x04, 0x20}


@pytest.mark.cuda
def test_a_real_gpu_answers():
    import torch

    library = nvml.library()
    if library is None:
        pytest.skip("needs NVML and nvidia-ml-py")
    gpu = Gpu.by_uuid(library, f"GPU-{torch.cuda.get_device_properties(0).uuid}")
    if gpu is None:
        pytest.skip("needs a whole GPU, not a slice")
    torch.ones(1, device="cuda")
    assert 0 < gpu.sm_clock_mhz() <= gpu.max_sm_clock_mhz()
    assert gpu.energy_mj() > 0
    assert gpu.clock_event_reasons() >= 0
