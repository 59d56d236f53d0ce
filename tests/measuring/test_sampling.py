import contextlib
import itertools
import math
import random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.measuring.sampling import (
    QUANTILE,
    Rule,
    Samples,
    block_steps,
    interval_width,
    quantile_of,
    sample,
)

MS = 1_000_000
RULE = Rule(block_ns=10 * MS, min_blocks=30, relative_width=0.005, budget_ns=1500 * MS)
ENOUGH = 10_000  # calls after which something would go on for ever


class Machine:
    """A machine whose time is told: a clock, and work that moves it on.

    step_ns: of one update. blocks_ns: of each block, after which the last repeats. resolution_ns: of the clock.
    stall: (call, ns), a call counted from 1 that takes so much longer.
    """

    def __init__(self, step_ns=0.0, blocks_ns=(), resolution_ns=1, stall=(0, 0)):
        self.now = 0.0
        self.step_ns = step_ns
        self.blocks = itertools.chain(blocks_ns, itertools.repeat(blocks_ns[-1] if blocks_ns else 0))
        self.resolution_ns = resolution_ns
        self.stall = stall
        self.calls = []

    def clock(self):
        return int(self.now // self.resolution_ns) * self.resolution_ns

    def run(self, steps):
        self._count(steps)
        self.now += self.step_ns * steps + (self.stall[1] if len(self.calls) == self.stall[0] else 0)

    def block(self):
        self._count(1)
        self.now += next(self.blocks)

    def _count(self, steps):
        self.calls.append(steps)
        if len(self.calls) > ENOUGH:
            pytest.fail("it goes on for ever")


def sampled(blocks_ns, rule=RULE, disturbances=lambda: 0, steps=1):
    machine = Machine(blocks_ns=blocks_ns)
    return sample(machine.block, steps, machine.clock, rule, disturbances)


# How long a block is


@pytest.mark.parametrize("step_ns", [3, 80, 1_000, 41_500, 300_000, 0.7 * MS, 3 * MS, 9.9 * MS, 10 * MS, 200 * MS])
def test_a_block_takes_as_long_as_the_rule_says_and_hardly_longer(step_ns):
    machine = Machine(step_ns)
    steps = block_steps(machine.run, machine.clock, RULE)
    assert steps * step_ns >= RULE.block_ns
    assert (steps - 1) * step_ns <= 1.25 * RULE.block_ns


@pytest.mark.parametrize("step_ns", [80, 41_500, 3 * MS])
def test_finding_the_block_costs_no_more_than_a_few_blocks(step_ns):
    machine = Machine(step_ns)
    block_steps(machine.run, machine.clock, RULE)
    assert machine.now <= 5 * RULE.block_ns


@pytest.mark.parametrize("resolution_ns", [100, 15_625, MS, 4 * MS])
def test_a_clock_that_stands_still_for_some_reads_only_means_more_updates(resolution_ns):
    machine = Machine(step_ns=500, resolution_ns=resolution_ns)
    steps = block_steps(machine.run, machine.clock, RULE)
    assert 500 * steps >= RULE.block_ns - resolution_ns
    assert 500 * steps <= 2 * RULE.block_ns + resolution_ns


@pytest.mark.parametrize("stalled_ns", [5 * MS, 50 * MS, 5000 * MS])
@pytest.mark.parametrize("call", [1, 3])
def test_one_call_that_is_slow_once_does_not_make_the_blocks_short(call, stalled_ns):
    machine = Machine(step_ns=40_000, stall=(call, stalled_ns))
    steps = block_steps(machine.run, machine.clock, RULE)
    assert RULE.block_ns <= 40_000 * steps <= 1.25 * RULE.block_ns


@pytest.mark.parametrize("most", [1, 7, 100])
def test_a_block_has_at_most_as_many_updates_as_there_are_batches(most):
    machine = Machine(step_ns=1_000)
    assert block_steps(machine.run, machine.clock, RULE, most) == most
    assert max(machine.calls, default=0) <= most


def test_a_cap_above_what_is_needed_changes_nothing():
    free, capped = Machine(step_ns=1_000), Machine(step_ns=1_000)
    assert block_steps(free.run, free.clock, RULE) == block_steps(capped.run, capped.clock, RULE, 1_000_000)


def test_only_the_updates_are_between_two_reads_of_the_clock_while_the_block_is_sought():
    machine, log = Machine(step_ns=40_000), []

    def clock():
        log.append("clock")
        return machine.clock()

    def run(steps):
        log.append("run")
        machine.run(steps)

    block_steps(run, clock, RULE)
    assert log == ["clock", "run", "clock"] * len(machine.calls)


def test_a_clock_that_never_moves_does_not_keep_the_search_for_ever():
    machine = Machine(step_ns=0)
    with contextlib.suppress(RuntimeError, ValueError):  # to say so is as good
        block_steps(machine.run, machine.clock, RULE)
    assert len(machine.calls) < 200


# When there are enough blocks


def test_steady_blocks_end_at_the_least_number():
    samples = sampled([10 * MS])
    assert (len(samples.blocks_ns), samples.stop_rule) == (RULE.min_blocks, "relative_width")


def test_slow_blocks_are_as_many_however_long_they_take():
    noise = random.Random(0)
    samples = sampled([noise.randint(200 * MS, 400 * MS) for _ in range(1000)])
    assert (len(samples.blocks_ns), samples.stop_rule) == (RULE.min_blocks, "budget")


def test_noisy_blocks_end_with_the_time_they_may_take():
    noise = random.Random(0)
    blocks = [noise.randint(8 * MS, 16 * MS) for _ in range(1000)]
    samples = sampled(blocks)
    assert samples.stop_rule == "budget"
    assert sum(samples.blocks_ns) >= RULE.budget_ns > sum(samples.blocks_ns[:-1])


def test_timing_ends_as_soon_as_the_interval_is_as_narrow_as_asked_for():
    noise = random.Random(0)
    blocks = [int(noise.gauss(10 * MS, 0.1 * MS)) for _ in range(5000)]
    samples = sampled(blocks, Rule(relative_width=0.004, budget_ns=50_000 * MS))
    assert samples.stop_rule == "relative_width"
    assert interval_width(samples.blocks_ns) <= 0.004 < interval_width(samples.blocks_ns[:-1])
    assert len(samples.blocks_ns) > RULE.min_blocks
    narrower = sampled(blocks, Rule(relative_width=0.002, budget_ns=50_000 * MS))
    assert len(narrower.blocks_ns) > 2 * len(samples.blocks_ns)


def test_every_block_is_kept_in_order():
    noise = random.Random(6)
    blocks = [noise.randint(8 * MS, 16 * MS) for _ in range(200)]
    samples = sampled(blocks)
    assert samples.blocks_ns == blocks[: len(samples.blocks_ns)]


def test_only_the_block_is_between_two_reads_of_the_clock():
    machine, log = Machine(blocks_ns=[10 * MS]), []

    def logged(name, function):
        def call(*arguments):
            log.append((name, *arguments))
            return function(*arguments)

        return call

    sample(
        logged("run", machine.block),
        1,
        logged("clock", machine.clock),
        RULE,
        logged("disturbances", lambda: 0),
        logged("before", lambda _index: None),
        logged("after", lambda _index: None),
    )
    expected = []
    for index in range(30):
        around = [("disturbances",), ("clock",), ("run",), ("clock",), ("disturbances",)]
        expected += [("before", index), *around, ("after", index)]
    assert log == expected


def test_a_clock_that_never_moves_does_not_keep_the_timing_for_ever():
    try:
        samples = sampled([0])
    except (RuntimeError, ValueError):
        return  # to say so is as good
    assert samples.stop_rule


# What number stands for the blocks


def test_the_step_time_is_the_lower_quartile_of_the_blocks_over_their_updates():
    samples = Samples(steps=4, blocks_ns=[100, 400, 200, 300, 500], disturbed=[False] * 5)
    assert samples.step_ns() == 200 / 4
    assert samples.step_ns(0.5) == 300 / 4
    assert samples.step_ns(0.0) == 100 / 4


def test_bursts_of_another_process_hardly_move_the_step_time():
    noise = random.Random(1)
    blocks = [int(10 * MS * (1.5 if noise.random() < 0.4 else noise.gauss(1, 0.002))) for _ in range(300)]
    assert sampled(blocks).step_ns() == pytest.approx(10 * MS, rel=0.003)


def test_of_two_speeds_the_quicker_is_told_and_it_is_not_taken_for_settled_early():
    noise = random.Random(2)
    blocks = [int(noise.choice([10, 12]) * MS * noise.gauss(1, 0.001)) for _ in range(1000)]
    samples = sampled(blocks)
    assert samples.step_ns() == pytest.approx(10 * MS, rel=0.002)
    assert samples.step_ns(0.5) > samples.step_ns()


def test_a_machine_that_slows_down_after_a_while_is_told_at_its_first_speed():
    noise = random.Random(3)
    blocks = [int((10 if index < 50 else 13) * MS * noise.gauss(1, 0.02)) for index in range(1000)]
    samples = sampled(blocks)
    assert samples.stop_rule == "budget"
    assert samples.step_ns() == pytest.approx(10 * MS, rel=0.03)


def test_a_drifting_machine_uses_all_the_time_and_is_never_called_settled():
    samples = sampled([int(10 * MS * 1.01**index) for index in range(1000)])
    assert samples.stop_rule == "budget"
    assert samples.blocks_ns[0] < samples.step_ns() < samples.step_ns(0.5) < samples.blocks_ns[-1]


# Disturbed blocks


class Disturber:
    """Counts a disturbance within each of the blocks given, by number from 0, or before the block."""

    def __init__(self, during=lambda _block: False, before=lambda _block: False):
        self.during = during
        self.before = before
        self.count = 0
        self.reads = itertools.count()

    def __call__(self):
        block, is_after = divmod(next(self.reads), 2)
        self.count += (self.during if is_after else self.before)(block)
        return self.count


def test_a_block_is_disturbed_when_there_is_evidence_during_it():
    samples = sampled([10 * MS], disturbances=Disturber(during=lambda block: block in (3, 17)))
    assert [index for index, loud in enumerate(samples.disturbed) if loud] == [3, 17]


def test_what_happens_between_two_blocks_disturbs_neither():
    samples = sampled([10 * MS], disturbances=Disturber(before=lambda _block: True))
    assert not any(samples.disturbed)


def test_a_slow_block_without_evidence_is_not_disturbed():
    assert not any(sampled([10 * MS, 90 * MS, 10 * MS]).disturbed)


def test_disturbed_blocks_do_not_count_in_the_step_time_even_where_they_are_quicker():
    blocks = [(5 if block % 2 else 10) * MS for block in range(1000)]
    samples = sampled(blocks, disturbances=Disturber(during=lambda block: block % 2 == 1))
    assert samples.step_ns(0.0) == samples.step_ns() == samples.step_ns(0.5) == 10 * MS


def test_further_blocks_are_timed_for_the_disturbed_ones():
    samples = sampled([10 * MS], disturbances=Disturber(during=lambda block: block < 20))
    assert samples.stop_rule == "relative_width"
    assert len(samples.blocks_ns) > RULE.min_blocks
    assert len(samples.undisturbed_ns()) == 12  # the least that an interval can be told of


def test_where_nearly_all_blocks_are_disturbed_none_is_chosen_among_them():
    blocks = [(5 if block % 5 == 0 else 10) * MS for block in range(1000)]
    samples = sampled(blocks, disturbances=Disturber(during=lambda block: block % 5 != 0))
    assert samples.undisturbed_ns() == samples.blocks_ns
    assert samples.step_ns() == 10 * MS


def test_disturbed_blocks_cannot_keep_the_timing_for_ever():
    samples = sampled([10 * MS], disturbances=Disturber(during=lambda _block: True))
    assert all(samples.disturbed)
    assert sum(samples.blocks_ns) <= RULE.budget_ns
    assert samples.step_ns() == 10 * MS


@pytest.mark.parametrize(("quiet", "counts"), [(24, False), (25, True)])
def test_a_quarter_of_the_blocks_is_enough_to_leave_the_others_out(quiet, counts):
    samples = Samples(
        1, blocks_ns=[1] * quiet + [2] * (100 - quiet), disturbed=[False] * quiet + [True] * (100 - quiet)
    )
    assert (len(samples.undisturbed_ns()) == quiet) is counts


# The statistics


@given(
    st.lists(st.integers(1, 10**12), min_size=1, max_size=60),
    st.one_of(st.floats(0, 1), st.sampled_from([0.0, QUANTILE, 0.5, 1.0])),
)
def test_a_quantile_is_numpys(values, quantile):
    assert quantile_of(values, quantile) == pytest.approx(float(np.quantile(values, quantile)), rel=1e-12)


def test_the_interval_of_few_blocks_has_no_end():
    assert math.isinf(interval_width([10 * MS] * 11))
    assert interval_width([10 * MS] * 12) == 0


def test_the_interval_is_relative_to_the_quantile():
    noise = random.Random(4)
    values = [noise.randint(1000, 2000) for _ in range(100)]
    assert interval_width([7 * value for value in values]) == pytest.approx(interval_width(values))


def test_the_interval_holds_the_true_quantile_in_about_nineteen_of_twenty_processes():
    # Of n uniform values the quantile q lies between the ranks that the width is taken from: count how often.
    generator = np.random.default_rng(5)
    count, trials = 100, 2000
    ordered = np.sort(generator.random((trials, count)), axis=1)
    # The width of 1, 2, …, n, times its quantile, is the distance of the ranks.
    ranks = list(range(1, count + 1))
    distance = round(interval_width(ranks) * quantile_of(ranks, QUANTILE))
    low = round(count * QUANTILE - distance / 2)
    inside = (ordered[:, low] <= QUANTILE) & (ordered[:, low + distance] >= QUANTILE)
    assert 0.93 < inside.mean() < 0.99
