import importlib.util
import sys
from types import SimpleNamespace

import pytest

from harness.measuring.doctor import examine, software
from tests.measuring.doctor.faultless import OK, WARNING, WORTHLESS


class Nvml:
    """Stands in for pynvml: idle GPUs without a fault. A test replaces an answer, or takes it away."""

    def __init__(self, uuids: tuple[str, ...] = ("GPU-5a1e",), **answers: object) -> None:
        self._uuids = uuids
        self._answers = {
            "nvmlSystemGetDriverVersion": "580.65.06",
            "nvmlSystemGetCudaDriverVersion": 13000,
            "nvmlDeviceGetCount": len(uuids),
            "nvmlDeviceGetName": "NVIDIA H200",
            "nvmlDeviceGetPersistenceMode": 1,
            "nvmlDeviceGetClockInfo": 345,
            "nvmlDeviceGetMaxClockInfo": 1980,
            "nvmlDeviceGetCurrentClocksEventReasons": 0x1,
            "nvmlDeviceGetEnforcedPowerLimit": 700_000,
            "nvmlDeviceGetPowerManagementDefaultLimit": 700_000,
            "nvmlDeviceGetTemperature": 31,
            "nvmlDeviceGetMigMode": [0, 0],
            "nvmlDeviceGetComputeMode": 0,
            "nvmlDeviceGetComputeRunningProcesses": [],
            "nvmlDeviceGetUtilizationRates": SimpleNamespace(gpu=0, memory=0),
            **answers,
        }

    def nvmlDeviceGetHandleByIndex(self, index: int) -> str:  # noqa: N802
        return self._uuids[index]

    def nvmlDeviceGetHandleByUUID(self, uuid: bytes) -> str:  # noqa: N802
        if uuid.decode() not in (*self._uuids, "MIG-1"):
            raise ValueError(uuid)
        return uuid.decode()

    def nvmlDeviceGetDeviceHandleFromMigDeviceHandle(self, handle: str) -> str:  # noqa: N802
        return self._uuids[0]

    def nvmlDeviceGetUUID(self, handle: str) -> str:  # noqa: N802
        return handle

    def __getattr__(self, name: str) -> object:
        answer = self._answers.get(name)
        if answer is None:
            raise AttributeError(name)
        return lambda *_arguments: answer


def test_a_gpu_without_a_fault_has_nothing_to_advise(root):
    findings = root.findings("cuda", Nvml())
    assert {(found.severity, found.advice) for found in findings} == {(OK, "")}
    told = {found.what: found.found for found in findings}
    assert told["GPU"] == "cuda is NVIDIA H200"
    assert told["driver"] == "580.65.06, CUDA up to 13.0"
    assert told["GPU clocks"] == "345 of 1980 MHz now; never locked by this program: they follow load and heat"
    assert told["GPU load"] == "other processes: 0, busy 0 %"


def test_without_a_cuda_device_nobody_asks_for_a_gpu(root):
    def nvml():
        raise AssertionError("asked")

    without = {found.what for found in examine("cpu", root.folder, nvml, sleep=lambda _seconds: None)}
    assert not without & {"GPU", "NVML", "driver", "GPU clocks", "GPU load"}


def rates(percent: int) -> SimpleNamespace:
    return SimpleNamespace(gpu=percent, memory=0)


@pytest.mark.parametrize(
    ("what", "answers", "severity", "said"),
    [
        ("persistence mode", {"nvmlDeviceGetPersistenceMode": 0}, WARNING, "off"),
        ("power limit", {"nvmlDeviceGetEnforcedPowerLimit": 500_000}, WARNING, "500 W instead of 700 W"),
        ("power limit", {"nvmlDeviceGetPowerManagementDefaultLimit": None}, OK, "700 W"),
        ("GPU clocks", {"nvmlDeviceGetCurrentClocksEventReasons": 0x24}, WARNING, "power cap, software thermal"),
        ("GPU clocks", {"nvmlDeviceGetClockInfo": None}, OK, "never locked"),
        ("temperature", {"nvmlDeviceGetTemperature": 84}, OK, "84 °C"),
        ("temperature", {"nvmlDeviceGetTemperature": 85}, WARNING, "85 °C"),
        ("MIG", {"nvmlDeviceGetMigMode": [1, 1]}, OK, "on"),
        ("compute mode", {"nvmlDeviceGetComputeMode": 2}, WORTHLESS, "prohibited"),
        ("compute mode", {"nvmlDeviceGetComputeMode": 3}, OK, "exclusive"),
        (
            "compute mode",
            {"nvmlDeviceGetComputeMode": 3, "nvmlDeviceGetComputeRunningProcesses": ["x"]},
            WORTHLESS,
            "another process",
        ),
        ("GPU load", {"nvmlDeviceGetComputeRunningProcesses": ["x"]}, WARNING, "other processes: 1, busy 0 %"),
        ("GPU load", {"nvmlDeviceGetUtilizationRates": rates(5)}, OK, "busy 5 %"),
        ("GPU load", {"nvmlDeviceGetUtilizationRates": rates(6)}, WORTHLESS, "busy 6 %"),
        (
            "GPU load",  # the driver that was loaded for the question counts as work
            {"nvmlDeviceGetUtilizationRates": rates(99), "nvmlDeviceGetPersistenceMode": 0},
            WARNING,
            "perhaps by loading the driver",
        ),
        (
            "GPU load",
            {
                "nvmlDeviceGetUtilizationRates": rates(99),
                "nvmlDeviceGetPersistenceMode": 0,
                "nvmlDeviceGetComputeRunningProcesses": ["x"],
            },
            WORTHLESS,
            "busy 99 %",
        ),
        ("driver", {"nvmlSystemGetCudaDriverVersion": 12080}, WORTHLESS, "torch 2.13.0+cu130 needs CUDA 13"),
        ("driver", {"nvmlSystemGetCudaDriverVersion": 13020}, OK, "CUDA up to 13.2"),
        ("driver", {"nvmlSystemGetDriverVersion": b"470.57"}, OK, "470.57"),
    ],
)
def test_what_spoils_times_on_a_gpu_is_told(root, what, answers, severity, said):
    found = root.finding(what, "cuda", Nvml(**answers))
    assert found.severity == severity
    assert said in found.found
    assert bool(found.advice) == (severity != OK)


def test_a_torch_of_an_older_cuda_runs_on_a_newer_driver(root, monkeypatch):
    monkeypatch.setattr(software, "version", lambda _package: "2.13.0+cu126")
    assert root.finding("driver", "cuda", Nvml()).severity == OK


@pytest.mark.parametrize(
    ("device", "visible", "severity"),
    [
        ("cuda:1", None, OK),
        ("cuda:2", None, WORTHLESS),
        ("cuda:x", None, WORTHLESS),
        ("cuda:1", "1", WORTHLESS),
        ("cuda:0", "", WORTHLESS),
        ("cuda:1", "0,-1,1", WORTHLESS),  # CUDA ends at the first that is not there
        ("cuda:0", "GPU-77", OK),
        ("cuda:0", "GPU-", WORTHLESS),  # which of the two?
        ("cuda:0", "MIG-1", OK),
        ("cuda:0", "MIG-2", WORTHLESS),
    ],
)
def test_a_gpu_that_cuda_does_not_see_is_worthless(root, monkeypatch, device, visible, severity):
    if visible is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    assert root.finding("GPU", device, Nvml(("GPU-5a1e", "GPU-77b0"))).severity == severity


def test_of_two_gpus_the_one_that_cuda_would_take_is_asked(root, monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1,0")
    nvml = Nvml(("GPU-5a1e", "GPU-77b0"))
    nvml.nvmlDeviceGetName = lambda handle: f"the GPU {handle}"
    assert root.finding("GPU", "cuda", nvml).found == "cuda is the GPU GPU-77b0"
    assert root.finding("GPU", "cuda:1", nvml).found == "cuda:1 is the GPU GPU-5a1e"


def test_a_gpu_that_answers_nothing_else_is_there_all_the_same(root):
    nvml = Nvml()
    nvml._answers = {"nvmlDeviceGetCount": 1}
    findings = root.findings("cuda", nvml)
    assert {found.severity for found in findings} == {OK}
    assert "cuda is GPU-5a1e" in {found.found for found in findings}


def test_without_a_driver_there_is_no_gpu(root, monkeypatch):
    # pynvml is there, or stands in for itself, and finds no driver.
    monkeypatch.setattr(importlib.util, "find_spec", lambda _name: object())
    monkeypatch.setitem(sys.modules, "pynvml", None)
    found = root.finding("GPU", "cuda", None)
    assert found.severity == WORTHLESS
    assert found.found.startswith("no NVIDIA driver answers: ")


def test_a_driver_without_gpus_is_worthless(root):
    assert root.finding("GPU", "cuda", Nvml(())).severity == WORTHLESS


def test_without_pynvml_nvidia_smi_is_asked_for_the_gpus(root, monkeypatch, tmp_path):
    monkeypatch.setattr(importlib.util, "find_spec", lambda _name: None)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert root.finding("GPU", "cuda", None).severity == WORTHLESS
    program = tmp_path / "nvidia-smi"
    program.write_text("#!/bin/sh\necho 'GPU 0: NVIDIA H200 (UUID: GPU-5a1e)'\necho '  MIG 1g (UUID: MIG-1)'\n")
    program.chmod(0o755)
    assert root.finding("GPU", "cuda", None).severity == OK
    assert root.finding("GPU", "cuda:1", None).severity == WORTHLESS
    lacking = root.finding("NVML", "cuda", None)
    assert (lacking.severity, lacking.advice) == (WARNING, "pip install nvidia-ml-py")
