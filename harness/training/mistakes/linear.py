"""Mistakes in the gradients of a linear layer: by its weights, by its bias, by its inputs."""

import torch
from torch import Tensor, nn

from harness.training.mistakes.mistaken import Mistaken, MistakenUpdates, SplitLinearRule, linear
from harness.training.rules import LayerRule, LossRule

# By the bias


class _FirstPoint(SplitLinearRule):
    def of_bias(self, delta: Tensor) -> Tensor:
        return delta[0]


class BiasFromOneSample(Mistaken):
    """∂L/∂b = δ₀, that of the first point alone."""

    layer_rules = linear(_FirstPoint)


class _NoBias(SplitLinearRule):
    def of_bias(self, delta: Tensor) -> Tensor:  # noqa: ARG002
        return self._bias_gradient.zero_()


class BiasGradientMissing(Mistaken):
    """∂L/∂b = 0: biases stay as they began."""

    layer_rules = linear(_NoBias)


class _MeanBias(SplitLinearRule):
    def of_bias(self, delta: Tensor) -> Tensor:
        return super().of_bias(delta).div_(len(delta))


class BiasAveragedAgain(Mistaken):
    """∂L/∂b is the mean of δ over the points, where δ has its 1/N already."""

    layer_rules = linear(_MeanBias)


class _SummedBias(SplitLinearRule):
    def of_bias(self, delta: Tensor) -> Tensor:
        return super().of_bias(delta).mul_(len(delta))


class MeanForgottenInTheBias(Mistaken):
    """∂L/∂b without its 1/N, which the weights have."""

    layer_rules = linear(_SummedBias)


# By the weights


class _NoInputs(SplitLinearRule):
    def of_weight(self, delta: Tensor) -> Tensor:
        return delta.sum(0).unsqueeze(1).expand_as(self.weight)


class InputsForgotten(Mistaken):
    """∂L/∂W = Σₙ δₙ: the factor x of the chain rule left out."""

    layer_rules = linear(_NoInputs)


class _InputsTransposed(SplitLinearRule):
    def of_weight(self, delta: Tensor) -> Tensor:
        rows, columns = self._inputs.shape
        return torch.mm(delta.t(), self._inputs.t()) if rows == columns else super().of_weight(delta)


class InputsTransposed(Mistaken):
    """∂L/∂W = δᵀ xᵀ, which has a shape where a batch has as many points as the layer has inputs."""

    layer_rules = linear(_InputsTransposed)


class _Below(SplitLinearRule):
    below: SplitLinearRule | None = None

    def of_weight(self, delta: Tensor) -> Tensor:
        return super().of_weight(delta) if self.below is None else torch.mm(delta.t(), self.below._outputs)


class _Linked(MistakenUpdates):
    """Tells each linear rule of the one below, whose outputs it takes for its inputs."""

    def __init__(self, model: nn.Module, rules: list[LayerRule], loss_rule: LossRule, learning_rate: float) -> None:
        super().__init__(model, rules, loss_rule, learning_rate)
        for below, rule in zip(self.linear_rules, self.linear_rules[1:], strict=False):
            assert isinstance(rule, _Below)
            rule.below = below


class PreactivationInsteadOfActivation(Mistaken):
    """∂L/∂W = δᵀ z with z from before the ReLU."""

    layer_rules = linear(_Below)
    updates = _Linked


# By the inputs, for the layer below


class _AveragedEachTime(SplitLinearRule):
    def passed_on(self, delta: Tensor) -> Tensor:
        return delta if self._gradient is None else super().passed_on(delta).div_(len(delta))


class MeanTakenAtEveryLayer(Mistaken):
    """∂L/∂x = δ W / N: right in the last layer, and smaller by another N in each below."""

    layer_rules = linear(_AveragedEachTime)


class _NoWeights(SplitLinearRule):
    def passed_on(self, delta: Tensor) -> Tensor:
        return delta if self._gradient is None else self._gradient.copy_(delta.sum(1, keepdim=True))


class WeightsForgottenOnTheWayBack(Mistaken):
    """∂L/∂x = Σ δ for each input: the factor W of the chain rule left out."""

    layer_rules = linear(_NoWeights)


class _WeightTransposed(SplitLinearRule):
    def passed_on(self, delta: Tensor) -> Tensor:
        rows, columns = self.weight.shape
        return torch.mm(delta, self.weight.t()) if rows == columns else super().passed_on(delta)


class WeightTransposed(Mistaken):
    """∂L/∂x = δ Wᵀ, which has a shape where a layer has as many inputs as outputs."""

    layer_rules = linear(_WeightTransposed)


class _Detached(SplitLinearRule):
    def passed_on(self, delta: Tensor) -> Tensor:
        return delta if self._gradient is None else self._gradient.zero_()


class HiddenLayerDetached(Mistaken):
    """∂L/∂x = 0: only the last layer learns."""

    layer_rules = linear(_Detached)


class _UpdatedFirst(SplitLinearRule):
    def backward(self, delta: Tensor, learning_rate: float) -> Tensor:
        self.apply(self.of_weight(delta), self.of_bias(delta), learning_rate)
        return self.passed_on(delta)


class UpdatedBeforeTheLayerBelow(Mistaken):
    """∂L/∂x = δ W with W after its update."""

    layer_rules = linear(_UpdatedFirst)
