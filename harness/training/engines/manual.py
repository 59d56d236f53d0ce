"""Gradients derived by hand, layer by layer, in place; autograd is never asked."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from harness.plan.case import Case
from harness.plan.catalogue import PLAIN_DTYPES
from harness.training.contract import Problem, Updates
from harness.training.layers import chain
from harness.training.module_updates import ModuleUpdates
from harness.training.rules import LAYER_RULES, LOSS_RULES, LayerRule, LossRule, missing_rule
from harness.training.trial import each


class Manual:
    """Walks the layers forward, then back; each updates its own weights as soon as its inputs' gradient is known.

    A subclass may put other rules into `layer_rules` and `loss_rules`, by layer type.
    """

    # torch multiplies matrices in TF32, or does not, whoever asks.
    dtypes: tuple[str, ...] = (*PLAIN_DTYPES, "tf32")
    layer_rules: Mapping[type[nn.Module], Any] = LAYER_RULES
    loss_rules: Mapping[type[nn.Module], Any] = LOSS_RULES

    def unsupported(self, problem: Problem, case: Case) -> str | None:  # noqa: ARG002
        """Name the first layer or loss that no rule was derived for."""
        return missing_rule(problem)

    def prepare(self, problem: Problem, steps: int) -> Updates:  # noqa: ARG002
        """Allocate every activation and gradient once, by running the model on a batch of zeros."""
        model = problem.model().requires_grad_(requires_grad=False)
        layers = chain(model)
        first = next(layer for _, layer in layers if isinstance(layer, nn.Linear))
        values = torch.zeros(problem.batch_size, first.in_features, dtype=problem.dtype, device=problem.device)
        rules: list[LayerRule] = []
        for _, layer in layers:
            outputs = layer(values)
            rules.append(self.layer_rules[type(layer)](layer, outputs, values, first=not rules))
            values = outputs
        loss_rule = self.loss_rules[type(problem.loss)](values)
        return self.assembled(model, rules, loss_rule, problem.learning_rate)

    def assembled(
        self, model: nn.Module, rules: list[LayerRule], loss_rule: LossRule, learning_rate: float
    ) -> "ManualUpdates":
        """Return the updates by these rules; a subclass may return its own kind."""
        return ManualUpdates(model, rules, loss_rule, learning_rate)


class ManualUpdates(ModuleUpdates):
    """SGD updates by the rules of each layer. The rules hold the very memory of the model's parameters."""

    def __init__(self, model: nn.Module, rules: list[LayerRule], loss_rule: LossRule, learning_rate: float) -> None:
        super().__init__(model)
        self._rules = rules
        self._backward = list(reversed(rules))
        self._loss_rule = loss_rule
        self._learning_rate = learning_rate

    def __call__(self, inputs: Tensor, targets: Tensor) -> Tensor:
        """Make one update per batch; inputs [steps, batch, features], returns losses [steps]."""
        losses = inputs.new_empty(len(inputs))
        learning_rate = self._learning_rate
        for batch, target, loss in zip(each(inputs), each(targets), losses, strict=True):
            values = batch
            for rule in self._rules:
                values = rule.forward(values)
            delta = self._loss_rule.forward(values, target, loss)
            for rule in self._backward:
                delta = rule.backward(delta, learning_rate)
        return losses
