import os

import pytest

from tests.measuring.doctor.faultless import GIB, OK, WARNING, WORTHLESS

# What others do to the cores in half a second: of fifty ticks each of two CPUs.


@pytest.mark.parametrize(
    ("cpu0", "cpu1", "severity"),
    [
        ("102 0 2 946 0 0 0 0", "100 0 1 949 0 0 0 0", OK),  # 5 ticks: a tenth of a core
        ("102 0 3 945 0 0 0 0", "100 0 1 949 0 0 0 0", WARNING),
        ("100 0 0 950 0 0 0 0", "120 20 10 900 0 0 0 0", WARNING),  # one core of two
        ("100 0 0 910 40 0 0 0", "100 0 0 950 0 0 0 0", OK),  # waits for a disk: the core is free
        ("140 0 0 910 0 0 0 0", "140 0 0 910 0 0 0 0", WARNING),  # 80 %
        ("140 0 1 909 0 0 0 0", "140 0 0 910 0 0 0 0", WORTHLESS),
        ("100 0 0 944 0 3 3 0", "100 0 0 950 0 0 0 0", WARNING),  # interrupts
        ("140 0 0 900 0 5 5 0", "150 0 0 900 0 0 0 0", WORTHLESS),
    ],
)
def test_what_others_run_is_counted_over_an_interval(root, cpu0, cpu1, severity):
    root.in_the_interval("proc/stat", f"cpu0 {cpu0} 0 0\ncpu1 {cpu1} 0 0\n")
    assert root.finding("load").severity == severity


@pytest.mark.parametrize(
    ("cpus", "ticks", "severity"),
    [
        (10, 5, OK),  # a tenth of a core, and 1 % of all
        (10, 6, WARNING),
        (200, 100, OK),  # two cores, and 1 % of all
        (200, 101, WARNING),
    ],
)
def test_of_many_cpus_others_may_have_one_per_cent(root, monkeypatch, cpus, ticks, severity):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _pid: set(range(cpus)), raising=False)
    root.now({"proc/stat": "".join(f"cpu{cpu} 100 0 0 900 0 0 0 0 0 0\n" for cpu in range(cpus))})
    shares = [ticks // cpus + (cpu < ticks % cpus) for cpu in range(cpus)]
    lines = (f"cpu{cpu} {100 + busy} 0 0 {950 - busy} 0 0 0 0 0 0\n" for cpu, busy in enumerate(shares))
    root.in_the_interval("proc/stat", "".join(lines))
    assert root.finding("load").severity == severity


def test_the_load_is_told_in_cores_with_the_load_average(root):
    root.in_the_interval("proc/stat", "cpu0 100 0 0 950 0 0 0 0 0 0\ncpu1 150 0 0 900 0 0 0 0 0 0\n")
    assert root.finding("load").found == "1.00 of 2 CPUs busy with others, load average 0.05"


def test_cores_that_this_process_may_not_use_do_not_count(root, monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _pid: {0}, raising=False)
    root.in_the_interval("proc/stat", "cpu0 100 0 0 950 0 0 0 0 0 0\ncpu1 150 0 0 900 0 0 0 0 0 0\n")
    assert root.finding("load").severity == OK


@pytest.mark.parametrize(
    ("before", "after", "severity"),
    [
        ("100 0 0 900 0 0 0 0", "100 0 0 949 0 0 0 1", OK),  # 1 of 100 ticks
        ("100 0 0 900 0 0 0 0", "100 0 0 948 0 0 0 2", WARNING),
        ("100 0 0 900 0 0 0 0", "100 0 0 940 0 0 0 10", WARNING),
        ("100 0 0 900 0 0 0 0", "100 0 0 939 0 0 0 11", WORTHLESS),
        ("198 0 0 900 0 0 0 3", "198 0 0 950 0 0 0 3", OK),  # 1 % of what was used since boot
        ("100 0 0 9000 0 0 0 3", "100 0 0 9050 0 0 0 3", WARNING),  # however long it idled
        ("100 0 0 900 0 0 0 90", "100 0 0 950 0 0 0 90", WARNING),  # the past alone is not worthless
    ],
)
def test_what_the_hypervisor_takes_is_told_now_and_since_boot(root, before, after, severity):
    rest = "cpu1 100 0 0 900 0 0 0 0 0 0\n"
    root.now({"proc/stat": f"cpu0 {before} 0 0\n{rest}"})
    root.in_the_interval("proc/stat", f"cpu0 {after} 0 0\n{rest.replace('900', '950')}")
    assert root.finding("steal").severity == severity


@pytest.mark.parametrize(
    ("before", "after", "severity"), [("0", "0", OK), ("3", "3", WARNING), ("0", "1", WORTHLESS), ("3", "4", WORTHLESS)]
)
@pytest.mark.parametrize("path", ["sys/fs/cgroup/cpu.stat", "sys/fs/cgroup/cpu/cpu.stat"])
def test_a_container_that_is_stopped_for_its_quota_is_told(root, path, before, after, severity):
    root.without("sys/fs/cgroup/cpu.stat")
    root.now({path: f"nr_throttled {before}\n"})
    root.in_the_interval(path, f"nr_throttled {after}\n")
    assert root.finding("throttling").severity == severity


def test_a_control_group_of_ones_own_counts_where_the_whole_tree_is_seen(root):
    root.now({"proc/self/cgroup": "0::/system.slice/job.scope/step\n"})
    root.now({"sys/fs/cgroup/system.slice/job.scope/memory.max": f"{GIB - 1}"})
    root.now({"sys/fs/cgroup/system.slice/memory.max": f"{3 * GIB}"})
    root.now({"sys/fs/cgroup/system.slice/other.scope/memory.max": "1"})
    root.now({"sys/fs/cgroup/system.slice/job.scope/step/cpu.stat": "nr_throttled 5"})
    assert root.finding("memory").found == "1.0 GiB, the container's: cases will end as `out_of_memory` or swap"
    assert root.finding("throttling").severity == WARNING


@pytest.mark.parametrize(
    ("vmstat", "free_kb", "severity", "said"),
    [
        ("pswpin 7\npswpout 9\n", 1048576, OK, "not in use"),
        ("pswpin 7\npswpout 9\n", 524288, OK, "0.5 GiB in use, no page moved"),
        ("pswpin 8\npswpout 9\n", 524288, WARNING, "1 pages moved"),
        ("pswpin 7\npswpout 11\n", 524288, WARNING, "2 pages moved"),
    ],
)
def test_pages_that_move_are_told_and_those_that_lie_in_swap_do_no_harm(root, vmstat, free_kb, severity, said):
    root.now({"proc/meminfo": f"MemTotal: 16777216 kB\nSwapTotal: 1048576 kB\nSwapFree: {free_kb} kB\n"})
    root.in_the_interval("proc/vmstat", vmstat)
    found = root.finding("swap")
    assert found.severity == severity
    assert said in found.found
