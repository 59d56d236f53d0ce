import random

import pytest

from harness.measuring.sampling import QUANTILE, quantile_of
from harness.plan.outcome import Outcome
from harness.running.outside import LIMIT_NS, LIMIT_SHARE, Bracket, witnessed

MS = 1_000_000


def record(blocks_ns, counted=None, **more):
    counted = list(range(len(blocks_ns)) if counted is None else counted)
    facts = {
        "outcome": Outcome.OK,
        "reason": "",
        "step_ns": quantile_of([blocks_ns[index] for index in counted], QUANTILE) / 100,
        "latency_ns": 6.0,
        "device_ns": 4.0,
        "energy_per_step_j": 0.1,
        "block_steps": 100,
        "blocks_ns": list(blocks_ns),
        "counted": counted,
        "gate_share": 0.5,
        "threads": 1,
    }
    return facts | more


def brackets(*taken_ns, late_ns=50_000):
    """What the parent hears where each message is as late as the others, and ends later than it begins."""
    now, heard = 10**15, []
    for taken in taken_ns:
        heard.append(Bracket(now, now + taken + late_ns))
        now += taken + MS
    return heard


def test_blocks_that_the_parent_saw_as_well_keep_their_times():
    blocks = [10 * MS + index for index in range(30)]
    seen = witnessed(record(blocks), brackets(*blocks))
    assert seen == record(blocks) | {"clock_ratio": seen["clock_ratio"]}
    assert seen["clock_ratio"] == pytest.approx(1.005, abs=1e-4)


@pytest.mark.parametrize("factor", [0.5, 0.9, 0.93])
def test_a_clock_that_runs_slower_than_the_parents_is_not_trusted(factor):
    blocks = [10 * MS] * 30
    seen = witnessed(record([int(factor * taken) for taken in blocks]), brackets(*blocks))
    assert seen["outcome"] == "rejected"
    assert "the worker's clock is not to be trusted: a block of 100 updates takes" in seen["reason"]
    assert "10.1 ms by the parent's" in seen["reason"]
    assert "clock_ratio" not in seen


def test_what_is_rejected_has_no_time_and_no_figure_made_of_times_but_all_the_rest():
    seen = witnessed(record([MS] * 30), brackets(*[10 * MS] * 30))
    assert set(seen) == {"outcome", "reason", "block_steps", "gate_share", "threads"}


@pytest.mark.parametrize(("excess_ns", "outcome"), [(-1000, "ok"), (1000, "rejected")])
def test_the_limit_is_what_messages_take_and_a_share(excess_ns, outcome):
    inside = 10 * MS
    outside = int((inside + LIMIT_NS) / (1 - LIMIT_SHARE)) + excess_ns
    assert witnessed(record([inside] * 30), brackets(*[outside] * 30, late_ns=0))["outcome"] == outcome


def test_a_parent_that_hears_late_of_the_beginning_makes_no_worker_a_liar():
    # Both messages of a block may be read at once, after it: then the parent saw less than the block.
    blocks = [10 * MS] * 30
    seen = witnessed(record(blocks), [Bracket(5, 5)] * 30)
    assert (seen["outcome"], seen["clock_ratio"]) == ("ok", 0.0)


@pytest.mark.parametrize("seed", range(20))
def test_on_a_busy_machine_messages_that_come_late_make_no_worker_a_liar(seed):
    # Of every second block the parent hears milliseconds late, or the worker lost its core before it said so.
    noise = random.Random(seed)
    blocks = [int(10 * MS * noise.uniform(1, 1.2)) for _ in range(40)]
    heard = [
        each._replace(ended_ns=each.ended_ns + (noise.randint(2 * MS, 20 * MS) if noise.random() < 0.5 else 0))
        for each in brackets(*blocks)
    ]
    assert witnessed(record(blocks), heard)["outcome"] == "ok"


@pytest.mark.parametrize("seed", range(20))
def test_where_messages_are_exact_late_ones_neither_make_a_liar_nor_hide_one(seed):
    # Of nine blocks in ten the parent hears late, of the beginning or of the end.
    noise = random.Random(seed)
    blocks = [int(10 * MS * noise.uniform(1, 1.2)) for _ in range(40)]
    for index in (7, 8, 23):
        blocks[index] = 9 * MS + index
    lates = {index: noise.choice([-4 * MS, 4 * MS]) for index in range(40) if index not in (7, 8, 23)}
    heard = [
        each._replace(ended_ns=each.ended_ns + lates.get(index, 0), exact=index not in lates)
        for index, each in enumerate(brackets(*blocks))
    ]
    assert witnessed(record(blocks), heard)["outcome"] == "ok"
    lies = [int(0.8 * taken) for taken in blocks]
    assert witnessed(record(lies), heard)["outcome"] == "rejected"
    assert witnessed(record(lies), [each._replace(exact=False) for each in heard])["outcome"] == "ok"  # none can tell


def test_a_worker_that_loses_its_core_beside_two_blocks_is_no_liar_though_their_messages_are_exact():
    blocks = [10 * MS] * 40
    heard = [
        each._replace(ended_ns=each.ended_ns + 4 * MS * (index < 2), exact=index < 2)
        for index, each in enumerate(brackets(*blocks))
    ]
    assert witnessed(record(blocks), heard)["outcome"] == "ok"


@pytest.mark.parametrize("share", [0.25, 0.3, 0.6, 1.0])
@pytest.mark.parametrize("seed", range(5))
def test_a_clock_that_lies_often_enough_to_move_the_step_time_is_caught(share, seed):
    noise = random.Random(seed)
    blocks = [int(10 * MS * noise.uniform(1, 1.2)) for _ in range(40)]
    lies = set(noise.sample(range(40), int(share * 40)))
    told = [int(0.8 * taken) if index in lies else taken for index, taken in enumerate(blocks)]
    assert witnessed(record(told), brackets(*blocks))["outcome"] == "rejected"


@pytest.mark.parametrize("told_ns", [MS, 4 * MS])
def test_a_clock_that_lies_in_a_single_block_is_caught(told_ns):
    blocks = [10 * MS] * 40
    assert witnessed(record([*blocks[:7], told_ns, *blocks[8:]]), brackets(*blocks))["outcome"] == "rejected"


def test_where_hardly_a_block_was_undisturbed_a_late_message_makes_no_worker_a_liar():
    blocks = [14 * MS] * 40
    blocks[7] = 6 * MS
    heard = brackets(*blocks)
    heard[7] = heard[7]._replace(ended_ns=heard[7].ended_ns + 4 * MS)
    assert witnessed(record(blocks, blocks_disturbed=39), heard)["outcome"] == "ok"
    assert witnessed(record(blocks, blocks_disturbed=0), heard)["outcome"] == "rejected"


@pytest.mark.parametrize(("factor", "outcome"), [(0.5, "rejected"), (0.999, "rejected"), (1.0, "ok"), (1.5, "ok")])
def test_a_block_may_not_be_faster_than_the_worker_said_when_it_ended(factor, outcome):
    # However late messages are: the parent sees nothing of these blocks but what it is told.
    told = witnessed(record([int(10 * MS * factor)] * 30), [Bracket(5, 5, 10 * MS)] * 30)
    assert told["outcome"] == outcome
    if factor == 0.5:
        assert told["reason"] == "the record contradicts itself: block 1 takes 5 ms in it, and took 10 ms when it ended"
        assert "step_ns" not in told


def test_a_single_block_that_is_faster_than_the_worker_said_is_found_wherever_it_is():
    for index in range(30):
        blocks = [10 * MS] * 30
        heard = [each._replace(told_ns=10 * MS) for each in brackets(*blocks)]
        blocks[index] -= 1
        assert (
            f"block {index + 1} takes 9.999999 ms in it, and took 10 ms" in witnessed(record(blocks), heard)["reason"]
        )


def test_a_step_time_that_is_not_that_of_the_blocks_is_not_believed():
    seen = witnessed(record([10 * MS] * 30, step_ns=99_000.0), brackets(*[10 * MS] * 30))
    assert seen["outcome"] == "rejected"
    assert seen["reason"] == "the record contradicts itself: step_ns is 99000, its blocks say 100000"


def test_only_blocks_that_count_are_compared():
    blocks = [10 * MS, MS] * 15  # every second one was disturbed, and has a wrong time
    heard = brackets(*[10 * MS] * 30)
    assert witnessed(record(blocks, counted=range(0, 30, 2)), heard)["outcome"] == "ok"
    assert witnessed(record(blocks), heard)["outcome"] == "rejected"


@pytest.mark.parametrize("factor", [1.0, 1.02])
def test_the_ratio_is_the_parents_time_over_the_workers(factor):
    blocks = [(10 + index) * MS for index in range(30)]
    heard = brackets(*[int(factor * taken) for taken in blocks], late_ns=0)
    assert witnessed(record(blocks), heard)["clock_ratio"] == pytest.approx(factor)


@pytest.mark.parametrize("seen", [0, 29, 31])
def test_blocks_that_the_parent_did_not_see_are_not_believed(seen):
    told = witnessed(record([10 * MS] * 30), brackets(*[10 * MS] * seen))
    assert told["outcome"] == "rejected"
    assert told["reason"] == f"the worker says that it timed 30 blocks; {seen} were seen"
    assert "step_ns" not in told


@pytest.mark.parametrize("outcome", [each for each in Outcome if each is not Outcome.OK])
def test_a_record_without_a_time_is_returned_as_it_is(outcome):
    told = {"outcome": outcome, "reason": "because", "import_ns": 5}
    assert witnessed(told, brackets(MS)) == told
