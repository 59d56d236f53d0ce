"""What mistakes are made of: the manual engine, taken apart so that each changes one thing of it."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from harness.training.engines.manual import Manual, ManualUpdates
from harness.training.rules import LAYER_RULES, LOSS_RULES, LayerRule, LinearRule, LossRule


class SplitLinearRule(LinearRule):
    """`LinearRule` with a method for each part of its derivation; unchanged, it makes the very same updates."""

    def backward(self, delta: Tensor, learning_rate: float) -> Tensor:
        """Update W and b; return the gradient by the inputs."""
        gradient = self.passed_on(delta)
        self.apply(self.of_weight(delta), self.of_bias(delta), learning_rate)
        return gradient

    def passed_on(self, delta: Tensor) -> Tensor:
        """Return δ W [batch, inputs], or δ itself for the first layer."""
        return delta if self._gradient is None else torch.mm(delta, self.weight, out=self._gradient)

    def of_weight(self, delta: Tensor) -> Tensor:
        """Return δᵀ x, the gradient by W."""
        return torch.mm(delta.t(), self._inputs, out=self._weight_gradient)

    def of_bias(self, delta: Tensor) -> Tensor:
        """Return Σₙ δₙ, the gradient by b."""
        return torch.sum(delta, 0, out=self._bias_gradient)

    def apply(self, of_weight: Tensor, of_bias: Tensor, learning_rate: float) -> None:
        """Make the update of plain SGD."""
        self.weight.add_(of_weight, alpha=-learning_rate)
        if self.bias is not None:
            self.bias.add_(of_bias, alpha=-learning_rate)

    def begin(self) -> None:
        """Forget whatever a mistake keeps from one update to the next: other weights were loaded."""


class MistakenUpdates(ManualUpdates):
    """The manual engine's updates, which begin anew with each seed."""

    def __init__(self, model: nn.Module, rules: list[LayerRule], loss_rule: LossRule, learning_rate: float) -> None:
        super().__init__(model, rules, loss_rule, learning_rate)
        self.linear_rules = [rule for rule in rules if isinstance(rule, SplitLinearRule)]

    def load(self, parameters: Mapping[str, Tensor]) -> None:
        """Copy the weights; nothing is left of the updates before."""
        super().load(parameters)
        for rule in self.linear_rules:
            rule.begin()


class Mistaken(Manual):
    """The manual engine for a mistake; without one, as here, it is right."""

    layer_rules: Mapping[type[nn.Module], Any] = {**LAYER_RULES, nn.Linear: SplitLinearRule}
    updates: type[MistakenUpdates] = MistakenUpdates

    def assembled(
        self, model: nn.Module, rules: list[LayerRule], loss_rule: LossRule, learning_rate: float
    ) -> ManualUpdates:
        """Return updates of this mistake's own kind."""
        return self.updates(model, rules, loss_rule, learning_rate)


def linear(rule: type[SplitLinearRule]) -> Mapping[type[nn.Module], Any]:
    """Return the layers' rules with another one for `nn.Linear`."""
    return {**LAYER_RULES, nn.Linear: rule}


def relu(rule: Any) -> Mapping[type[nn.Module], Any]:
    """Return the layers' rules with another one for `nn.ReLU`."""
    return {**Mistaken.layer_rules, nn.ReLU: rule}


def squared_error(rule: Any) -> Mapping[type[nn.Module], Any]:
    """Return the losses' rules with another one for `nn.MSELoss`."""
    return {**LOSS_RULES, nn.MSELoss: rule}
