import os

import pytest

from harness.measuring import cpus
from harness.measuring.cpus import (
    Placement,
    away_from_workers,
    cpu_list,
    crowded,
    physical_cores,
    pin,
    place,
    share_of,
)


@pytest.fixture
def machine(tmp_path):
    """A root folder of a machine with these groups of sibling CPUs and these files."""

    def make(*cores, files=()):
        for core in cores:
            for cpu in core:
                folder = tmp_path / f"sys/devices/system/cpu/cpu{cpu}/topology"
                folder.mkdir(parents=True, exist_ok=True)
                (folder / "thread_siblings_list").write_text(",".join(map(str, core)) + "\n")
        for name, text in dict(files).items():
            path = tmp_path / "sys/fs/cgroup" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        return tmp_path

    return make


# Where worker and parent run


def test_of_two_cores_one_is_the_workers_and_one_the_parents(machine):
    assert place("cpu", 1, {0, 1}, machine([0], [1])) == Placement((1,), (0,), 1)


def test_worker_and_parent_never_share_a_core_through_its_siblings(machine):
    root = machine([0, 2], [1, 3])
    where = place("cpu", 1, {0, 1, 2, 3}, root)
    assert where == Placement((1,), (0, 2), 1)
    # Two cores, so one thread is left, though there are three CPUs more.
    assert place("cpu", None, {0, 1, 2, 3}, root) == where


def test_each_thread_has_a_core_of_its_own_the_last_ones_first(machine):
    root = machine([0, 4], [1, 5], [2, 6], [3, 7])
    assert place("cpu", 2, range(8), root) == Placement((2, 3), (0, 4), 2)
    assert place("cpu", None, range(8), root) == Placement((1, 2, 3), (0, 4), 3)


def test_siblings_that_may_not_be_used_are_nobodys(machine):
    root = machine([0, 2], [1, 3])
    assert place("cpu", None, {2, 3}, root) == Placement((3,), (2,), 1)


@pytest.mark.parametrize("allowed", [{5}, {0, 2}])
@pytest.mark.parametrize(("threads", "used"), [(None, 1), (1, 1), (4, 4)])
def test_on_one_core_both_have_everything_and_torch_one_thread(machine, allowed, threads, used):
    everything = tuple(sorted(allowed))
    assert place("cpu", threads, allowed, machine([0, 2], [5])) == Placement(everything, everything, used)


def test_a_case_with_more_threads_than_cores_are_left_takes_the_parents_as_well(machine):
    root = machine([0, 2], [1, 3])
    assert place("cpu", 2, range(4), root) == Placement((0, 1, 2, 3), (0, 2), 2)


@pytest.mark.parametrize(("device", "threads"), [("cuda", 1), ("cuda:1", None)])
def test_a_gpus_host_threads_have_every_cpu_but_the_parents(machine, device, threads):
    root = machine([0, 4], [1, 5], [2, 6], [3, 7])
    assert place(device, threads, range(8), root) == Placement((1, 2, 3, 5, 6, 7), (0, 4), threads or 3)


# Several ranks


@pytest.mark.parametrize(
    ("ranks", "threads", "where"),
    [
        (2, 1, Placement((2, 3), (0, 4), 1)),
        (3, 1, Placement((1, 2, 3), (0, 4), 1)),
        (3, None, Placement((1, 2, 3), (0, 4), 1)),
        (2, None, Placement((2, 3), (0, 4), 1)),  # three cores for two ranks: one each
        (4, None, Placement((0, 1, 2, 3), (0, 4), 1)),  # the parent sleeps while they work
        (2, 2, Placement((0, 1, 2, 3), (0, 4), 2)),
        (5, None, Placement(tuple(range(8)), (0, 4), 1)),
    ],
)
def test_ranks_share_the_cores_equally_and_take_the_parents_last(machine, ranks, threads, where):
    root = machine([0, 4], [1, 5], [2, 6], [3, 7])
    assert place("cpu", threads, range(8), root, ranks) == where
    assert crowded(where.worker, ranks, where.threads, root) == (ranks == 5)


def test_of_two_cores_each_of_two_ranks_has_one(machine):
    where = place("cpu", None, {0, 1}, machine([0], [1]), 2)
    assert where == Placement((0, 1), (0,), 1)
    assert [share_of(where.worker, rank, 2, where.threads, "cpu") for rank in (0, 1)] == [(0,), (1,)]


def test_each_rank_has_the_cpus_of_its_threads(machine):
    assert [share_of((2, 3, 4, 5), rank, 2, 2, "cpu") for rank in (0, 1)] == [(2, 3), (4, 5)]


def test_ranks_that_have_too_few_cpus_and_ranks_on_gpus_have_all_of_them():
    assert share_of((0, 1), 1, 3, 1, "cpu") == (0, 1)
    assert share_of((0, 1, 2, 3), 1, 2, 2, "cuda") == (0, 1, 2, 3)
    assert share_of((), 1, 2, None, "cpu") == ()


def test_one_process_and_ranks_that_are_not_pinned_are_never_crowded(machine):
    root = machine([0], [1])
    assert not crowded((0,), 1, 4, root)
    assert not crowded((), 2, 1, root)
    assert crowded((0, 1), 3, 1, root)


def test_ranks_share_a_quota(machine):
    root = machine([0], [1], [2], [3], [4], files={"cpu.max": "200000 100000\n"})
    assert place("cpu", None, range(5), root, 2) == Placement((3, 4), (0,), 1)


def test_ranks_on_gpus_share_the_threads_and_have_every_cpu_but_the_parents(machine):
    root = machine([0], [1], [2], [3], [4])
    assert place("cuda", None, range(5), root, 2) == Placement((1, 2, 3, 4), (0,), 2)


def test_where_nothing_is_said_of_the_cores_each_cpu_is_one(tmp_path):
    assert place("cpu", None, {0, 1, 2}, tmp_path) == Placement((1, 2), (0,), 2)


@pytest.mark.parametrize(
    ("files", "threads"),
    [
        ({"cpu.max": "200000 100000\n"}, 2),
        ({"cpu.max": "250000 100000\n"}, 2),
        ({"cpu.max": "50000 100000\n"}, 1),
        ({"cpu.max": "max 100000\n"}, 3),
        ({"cpu.max": "9900000 100000\n"}, 3),
        ({"cpu/cpu.cfs_quota_us": "200000\n", "cpu/cpu.cfs_period_us": "100000\n"}, 2),
        ({"cpu/cpu.cfs_quota_us": "-1\n", "cpu/cpu.cfs_period_us": "100000\n"}, 3),
        ({"cpu.max": "garbage\n"}, 3),
    ],
)
def test_a_containers_quota_limits_the_threads_that_nobody_chose(machine, files, threads):
    root = machine([0], [1], [2], [3], files=files)
    where = place("cpu", None, range(4), root)
    assert (where.threads, len(where.worker)) == (threads, threads)
    assert place("cpu", 3, range(4), root).threads == 3  # somebody chose


def test_where_the_system_cannot_pin_nobody_is_pinned(monkeypatch):
    monkeypatch.delattr(os, "sched_getaffinity")
    assert place("cpu", 3) == Placement((), (), 3)
    assert place("cpu", None) == Placement((), (), None)
    monkeypatch.setattr(os, "cpu_count", lambda: 8)
    assert place("cpu", None, ranks=2) == Placement((), (), 4)
    assert place("cpu", 3, ranks=2) == Placement((), (), 3)
    with away_from_workers() as allowed:
        assert allowed is None


# Cores and lists


@pytest.mark.parametrize(
    ("text", "numbers"),
    [("0\n", [0]), ("0-3,8\n", [0, 1, 2, 3, 8]), ("2,0", [2, 0]), ("10-11,20-21\n", [10, 11, 20, 21])],
)
def test_a_list_of_cpus_is_read_as_the_kernel_writes_it(text, numbers):
    assert cpu_list(text) == numbers


@pytest.mark.parametrize("text", ["", "\n", "0-", "-1", "a", "0,,1", "0x3", "0-1-2"])
def test_what_is_no_list_of_cpus_is_refused(text):
    with pytest.raises(ValueError, match="invalid literal"):
        cpu_list(text)


def test_cpus_are_grouped_by_core_lowest_first(machine):
    assert physical_cores({3, 2, 1, 0}, machine([0, 2], [1, 3])) == [[0, 2], [1, 3]]


@pytest.mark.parametrize("text", ["", "garbage", "0-\n", "\0\0"])
def test_where_the_siblings_cannot_be_read_each_cpu_is_a_core(machine, text):
    root = machine([0, 1], [2, 3])
    for cpu in range(4):
        (root / f"sys/devices/system/cpu/cpu{cpu}/topology/thread_siblings_list").write_text(text)
    assert physical_cores(range(4), root) == [[0], [1], [2], [3]]


# This machine

linux = pytest.mark.skipif(not hasattr(os, "sched_getaffinity"), reason="this system cannot pin processes")


@pytest.fixture
def affinity():
    before = os.sched_getaffinity(0)
    yield before
    os.sched_setaffinity(0, before)


@linux
def test_the_parent_is_on_its_own_cpus_while_it_measures_and_back_afterwards(affinity):
    with away_from_workers() as allowed:
        inside = os.sched_getaffinity(0)
        parent = place("cpu", 1, allowed).parent
        worker = place("cpu", 1, allowed).worker
    assert allowed == affinity == os.sched_getaffinity(0)
    assert inside == set(parent)
    assert len(physical_cores(allowed)) == 1 or not inside & set(worker)


@linux
def test_the_parent_is_back_on_all_its_cpus_when_it_was_interrupted(affinity):
    with pytest.raises(KeyboardInterrupt), away_from_workers():
        raise KeyboardInterrupt
    assert os.sched_getaffinity(0) == affinity


@linux
def test_a_process_that_is_pinned_stays_where_it_is_told_and_with_nothing_told_where_it_was(affinity):
    pin(())
    assert os.sched_getaffinity(0) == affinity
    pin((max(affinity),))
    assert os.sched_getaffinity(0) == {max(affinity)}


@linux
def test_a_placement_uses_only_what_this_process_may_use(affinity):
    for device, threads in (("cpu", None), ("cpu", 1), ("cpu", 1000), ("cuda", None)):
        where = place(device, threads)
        assert set(where.worker) | set(where.parent) <= affinity
        assert where.worker
        assert where.parent


def test_without_affinity_calls_pinning_does_nothing(monkeypatch):
    monkeypatch.delattr(cpus.os, "sched_setaffinity", raising=False)
    pin((0,))
