import itertools
import math
import random
from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.measuring.sampling import (
    ENOUGH_BLOCKS,
    QUANTILE,
    Rule,
    Samples,
    block_steps,
    interval_width,
    quantile_of,
    sample,
)
from harness.plan.presets import PRESETS

MS = 1_000_000
RULE = Rule(block_ns=10 * MS, min_blocks=30, relative_width=0.005, budget_ns=1500 * MS, patience=2.0)
ENOUGH = 10_000  # calls after which something would go on for ever


class Machine:
    """A machine whose time is told: a clock, and work that moves it on.

    step_ns: of one update. blocks_ns: of each block, after which the last repeats. resolution_ns: of the clock.
    stall: (call, ns), a call counted from 1 that takes so much longer. direction: -1 for a clock that runs backwards.
    """

    def __init__(self, step_ns=0.0, blocks_ns=(), resolution_ns=1, stall=(0, 0), direction=1):
        self.now = 0.0
        self.step_ns = step_ns
        self.blocks = itertools.chain(blocks_ns, itertools.repeat(blocks_ns[-1] if blocks_ns else 0))
        self.resolution_ns = resolution_ns
        self.stall = stall
        self.direction = direction
        self.calls = []

    def clock(self):
        return self.direction * int(self.now // self.resolution_ns) * self.resolution_ns

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


class Watching:
    """Evidence that says of each block, by number from 0, what disturbed it, at once and afterwards."""

    def __init__(self, says=lambda _block: "", later=lambda _block: ""):
        self.says, self.later = says, later
        self.blocks = itertools.count()
        self.told = []

    def begin(self):
        pass

    def end(self, taken_ns):
        self.told.append(taken_ns)
        return self.says(next(self.blocks))

    def afterwards(self):
        return self.later(len(self.told) - 1)


def sampled(blocks_ns, rule=RULE, says=lambda _block: "", steps=1, **machine):
    machine = Machine(blocks_ns=blocks_ns, **machine)
    return sample(machine.block, steps, machine.clock, rule, Watching(says))


def spent_ns(samples):
    return sum(samples.blocks_ns)


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


@pytest.mark.parametrize("direction", [0, -1])
def test_a_clock_that_never_moves_or_runs_backwards_ends_the_search_by_saying_so(direction):
    machine = Machine(step_ns=1_000, direction=direction)
    with pytest.raises(RuntimeError, match="the clock stands still"):
        block_steps(machine.run, machine.clock, RULE)
    assert len(machine.calls) < 200


@pytest.mark.parametrize("direction", [0, -1])
def test_a_broken_clock_makes_no_block_longer_than_there_are_batches(direction):
    machine = Machine(step_ns=1_000, direction=direction)
    assert block_steps(machine.run, machine.clock, RULE, 100_000) == 100_000
    assert sum(machine.calls) < 300_000


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
    assert spent_ns(samples) >= RULE.budget_ns > spent_ns(samples) - samples.blocks_ns[-1]


def test_timing_ends_as_soon_as_the_interval_is_as_narrow_as_asked_for():
    noise = random.Random(0)
    blocks = [int(noise.gauss(10 * MS, 0.1 * MS)) for _ in range(5000)]
    samples = sampled(blocks, Rule(relative_width=0.004, budget_ns=50_000 * MS))
    assert samples.stop_rule == "relative_width"
    assert interval_width(samples.blocks_ns) <= 0.004 < interval_width(samples.blocks_ns[:-1])
    assert len(samples.blocks_ns) > RULE.min_blocks
    narrower = sampled(blocks, Rule(relative_width=0.002, budget_ns=50_000 * MS))
    assert len(narrower.blocks_ns) > 2 * len(samples.blocks_ns)


@pytest.mark.parametrize("preset", PRESETS)
def test_blocks_that_differ_by_chance_alone_are_rarely_taken_for_a_plateau(preset):
    noise, sampling = random.Random(7), PRESETS[preset].sampling
    rule = Rule(relative_width=sampling.relative_width, budget_ns=sampling.budget_ns)
    ends = Counter(
        sampled([int(10 * MS * noise.lognormvariate(0, 0.05)) for _ in range(1200)], rule).stop_rule for _ in range(100)
    )
    assert ends["plateau"] <= 6
    assert ends["budget"] >= 94


def test_every_block_is_kept_in_order():
    noise = random.Random(6)
    blocks = [noise.randint(8 * MS, 16 * MS) for _ in range(200)]
    samples = sampled(blocks)
    assert samples.blocks_ns == blocks[: len(samples.blocks_ns)]
    assert len(samples.disturbances) == len(samples.blocks_ns)


def test_only_the_block_is_between_two_reads_of_the_clock():
    machine, log = Machine(blocks_ns=[10 * MS]), []

    def logged(name, function):
        def call(*arguments):
            log.append((name, *arguments))
            return function(*arguments)

        return call

    evidence = Watching()
    evidence.begin, evidence.end = logged("look", evidence.begin), logged("look again", evidence.end)
    evidence.afterwards = logged("look at leisure", evidence.afterwards)
    sample(
        logged("run", machine.block),
        1,
        logged("clock", machine.clock),
        RULE,
        evidence,
        logged("before", lambda _index: None),
        logged("after", lambda _index, _taken_ns: None),
        logged("announce", lambda _at, _taken_ns: None),
    )
    expected = []
    for index in range(30):
        expected += [("before", index), ("announce", "begin", 0), ("look",)]
        expected += [("clock",), ("run",), ("clock",)]
        expected += [
            ("look again", 10 * MS),
            ("announce", "end", 10 * MS),
            ("look at leisure",),
            ("after", index, 10 * MS),
        ]
    assert log == expected


def test_a_clock_that_stands_still_ends_the_timing_by_saying_so():
    with pytest.raises(RuntimeError, match="the clock stands still"):
        sampled([10 * MS], direction=0)


def test_a_clock_that_runs_backwards_ends_the_timing_at_once():
    machine = Machine(blocks_ns=[10 * MS], direction=-1)
    with pytest.raises(RuntimeError, match="the clock runs backwards"):
        sample(machine.block, 1, machine.clock, RULE, Watching())
    assert len(machine.calls) == 1


def test_a_clock_that_is_set_back_once_ends_the_timing_at_that_block():
    machine = Machine(blocks_ns=[10 * MS])

    def clock():
        return machine.clock() - (3600 * 1000 * MS if len(machine.calls) >= 12 else 0)

    with pytest.raises(RuntimeError, match="the clock runs backwards"):
        sample(machine.block, 1, clock, RULE, Watching())
    assert len(machine.calls) == 12


# What number stands for the blocks


def test_the_step_time_is_the_lower_quartile_of_the_blocks_over_their_updates():
    samples = Samples(steps=4, blocks_ns=[100, 400, 200, 300, 500] * 2, disturbances=[""] * 10)
    assert samples.step_ns() == np.quantile(samples.blocks_ns, 0.25) / 4
    assert samples.step_ns(0.5) == 300 / 4
    assert samples.step_ns(0.0) == 100 / 4


def test_bursts_of_another_process_hardly_move_the_step_time():
    noise = random.Random(1)
    blocks = [int(10 * MS * (1.5 if noise.random() < 0.4 else noise.gauss(1, 0.002))) for _ in range(300)]
    assert sampled(blocks).step_ns() == pytest.approx(10 * MS, rel=0.003)


def test_a_single_block_that_takes_for_ever_moves_nothing():
    noise = random.Random(8)
    blocks = [int(10 * MS * noise.gauss(1, 0.001)) for _ in range(1000)]
    quiet = sampled(blocks)
    loud = sampled([*blocks[:10], 600_000 * MS, *blocks[10:]])
    assert loud.stop_rule == quiet.stop_rule == "relative_width"
    assert loud.step_ns() == pytest.approx(quiet.step_ns(), rel=5e-4)


def test_a_block_that_takes_for_ever_later_ends_the_timing_and_moves_nothing():
    noise = random.Random(8)
    blocks = [int(10 * MS * noise.gauss(1, 0.05)) for _ in range(100)]
    samples = sampled([*blocks[:60], 600_000 * MS, *blocks[60:]])
    assert (len(samples.blocks_ns), samples.stop_rule) == (61, "budget")
    assert samples.step_ns() == pytest.approx(quantile_of(blocks[:60], QUANTILE), rel=0.01)


def test_of_two_speeds_the_quicker_is_told_and_that_they_are_no_noise_is_noticed():
    noise = random.Random(2)
    blocks = [int(noise.choice([10, 12]) * MS * noise.gauss(1, 0.001)) for _ in range(2000)]
    samples = sampled(blocks)
    assert samples.step_ns() == pytest.approx(10 * MS, rel=0.002)
    assert samples.step_ns(0.5) > samples.step_ns()


def test_a_quarter_of_fast_blocks_is_a_plateau_that_no_further_block_narrows():
    # The quantile lies in the gap between two speeds: its interval spans both however many blocks there are.
    blocks = [(10 if index % 4 == 0 else 12) * MS for index in range(5000)]
    samples = sampled(blocks, Rule(relative_width=0.001, budget_ns=20_000 * MS))
    assert (len(samples.blocks_ns), samples.stop_rule) == (4 * RULE.min_blocks, "plateau")
    assert 10 * MS <= samples.step_ns() <= 12 * MS


def test_a_machine_that_becomes_a_third_slower_halfway_is_told_at_its_first_speed():
    noise = random.Random(3)
    blocks = [int((10 if index < 75 else 13) * MS * noise.gauss(1, 0.02)) for index in range(1000)]
    samples = sampled(blocks)
    assert samples.stop_rule in ("budget", "plateau")
    assert samples.step_ns() == pytest.approx(10 * MS, rel=0.03)
    assert samples.step_ns(0.5) > samples.step_ns()


def test_a_machine_that_becomes_faster_halfway_is_told_at_its_faster_speed():
    noise = random.Random(3)
    blocks = [int((13 if index < 75 else 10) * MS * noise.gauss(1, 0.02)) for index in range(1000)]
    assert sampled(blocks).step_ns() == pytest.approx(10 * MS, rel=0.03)


def test_a_drifting_machine_is_a_plateau_and_never_called_settled():
    rule = Rule(relative_width=0.001, budget_ns=10_000 * MS)
    samples = sampled([int(10 * MS * 1.003**index) for index in range(1000)], rule)
    assert samples.stop_rule == "plateau"
    assert samples.blocks_ns[0] < samples.step_ns() < samples.step_ns(0.5) < samples.blocks_ns[-1]
    assert samples.step_ns() == pytest.approx(quantile_of(samples.blocks_ns, QUANTILE))


def test_a_drift_that_is_lost_in_the_noise_changes_nothing():
    noise = random.Random(9)
    blocks = [int(10 * MS * (1 + 1e-5 * index) * noise.gauss(1, 0.05)) for index in range(1000)]
    samples = sampled(blocks)
    assert samples.stop_rule == "budget"
    assert samples.step_ns() == pytest.approx(10 * MS * (1 - 0.6745 * 0.05), rel=0.02)


def test_a_clock_that_ticks_once_a_millisecond_tells_the_same_within_a_tick():
    noise = random.Random(10)
    blocks = [int(10 * MS * noise.gauss(1, 0.02)) for _ in range(1000)]
    samples = sampled(blocks, resolution_ns=MS)
    assert all(taken % MS == 0 for taken in samples.blocks_ns)
    assert samples.step_ns() == pytest.approx(quantile_of(blocks, QUANTILE), abs=MS)


# Disturbed blocks


def test_a_block_is_disturbed_when_there_is_evidence_of_it():
    samples = sampled([10 * MS], says=lambda block: {3: "stolen", 17: "preempted", 18: "preempted"}.get(block, ""))
    assert [index for index, reason in enumerate(samples.disturbances) if reason] == [3, 17, 18]
    assert list(samples.disturbed_by().items()) == [("preempted", 2), ("stolen", 1)]


def test_what_is_found_afterwards_disturbs_as_well_and_is_told_first():
    machine = Machine(blocks_ns=[10 * MS])
    evidence = Watching(
        says=lambda block: "preempted" if block in (2, 3) else "", later=lambda block: "stolen" if block > 2 else ""
    )
    samples = sample(machine.block, 1, machine.clock, Rule(budget_ns=100 * MS, patience=1.0, min_blocks=5), evidence)
    assert samples.disturbances[:5] == ["", "", "preempted", "stolen", "stolen"]


def test_evidence_is_told_how_long_the_block_took():
    machine, evidence = Machine(blocks_ns=[10 * MS, 90 * MS, 10 * MS]), Watching()
    sample(machine.block, 1, machine.clock, RULE, evidence)
    assert evidence.told[:3] == [10 * MS, 90 * MS, 10 * MS]


def test_a_slow_block_without_evidence_is_not_disturbed():
    assert not any(sampled([10 * MS, 90 * MS, 10 * MS]).disturbances)


def test_disturbed_blocks_do_not_count_in_the_step_time_even_where_they_are_quicker():
    blocks = [(5 if block % 2 else 10) * MS for block in range(1000)]
    samples = sampled(blocks, says=lambda block: "stolen" if block % 2 else "")
    assert samples.step_ns(0.0) == samples.step_ns() == samples.step_ns(0.5) == 10 * MS
    assert samples.undisturbed() == list(range(0, len(samples.blocks_ns), 2))


def test_every_disturbed_block_is_timed_again():
    samples = sampled([10 * MS], says=lambda block: "stolen" if block < 20 else "")
    assert samples.stop_rule == "relative_width"
    assert len(samples.blocks_ns) == 20 + RULE.min_blocks


def test_where_half_of_the_blocks_are_disturbed_there_are_enough_of_the_others():
    noise = random.Random(11)
    blocks = [int(10 * MS * noise.gauss(1, 0.001) * (1 + block % 2)) for block in range(1000)]
    samples = sampled(blocks, says=lambda block: "preempted" if block % 2 else "")
    assert samples.stop_rule == "relative_width"
    assert len(samples.undisturbed()) == RULE.min_blocks
    assert len(samples.blocks_ns) in (59, 60)
    assert samples.step_ns() == pytest.approx(10 * MS, rel=0.001)


def test_disturbed_blocks_do_not_use_up_the_time_of_the_others():
    noise = random.Random(0)
    blocks = [noise.randint(8 * MS, 16 * MS) for _ in range(1000)]
    samples = sampled(blocks, says=lambda block: "stolen" if block % 4 == 0 else "")
    assert samples.stop_rule == "budget"
    quiet = [samples.blocks_ns[index] for index in samples.undisturbed()]
    assert sum(quiet) >= RULE.budget_ns > sum(quiet) - max(quiet)


@pytest.mark.parametrize("patience", [1.0, 2.0, 5.0])
def test_disturbed_blocks_are_timed_again_only_as_long_as_there_is_patience(patience):
    rule = Rule(budget_ns=1500 * MS, patience=patience)
    samples = sampled([10 * MS], rule, says=lambda _block: "stolen")
    assert samples.stop_rule == "disturbed"
    assert spent_ns(samples) == patience * rule.budget_ns
    assert all(samples.disturbances)
    assert samples.step_ns() == 10 * MS


def test_too_few_undisturbed_blocks_are_no_reason_to_go_on_for_ever():
    # One quiet block in ten: after three seconds there are thirty of them, which is enough; of one in twenty, never.
    assert sampled([10 * MS], says=lambda block: "" if block % 10 == 0 else "stolen").stop_rule == "relative_width"
    samples = sampled([10 * MS], says=lambda block: "" if block % 20 == 0 else "stolen")
    assert samples.stop_rule == "disturbed"
    assert len(samples.undisturbed()) == 15


@pytest.mark.parametrize(("quiet", "counts"), [(0, False), (ENOUGH_BLOCKS - 1, False), (ENOUGH_BLOCKS, True)])
def test_where_hardly_a_block_is_undisturbed_none_is_chosen_among_them(quiet, counts):
    samples = Samples(1, [1] * quiet + [2] * 90, [""] * quiet + ["stolen"] * 90)
    assert samples.undisturbed() == list(range(quiet if counts else quiet + 90))
    assert samples.step_ns() == (1 if counts else 2)


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


def test_what_several_processes_agreed_on_is_what_counts_of_a_block():
    machine = Machine(blocks_ns=[10 * MS])
    taken, said = [], []

    def agreed(taken_ns, disturbance):
        taken.append((taken_ns, disturbance))
        return 2 * taken_ns, "elsewhere" if len(taken) % 3 == 0 else ""

    samples = sample(
        machine.block,
        1,
        machine.clock,
        RULE,
        Watching(),
        after=lambda _index, taken_ns: said.append(taken_ns),
        agreed=agreed,
    )
    assert set(taken) == {(10 * MS, "")}
    assert samples.blocks_ns == said == [20 * MS] * len(taken)
    assert samples.disturbed_by() == {"elsewhere": len(taken) // 3}
