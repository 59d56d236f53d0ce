import itertools
from dataclasses import replace

import pytest

from harness.plan.case import Case
from harness.plan.errors import PlanError
from harness.plan.shard import Shard, shard_by_case, sweep_of
from harness.plan.sweep import Axes, Sweep, plan_sweep

SWEEP = plan_sweep(None, Axes(threads=(1, 2), dtype=("float32", "float64")))


@pytest.mark.parametrize("count", [1, 2, 3, 7, 10, 50])
def test_each_case_is_in_one_shard_and_in_the_order_of_the_table(count):
    parts = [Shard(index, count).of(SWEEP) for index in range(count)]
    assert sorted(case for part in parts for case in part.cases) == sorted(SWEEP.cases)
    for part in parts:
        assert list(part.cases) == [case for case in SWEEP.cases if case in part.cases]
        assert replace(part, cases=SWEEP.cases) == SWEEP


@pytest.mark.parametrize("count", [2, 3, 7, 10, 50])
def test_what_is_compared_with_each_other_is_never_dealt_out_to_two_shards(count):
    shards = shard_by_case(SWEEP.cases, count)
    for one, other in itertools.combinations(SWEEP.cases, 2):
        if replace(one.group, threads=None) == replace(other.group, threads=None):
            assert shards[one.case_id] == shards[other.case_id]


def test_shards_differ_by_one_group_at_most():
    groups = {replace(case.group, threads=None) for case in SWEEP.cases}
    assert len(groups) == 10
    for count in (2, 3, 4, 7):
        held = [{replace(case.group, threads=None) for case in Shard(at, count).of(SWEEP).cases} for at in range(count)]
        assert max(map(len, held)) - min(map(len, held)) <= 1


def test_more_shards_than_groups_leave_some_empty():
    held = [len(Shard(index, 50).of(SWEEP).cases) for index in range(50)]
    assert all(held[:10])
    assert not any(held[10:])


def test_a_shard_is_read_as_it_is_written():
    assert Shard.parse("3/8") == Shard(3, 8)
    assert str(Shard(3, 8)) == "3/8"
    assert Shard(3, 8).name == "shard-3-of-8"
    assert Shard.from_json(Shard(3, 8).to_json()) == Shard(3, 8)


@pytest.mark.parametrize(
    "text", ["", "3", "8/8", "9/8", "-1/8", "1/0", "a/b", "1/2/3", "1 / 2", "0/10001", "٣/٨", "1/2\n"]
)
def test_what_is_no_shard_is_refused_in_one_line(text):
    with pytest.raises(PlanError, match="--shard") as refusal:
        Shard.parse(text)
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize(
    "stored",
    [
        None,
        [],
        {},
        {"index": 0},
        {"index": 0, "count": 2, "more": 1},
        {"index": 2, "count": 2},
        {"index": True, "count": 2},
    ],
    ids=repr,
)
def test_a_stored_shard_that_is_none_is_refused(stored):
    with pytest.raises(PlanError):
        Shard.from_json(stored)


def test_a_header_with_a_shard_measures_that_part_of_its_sweep():
    sweep = Sweep(tuple(Case("line", "manual", "cpu", "float32", size) for size in (1, 2, 3)))
    assert sweep_of({"sweep": sweep.to_json()}) == sweep
    part = sweep_of({"sweep": sweep.to_json(), "shard": {"index": 1, "count": 2}})
    assert [case.batch_size for case in part.cases] == [2]
