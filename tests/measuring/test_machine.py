import json
import os
import platform
import socket
import sys
from importlib.metadata import PackageNotFoundError
from pathlib import Path
from types import SimpleNamespace

import pytest

from harness.measuring import machine as machine_module
from harness.measuring.machine import COMPARABLE, describe_machine, fingerprint, slug

H200 = "NVIDIA H200, 580.65.06, 143771, 9.0, GPU-5a1e, Disabled, 700.00"
A100 = "NVIDIA A100-SXM4-80GB, 580.65.06, 81920, 8.0, GPU-77b0, [N/A], 400.00"


@pytest.fixture
def nvidia_smi(tmp_path, monkeypatch):
    """Puts a program before all others on PATH that answers as nvidia-smi does, and notes how it was called."""
    monkeypatch.setenv("PATH", str(tmp_path) + os.pathsep + os.environ["PATH"])

    def make(*rows: str, code: int = 0) -> None:
        program = tmp_path / "nvidia-smi"
        lines = "\n".join(f"echo '{row}'" for row in rows)
        program.write_text(f'#!/bin/sh\necho "$@" > {tmp_path}/asked\n{lines}\nexit {code}\n')
        program.chmod(0o755)

    return make


@pytest.mark.parametrize(
    ("facts", "name"),
    [
        ({"cpu_model": "AMD EPYC 9654 96-Core Processor", "cpus": 2}, "amd-epyc-9654-2c"),
        ({"cpu_model": "AMD Ryzen 9 7950X 16-Core Processor", "cpus": 32}, "amd-ryzen-9-7950x-32c"),
        ({"cpu_model": "Intel(R) Xeon(R) Platinum 8480+ @ 2.00GHz", "cpus": 8}, "intel-xeon-platinum-8480-8c"),
        ({"cpu_model": "Intel(R) Xeon(R) CPU @ 2.20GHz", "cpus": 4}, "intel-xeon-4c"),
        ({"cpu_model": "Intel(R) Core(TM) i7-9700K CPU @ 3.60GHz", "cpus": 8}, "intel-core-i7-9700k-8c"),
        ({"cpu_model": "Apple M2", "cpus": 8}, "apple-m2-8c"),
        ({"cpu_model": "aarch64", "cpus": 64}, "aarch64-64c"),
        ({"cpu_model": "AMD EPYC 9654 96-Core Processor", "cpus": 2, "gpu": "NVIDIA H200"}, "nvidia-h200"),
        ({"gpu": "NVIDIA A100-SXM4-80GB"}, "nvidia-a100-sxm4-80gb"),
        ({"gpu": "NVIDIA H100 80GB HBM3"}, "nvidia-h100-80gb-hbm3"),
        ({"gpu": "NVIDIA GeForce RTX 4090"}, "nvidia-geforce-rtx-4090"),
        ({}, "1c"),
    ],
)
def test_a_folder_is_named_after_the_hardware(facts, name):
    assert slug(facts) == name


def test_this_machine_has_a_name_that_every_file_system_takes():
    name = slug(describe_machine("cpu"))
    assert name
    assert set(name) <= set("abcdefghijklmnopqrstuvwxyz0123456789-")


FACTS = {
    **dict.fromkeys(COMPARABLE, "one"),
    "memory_bytes": 1,
    "system": "Linux 6.1",
    "python": "3.12.1",
    "compiler": "g++ 12",
    "gpu_driver": "580.65.06",
    "gpu_uuid": "GPU-1",
    "gpu_power_limit_w": "700.00",
}


@pytest.mark.parametrize("name", COMPARABLE)
def test_two_runs_that_differ_in_what_is_measured_are_told_apart(name):
    assert fingerprint({**FACTS, name: "two"}) != fingerprint(FACTS)
    assert fingerprint({key: value for key, value in FACTS.items() if key != name}) != fingerprint(FACTS)


@pytest.mark.parametrize("name", sorted(FACTS.keys() - set(COMPARABLE)))
def test_two_runs_that_differ_in_anything_else_may_be_compared(name):
    assert fingerprint({**FACTS, name: "two"}) == fingerprint(FACTS)


def test_a_mig_slice_is_not_compared_with_the_whole_gpu():
    assert fingerprint({**FACTS, "gpu_mig": "Enabled"}) != fingerprint({**FACTS, "gpu_mig": "Disabled"})


def test_a_fingerprint_is_stable_and_twelve_hex_digits_long():
    # Stored runs carry it: a change here makes every one of them incomparable.
    told = fingerprint(dict(reversed(FACTS.items())))
    assert told == fingerprint(FACTS)
    assert len(told) == 12
    assert int(told, 16) >= 0


def test_a_machine_without_limits_keeps_the_fingerprint_that_its_runs_were_stored_with():
    (folder,) = (Path(sys.modules["harness"].__file__).parents[1] / "results/amd-epyc-2c").iterdir()
    header = json.loads((folder / "journal.jsonl").read_text("utf-8").partition("\n")[0])
    assert fingerprint(json.loads((folder / "machine.json").read_text("utf-8"))) == header["fingerprint"]


LIMITED = {
    "proc/meminfo": f"MemTotal: {16 * 2**20} kB\n",
    "sys/fs/cgroup/cpu.max": "150000 100000\n",
    "sys/fs/cgroup/memory.max": f"{4 * 2**30}\n",
}


@pytest.fixture
def container(tmp_path, monkeypatch):
    """The root folder of a container with limits, and with /dev/shm of so many bytes."""
    for name, text in LIMITED.items():
        path = tmp_path / "root" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)

    def make(shm_bytes: int = 2**27) -> Path:
        size = os.statvfs_result((4096, 4096, shm_bytes // 4096, 0, 0, 0, 0, 0, 0, 255))
        monkeypatch.setattr(os, "statvfs", lambda _path: size)
        return tmp_path / "root"

    return make


def test_every_fact_that_decides_comparability_is_looked_up(nvidia_smi, monkeypatch, container):
    nvidia_smi(H200)
    monkeypatch.setattr(machine_module, "version", lambda package: {"torch": "2.13.0+cu130"}.get(package, "1.0"))
    facts = describe_machine("cuda", container())
    assert set(COMPARABLE) - set(facts) == set()
    limits = {name: facts[name] for name in ("cpu_quota", "memory_limit_bytes", "shm_limit_bytes")}
    assert limits == {"cpu_quota": 1.5, "memory_limit_bytes": 4 * 2**30, "shm_limit_bytes": 2**27}


@pytest.mark.parametrize("limit", ["cpu_quota", "memory_limit_bytes", "shm_limit_bytes"])
def test_a_limit_tells_a_container_from_a_machine_and_from_another_container(limit):
    without = {key: value for key, value in FACTS.items() if key != limit}
    assert len({fingerprint(without), fingerprint({**without, limit: 1}), fingerprint({**without, limit: 2})}) == 3


def test_containers_of_the_same_limits_are_comparable_and_none_with_a_machine_that_has_none(container, tmp_path):
    here = {fingerprint(describe_machine("cpu", container())) for _ in range(2)}
    others = {fingerprint(describe_machine("cpu", container(2**28))), fingerprint(describe_machine("cpu", tmp_path))}
    assert len(here) == 1
    assert len(here | others) == 3


@pytest.mark.parametrize(
    ("named", "told"),
    [
        ("localhost/harness@sha256:" + "0f" * 32, True),
        ("sha256:" + "0f" * 32, True),
        ("", False),
        ("\x1b[31m", False),
        ("a b", False),
        ("a" * 301, False),
    ],
)
def test_the_image_is_told_as_whoever_started_it_named_it_and_makes_no_fingerprint(named, told, monkeypatch):
    monkeypatch.delenv("HARNESS_IMAGE", raising=False)
    without = describe_machine("cpu")
    monkeypatch.setenv("HARNESS_IMAGE", named)
    facts = describe_machine("cpu")
    assert facts.get("image") == (named if told else None)
    assert fingerprint(facts) == fingerprint(without)


@pytest.mark.parametrize(
    ("named", "told", "fact"),
    [
        ("2.13.0", "__version__ = '2.13.0+cu130'\n", "2.13.0+cu130"),
        ("2.13.0+cu130", "__version__ = '2.13.0+cu130'\n", "2.13.0+cu130"),
        ("2.13.0", "__version__ = '2.12.0+cu130'\n", "2.13.0"),
        ("2.13.0", "nothing\n", "2.13.0"),
        ("2.13.0", None, "2.13.0"),
    ],
)
def test_one_build_of_torch_has_one_name_wherever_its_wheel_is_from(named, told, fact, tmp_path, monkeypatch):
    if told is not None:
        (tmp_path / "torch").mkdir()
        (tmp_path / "torch/version.py").write_text(told)
    monkeypatch.setattr(machine_module, "version", lambda _package: named)
    monkeypatch.setattr(machine_module, "distribution", lambda _: SimpleNamespace(locate_file=tmp_path.joinpath))
    assert describe_machine("cpu")["torch"] == fact


def test_the_facts_are_json_without_gaps(monkeypatch):
    def version(package):
        raise PackageNotFoundError(package)

    monkeypatch.setattr(machine_module, "version", version)
    facts = describe_machine("cpu")
    assert json.loads(json.dumps(facts, allow_nan=False)) == facts
    assert None not in facts.values()
    assert "torch" not in facts
    assert facts["cpus"] >= 1
    assert facts["memory_bytes"] > 2**26


def test_the_cpus_are_those_that_this_process_may_use(monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _pid: {3, 5, 7}, raising=False)
    assert describe_machine("cpu")["cpus"] == 3


def test_the_host_is_never_named(nvidia_smi, monkeypatch):
    host = "a-host-of-ours-17"
    real = platform.uname()
    told = platform.uname_result(real.system, host, real.release, real.version, real.machine)
    for owner, name, value in (
        (platform, "uname", lambda: told),
        (platform, "node", lambda: host),
        (socket, "gethostname", lambda: host),
    ):
        monkeypatch.setattr(owner, name, value)
    monkeypatch.setenv("HOSTNAME", host)
    nvidia_smi(H200)
    facts = describe_machine("cuda")
    assert host not in json.dumps(facts)
    assert host not in slug(facts)


def test_nvidia_smi_is_asked_once_and_read_by_column(nvidia_smi, tmp_path):
    nvidia_smi(H200)
    facts = describe_machine("cuda")
    assert {name: value for name, value in facts.items() if name.startswith("gpu")} == {
        "gpu": "NVIDIA H200",
        "gpu_count": 1,
        "gpu_driver": "580.65.06",
        "gpu_memory_bytes": 143771 * 2**20,
        "gpu_compute_capability": "9.0",
        "gpu_uuid": "GPU-5a1e",
        "gpu_mig": "Disabled",
        "gpu_power_limit_w": "700.00",
    }
    asked = (tmp_path / "asked").read_text()
    columns = asked.partition("--query-gpu=")[2].split()[0].split(",")
    assert columns == [
        "name",
        "driver_version",
        "memory.total",
        "compute_cap",
        "uuid",
        "mig.mode.current",
        "power.limit",
    ]
    assert "--format=csv,noheader,nounits" in asked


@pytest.mark.parametrize(
    ("chosen", "gpus"),
    [("1", [A100]), ("1,0", [A100, H200]), ("GPU-5", [H200]), ("GPU-77,GPU-5a1e", [A100, H200]), ("0,7,1", [H200])],
)
def test_gpus_are_counted_and_described_as_cuda_sees_them(nvidia_smi, monkeypatch, chosen, gpus):
    nvidia_smi(H200, A100)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", chosen)
    for index, gpu in enumerate(gpus):
        facts = describe_machine(f"cuda:{index}")
        assert (facts["gpu"], facts["gpu_count"]) == (gpu.partition(",")[0], len(gpus))
    assert describe_machine(f"cuda:{len(gpus)}") == {**describe_machine("cpu"), "gpu_count": len(gpus)}


@pytest.mark.parametrize("chosen", ["", "-1", "2", "GPU-00", "GPU-"])
def test_where_cuda_sees_no_gpu_none_is_described(nvidia_smi, monkeypatch, chosen):
    nvidia_smi(H200, A100)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", chosen)
    facts = describe_machine("cuda")
    assert {name: value for name, value in facts.items() if name.startswith("gpu")} == {"gpu_count": 0}


@pytest.mark.parametrize(("device", "gpu"), [("cuda", "NVIDIA H200"), ("cuda:0", "NVIDIA H200"), ("cuda:1", A100[:21])])
def test_of_two_gpus_the_one_that_is_used_is_described(nvidia_smi, device, gpu):
    nvidia_smi(H200, A100)
    facts = describe_machine(device)
    assert (facts["gpu"], facts["gpu_count"]) == (gpu, 2)


def test_a_gpu_that_is_not_there_leaves_only_how_many_are(nvidia_smi):
    nvidia_smi(H200)
    facts = describe_machine("cuda:1")
    assert facts["gpu_count"] == 1
    assert "gpu" not in facts


def test_what_nvidia_smi_does_not_know_is_left_out(nvidia_smi):
    nvidia_smi("NVIDIA GB10, 580.65.06, [N/A], 12.1, GPU-1, [N/A], [N/A]")  # memory shared with the CPU
    facts = describe_machine("cuda")
    assert facts["gpu"] == "NVIDIA GB10"
    assert "gpu_memory_bytes" not in facts


@pytest.mark.parametrize(
    ("rows", "code"), [((), 0), (("No devices were found",), 6), (("NVIDIA-SMI has failed",), 9), ((), 127)]
)
def test_where_nvidia_smi_finds_none_there_is_no_gpu(nvidia_smi, rows, code):
    nvidia_smi(*rows, code=code)
    assert not any(name.startswith("gpu") for name in describe_machine("cuda"))


def test_without_nvidia_smi_there_is_no_gpu(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    facts = describe_machine("cuda")
    assert not any(name.startswith("gpu") for name in facts)
    assert "compiler" not in facts


def test_a_run_on_the_cpu_never_asks_nvidia_smi(nvidia_smi, tmp_path):
    nvidia_smi(H200)
    assert "gpu" not in describe_machine("cpu")
    assert not (tmp_path / "asked").exists()


def test_the_compiler_is_the_one_that_torch_would_take(tmp_path, monkeypatch):
    program = tmp_path / "mycc"
    program.write_text("#!/bin/sh\necho 'mycc 7.1'\necho 'Copyright'\n")
    program.chmod(0o755)
    monkeypatch.setenv("CXX", str(program))
    assert describe_machine("cpu")["compiler"] == "mycc 7.1"


MIG_H100 = "NVIDIA H100 80GB HBM3, 580.65.06, 81559, 9.0, GPU-77aa, Enabled, 700.00"
MIG_LIST = """GPU 0: NVIDIA H100 80GB HBM3 (UUID: GPU-77aa)
  MIG 1g.10gb     Device  0: (UUID: MIG-aaaa)
  MIG 3g.40gb     Device  1: (UUID: MIG-bbbb)
"""


@pytest.fixture
def nvidia_smi_with_slices(tmp_path, monkeypatch):
    program = tmp_path / "nvidia-smi"
    program.write_text(
        f"#!/bin/sh\nif [ $1 = -L ]; then cat <<'END'\n{MIG_LIST}END\nelse cat <<'END'\n{MIG_H100}\n{H200}\nEND\nfi\n"
    )
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)


@pytest.mark.parametrize(("chosen", "profile"), [(None, "1g.10gb"), ("MIG-bbbb", "3g.40gb"), ("0", "1g.10gb")])
def test_a_mig_slice_is_named_as_the_gpu_that_it_is(nvidia_smi_with_slices, monkeypatch, chosen, profile):
    if chosen is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", chosen)
    facts = describe_machine("cuda")
    assert facts["gpu"] == f"NVIDIA H100 80GB HBM3 MIG {profile}"
    assert facts["gpu_mig"] == profile
    assert facts["gpu_count"] == 1
    assert "gpu_memory_bytes" not in facts
    assert slug(facts) == f"nvidia-h100-80gb-hbm3-mig-{profile.replace('.', '-')}"
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1")
    assert fingerprint(describe_machine("cuda")) != fingerprint(facts)


def test_the_whole_gpu_beside_a_sliced_one_can_be_chosen(nvidia_smi_with_slices, monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1")
    facts = describe_machine("cuda")
    assert (facts["gpu"], facts["gpu_mig"]) == ("NVIDIA H200", "Disabled")
