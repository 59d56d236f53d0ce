import pytest

from tests.measuring.doctor.faultless import OK, WARNING, WORTHLESS


@pytest.mark.parametrize(
    ("name", "value", "severity"),
    [
        ("PYTHONDEVMODE", "1", WARNING),
        ("PYTHONMALLOC", "debug", WARNING),
        ("PYTHONMALLOC", "pymalloc", OK),
        ("PYTHONTRACEMALLOC", "25", WARNING),
        ("PYTHONTRACEMALLOC", "0", OK),
        ("OMP_NUM_THREADS", "4", WARNING),
        ("TORCH_LOGS", "+dynamo", WARNING),
        ("TORCH_SHOW_DISPATCH_TRACE", "1", WARNING),
        ("TORCHDYNAMO_DISABLE", "1", WARNING),
        ("TORCHDYNAMO_DISABLE", "0", OK),
        ("TORCH_COMPILE_DISABLE", "1", WARNING),
        ("TORCHINDUCTOR_FORCE_DISABLE_CACHES", "1", WARNING),
        ("CUDA_LAUNCH_BLOCKING", "1", OK),
    ],
)
def test_variables_that_slow_things_down_are_named(root, monkeypatch, name, value, severity):
    monkeypatch.setenv(name, value)
    found = root.finding("environment")
    assert found.severity == severity
    if severity != OK:
        assert found.found.startswith(f"{name}={value}: ")
        assert found.advice == f"unset {name}"


@pytest.mark.parametrize(("value", "severity"), [("1", WORTHLESS), ("0", OK), ("", OK)])
def test_launches_that_block_make_gpu_times_worthless(root, monkeypatch, value, severity):
    monkeypatch.setenv("CUDA_LAUNCH_BLOCKING", value)
    assert root.finding("environment", "cuda").severity == severity


def test_tf32_that_the_environment_turns_on_is_told_on_a_gpu_alone(root, monkeypatch):
    monkeypatch.setenv("TORCH_ALLOW_TF32_CUBLAS_OVERRIDE", "1")
    assert root.finding("environment", "cuda").severity == WARNING
    assert root.finding("environment").severity == OK


def test_every_variable_has_a_line(root, monkeypatch):
    monkeypatch.setenv("PYTHONDEVMODE", "1")
    monkeypatch.setenv("TORCH_LOGS", "all")
    assert [found.advice for found in root.findings() if found.what == "environment"] == [
        "unset PYTHONDEVMODE",
        "unset TORCH_LOGS",
    ]


def test_a_debugger_is_warned_of(root):
    root.now({"proc/self/status": "TracerPid:\t4711\n"})
    assert root.finding("debugger").severity == WARNING
