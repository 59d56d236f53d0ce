import sys
from types import SimpleNamespace

import pytest

from harness.measuring import nvml
from harness.measuring.nvml import Gpu

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


@pytest.mark.parametrize("question", [*QUESTIONS, "persistence", "processes"])
@pytest.mark.parametrize("absent", [True, False])
def test_a_question_that_the_gpu_or_the_driver_does_not_know_has_no_answer(question, absent):
    name = {"persistence": "nvmlDeviceGetPersistenceMode", "processes": "nvmlDeviceGetComputeRunningProcesses"}
    call = name.get(question) or QUESTIONS[question][0]
    library = FakeNvml() if absent else FakeNvml(**{call: RefusedError("Not Supported")})
    assert getattr(Gpu.by_uuid(library, UUID), question)() is None


@pytest.mark.parametrize(("answer", "means"), [(0, False), (1, True)])
def test_whether_the_driver_stays_loaded_is_yes_or_no(answer, means):
    assert Gpu.by_uuid(FakeNvml(nvmlDeviceGetPersistenceMode=answer), UUID).persistence() is means


@pytest.mark.parametrize("count", [0, 1, 3])
def test_processes_on_the_gpu_are_counted(count):
    gpu = Gpu.by_uuid(FakeNvml(nvmlDeviceGetComputeRunningProcesses=[object()] * count), UUID)
    assert gpu.processes() == count


def test_a_driver_before_535_is_asked_by_the_older_name():
    library = FakeNvml(nvmlDeviceGetCurrentClocksThrottleReasons=0x40)
    assert Gpu.by_uuid(library, UUID).clock_event_reasons() == 0x40


def test_a_newer_driver_is_asked_by_the_newer_name_alone():
    library = FakeNvml(nvmlDeviceGetCurrentClocksThrottleReasons=1, nvmlDeviceGetCurrentClocksEventReasons=2)
    assert Gpu.by_uuid(library, UUID).clock_event_reasons() == 2
    assert [name for name, *_ in library.asked] == ["nvmlDeviceGetCurrentClocksEventReasons"]


def test_a_slice_is_asked_through_the_gpu_that_it_is_part_of():
    assert Gpu.by_uuid(FakeNvml(), SLICE).handle == UUID


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
    for name, *_ in QUESTIONS.values():
        assert callable(getattr(pynvml, name))
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
