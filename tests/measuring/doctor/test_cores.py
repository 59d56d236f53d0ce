import os

import pytest

from tests.measuring.doctor.faultless import GIB, OK, WARNING, WORTHLESS


def test_one_core_is_shared_by_worker_and_parent(root):
    for cpu in (0, 1):
        root.now({f"sys/devices/system/cpu/cpu{cpu}/topology/thread_siblings_list": "0-1\n"})
    assert root.finding("cores").severity == WARNING


@pytest.mark.parametrize(
    ("siblings", "allowed", "severity", "said"),
    [
        ({0: "0", 1: "1"}, {0, 1}, OK, "no two CPUs share a core"),
        ({0: "0,2", 1: "1,3", 2: "0,2", 3: "1,3"}, {0, 1, 2, 3}, OK, "4 CPUs on 2 cores"),
        ({0: "0,2", 1: "1,3", 2: "0,2", 3: "1,3"}, {0, 1}, WARNING, "2 CPUs that share a core"),
    ],
)
def test_hyperthreads_are_told_and_those_of_others_warned_of(root, monkeypatch, siblings, allowed, severity, said):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _pid: allowed, raising=False)
    for cpu, text in siblings.items():
        root.now({f"sys/devices/system/cpu/cpu{cpu}/topology/thread_siblings_list": text})
    found = root.finding("hyperthreads")
    assert found.severity == severity
    assert said in found.found


@pytest.mark.parametrize(
    ("quota", "severity"),
    [
        ("max 100000", OK),
        ("200000 100000", OK),
        ("150000 100000", WARNING),
        ("100000 100000", WARNING),
        ("99000 100000", WORTHLESS),
    ],
)
def test_a_quota_below_the_cores_is_told_and_one_below_a_cpu_is_worthless(root, quota, severity):
    root.now({"sys/fs/cgroup/cpu.max": quota})
    assert root.finding("CPU quota").severity == severity


def test_a_quota_of_version_1_counts_as_well(root):
    root.without("sys/fs/cgroup/cpu.max")
    root.now({"sys/fs/cgroup/cpu/cpu.cfs_quota_us": "50000", "sys/fs/cgroup/cpu/cpu.cfs_period_us": "100000"})
    assert root.finding("CPU quota").severity == WORTHLESS


@pytest.mark.parametrize(
    ("limit", "severity"),
    [(2 * GIB, OK), (2 * GIB - 1, WARNING), (GIB, WARNING), (GIB - 1, WORTHLESS), (9223372036854771712, OK)],
)
@pytest.mark.parametrize("path", ["sys/fs/cgroup/memory.max", "sys/fs/cgroup/memory/memory.limit_in_bytes"])
def test_a_container_with_little_memory_is_told(root, path, limit, severity):
    root.now({path: f"{limit}\n"})
    assert root.finding("memory").severity == severity


def test_a_machine_with_little_memory_is_told(root):
    root.now({"proc/meminfo": f"MemTotal: {GIB // 1024} kB\n"})
    found = root.finding("memory")
    assert (found.severity, found.found.partition(":")[0]) == (WARNING, "1.0 GiB, the machine's")
