import os

import pytest

from harness.measuring.limits import cpu_quota, memory_limit_bytes, shm_limit_bytes, tightest_quota

GIB = 2**30


@pytest.fixture
def machine(tmp_path):
    """A root folder of a machine with these files below /sys/fs/cgroup, and 16 GiB of memory."""

    def make(files, group=""):
        files = {f"sys/fs/cgroup/{name}": text for name, text in files.items()}
        files |= {"proc/self/cgroup": group, "proc/meminfo": f"MemTotal: {16 * 2**20} kB\n"}
        for name, text in files.items():
            path = tmp_path / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        return tmp_path

    return make


@pytest.mark.parametrize(
    ("files", "quota"),
    [
        ({}, None),
        ({"cpu.max": "150000 100000\n"}, 1.5),
        ({"cpu.max": "max 100000\n"}, None),
        ({"cpu.max": "100000\n"}, None),
        ({"cpu.max": "0 0\n"}, None),
        ({"cpu/cpu.cfs_quota_us": "50000\n", "cpu/cpu.cfs_period_us": "100000\n"}, 0.5),
        ({"cpu/cpu.cfs_quota_us": "50000\n"}, None),
        ({"cpu/cpu.cfs_quota_us": "-1\n", "cpu/cpu.cfs_period_us": "100000\n"}, None),
        # Both are mounted: the second version is the one in force.
        ({"cpu.max": "max 1\n", "cpu/cpu.cfs_quota_us": "5\n", "cpu/cpu.cfs_period_us": "1\n"}, None),
    ],
)
def test_a_quota_is_how_many_cpus_time_may_be_used(machine, files, quota):
    assert cpu_quota(machine(files)) == quota


def test_of_the_groups_above_one_another_the_tightest_quota_holds_and_is_the_one_that_counts(machine):
    groups = {"cpu.max": "max 100000", "a/cpu.max": "70000 100000", "a/b/cpu.max": "90000 100000"}
    root = machine({**groups, "other/cpu.max": "1 100000"}, "0::/a/b\n")
    found = tightest_quota(root)
    assert (found.cpus, found.counts) == (0.7, root / "sys/fs/cgroup/a/cpu.stat")


def test_a_group_of_version_1_has_a_quota_of_its_own(machine):
    files = {"cpu/pod/cpu.cfs_quota_us": "200000", "cpu/pod/cpu.cfs_period_us": "100000"}
    assert cpu_quota(machine(files, "5:cpu,cpuacct:/pod\n4:memory:/\n")) == 2


@pytest.mark.parametrize(
    ("files", "limit"),
    [
        ({}, None),
        ({"memory.max": "max\n"}, None),
        ({"memory.max": f"{4 * GIB}\n"}, 4 * GIB),
        ({"memory/memory.limit_in_bytes": f"{3 * GIB}\n"}, 3 * GIB),
        ({"memory/memory.limit_in_bytes": "9223372036854771712\n"}, None),
        ({"memory.max": f"{16 * GIB}\n"}, None),
        ({"memory.max": "garbage\n"}, None),
        ({"memory.max": f"{4 * GIB}\n", "a/memory.max": f"{2 * GIB}\n"}, 2 * GIB),
    ],
)
def test_a_limit_of_memory_is_one_below_what_the_machine_has(machine, files, limit):
    assert memory_limit_bytes(machine(files, "0::/a\n")) == limit


@pytest.mark.parametrize(
    ("size", "limit"),
    [
        (8 * GIB, None),  # what Linux gives
        (16 * GIB, None),
        (64 * 2**20, None),  # what docker gives
        (64_000 * 2**10, None),  # and podman
        (0, None),
        (GIB, GIB),
        (2**25, 2**25),
    ],
)
def test_shared_memory_is_limited_where_somebody_chose_its_size(machine, monkeypatch, size, limit):
    told = os.statvfs_result((4096, 4096, size // 4096, 0, 0, 0, 0, 0, 0, 255))
    monkeypatch.setattr(os, "statvfs", lambda _path: told)
    assert shm_limit_bytes(machine({})) == limit


def test_where_nothing_can_be_read_there_is_no_limit(tmp_path):
    assert cpu_quota(tmp_path) is memory_limit_bytes(tmp_path) is shm_limit_bytes(tmp_path) is None
