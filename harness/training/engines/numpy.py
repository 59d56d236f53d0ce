"""Gradients derived by hand, in numpy and in place: an update without any framework.

The derivations are those of `harness.training.rules`. The weights lie in torch's memory, which numpy shares.
"""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from harness.plan.case import Case
from harness.training.contract import Problem, Updates
from harness.training.layers import chain, describe
from harness.training.module_updates import ModuleUpdates
from harness.training.rules import has_loss_rule

Array = NDArray[Any]


class Numpy:
    """Walks the layers forward, then back, as `manual` does; each operation is a call of numpy with `out=`."""

    def unsupported(self, problem: Problem, case: Case) -> str | None:
        """Name what numpy cannot do, or the first layer or loss that has no rule here."""
        if problem.device.type != "cpu":
            return "numpy computes on the CPU only: --device cpu"
        if case.dtype not in ("float32", "float64"):
            return f"numpy trains in float32 and float64, not in {case.dtype}"
        for name, layer in chain(problem.template):
            if type(layer) not in _LAYERS:
                return f"numpy has no rule for layer {name or 'model'}, {describe(layer)}"
        if type(problem.loss) not in _LOSSES or not has_loss_rule(problem.loss):
            return f"numpy has no rule for the loss {describe(problem.loss)}"
        return None

    def prepare(self, problem: Problem, steps: int) -> Updates:  # noqa: ARG002
        """Allocate every activation and gradient once."""
        return NumpyUpdates(problem)


class NumpyUpdates(ModuleUpdates):
    """SGD updates by the rules of each layer, on the very memory of the model's parameters."""

    def __init__(self, problem: Problem) -> None:
        model = problem.model().requires_grad_(requires_grad=False)
        super().__init__(model)
        layers = [layer for _, layer in chain(model)]
        width = next(layer.in_features for layer in layers if isinstance(layer, nn.Linear))
        dtype = torch.empty(0, dtype=problem.dtype).numpy().dtype
        self._layers: list[Any] = []
        for layer in layers:
            rule = _LAYERS[type(layer)](layer, (problem.batch_size, width), dtype, first=not self._layers)
            width = rule.outputs.shape[1]
            self._layers.append(rule)
        self._backward = self._layers[::-1]
        self._loss = _LOSSES[type(problem.loss)]((problem.batch_size, width), dtype)
        self._learning_rate = problem.learning_rate

    def __call__(self, inputs: Tensor, targets: Tensor) -> Tensor:
        """Make one update per batch; inputs [steps, batch, features], returns losses [steps]."""
        losses = inputs.new_empty(len(inputs))
        written = losses.numpy()
        learning_rate = self._learning_rate
        for step, (batch, target) in enumerate(zip(inputs.numpy(), targets.numpy(), strict=True)):
            values = batch
            for layer in self._layers:
                values = layer.forward(values)
            written[step], delta = self._loss(values, target)
            for layer in self._backward:
                delta = layer.backward(delta, learning_rate)
        return losses


class _Linear:
    """y = x Wᵀ + b, hence ∂L/∂W = δᵀ x, ∂L/∂b = Σₙ δₙ, ∂L/∂x = δ W (before W is updated)."""

    def __init__(self, layer: nn.Linear, inputs: tuple[int, int], dtype: Any, *, first: bool) -> None:
        self._weight = layer.weight.numpy()
        self._bias = None if layer.bias is None else layer.bias.numpy()
        self._weight_t = self._weight.T
        self._inputs: Array = np.empty(0, dtype)
        self.outputs: Array = np.empty((inputs[0], layer.out_features), dtype)
        self._weight_gradient = np.empty(self._weight.shape, dtype)
        self._bias_gradient: Array = np.empty(layer.out_features, dtype)
        self._ones = np.ones(inputs[0], dtype)
        # Nobody asks for the gradient by the data.
        self._gradient: Array | None = None if first else np.empty(inputs, dtype)

    def forward(self, inputs: Array) -> Array:
        self._inputs = inputs
        np.dot(inputs, self._weight_t, out=self.outputs)
        if self._bias is not None:
            np.add(self.outputs, self._bias, out=self.outputs)
        return self.outputs

    def backward(self, delta: Array, learning_rate: float) -> Array:
        gradient = delta if self._gradient is None else np.dot(delta, self._weight, out=self._gradient)
        np.dot(delta.T, self._inputs, out=self._weight_gradient)
        np.multiply(self._weight_gradient, learning_rate, out=self._weight_gradient)
        np.subtract(self._weight, self._weight_gradient, out=self._weight)
        if self._bias is not None:
            # Not `np.sum(delta, 0)`, which adds row after row: four times as slow at batch 100, and less precise.
            np.dot(self._ones, delta, out=self._bias_gradient)
            np.multiply(self._bias_gradient, learning_rate, out=self._bias_gradient)
            np.subtract(self._bias, self._bias_gradient, out=self._bias)
        return gradient


class _Elementwise:
    """A layer y = f(x) without weights."""

    def __init__(self, layer: nn.Module, inputs: tuple[int, int], dtype: Any, *, first: bool) -> None:  # noqa: ARG002
        self.outputs: Array = np.empty(inputs, dtype)
        self._work: Array = np.empty(inputs, dtype)


class _ReLU(_Elementwise):
    """y = max(x, 0), hence ∂L/∂x = δ where x > 0, else 0."""

    def forward(self, inputs: Array) -> Array:
        return np.maximum(inputs, 0, out=self.outputs)

    def backward(self, delta: Array, learning_rate: float) -> Array:  # noqa: ARG002 - has no weights
        np.sign(self.outputs, out=self._work)
        return np.multiply(delta, self._work, out=delta)


class _Tanh(_Elementwise):
    """y = tanh x, hence ∂L/∂x = δ (1 - y²)."""

    def forward(self, inputs: Array) -> Array:
        return np.tanh(inputs, out=self.outputs)

    def backward(self, delta: Array, learning_rate: float) -> Array:  # noqa: ARG002 - has no weights
        np.multiply(self.outputs, self.outputs, out=self._work)
        np.subtract(1, self._work, out=self._work)
        return np.multiply(delta, self._work, out=delta)


class _Sigmoid(_Elementwise):
    """y = 1 / (1 + e⁻ˣ), hence ∂L/∂x = δ y (1 - y)."""

    def forward(self, inputs: Array) -> Array:
        np.negative(inputs, out=self.outputs)
        np.exp(self.outputs, out=self.outputs)
        np.add(self.outputs, 1, out=self.outputs)
        return np.reciprocal(self.outputs, out=self.outputs)

    def backward(self, delta: Array, learning_rate: float) -> Array:  # noqa: ARG002 - has no weights
        np.subtract(1, self.outputs, out=self._work)
        np.multiply(self._work, self.outputs, out=self._work)
        return np.multiply(delta, self._work, out=delta)


class _MSE:
    """L = Σ (y - t)² / N over all N numbers, hence ∂L/∂y = 2 (y - t) / N."""

    def __init__(self, outputs: tuple[int, int], dtype: Any) -> None:
        self._difference: Array = np.empty(outputs, dtype)
        self._flat = self._difference.ravel()
        self._count = self._difference.size

    def __call__(self, outputs: Array, targets: Array) -> tuple[Any, Array]:
        """Return the loss and its gradient by the outputs [batch, outputs]."""
        np.subtract(outputs, targets, out=self._difference)
        loss = np.dot(self._flat, self._flat) / self._count
        return loss, np.multiply(self._difference, 2 / self._count, out=self._difference)


class _CrossEntropy:
    """L = mean over points of log Σₖ e^yₖ - y_t, hence ∂L/∂y = (softmax(y) - onehot(t)) / batch."""

    def __init__(self, outputs: tuple[int, int], dtype: Any) -> None:
        self._delta: Array = np.empty(outputs, dtype)
        self._column: Array = np.empty((outputs[0], 1), dtype)
        self._points = np.arange(outputs[0])

    def __call__(self, outputs: Array, targets: Array) -> tuple[Any, Array]:
        """Return the loss and its gradient by the outputs [batch, classes]; targets [batch] are classes."""
        delta, column, chosen = self._delta, self._column, (self._points, targets)
        np.max(outputs, axis=1, keepdims=True, out=column)
        np.subtract(outputs, column, out=delta)
        wanted = delta[chosen]
        np.exp(delta, out=delta)
        np.sum(delta, axis=1, keepdims=True, out=column)
        np.divide(delta, column, out=delta)
        delta[chosen] -= 1
        np.log(column, out=column)
        loss = np.mean(np.subtract(column[:, 0], wanted, out=wanted))
        return loss, np.divide(delta, len(delta), out=delta)


_LAYERS: Mapping[type[nn.Module], Callable[..., Any]] = {
    nn.Linear: _Linear,
    nn.ReLU: _ReLU,
    nn.Tanh: _Tanh,
    nn.Sigmoid: _Sigmoid,
}
_LOSSES: Mapping[type[nn.Module], Callable[..., Any]] = {nn.MSELoss: _MSE, nn.CrossEntropyLoss: _CrossEntropy}
