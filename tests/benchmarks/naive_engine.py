"""Gradients by hand, out of place, as an engine of one's own: what `plain_loop.py naive` does without the program."""

from collections.abc import Mapping

import torch
from torch import Tensor

from harness.plan.case import Case
from harness.training.contract import Problem
from harness.training.module_updates import ModuleUpdates
from harness.training.trial import each


class Naive:
    """For a network of two hidden layers with ReLU and mean squared error."""

    def unsupported(self, problem: Problem, case: Case) -> str | None:
        return None if case.workload == "line_deep" else "is written for the workload line_deep"

    def prepare(self, problem: Problem, steps: int) -> "NaiveUpdates":
        return NaiveUpdates(problem)


class NaiveUpdates(ModuleUpdates):
    def __init__(self, problem: Problem) -> None:
        super().__init__(problem.model())
        self._weights: Mapping[str, Tensor] = super().parameters()
        self._learning_rate = problem.learning_rate

    def __call__(self, inputs: Tensor, targets: Tensor) -> Tensor:
        w1, b1, w2, b2, w3, b3 = self._weights.values()
        learning_rate = self._learning_rate
        losses = []
        for x, y in zip(each(inputs), each(targets), strict=True):
            first = (x @ w1.t() + b1).clamp_min(0)
            second = (first @ w2.t() + b2).clamp_min(0)
            difference = second @ w3.t() + b3 - y
            losses.append((difference * difference).mean())
            delta3 = difference * (2 / difference.numel())
            delta2 = delta3 @ w3 * (second > 0)
            delta1 = delta2 @ w2 * (first > 0)
            w3.sub_(delta3.t() @ second, alpha=learning_rate)
            b3.sub_(delta3.sum(0), alpha=learning_rate)
            w2.sub_(delta2.t() @ first, alpha=learning_rate)
            b2.sub_(delta2.sum(0), alpha=learning_rate)
            w1.sub_(delta1.t() @ x, alpha=learning_rate)
            b1.sub_(delta1.sum(0), alpha=learning_rate)
        return torch.stack(losses)
