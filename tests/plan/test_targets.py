import pytest

from harness.plan.targets import ThroughputTarget

TARGET = ThroughputTarget("manual", 2.0, min_batch_size=10, max_batch_size=1000)


@pytest.mark.parametrize("batch_size", [10, 100, 1000])
def test_a_target_holds_from_its_least_to_its_largest_batch_size_inclusive(batch_size):
    assert TARGET.applies_to("line", "manual", "cpu", batch_size)


@pytest.mark.parametrize(
    "row",
    [
        ("line", "manual", "cpu", 9),
        ("line", "manual", "cpu", 1001),
        ("line", "autograd", "cpu", 100),
        ("line", "manual", "cuda", 100),
        ("line", "manual", "cuda:0", 100),
    ],
)
def test_a_target_leaves_other_engines_devices_and_batch_sizes_alone(row):
    assert not TARGET.applies_to(*row)


def test_a_target_for_cuda_holds_on_every_gpu():
    for device in ("cuda", "cuda:0", "cuda:3"):
        assert ThroughputTarget("manual", 2.0, device="cuda").applies_to("line", "manual", device, 1)


def test_a_target_can_be_narrowed_to_one_workload():
    target = ThroughputTarget("manual", 2.0, workload="line_deep")
    assert target.applies_to("line_deep", "manual", "cpu", 1)
    assert not target.applies_to("line", "manual", "cpu", 1)


def test_a_target_finds_the_users_engine_and_workload_by_file_and_name():
    target = ThroughputTarget("./engines/own.py:Fast", 2.0, workload="/home/me/data.py:Mine")
    assert target.applies_to("data.py:Mine", "own.py:Fast", "cpu", 1)
    assert not target.applies_to("data.py:Mine", "own.py:Slow", "cpu", 1)
