import random
import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from harness.measuring import busy, seal
from harness.measuring.blocks import BY_CHANCE, FASTEST, VARIED_INPUTS, Chosen, Kept, VariedBatches
from harness.measuring.clocks import monotonic_ns
from harness.measuring.device import Cpu
from harness.measuring.sampling import QUANTILE, Rule, quantile_of
from harness.measuring.timing import (
    LATENCY_CALLS,
    TimedUpdates,
    Timer,
    check_singles,
    check_timed,
    time_latency,
    time_updates,
)
from harness.plan.outcome import CaseEnded, Outcome
from harness.training.contract import Problem, Updates
from harness.training.engines.manual import Manual
from harness.training.gate import TimedBlock
from harness.training.loading import load_workload
from harness.training.members import OneOfMany, all_members
from harness.training.trial import VARIED_WEIGHTS, Trial, begin, problem_of
from tests.cheats import called_by
from tests.several import MEMBERS, Several

MS = 1_000_000
RULE = Rule(block_ns=2 * MS, max_steps=500, warm_up_ns=2 * MS, min_blocks=8, budget_ns=20 * MS)
CPU = torch.device("cpu")
Case = tuple[Problem, Trial, Updates]
Train = Callable[[Updates, Tensor, Tensor], Tensor]


@pytest.fixture(autouse=True)
def nothing_sealed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tests replace what a seal of another test would be broken by."""
    monkeypatch.setattr(seal, "_taken", {})


class Quiet(Cpu):
    """A machine on which nothing disturbs: what is timed here does not depend on who else runs."""

    def __init__(self) -> None:
        self.log: list[Any] = []

    def evidence(self, cpus: Any, threads: int) -> Any:
        self.log.append(("evidence", cpus, threads))
        return SimpleNamespace(begin=lambda: None, end=lambda _taken_ns: "", afterwards=lambda: "")

    def begin(self) -> None:
        self.log.append("begin")

    def end(self) -> dict[str, Any]:
        self.log.append("end")
        return {"from_the_device": 7}


def timer(**more: Any) -> Timer:
    return Timer(**{"clock": monotonic_ns, "rule": RULE, "device": Quiet(), **more})


def case_of(batch_size: int, workload: str = "line") -> Case:
    loaded = load_workload(workload)
    problem = problem_of(loaded, batch_size, CPU, torch.float32)
    return problem, begin(loaded, batch_size, 0, CPU, torch.float32), Manual().prepare(problem, 20)


@pytest.fixture(params=[10, 100], ids=["real batches", "one full batch"])
def case(request: pytest.FixtureRequest) -> Case:
    return case_of(request.param)


class WhileTimed:
    """The manual engine, but calls of more than one update go through a function of the test's."""

    def __init__(self, inner: Updates, instead: Train) -> None:
        self.inner, self.instead = inner, instead
        self.loaded: list[Mapping[str, Tensor]] = []
        self.calls: list[int] = []

    def load(self, parameters: Mapping[str, Tensor]) -> None:
        self.loaded.append(parameters)
        self.inner.load(parameters)

    def __call__(self, inputs: Tensor, targets: Tensor) -> Tensor:
        self.calls.append(len(inputs))
        if len(inputs) == 1:
            return self.inner(inputs, targets)
        return self.instead(self.inner, inputs, targets)

    def parameters(self) -> dict[str, Tensor]:
        return self.inner.parameters()


def honest(inner: Updates, inputs: Tensor, targets: Tensor) -> Tensor:
    return inner(inputs, targets)


def timed_and_checked(case: Case, instead: Train, **more: Any) -> tuple[WhileTimed, TimedUpdates]:
    problem, trial, inner = case
    updates = WhileTimed(inner, instead)
    timed = time_updates(problem, updates, trial, timer(**more))
    assert 0 <= check_timed(problem, updates, timed) <= 1
    return updates, timed


@pytest.mark.parametrize(("update_ns", "steps"), [(30_000, 60), (99_000, 20), (101_000, 20), (300_000, 8)])
def test_a_block_is_a_multiple_of_what_engines_unroll_by_unless_it_is_shorter(update_ns: int, steps: int) -> None:
    problem, trial, inner = case_of(100)
    now = 0

    class Slow(WhileTimed):
        def __call__(self, inputs: Tensor, targets: Tensor) -> Tensor:
            nonlocal now
            now += update_ns * len(inputs)
            return self.inner(inputs, targets)

    timed = time_updates(problem, Slow(inner, honest), trial, timer(clock=lambda: now))
    assert len(timed.batches.inputs) == timed.facts["block_steps"] == steps


# The batches of a block


@pytest.mark.parametrize("batch_size", [10, 30, 100])
def test_batches_change_their_values_and_stay_where_they_are(batch_size: int) -> None:
    _, trial, _ = case_of(batch_size)
    wanted, targets = trial.batches(7)
    batches = VariedBatches.of(trial, 7)
    assert torch.equal(batches.inputs, wanted)
    address, seen = batches.inputs.data_ptr(), []
    for seed in (1, 2, 1):
        batches.vary(seed)
        seen.append(batches.inputs.clone())
        assert ((batches.inputs - wanted).abs() <= (VARIED_INPUTS + 1e-6) * wanted.abs()).all()
        assert torch.equal(batches.targets, targets)
        assert batches.inputs.data_ptr() == address
        assert batches.inputs.shape == wanted.shape
        assert batches.inputs.stride() == wanted.stride()
    assert torch.equal(seen[0], seen[2])
    # Each number by its own: nothing of it can be computed from the trial's and one factor.
    assert len({round(factor, 5) for factor in (seen[0] / seen[1]).flatten().tolist()}) > 20


def test_a_full_batch_stays_a_view_expanded_over_steps_and_takes_the_memory_of_one() -> None:
    _, trial, _ = case_of(100)
    batches = VariedBatches.of(trial, 1000)
    batches.vary(3)
    assert batches.inputs.stride(0) == batches.targets.stride(0) == 0
    assert batches.inputs.untyped_storage().nbytes() == trial.inputs.nbytes


def test_shuffled_batches_are_those_of_the_trial_each_with_memory_of_its_own() -> None:
    _, trial, _ = case_of(10)
    batches = VariedBatches.of(trial, 13)
    assert trial.orders is not None
    assert batches.inputs.stride(0) != 0
    assert not torch.equal(batches.inputs[0], batches.inputs[10])


def test_the_trial_itself_is_left_as_it_was() -> None:
    for batch_size in (10, 100):
        _, trial, _ = case_of(batch_size)
        before = trial.inputs.clone()
        VariedBatches.of(trial, 5).vary(2)
        assert torch.equal(trial.inputs, before)


# Which blocks are checked


def kept(index: int, taken_ns: int) -> Kept:
    return Kept(index, taken_ns, 1, TimedBlock({}, torch.empty(0), {}))


def chosen_of(taken_ns: list[int], chance: random.Random) -> Chosen:
    chosen = Chosen(chance)
    for index, taken in enumerate(taken_ns):
        if chosen.wants(taken):
            chosen.keep(kept(index, taken))
    return chosen


def test_every_block_is_checked_with_the_same_chance() -> None:
    chance, runs, blocks = random.Random(0), 3000, 30
    # All take the same time, so that the first ones are the fastest: these are left out of the count.
    counts = Counter(each.index for _ in range(runs) for each in chosen_of([MS] * blocks, chance)._by_chance)
    expected = runs * BY_CHANCE / blocks
    assert sum(counts.values()) == runs * BY_CHANCE
    for index in range(blocks):
        assert counts[index] == pytest.approx(expected, abs=5 * expected**0.5)


@pytest.mark.parametrize("seed", range(5))
def test_the_fastest_blocks_are_checked_wherever_they_are(seed: int) -> None:
    chance = random.Random(seed)
    taken = [chance.randrange(MS, 2 * MS) for _ in range(50)]
    chosen = chosen_of(taken, chance)
    fastest = sorted(range(50), key=taken.__getitem__)[:FASTEST]
    assert set(fastest) <= {each.index for each in chosen.all()}


@pytest.mark.parametrize("blocks", [1, 2, 3, 30])
def test_each_block_is_checked_once_and_enough_of_them_are(blocks: int) -> None:
    for seed in range(50):
        indices = [each.index for each in chosen_of([MS + index for index in range(blocks)], random.Random(seed)).all()]
        assert len(indices) == len(set(indices))
        assert min(blocks, max(BY_CHANCE, FASTEST)) <= len(indices) <= BY_CHANCE + FASTEST


def test_what_is_kept_of_a_block_is_that_blocks() -> None:
    chosen = chosen_of([3 * MS, 2 * MS, MS, 5 * MS], random.Random(1))
    assert {each.index: each.taken_ns for each in chosen.all()}.items() <= {
        0: 3 * MS,
        1: 2 * MS,
        2: MS,
        3: 5 * MS,
    }.items()


# An honest engine


def test_honest_updates_are_timed_and_pass(case: Case) -> None:
    device = Quiet()
    updates, timed = timed_and_checked(case, honest, device=device, cpus=(3,), threads=2)
    facts = timed.facts
    assert facts["blocks"] == len(facts["blocks_ns"]) >= RULE.min_blocks
    assert facts["step_ns"] == quantile_of(facts["blocks_ns"], QUANTILE) / facts["block_steps"]
    assert facts["step_min_ns"] <= facts["step_ns"] <= facts["step_median_ns"]
    assert facts["timed_ns"] == sum(facts["blocks_ns"])
    assert (facts["blocks_disturbed"], facts["disturbances"]) == (0, {})
    assert facts["counted"] == list(range(facts["blocks"]))
    assert facts["minor_faults_per_step"] >= 0
    assert timed.finite
    assert BY_CHANCE <= len(timed.checked) <= BY_CHANCE + FASTEST
    assert device.log == ["begin", ("evidence", (3,), 2), "end"]
    assert facts["from_the_device"] == 7
    assert updates.calls.count(facts["block_steps"]) >= facts["blocks"]


def test_no_two_blocks_begin_with_the_same_weights_or_have_the_same_inputs(case: Case) -> None:
    seen: list[tuple[float, ...]] = []

    def note(inner: Updates, inputs: Tensor, targets: Tensor) -> Tensor:
        seen.append(tuple(inputs[0].flatten().tolist()))
        return inner(inputs, targets)

    updates, timed = timed_and_checked(case, note)
    blocks = timed.facts["blocks"]
    begun = [tuple(weights["0.weight"].flatten().tolist()) for weights in updates.loaded[:blocks]]
    assert len(set(begun)) == blocks
    assert len(set(seen)) > blocks  # those of pilot and warm-up are the trial's own
    factors = [a / b for a, b in zip(begun[0], begun[1], strict=True)]
    assert len({round(factor, 5) for factor in factors}) > 5
    assert all((1 - VARIED_WEIGHTS) ** 2 < factor < (1 + VARIED_WEIGHTS) / (1 - VARIED_WEIGHTS) for factor in factors)


def test_the_parent_is_told_right_before_and_right_after_each_block(case: Case) -> None:
    log: list[str] = []

    def clock() -> int:
        log.append("clock")
        return monotonic_ns()

    def note(inner: Updates, inputs: Tensor, targets: Tensor) -> Tensor:
        log.append("block")
        return inner(inputs, targets)

    _, timed = timed_and_checked(case, note, announce=lambda at, _taken_ns: log.append(at), clock=clock)
    blocks = timed.facts["blocks"]
    assert log.count("begin") == log.count("end") == blocks
    for at in (index for index, word in enumerate(log) if word == "begin"):
        assert log[at : at + 5] == ["begin", "clock", "block", "clock", "end"]


def test_losses_in_memory_that_is_used_again_are_taken_in_time(case: Case) -> None:
    memory = torch.empty(100_000)

    def reuse(inner: Updates, inputs: Tensor, targets: Tensor) -> Tensor:
        losses = memory[: len(inputs)]
        losses.copy_(inner(inputs, targets))
        return losses

    timed_and_checked(case, reuse)


def test_parameters_may_be_nn_parameters(case: Case) -> None:
    class Parameters(WhileTimed):
        def parameters(self) -> dict[str, Tensor]:
            return {name: nn.Parameter(value) for name, value in super().parameters().items()}

    problem, trial, inner = case
    updates = Parameters(inner, honest)
    check_timed(problem, updates, time_updates(problem, updates, trial, timer()))


def test_a_block_has_no_more_updates_than_the_trial_has_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    problem, trial, inner = case_of(10)
    monkeypatch.setattr("harness.training.trial.MAX_BATCH_BYTES", 5 * 10 * 8)
    updates = WhileTimed(inner, honest)
    # Blocks that should be longer, so that a stall while loading is no large share of them.
    facts = time_updates(problem, updates, trial, timer(rule=replace(RULE, block_ns=200 * MS))).facts
    assert facts["block_steps"] == max(updates.calls) == 5


def test_disturbances_are_counted_by_kind(case: Case) -> None:
    words = iter(["stolen", "preempted", "preempted"])

    class Loud(Quiet):
        def evidence(self, cpus: Any, threads: int) -> Any:
            return SimpleNamespace(begin=lambda: None, end=lambda _taken_ns: "", afterwards=lambda: next(words, ""))

    _, timed = timed_and_checked(case, honest, device=Loud(), rule=replace(RULE, patience=50))
    facts = timed.facts
    assert facts["blocks_disturbed"] == 3
    assert facts["disturbances"] == {"preempted": 2, "stolen": 1}
    assert facts["counted"] == list(range(3, facts["blocks"]))


# Several members


def of_members(several: Several) -> None:
    problem, trial, _ = case_of(10)
    one = OneOfMany(several.prepare(problem, 20), MEMBERS)
    everyone, start = all_members(one, trial)
    rule = replace(RULE, block_ns=50 * MS, budget_ns=MS)
    timing = timer(clock=lambda: MS * MEMBERS * sum(several.calls), rule=rule, members=MEMBERS)
    timed = time_updates(problem, everyone, start, timing)
    singles = time_latency(everyone, start, timing)
    facts = timed.facts
    assert facts["step_ns"] == facts["step_min_ns"] == MS
    assert facts["step_ns"] == quantile_of(facts["blocks_ns"], QUANTILE) / facts["block_steps"]
    assert several.calls.count(facts["block_steps"] / MEMBERS) >= facts["blocks"]
    assert singles.latency_ns == MS * MEMBERS
    assert 0 <= check_timed(problem, one, timed) <= 1
    check_singles(problem, one, singles)


def test_a_step_is_one_members_update_and_the_latency_that_of_all() -> None:
    of_members(Several())


@pytest.mark.parametrize("in_blocks", [True, False], ids=["in blocks", "in single updates"])
def test_members_that_are_not_trained_while_timed_are_found(*, in_blocks: bool) -> None:
    class TrainsEverySecond(Several):
        def trains(self, member: int) -> bool:
            timed = called_by("block" if in_blocks else "time_latency")
            return member % 2 == 0 or not timed

    with pytest.raises(CaseEnded, match="while timed, the loss of update") as ended:
        of_members(TrainsEverySecond())
    assert ended.value.outcome is Outcome.REJECTED


# Work outside the clock


@pytest.mark.parametrize(
    ("update_ns", "load_ns", "rejected"),
    [
        (40_000, 9 * MS, False),  # blocks of 20 ms
        (40_000, 11 * MS, True),
        (400, 4 * MS, False),  # of 0.2 ms, as there are no more updates: held against 10 ms
        (400, 6 * MS, True),
    ],
)
def test_loading_takes_at_most_half_the_time_of_training_or_a_quarter_of_what_blocks_should_take(
    update_ns: int, load_ns: int, *, rejected: bool
) -> None:
    class Loads(WhileTimed):
        now = 0

        def load(self, parameters: Mapping[str, Tensor]) -> None:
            self.now += load_ns
            super().load(parameters)

        def __call__(self, inputs: Tensor, targets: Tensor) -> Tensor:
            self.now += update_ns * len(inputs)
            return super().__call__(inputs, targets)

    problem, trial, inner = case_of(10)
    updates = Loads(inner, honest)
    rule = replace(RULE, block_ns=20 * MS, max_steps=500, warm_up_ns=1)
    timing = timer(clock=lambda: updates.now, rule=rule)
    if not rejected:
        assert time_updates(problem, updates, trial, timing).facts["block_steps"] == 500
        return
    with pytest.raises(CaseEnded, match=r"while timed, loading weights takes [0-9]+% of the time of training") as ended:
        time_updates(problem, updates, trial, timing)
    assert ended.value.outcome is Outcome.REJECTED


@pytest.mark.parametrize(("every", "rejected"), [(8, False), (4, True), (2, True)])
def test_a_load_that_stalls_now_and_then_is_no_training_and_one_that_trains_in_every_fourth_is(
    every: int, *, rejected: bool
) -> None:
    class Stalls(WhileTimed):
        now = loads = 0

        def load(self, parameters: Mapping[str, Tensor]) -> None:
            self.loads += 1
            self.now += 200 * MS if self.loads % every == 0 else 10_000
            super().load(parameters)

        def __call__(self, inputs: Tensor, targets: Tensor) -> Tensor:
            self.now += 40_000 * len(inputs)
            return super().__call__(inputs, targets)

    problem, trial, inner = case_of(10)
    updates = Stalls(inner, honest)
    rule = replace(RULE, block_ns=20 * MS, max_steps=500, warm_up_ns=1, min_blocks=32, budget_ns=700 * MS)
    timing = timer(clock=lambda: updates.now, rule=rule)
    if not rejected:
        assert time_updates(problem, updates, trial, timing).facts["blocks"] >= 32
        return
    with pytest.raises(CaseEnded, match="to load is to copy"):
        time_updates(problem, updates, trial, timing)


def cores_busy(patch: pytest.MonkeyPatch, by_process: float, by_thread: float, by_others: float = 0.0) -> None:
    """Let the system say that so many cores were kept busy."""
    wall = time.monotonic_ns
    now = SimpleNamespace(
        monotonic_ns=wall,
        process_time_ns=lambda: int(by_process * wall()),
        thread_time_ns=lambda: int(by_thread * wall()),
    )
    patch.setattr(busy, "time", now)
    patch.setattr(busy, "_descendants_ns", lambda: int(by_others * wall()))


@pytest.mark.parametrize(
    ("threads", "busy", "said"),
    [
        (1, (1.0, 1.0, 0.0), None),
        (1, (1.0, 0.97, 0.0), None),
        (1, (1.3, 1.0, 0.0), "keeps 1.3 cores busy and the case has 1 thread"),
        (1, (1.0, 0.9, 0.0), "10% of a core is used by other threads"),
        (1, (1.0, 1.0, 0.1), "10% of a core is used by other threads"),
        (1, (1.0, 1.0, 1.0), "keeps 2.0 cores busy"),
        (2, (2.2, 1.1, 0.0), None),
        (2, (2.0, 1.0, 1.0), "keeps 3.0 cores busy and the case has 2 thread"),
    ],
)
def test_an_engine_that_keeps_more_cores_busy_than_it_has_threads_is_rejected(
    monkeypatch: pytest.MonkeyPatch, threads: int, busy: tuple[float, float, float], said: str | None
) -> None:
    case = case_of(100)
    cores_busy(monkeypatch, *busy)
    if said is None:
        timed_and_checked(case, honest, threads=threads)
        return
    with pytest.raises(CaseEnded, match=said) as ended:
        timed_and_checked(case, honest, threads=threads)
    assert ended.value.outcome is Outcome.REJECTED


def test_a_gpus_host_may_keep_as_many_cores_busy_as_it_likes(monkeypatch: pytest.MonkeyPatch) -> None:
    _, trial, updates = case_of(100)
    cores_busy(monkeypatch, 9.0, 1.0)
    on_gpu: Any = SimpleNamespace(device=torch.device("cuda"))
    assert time_updates(on_gpu, updates, trial, timer()).facts["step_ns"] > 0


class LazyTensor(Tensor):
    """Does the work when somebody looks."""


def test_losses_that_are_no_plain_tensor_are_rejected(case: Case) -> None:
    def lazy(inner: Updates, inputs: Tensor, targets: Tensor) -> Tensor:
        return inner(inputs, targets).as_subclass(LazyTensor)

    with pytest.raises(CaseEnded, match="returns a LazyTensor, not a plain tensor") as ended:
        timed_and_checked(case, lazy)
    assert ended.value.outcome is Outcome.REJECTED


def test_weights_that_are_no_plain_tensors_are_rejected(case: Case) -> None:
    class Lazy(WhileTimed):
        def parameters(self) -> dict[str, Tensor]:
            return {name: value.as_subclass(LazyTensor) for name, value in super().parameters().items()}

    problem, trial, inner = case
    with pytest.raises(CaseEnded, match="LazyTensor"):
        time_updates(problem, Lazy(inner, honest), trial, timer())


def test_weights_are_asked_for_within_the_block_so_that_no_update_can_be_put_off(case: Case) -> None:
    asked_ns = 3 * MS

    class PutsOff(WhileTimed):
        pending = False

        def __call__(self, inputs: Tensor, targets: Tensor) -> Tensor:
            self.pending = True
            return super().__call__(inputs, targets)

        def parameters(self) -> dict[str, Tensor]:
            end = monotonic_ns() + asked_ns
            while self.pending and monotonic_ns() < end:
                pass
            self.pending = False
            return super().parameters()

    problem, trial, inner = case
    facts = time_updates(problem, PutsOff(inner, honest), trial, timer()).facts
    assert min(facts["blocks_ns"]) >= asked_ns


def test_training_that_leaves_the_numbers_in_any_block_has_not_converged(case: Case) -> None:
    blocks: list[int] = []

    def once(inner: Updates, inputs: Tensor, targets: Tensor) -> Tensor:
        losses = inner(inputs, targets).clone()
        blocks.append(len(inputs))
        if len(blocks) % 7 == 0:
            losses[-1] = torch.nan
        return losses

    problem, trial, inner = case
    updates = WhileTimed(inner, once)
    timed = time_updates(problem, updates, trial, timer())
    assert not timed.finite
    timed = replace(timed, checked=[])  # however chance has chosen
    with pytest.raises(CaseEnded, match="leaves the finite numbers while timed") as ended:
        check_timed(problem, updates, timed)
    assert ended.value.outcome is Outcome.NOT_CONVERGED


def remembered(kept: dict[int, Tensor]) -> Train:
    def cheat(inner: Updates, inputs: Tensor, targets: Tensor) -> Tensor:
        if len(inputs) not in kept:
            kept[len(inputs)] = inner(inputs, targets).clone()
        return kept[len(inputs)]

    return cheat


def every_second(inner: Updates, inputs: Tensor, targets: Tensor) -> Tensor:
    return inner(inputs[::2], targets[::2]).repeat_interleave(2)[: len(inputs)]


def honest_for_five(inner: Updates, inputs: Tensor, targets: Tensor) -> Tensor:
    losses = torch.full((len(inputs),), 0.01)
    losses[:5] = inner(inputs[:5], targets[:5])
    return losses


def losses_alone(inner: Updates, inputs: Tensor, targets: Tensor) -> Tensor:
    before = {name: value.clone() for name, value in inner.parameters().items()}
    losses = inner(inputs, targets).clone()
    inner.load(before)
    return losses


def inputs_of_before(seen: list[Tensor]) -> Train:
    """Takes the inputs for the same as long as their address and their shape are."""

    def cheat(inner: Updates, inputs: Tensor, targets: Tensor) -> Tensor:
        if not seen or len(seen[0]) != len(inputs):
            seen[:] = [inputs.clone()]
        return inner(seen[0], targets)

    return cheat


@pytest.mark.parametrize("cheat", [every_second, honest_for_five, losses_alone, remembered({}), inputs_of_before([])])
def test_an_engine_that_cheats_only_while_timed_is_rejected(cheat: Train) -> None:
    with pytest.raises(CaseEnded, match="while timed") as ended:
        timed_and_checked(case_of(10), cheat)
    assert ended.value.outcome is Outcome.REJECTED


def test_an_engine_that_cheats_in_a_few_blocks_is_caught_because_these_are_the_fastest() -> None:
    now, calls = 0, 0

    def sometimes(inner: Updates, inputs: Tensor, targets: Tensor) -> Tensor:
        nonlocal now, calls
        calls += 1
        cheats = calls % 9 == 0
        now += 20_000 * len(inputs) // (2 if cheats else 1)
        return every_second(inner, inputs, targets) if cheats else inner(inputs, targets)

    problem, trial, inner = case_of(10)
    updates = WhileTimed(inner, sometimes)
    rule = replace(RULE, min_blocks=30)
    timed = time_updates(problem, updates, trial, timer(clock=lambda: now, rule=rule))
    fastest = sorted(timed.checked, key=lambda each: each.taken_ns)[:FASTEST]
    with pytest.raises(CaseEnded, match="while timed"):
        check_timed(problem, updates, replace(timed, checked=fastest))


def test_an_engine_that_is_wrong_after_it_was_timed_is_a_wrong_gradient(case: Case) -> None:
    problem, trial, inner = case
    updates = WhileTimed(inner, honest)
    timed = time_updates(problem, updates, trial, timer())
    wrong = WhileTimed(inner, honest)
    wrong.inner = _Twice(inner)
    with pytest.raises(CaseEnded) as ended:
        check_timed(problem, wrong, timed)
    assert ended.value.outcome is Outcome.WRONG_GRADIENT


class _Twice:
    def __init__(self, inner: Updates) -> None:
        self.inner = inner

    def load(self, parameters: Mapping[str, Tensor]) -> None:
        self.inner.load(parameters)

    def __call__(self, inputs: Tensor, targets: Tensor) -> Tensor:
        self.inner(inputs, targets)
        return self.inner(inputs, targets)

    def parameters(self) -> dict[str, Tensor]:
        return self.inner.parameters()


# Latency


class Machine:
    """A device that has done its work only when it is waited for, a clock that it moves on, and an engine on it."""

    def __init__(self, call_ns: int, device_ns: int, vary: Callable[[], int] = lambda: 0) -> None:
        self.now, self.call_ns, self.device_ns, self.pending, self.vary = 0, call_ns, device_ns, 0, vary
        self.calls: list[int] = []
        self.weights: dict[str, Tensor] = {}

    def clock(self) -> int:
        return self.now

    def synchronize(self) -> None:
        self.now += self.pending
        self.pending = 0

    def load(self, parameters: Mapping[str, Tensor]) -> None:
        self.calls.append(0)
        self.weights = {name: value.clone() for name, value in parameters.items()}

    def parameters(self) -> dict[str, Tensor]:
        return self.weights

    def __call__(self, inputs: Tensor, targets: Tensor) -> Tensor:
        self.calls.append(len(inputs))
        self.now += self.call_ns + self.vary()
        self.pending += self.device_ns
        return torch.zeros(len(inputs))

    def latency(self) -> float:
        device: Any = self
        return time_latency(self, case_of(100)[1], timer(clock=self.clock, device=device)).latency_ns


def test_the_latency_of_an_update_lasts_until_the_device_has_done_it() -> None:
    machine = Machine(call_ns=20_000, device_ns=300_000)
    assert machine.latency() == 320_000
    assert machine.calls == [0] + [1] * LATENCY_CALLS  # loaded once, then single updates


def test_latency_is_the_same_quantile_as_the_step_time() -> None:
    times = random.Random(3)
    machine = Machine(call_ns=20_000, device_ns=0, vary=lambda: times.randrange(100_000))
    assert machine.latency() == pytest.approx(20_000 + 25_000, rel=0.2)


def test_slow_updates_are_timed_fewer_times() -> None:
    machine = Machine(call_ns=30 * MS, device_ns=0)
    machine.latency()
    assert len(machine.calls) == 1 + 7


def test_a_real_update_takes_about_as_long_as_its_latency() -> None:
    problem, trial, updates = case_of(100)
    latency_ns = time_latency(updates, trial, timer()).latency_ns
    step_ns = time_updates(problem, updates, trial, timer()).facts["step_ns"]
    assert step_ns / 3 < latency_ns < 30 * step_ns
