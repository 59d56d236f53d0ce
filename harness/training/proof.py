"""One seed of the proof: through the gate, and how far its updates are from float64."""

import importlib
import re
from dataclasses import dataclass

import torch

from harness.plan.mistakes import MISTAKES
from harness.plan.outcome import CaseEnded, Outcome
from harness.plan.proof import FINITE_DIFFERENCES, FINITE_DIFFERENCES_AT
from harness.training import loading
from harness.training.contract import Engine, Problem, Updates
from harness.training.gate import GATE_UPDATES, check_updates, copied, load
from harness.training.reference import float64_model, reference_step
from harness.training.trial import Trial

# From the second on, what is stale or was not cleared shows; later ones are too small to say how far off they are.
FIRST_UPDATES = 3

# What the gate says of a wrong update, or of all of them; see `training.gate` and `training.together`.
_FAULT = re.compile(
    r"(?:update (\d+): (loss|[\w.]+)(?:\[[^]]*\])? is|\d+ updates (together): steps are) .*: off by (\S+), limit (\S+)"
)


@dataclass(frozen=True)
class Checked:
    """How a seed went through the gate.

    caught: whether an update was wrong. update: which, counted from 1; 0 where none was. tensor: what was furthest off
    in it, a parameter, `loss`, or `together` where only all updates tell. share: that error, or else the largest of all
    updates, over its limit.
    """

    seed: int
    caught: bool
    update: int
    tensor: str
    share: float


def engine_of(name: str) -> Engine:
    """Import and make a right engine, a mistake, or finite differences."""
    target = FINITE_DIFFERENCES_AT if name == FINITE_DIFFERENCES else MISTAKES[name].target if name in MISTAKES else ""
    if not target:
        return loading.load_engine(name)
    module, _, attribute = target.partition(":")
    made: Engine = getattr(importlib.import_module(module), attribute)()
    return made


def check_seed(problem: Problem, updates: Updates, trial: Trial, seed: int) -> Checked:
    """Take the first twenty updates of a seed through the gate; raises CaseEnded where it has no answer."""
    load(updates, trial.parameters)
    try:
        share = check_updates(problem, updates, *trial.batches(GATE_UPDATES))
    except CaseEnded as ended:
        if ended.outcome is not Outcome.WRONG_GRADIENT:
            raise
        return _caught(seed, ended.reason)
    return Checked(seed, caught=False, update=0, tensor="", share=share)


def _caught(seed: int, reason: str) -> Checked:
    told = _FAULT.fullmatch(reason)
    if told is None:  # no update that is wrong, but something that is none
        raise CaseEnded(Outcome.WRONG_GRADIENT, reason)
    error, limit = float(told[4]), float(told[5])
    share = error / limit if limit else torch.inf
    return Checked(seed, caught=True, update=int(told[1] or GATE_UPDATES), tensor=told[2] or told[3], share=share)


def update_error(problem: Problem, updates: Updates, trial: Trial) -> float:
    """Return how far an update is from float64's, from the same weights, over its size: the largest of the first ones.

    Both are norms over all weights together.
    """
    load(updates, trial.parameters)
    model, worst = float64_model(problem), 0.0
    for batch, target in zip(*trial.batches(FIRST_UPDATES), strict=True):
        before = copied(updates.parameters())
        updates(batch.unsqueeze(0), target.unsqueeze(0))
        after = updates.parameters()
        _, right = reference_step(model, problem, before, batch, target)
        off = torch.cat([(after[name].double() - value).flatten() for name, value in right.items()])
        size = torch.cat([(value - before[name].double()).flatten() for name, value in right.items()])
        worst = max(worst, (off.norm() / size.norm()).item())
    return worst
