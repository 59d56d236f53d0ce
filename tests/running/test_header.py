import pytest

from harness.plan.case import Case
from harness.plan.errors import PlanError
from harness.plan.sweep import Sweep
from harness.running.header import FORMAT, checked_header

SWEEP = Sweep(tuple(Case("line", "manual", "cpu", "float32", size) for size in (1, 2, 3)))
ORIGIN = {"run_id": "r", "machine": "m", "fingerprint": "f", "environment": {"cpus": 2}}
HEADER = {"kind": "run", "format": FORMAT, "commit": "c", "dirty": False, **ORIGIN, "sweep": SWEEP.to_json()}


def part(index, count=2, **changes):
    return {"shard": {"index": index, "count": count}, **ORIGIN, **changes}


def test_a_merged_run_measures_the_whole_sweep():
    assert checked_header({**HEADER, "shards": [part(0), part(1)]}) == SWEEP
    assert checked_header({**HEADER, "shards": [part(at, 9) for at in (2, 0, 1)]}) == SWEEP  # the others hold no case


@pytest.mark.parametrize(
    "shards",
    [
        None,
        {},
        [],
        [part(0)],
        [part(0), part(0)],
        [part(0), part(1), part(1)],
        [part(0, 2), part(1, 3)],
        [part(0), 7],
        [part(0), ORIGIN],
        [part(0), part(2)],
        [part(0), part(1, machine="../x")],
        [part(0), part(1, fingerprint=None)],
        [part(0), part(1, environment=[])],
        [part(0), part(1, environment={"cpus": []})],
    ],
    ids=range(14),
)
def test_a_merged_run_that_does_not_name_the_machine_of_each_case_once_is_refused(shards):
    with pytest.raises(PlanError) as refusal:
        checked_header({**HEADER, "shards": shards})
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize("changes", [{"shard": {"index": 3, "count": 4}}, {"shard": 1}, {"shard": None}], ids=repr)
def test_a_shard_without_a_case_is_no_run(changes):
    with pytest.raises(PlanError):
        checked_header({**HEADER, **changes})


def test_a_run_is_a_shard_or_merged_and_not_both():
    with pytest.raises(PlanError, match="merged"):
        checked_header({**HEADER, "shard": {"index": 0, "count": 2}, "shards": [part(0), part(1)]})
