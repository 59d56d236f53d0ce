"""Backward rules derived by hand, one per layer type, forward and derivation side by side.

Every rule works in place on memory it allocates once: `forward` takes the layer's inputs and returns its outputs,
`backward` takes the gradient of the loss by its outputs, updates its own weights by plain SGD and returns the gradient
by its inputs. Shapes are [batch, features]. δ is the gradient by a layer's outputs, aᵀ a transpose. Nothing here
touches autograd.
"""

import math
from collections.abc import Mapping
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from harness.training.contract import Problem
from harness.training.layers import chain, describe


class LayerRule(Protocol):
    """Forward and backward of one layer."""

    def forward(self, inputs: Tensor) -> Tensor:
        """Return the outputs [batch, outputs], in memory of the rule's own."""
        ...

    def backward(self, delta: Tensor, learning_rate: float) -> Tensor:
        """Update the weights and return the gradient by the inputs; may overwrite `delta` [batch, outputs]."""
        ...


class LossRule(Protocol):
    """Value and gradient of a mean loss."""

    def forward(self, outputs: Tensor, targets: Tensor, loss: Tensor) -> Tensor:
        """Write the loss into `loss` (0-d) and return its gradient by the outputs [batch, outputs]."""
        ...


class LinearRule:
    """y = x Wᵀ + b, hence ∂L/∂W = δᵀ x, ∂L/∂b = Σₙ δₙ, ∂L/∂x = δ W (before W is updated)."""

    def __init__(self, layer: nn.Linear, outputs: Tensor, inputs: Tensor, *, first: bool) -> None:
        self.weight = layer.weight.detach()
        self.bias: Tensor | None = getattr(layer, "bias", None)
        self._weight_t = self.weight.t()
        self._inputs = inputs
        self._outputs = torch.empty_like(outputs)
        self._weight_gradient = torch.empty_like(self.weight)
        self._bias_gradient = torch.empty_like(outputs[0])
        # Nobody asks for the gradient by the data.
        self._gradient = None if first else torch.empty_like(inputs)

    def forward(self, inputs: Tensor) -> Tensor:
        """Return x Wᵀ + b [batch, outputs]."""
        self._inputs = inputs
        if self.bias is None:
            return torch.mm(inputs, self._weight_t, out=self._outputs)
        return torch.addmm(self.bias, inputs, self._weight_t, out=self._outputs)

    def backward(self, delta: Tensor, learning_rate: float) -> Tensor:
        """Update W and b; return δ W [batch, inputs], or δ itself for the first layer, whose inputs are data."""
        gradient = delta if self._gradient is None else torch.mm(delta, self.weight, out=self._gradient)
        # Not `weight.addmm_` or `bias.addmv_`, a call fewer each: BLAS adds the terms to the weight one by one, and at
        # batch 10 000 that has cost a thousand roundings (the gate found it).
        torch.mm(delta.t(), self._inputs, out=self._weight_gradient)
        self.weight.add_(self._weight_gradient, alpha=-learning_rate)
        if self.bias is not None:
            torch.sum(delta, 0, out=self._bias_gradient)
            self.bias.add_(self._bias_gradient, alpha=-learning_rate)
        return gradient


class ReLURule:
    """y = max(x, 0), hence ∂L/∂x = δ where x > 0, else 0 (at 0 as well, as torch has it)."""

    def __init__(self, layer: nn.ReLU, outputs: Tensor, inputs: Tensor, *, first: bool) -> None:  # noqa: ARG002
        self._outputs = torch.empty_like(outputs)
        self._mask = torch.empty_like(outputs)

    def forward(self, inputs: Tensor) -> Tensor:
        """Return max(x, 0) [batch, features]."""
        return torch.clamp_min(inputs, 0, out=self._outputs)

    def backward(self, delta: Tensor, learning_rate: float) -> Tensor:  # noqa: ARG002 - has no weights
        """Return δ where x > 0, else 0, in the memory of δ."""
        return delta.mul_(torch.gt(self._outputs, 0, out=self._mask))


class TanhRule:
    """y = tanh x, hence ∂L/∂x = δ (1 - y²)."""

    def __init__(self, layer: nn.Tanh, outputs: Tensor, inputs: Tensor, *, first: bool) -> None:  # noqa: ARG002
        self._outputs = torch.empty_like(outputs)
        self._work = torch.empty_like(outputs)

    def forward(self, inputs: Tensor) -> Tensor:
        """Return tanh x [batch, features]."""
        return torch.tanh(inputs, out=self._outputs)

    def backward(self, delta: Tensor, learning_rate: float) -> Tensor:  # noqa: ARG002 - has no weights
        """Return δ (1 - y²), in the memory of δ."""
        torch.mul(delta, self._outputs, out=self._work)
        return delta.addcmul_(self._work, self._outputs, value=-1)


class SigmoidRule:
    """y = 1 / (1 + e⁻ˣ), hence ∂L/∂x = δ y (1 - y)."""

    def __init__(self, layer: nn.Sigmoid, outputs: Tensor, inputs: Tensor, *, first: bool) -> None:  # noqa: ARG002
        self._outputs = torch.empty_like(outputs)

    def forward(self, inputs: Tensor) -> Tensor:
        """Return 1 / (1 + e⁻ˣ) [batch, features]."""
        return torch.sigmoid(inputs, out=self._outputs)

    def backward(self, delta: Tensor, learning_rate: float) -> Tensor:  # noqa: ARG002 - has no weights
        """Return δ y (1 - y), in the memory of δ."""
        delta.mul_(self._outputs)
        return delta.addcmul_(delta, self._outputs, value=-1)


class GELURule:
    """y = x Φ(x) with the normal distribution Φ, hence ∂L/∂x = δ (Φ(x) + x φ(x)), φ(x) = e^(-x²/2) / √(2π)."""

    def __init__(self, layer: nn.GELU, outputs: Tensor, inputs: Tensor, *, first: bool) -> None:  # noqa: ARG002
        self._inputs = inputs
        self._outputs = torch.empty_like(outputs)
        self._cdf = torch.empty_like(outputs)
        self._work = torch.empty_like(outputs)

    def forward(self, inputs: Tensor) -> Tensor:
        """Return x Φ(x) [batch, features]."""
        self._inputs = inputs
        torch.mul(inputs, math.sqrt(0.5), out=self._cdf)
        self._cdf.erf_().add_(1).mul_(0.5)
        return torch.mul(inputs, self._cdf, out=self._outputs)

    def backward(self, delta: Tensor, learning_rate: float) -> Tensor:  # noqa: ARG002 - has no weights
        """Return δ (Φ(x) + x φ(x)), in the memory of δ."""
        density = torch.mul(self._inputs, self._inputs, out=self._work).mul_(-0.5).exp_()
        self._cdf.addcmul_(self._inputs, density, value=1 / math.sqrt(2 * math.pi))
        return delta.mul_(self._cdf)


class MSERule:
    """L = Σ (y - t)² / N over all N numbers, hence ∂L/∂y = 2 (y - t) / N."""

    def __init__(self, outputs: Tensor) -> None:
        self._difference = torch.empty_like(outputs)
        self._flat = self._difference.view(-1)
        self._count = outputs.numel()

    def forward(self, outputs: Tensor, targets: Tensor, loss: Tensor) -> Tensor:
        """Write the mean squared error into `loss`; return 2 (y - t) / N [batch, outputs]."""
        torch.sub(outputs, targets, out=self._difference)
        torch.dot(self._flat, self._flat, out=loss).div_(self._count)
        return self._difference.mul_(2 / self._count)


class CrossEntropyRule:
    """L = mean over points of log Σₖ e^yₖ - y_t, hence ∂L/∂y = (softmax(y) - onehot(t)) / batch."""

    def __init__(self, outputs: Tensor) -> None:
        self._log_probability = torch.empty_like(outputs)
        self._batch = len(outputs)
        self._minus_one = torch.full_like(outputs[:, :1], -1)

    def forward(self, outputs: Tensor, targets: Tensor, loss: Tensor) -> Tensor:
        """Write the mean cross-entropy into `loss`; return (softmax(y) - onehot(t)) / batch [batch, classes]."""
        chosen = targets.unsqueeze(1)
        torch.log_softmax(outputs, 1, out=self._log_probability)
        loss.copy_(self._log_probability.gather(1, chosen).mean()).neg_()
        delta = self._log_probability.exp_()
        return delta.scatter_add_(1, chosen, self._minus_one).div_(self._batch)


LAYER_RULES: Mapping[type[nn.Module], Any] = {
    nn.Linear: LinearRule,
    nn.ReLU: ReLURule,
    nn.Tanh: TanhRule,
    nn.Sigmoid: SigmoidRule,
    nn.GELU: GELURule,
}
LOSS_RULES: Mapping[type[nn.Module], Any] = {nn.MSELoss: MSERule, nn.CrossEntropyLoss: CrossEntropyRule}


def has_rule(layer: nn.Module) -> bool:
    """Whether a rule for this very layer, with its settings, was derived."""
    if isinstance(layer, nn.GELU):
        return layer.approximate == "none"
    return type(layer) in LAYER_RULES


def has_loss_rule(loss: nn.Module) -> bool:
    """Whether a rule for this very loss, with its settings, was derived."""
    if isinstance(loss, nn.CrossEntropyLoss):
        plain = loss.weight is None and loss.label_smoothing == 0 and loss.ignore_index == -100
        return plain and loss.reduction == "mean"
    return isinstance(loss, nn.MSELoss) and loss.reduction == "mean"


def missing_rule(problem: Problem) -> str | None:
    """Name the first layer, or the loss, that no rule was derived for; None where there is none."""
    for name, layer in chain(problem.template):
        if not has_rule(layer):
            return f"no hand-derived rule for layer {name or 'model'}, {describe(layer)}"
    return None if has_loss_rule(problem.loss) else f"no hand-derived rule for the loss {describe(problem.loss)}"
