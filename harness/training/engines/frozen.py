"""The engine `manual` as it was when this file was written, for plain networks, in one file; it is never changed.

A stored time of it differs from the next one only by the machine, so it tells a slower machine from a slower commit.
Therefore nothing of the program is imported here – it may change –, and a test holds the very bytes of this file.
"""

import itertools
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn


class Frozen:
    """Gradients derived by hand for an `nn.Sequential` of `nn.Linear` and `nn.ReLU` with mean squared error."""

    def unsupported(self, problem: Any, case: Any) -> str | None:  # noqa: ARG002
        """Name the first part of the problem that it was not written for."""
        model, loss = problem.template, problem.loss
        if type(model) is not nn.Sequential or not len(model) or type(model[0]) is not nn.Linear:
            return "the frozen engine trains an nn.Sequential that begins with nn.Linear, and nothing else"
        for name, layer in model.named_children():
            if not (type(layer) is nn.ReLU or (type(layer) is nn.Linear and layer.bias is not None)):
                return f"the frozen engine knows nn.Linear with a bias and nn.ReLU, not {type(layer).__name__} ({name})"
        if type(loss) is not nn.MSELoss or loss.reduction != "mean":
            return "the frozen engine knows the mean nn.MSELoss and no other loss"
        return None

    def prepare(self, problem: Any, steps: int) -> "FrozenUpdates":  # noqa: ARG002
        """Allocate every activation and gradient once."""
        return FrozenUpdates(problem.model(), problem.batch_size, problem.learning_rate)


class FrozenUpdates:
    """SGD updates in place; each layer changes its own weights as soon as the gradient by its inputs is known."""

    def __init__(self, model: nn.Sequential, batch_size: int, learning_rate: float) -> None:
        self._model = model.requires_grad_(requires_grad=False)
        self._learning_rate = learning_rate
        weight: Tensor = next(model.parameters())
        values = weight.new_zeros(batch_size, weight.shape[1])
        self._layers: list[_Linear | _ReLU] = []
        for layer in model:
            outputs = layer(values)
            if isinstance(layer, nn.Linear):
                self._layers.append(_Linear(layer, outputs, values, first=not self._layers))
            else:
                self._layers.append(_ReLU(outputs))
            values = outputs
        self._loss = _MSE(values)

    def load(self, parameters: Mapping[str, Tensor]) -> None:
        """Copy the weights into the memory that the layers already have."""
        with torch.no_grad():
            for name, parameter in self._model.named_parameters():
                parameter.copy_(parameters[name])

    def parameters(self) -> dict[str, Tensor]:
        """Return the weights by name."""
        return {name: value.detach() for name, value in self._model.named_parameters()}

    def __call__(self, inputs: Tensor, targets: Tensor) -> Tensor:
        """Make one update per batch; inputs [steps, batch, features], returns losses [steps]."""
        losses = inputs.new_empty(len(inputs))
        learning_rate = self._learning_rate
        backward = self._layers[::-1]
        for batch, target, loss in zip(_each(inputs), _each(targets), losses, strict=True):
            values = batch
            for layer in self._layers:
                values = layer.forward(values)
            delta = self._loss.forward(values, target, loss)
            for layer in backward:
                delta = layer.backward(delta, learning_rate)
        return losses


class _Linear:
    """y = x Wᵀ + b, hence ∂L/∂W = δᵀ x, ∂L/∂b = Σₙ δₙ, ∂L/∂x = δ W (before W is updated)."""

    def __init__(self, layer: nn.Linear, outputs: Tensor, inputs: Tensor, *, first: bool) -> None:
        self._weight = layer.weight.detach()
        self._bias = layer.bias.detach()
        self._weight_t = self._weight.t()
        self._inputs = inputs
        self._outputs = torch.empty_like(outputs)
        self._weight_gradient = torch.empty_like(self._weight)
        self._bias_gradient = torch.empty_like(outputs[0])
        self._gradient = None if first else torch.empty_like(inputs)

    def forward(self, inputs: Tensor) -> Tensor:
        self._inputs = inputs
        return torch.addmm(self._bias, inputs, self._weight_t, out=self._outputs)

    def backward(self, delta: Tensor, learning_rate: float) -> Tensor:
        gradient = delta if self._gradient is None else torch.mm(delta, self._weight, out=self._gradient)
        torch.mm(delta.t(), self._inputs, out=self._weight_gradient)
        self._weight.add_(self._weight_gradient, alpha=-learning_rate)
        torch.sum(delta, 0, out=self._bias_gradient)
        self._bias.add_(self._bias_gradient, alpha=-learning_rate)
        return gradient


class _ReLU:
    """y = max(x, 0), hence ∂L/∂x = δ where x > 0, else 0."""

    def __init__(self, outputs: Tensor) -> None:
        self._outputs = torch.empty_like(outputs)
        self._mask = torch.empty_like(outputs)

    def forward(self, inputs: Tensor) -> Tensor:
        return torch.clamp_min(inputs, 0, out=self._outputs)

    def backward(self, delta: Tensor, learning_rate: float) -> Tensor:  # noqa: ARG002 - has no weights
        return delta.mul_(torch.gt(self._outputs, 0, out=self._mask))


class _MSE:
    """L = Σ (y - t)² / N over all N numbers, hence ∂L/∂y = 2 (y - t) / N."""

    def __init__(self, outputs: Tensor) -> None:
        self._difference = torch.empty_like(outputs)
        self._flat = self._difference.view(-1)
        self._count = outputs.numel()

    def forward(self, outputs: Tensor, targets: Tensor, loss: Tensor) -> Tensor:
        torch.sub(outputs, targets, out=self._difference)
        torch.dot(self._flat, self._flat, out=loss).div_(self._count)
        return self._difference.mul_(2 / self._count)


def _each(batches: Tensor) -> Iterable[Tensor]:
    """Return the batches [batch, …] of [steps, batch, …]; one view is enough where they are all the same."""
    if len(batches) and batches.stride(0) == 0:
        return itertools.repeat(batches[0], len(batches))
    return batches.unbind()
