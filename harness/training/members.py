"""Engines that train several models at once, their members: one of them looked at as if it were trained alone.

All members train on the same batches, each from weights of its own. Who checks or judges looks at one model: it goes
through `OneOfMany`. Who times takes the engine as it is (`all_members`), with a varied start for each member; which of
them are held against the reference is chosen when the block is over, so that none can be left out.
"""

from collections.abc import Iterator, Mapping
from dataclasses import replace

from torch import Tensor

from harness.plan.case import whole_number
from harness.plan.outcome import CaseEnded, Outcome
from harness.training import ranks
from harness.training.contract import Engine, Problem, Updates
from harness.training.gate import TimedBlock
from harness.training.trial import Trial, varied

MAX_MEMBERS = 2**16
# Members of each checked block that are held against the reference.
LOOKED_AT = 4


def members_of(engine: Engine) -> int | None:
    """Return how many models an engine trains at once, or None for one that trains a single model.

    Raises PlanError for what is no number of members.
    """
    members = getattr(engine, "members", None)
    return None if members is None else whole_number("members", members, 1, MAX_MEMBERS)


def prepared(engine: Engine, problem: Problem, steps: int) -> Updates:
    """Return an engine's updates as those of one model, whether it trains one or several."""
    updates, members = engine.prepare(problem, steps), members_of(engine)
    return updates if members is None else OneOfMany(updates, members)


class OneOfMany:
    """One member of an engine, chosen anew by chance at each load; keeps the contract of an engine of one model.

    updates: of stacks [members, …]. member: which it always is, instead of one by chance.
    """

    def __init__(self, updates: Updates, members: int, member: int | None = None) -> None:
        self.updates = updates
        self.members = members
        self._always = member
        self._member = member or 0

    def load(self, parameters: Mapping[str, Tensor]) -> None:
        """Give these weights to one member and variations of them to all others."""
        chance = ranks.chance()
        if self._always is None:
            self._member = chance.randrange(self.members)
        stacks = varied(stacked(parameters, self.members), chance.getrandbits(63))
        for name, value in parameters.items():
            stacks[name][self._member] = value
        self.updates.load(stacks)

    def __call__(self, inputs: Tensor, targets: Tensor) -> Tensor:
        """Train all members and return the losses [steps] of the one; raises CaseEnded for those of another shape."""
        losses = self.updates(inputs, targets)
        if losses.shape != (len(inputs), self.members):
            raise CaseEnded(
                Outcome.WRONG_GRADIENT,
                f"{len(inputs)} updates of {self.members} members return losses of shape {list(losses.shape)}",
            )
        return losses[:, self._member]

    def parameters(self) -> dict[str, Tensor]:
        """Return the one's weights by name; raises CaseEnded for those that are no stacks."""
        stacks = self.updates.parameters()
        for name, stack in stacks.items():
            if not stack.ndim or len(stack) != self.members:
                raise CaseEnded(
                    Outcome.WRONG_GRADIENT,
                    f"the engine's {name} is {list(stack.shape)}, and no stack of {self.members} members",
                )
        return {name: stack[self._member] for name, stack in stacks.items()}


def stacked(parameters: Mapping[str, Tensor], members: int) -> dict[str, Tensor]:
    """Return the same weights for each member, [members, …], as views."""
    return {name: value.expand(members, *value.shape) for name, value in parameters.items()}


def count(updates: Updates) -> int:
    """Return how many models a call trains."""
    return updates.members if isinstance(updates, OneOfMany) else 1


def all_members(updates: Updates, trial: Trial) -> tuple[Updates, Trial]:
    """Return what is timed: an engine's own updates, and the trial with the start of each of its members."""
    if not isinstance(updates, OneOfMany):
        return updates, trial
    return updates.updates, replace(trial, parameters=stacked(trial.parameters, updates.members))


def looked_at(updates: Updates, block: TimedBlock) -> Iterator[tuple[Updates, TimedBlock]]:
    """Yield what of a timed block is checked, with the updates that made it: some members' parts, chosen only now.

    A block of a single model is checked as it is. Raises CaseEnded (`rejected`) for losses of another shape.
    """
    if not isinstance(updates, OneOfMany):
        yield updates, block
        return
    if block.losses.shape[1:] != (updates.members,):
        raise CaseEnded(
            Outcome.REJECTED,
            f"while timed, updates of {updates.members} members return losses of shape {list(block.losses.shape)}",
        )
    for member in ranks.chance().sample(range(updates.members), min(LOOKED_AT, updates.members)):
        start, end = ({name: stack[member] for name, stack in at.items()} for at in (block.start, block.end))
        yield OneOfMany(updates.updates, updates.members, member), TimedBlock(start, block.losses[:, member], end)
