"""An engine of several members, without anything clever: for what the program asks of such engines."""

from collections.abc import Mapping

import torch
from torch import Tensor

from harness.plan.case import Case
from harness.training.contract import Problem
from harness.training.engines.manual import Manual
from harness.training.gate import copied

MEMBERS = 5


class Several:
    """Members that are trained one after the other, by hand; those in `left_out` are not."""

    members = MEMBERS

    def unsupported(self, problem: Problem, case: Case) -> str | None:
        return None

    def prepare(self, problem: Problem, steps: int) -> "Several":
        self.each = [Manual().prepare(problem, steps) for _ in range(self.members)]
        self.left_out: set[int] = set()
        self.calls: list[int] = []  # the updates of each
        return self

    def load(self, parameters: Mapping[str, Tensor]) -> None:
        self.loaded = copied(parameters)
        for member, updates in enumerate(self.each):
            updates.load({name: stack[member] for name, stack in parameters.items()})

    def __call__(self, inputs: Tensor, targets: Tensor) -> Tensor:
        self.calls.append(len(inputs))
        trained = {member: updates(inputs, targets) for member, updates in enumerate(self.each) if self.trains(member)}
        lent = next(iter(trained.values()))
        return torch.stack([trained.get(member, lent) for member in range(self.members)], 1)

    def trains(self, member: int) -> bool:
        return member not in self.left_out

    def parameters(self) -> dict[str, Tensor]:
        all_weights = [updates.parameters() for updates in self.each]
        return {name: torch.stack([weights[name] for weights in all_weights]) for name in all_weights[0]}
