"""Times an engine's updates in blocks and checks that the timed blocks did the work."""

import functools
from bisect import insort
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from harness.measuring import probes, seal
from harness.measuring.blocks import BY_CHANCE, Chosen, Kept, VariedBatches
from harness.measuring.busy import Busy
from harness.measuring.clocks import Clock
from harness.measuring.device import Device
from harness.measuring.peers import ALONE, Peers
from harness.measuring.sampling import QUANTILE, Rule, Samples, block_steps, quantile_of, sample
from harness.plan.outcome import CaseEnded, Outcome
from harness.training import ranks
from harness.training.contract import UNROLLED, Problem, Updates
from harness.training.gate import TimedBlock, check_block, check_loaded, check_updates, copied, load
from harness.training.members import looked_at
from harness.training.trial import Trial, varied

# To load weights is to copy them, a fraction of one update: more than this share of the training is training.
LOADING_SHARE = 0.5
# So many blocks say how long it takes to load, without the slowest of so many: a core that was away for a moment is no
# training, and who trains while loading must do so in many blocks to look fast.
FEW_BLOCKS = 8

# Loading, checking and the seal push an engine's code and data out of the caches: this share of a block is run untimed
# before each, with weights and inputs of the block before, so that a block's first updates cost what its last do.
WARMING_SHARE = 0.03

# Updates that are timed one by one.
LATENCY_CALLS = 200
LATENCY_NS = 200_000_000


@dataclass(frozen=True)
class TimedUpdates:
    """The blocks of one process and what is needed to check them.

    batches: of every block. checked: blocks to be held against the reference. finite: whether all losses of all blocks
    are. facts: what goes into the record.
    """

    batches: VariedBatches
    checked: list[Kept]
    finite: bool
    facts: dict[str, Any]


@dataclass(frozen=True)
class Singles:
    """Updates that were timed one by one, as one block.

    latency_ns: the 25 % quantile of their times. inputs, targets: what each was given, [1, batch, …].
    """

    latency_ns: float
    inputs: Tensor
    targets: Tensor
    block: TimedBlock


def _tell_nobody(_at: str, _taken_ns: int) -> None:
    pass


@dataclass(frozen=True)
class Timer:
    """How one process times: by which clock and rule, on which device and CPUs, telling whom.

    announce(at, taken_ns) is called with `begin` right before and `end` right after each block. peers: who trains with
    it. members: models that a call trains; the update of each counts.
    """

    clock: Clock
    rule: Rule
    device: Device
    cpus: tuple[int, ...] = ()
    threads: int = 1
    announce: Callable[[str, int], None] = _tell_nobody
    peers: Peers = ALONE
    members: int = 1


def time_updates(problem: Problem, updates: Updates, trial: Trial, timer: Timer) -> TimedUpdates:
    """Size blocks by a pilot, warm up, and time them; raises CaseEnded (rejected) for work outside the clock.

    Every block begins with weights and inputs that no other block had – the trial's, each number varied by chance – so
    that no block's work can be known beforehand, and none begins where training has come to rest.
    """
    rule, device, peers = timer.rule, timer.device, timer.peers
    clock = peers.clock(timer.clock)

    made = functools.cache(trial.batches)

    def pilot(steps: int) -> None:
        updates(*made(steps))
        device.synchronize()

    steps = block_steps(pilot, clock, rule, min(rule.max_steps, trial.max_steps() or rule.max_steps))
    # An engine that unrolls makes the rest one by one, which takes longer: not by chance more of it in one process.
    if steps > UNROLLED:
        steps -= steps % UNROLLED
    made.cache_clear()
    batches = VariedBatches.of(trial, steps)
    start = clock()
    while clock() - start < rule.warm_up_ns:
        updates(batches.inputs, batches.targets)
        device.synchronize()
    warming = int(steps * WARMING_SHARE)

    def warm() -> None:
        if warming:
            updates(batches.inputs[:warming], batches.targets[:warming])
            updates.parameters()
        device.synchronize()

    warm()
    # Not by torch's or Python's generator: an engine may seed those.
    chance = ranks.chance()
    chosen = Chosen(chance)
    begun: dict[str, Tensor] = {}
    seed = 0
    loads_ns: list[int] = []  # the shortest first
    training_ns = 0
    given = losses = torch.empty(0)
    ended: dict[str, Tensor] = {}
    finite: list[Tensor] = []

    def before(_index: int) -> None:
        nonlocal begun, seed
        begun = varied(trial.parameters, chance.getrandbits(63))
        warm()
        start = timer.clock()
        updates.load(begun)
        loaded = updates.parameters()
        device.synchronize()
        insort(loads_ns, timer.clock() - start)
        check_loaded(loaded, begun)
        seed = chance.getrandbits(63)
        batches.vary(seed)
        device.synchronize()
        ranks.wait()

    def block() -> None:
        nonlocal given, losses, ended
        given = updates(batches.inputs, batches.targets)
        losses = given.detach().clone()  # what is not there yet when the clock stops is not there
        ended = updates.parameters()  # so that no update can be put off until it is asked for
        device.synchronize()

    def after(index: int, taken_ns: int) -> None:
        nonlocal training_ns
        training_ns += taken_ns
        # Against blocks that the cap on batches keeps short, a few copies are much.
        least_ns = max(training_ns, (index + 1) * rule.block_ns // 2)
        usual = loads_ns[: len(loads_ns) - len(loads_ns) // FEW_BLOCKS]
        loading_ns = sum(usual) / len(usual) * len(loads_ns)
        with ranks.together():
            if index + 1 >= FEW_BLOCKS and loading_ns > LOADING_SHARE * least_ns:
                raise CaseEnded(
                    Outcome.REJECTED,
                    f"while timed, loading weights takes {loading_ns / max(1, training_ns):.0%} of the time of "
                    "training: to load is to copy",
                )
            _check_plain(given, ended)
        if chosen.wants(taken_ns):
            timed = TimedBlock(begun, losses, copied(ended))
            chosen.keep(Kept(index, taken_ns, seed, timed))
        finite.append(losses.isfinite().all())
        # Now and then, since what was replaced can be put back.
        if index < BY_CHANCE or chance.random() < 1 / 16:
            with ranks.together():
                seal.check()

    faults = probes.minor_faults()
    busy = Busy()
    device.begin()
    evidence = peers.evidence(device, timer.cpus, timer.threads)
    samples = sample(block, steps, timer.clock, rule, evidence, before, after, timer.announce, peers.agreed)
    with ranks.together():
        seal.check()
        if problem.device.type == "cpu":
            busy.check(peers.threads(timer.threads))
    samples.steps *= timer.members
    count = samples.steps * len(samples.blocks_ns)
    facts = _facts(samples) | device.end() | {"minor_faults_per_step": (probes.minor_faults() - faults) / count}
    return TimedUpdates(batches, chosen.all(), all(bool(value) for value in finite), facts)


def time_latency(updates: Updates, trial: Trial, timer: Timer) -> Singles:
    """Time single updates, each from its call until the device has done it."""
    batches = VariedBatches.of(trial, 1)
    chance = ranks.chance()
    batches.vary(chance.getrandbits(63))
    start = varied(trial.parameters, chance.getrandbits(63))
    load(updates, start)
    taken: list[int] = []
    losses: list[Tensor] = []
    while len(taken) < LATENCY_CALLS and sum(taken) < LATENCY_NS:
        timer.device.synchronize()
        ranks.wait()
        began = timer.clock()
        loss = updates(batches.inputs, batches.targets)
        timer.device.synchronize()
        taken.append(timer.peers.agreed(timer.clock() - began, "")[0])
        losses.append(loss.detach().clone())
    ended = updates.parameters()
    _check_plain(loss, ended)
    block = TimedBlock(start, torch.cat(losses), copied(ended))
    return Singles(quantile_of(taken, QUANTILE), batches.inputs, batches.targets, block)


def check_timed(problem: Problem, updates: Updates, timed: TimedUpdates) -> float:
    """Check what was timed and one update more, from the final weights; raises CaseEnded.

    Returns the share of its limit that the error of that update has.
    """
    batches = timed.batches
    share = check_updates(problem, updates, batches.inputs[:1], batches.targets[:1])
    for kept in timed.checked:
        batches.vary(kept.seed)
        for one, block in looked_at(updates, kept.block):
            check_block(problem, one, batches.inputs, batches.targets, block)
    with ranks.together():
        seal.check()
    if not timed.finite:
        raise CaseEnded(Outcome.NOT_CONVERGED, "training leaves the finite numbers while timed")
    return share


def check_singles(problem: Problem, updates: Updates, singles: Singles) -> None:
    """Check the updates that were timed one by one, as a block is checked; raises CaseEnded."""
    count = len(singles.block.losses)
    inputs, targets = (batch.expand(count, *batch.shape[1:]) for batch in (singles.inputs, singles.targets))
    for one, block in looked_at(updates, singles.block):
        check_block(problem, one, inputs, targets, block)


def _facts(samples: Samples) -> dict[str, Any]:
    return {
        "step_ns": samples.step_ns(),
        "step_median_ns": samples.step_ns(0.5),
        "step_min_ns": samples.step_ns(0.0),
        "block_steps": samples.steps,
        "blocks_ns": samples.blocks_ns,
        "timed_ns": sum(samples.blocks_ns),
        "blocks": len(samples.blocks_ns),
        "blocks_disturbed": sum(map(bool, samples.disturbances)),
        "counted": samples.undisturbed(),
        "disturbances": samples.disturbed_by(),
        "stop_rule": samples.stop_rule,
    }


def _check_plain(losses: Tensor, parameters: dict[str, Tensor]) -> None:
    """Only plain values: what a subclass does when somebody looks at it would be work outside the clock."""
    for kind in (type(losses), type(parameters)):
        if kind not in (Tensor, dict):
            raise CaseEnded(Outcome.REJECTED, f"while timed, it returns a {kind.__name__}, not a plain tensor or dict")
    for value in parameters.values():
        if type(value) not in (Tensor, nn.Parameter):
            raise CaseEnded(Outcome.REJECTED, f"while timed, it returns a {type(value).__name__}, not a plain tensor")
