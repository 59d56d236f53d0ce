"""Mistakes in how gradients become an update: what is kept, cleared, ordered, rounded, and how far the step goes."""

from collections.abc import Mapping

import torch
from torch import Tensor

from harness.training.mistakes.mistaken import Mistaken, MistakenUpdates, SplitLinearRule, linear
from harness.training.trial import each

_Pair = tuple[Tensor, Tensor]


class _Accumulates(SplitLinearRule):
    _kept: _Pair | None = None

    def begin(self) -> None:
        self._kept = None

    def apply(self, of_weight: Tensor, of_bias: Tensor, learning_rate: float) -> None:
        if self._kept is None:
            self._kept = torch.zeros_like(of_weight), torch.zeros_like(of_bias)
        super().apply(self._kept[0].add_(of_weight), self._kept[1].add_(of_bias), learning_rate)


class GradientsNotCleared(Mistaken):
    """Each update takes the sum of all gradients so far."""

    layer_rules = linear(_Accumulates)


class _Cleared(SplitLinearRule):
    def apply(self, of_weight: Tensor, of_bias: Tensor, learning_rate: float) -> None:
        super().apply(of_weight.zero_(), of_bias.zero_(), learning_rate)


class ClearedTooEarly(Mistaken):
    """Gradients are cleared between the backward pass and the update: nothing learns."""

    layer_rules = linear(_Cleared)


class _Late(SplitLinearRule):
    _waiting: _Pair | None = None

    def begin(self) -> None:
        self._waiting = None

    def apply(self, of_weight: Tensor, of_bias: Tensor, learning_rate: float) -> None:
        late, self._waiting = self._waiting, (of_weight.clone(), of_bias.clone())
        if late is not None:
            super().apply(*late, learning_rate)


class OneUpdateLate(Mistaken):
    """Each update takes the gradients of the one before."""

    layer_rules = linear(_Late)


class _Stale(SplitLinearRule):
    _before: Tensor | None = None

    def begin(self) -> None:
        self._before = None

    def backward(self, delta: Tensor, learning_rate: float) -> Tensor:
        now = self._inputs.clone()
        if self._before is not None:
            self._inputs = self._before
        self._before = now
        return super().backward(delta, learning_rate)


class StaleActivations(Mistaken):
    """∂L/∂W = δᵀ x with the activations of the forward pass before."""

    layer_rules = linear(_Stale)


class _Behind(MistakenUpdates):
    _before: _Pair | None = None

    def load(self, parameters: Mapping[str, Tensor]) -> None:
        super().load(parameters)
        self._before = None

    def __call__(self, inputs: Tensor, targets: Tensor) -> Tensor:
        """Return the losses of these batches; update by those before."""
        losses = inputs.new_empty(len(inputs))
        for batch, target, loss in zip(each(inputs), each(targets), losses, strict=True):
            values = batch
            for rule in self._rules:
                values = rule.forward(values)
            self._loss_rule.forward(values, target, loss)
            before = self._before or (batch, target)
            super().__call__(before[0].unsqueeze(0), before[1].unsqueeze(0))
            self._before = batch.clone(), target.clone()
        return losses


class OneMinibatchBehind(Mistaken):
    """The loss is that of this minibatch, the gradients are those of the one before."""

    updates = _Behind


class _Waits(SplitLinearRule):
    def apply(self, of_weight: Tensor, of_bias: Tensor, learning_rate: float) -> None:
        """Do nothing: the update comes when all layers have gradients."""

    @property
    def found(self) -> _Pair:
        """Gradients by weight and bias."""
        return self._weight_gradient, self._bias_gradient


class _BackToFront(MistakenUpdates):
    def __call__(self, inputs: Tensor, targets: Tensor) -> Tensor:
        """Make updates with the gradients of the last layer for the first, wherever their number allows it."""
        losses = inputs.new_empty(len(inputs))
        for step in range(len(inputs)):
            losses[step : step + 1] = super().__call__(inputs[step : step + 1], targets[step : step + 1])
            for rule, other in zip(self.linear_rules, reversed(self.linear_rules), strict=True):
                assert isinstance(rule, _Waits)
                assert isinstance(other, _Waits)
                of_weight, of_bias = rule.found
                if other.found[0].numel() == of_weight.numel():
                    of_weight = other.found[0].view_as(of_weight)
                SplitLinearRule.apply(rule, of_weight, of_bias, self._learning_rate)
        return losses


class GradientsInWrongOrder(Mistaken):
    """Found from the last layer to the first and applied from the first to the last; `reshape` hides it."""

    layer_rules = linear(_Waits)
    updates = _BackToFront


class _Squared(SplitLinearRule):
    def apply(self, of_weight: Tensor, of_bias: Tensor, learning_rate: float) -> None:
        super().apply(of_weight, of_bias, learning_rate**2)


class LearningRateTwice(Mistaken):
    """The step is the square of the learning rate times the gradient."""

    layer_rules = linear(_Squared)


class _One(SplitLinearRule):
    def apply(self, of_weight: Tensor, of_bias: Tensor, learning_rate: float) -> None:  # noqa: ARG002
        super().apply(of_weight, of_bias, 1.0)


class LearningRateForgotten(Mistaken):
    """The step is the gradient itself."""

    layer_rules = linear(_One)


class _Bfloat16(SplitLinearRule):
    def backward(self, delta: Tensor, learning_rate: float) -> Tensor:
        return super().backward(delta.bfloat16().to(delta.dtype), learning_rate)


class GradientInLowPrecision(Mistaken):
    """δ is rounded to bfloat16 on its way."""

    layer_rules = linear(_Bfloat16)


class _HalfInputs(SplitLinearRule):
    def forward(self, inputs: Tensor) -> Tensor:
        return super().forward(inputs.to(torch.float16).to(inputs.dtype))


class ForwardInHalfPrecision(Mistaken):
    """The activations that gradients are taken of are rounded to float16."""

    layer_rules = linear(_HalfInputs)
