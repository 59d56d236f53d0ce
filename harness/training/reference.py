"""The float64 truth: one SGD update by autograd in float64, with a bound on what rounding may do to another engine's.

The bound is elementwise: `c · eps · Σ|terms of that sum|`, plus the whole contribution of every point whose input to
a ReLU lies within rounding of its kink, because an honest engine may take either side there. The sums of absolute
terms are the update's own arithmetic with every value replaced by its magnitude: forward |x||W|ᵀ + |b|, backward
|δ||W|, gradient |δ|ᵀ|x|. See `training.tolerances` for the constants and what they were measured on.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.func import functional_call

from harness.training.contract import Problem
from harness.training.layers import chain, describe
from harness.training.rules import has_loss_rule
from harness.training.tolerances import TOLERANCES, units


@dataclass(frozen=True)
class Expected:
    """One reference update: values and, elementwise, how far an honest engine may be from them.

    loss, loss_limit: 0-d float64. parameters, limits: float64 by name, shaped as the parameters.
    """

    loss: Tensor
    loss_limit: Tensor
    parameters: dict[str, Tensor]
    limits: dict[str, Tensor]


@dataclass
class _Signal:
    """A value on its way through the network, and the magnitudes that bound its error.

    value: the value itself [batch, features].
    magnitude: Σ|terms| that made it, at least |value|.
    doubt: the part of it that hangs on a ReLU within rounding of its kink (backward only).
    """

    value: Tensor
    magnitude: Tensor
    doubt: Tensor


def unbounded(problem: Problem) -> str | None:
    """Return, in one line, what of the model or its loss this module has no error bound for, or None."""
    layers = chain(problem.template)
    for name, layer in layers:
        if type(layer) not in _FORWARD:
            return f"the gate has no error bound for layer {name or 'model'}, {describe(layer)}"
    with_weights = [layer for _, layer in layers if any(True for _ in layer.parameters())]
    if len(set(with_weights)) < len(with_weights):
        return "the gate has no error bound for a layer whose weights are used twice"
    if not all(parameter.requires_grad for parameter in problem.template.parameters()):
        return "the gate has no error bound for frozen parameters"
    if not has_loss_rule(problem.loss):
        return f"the gate has no error bound for the loss {describe(problem.loss)}"
    return None


def float64_model(problem: Problem) -> nn.Module:
    """Return the problem's model in float64, where its parameters are."""
    return problem.model().double().requires_grad_(requires_grad=False)


def reference_step(
    model: nn.Module, problem: Problem, parameters: Mapping[str, Tensor], inputs: Tensor, targets: Tensor
) -> tuple[Tensor, dict[str, Tensor]]:
    """Make one float64 SGD update from `parameters` on inputs [batch, features] and targets [batch, outputs].

    Returns the loss (0-d) before the update and the new parameters by name.
    """
    weights = {name: value.double().requires_grad_() for name, value in _detached(parameters).items()}
    loss = problem.loss(functional_call(model, weights, (_double(inputs),)), _double(targets))
    gradients = torch.autograd.grad(loss, list(weights.values()))
    new = {
        name: (weight - problem.learning_rate * gradient).detach()
        for (name, weight), gradient in zip(weights.items(), gradients, strict=True)
    }
    return loss.detach(), new


def trained_freely(
    problem: Problem, inputs: Tensor, targets: Tensor, start: Mapping[str, Tensor], *, rounding: int | None = None
) -> tuple[Tensor, dict[str, Tensor]]:
    """Train the reference from `start`, never looking at an engine; return losses [steps] and weights.

    rounding: which of many ways that rounding may go, drawn by chance: with every weight off by a rounding after each
    update – and in mixed precision by one of that, for as long as gradients are taken, which is enough for kinks too.
    Else, points within rounding of a ReLU's kink are where they are (0), above it (1), below it (2), or either by
    chance.
    """
    model, losses = float64_model(problem), []
    parameters = {name: value.double() for name, value in start.items()}
    generator = torch.Generator(inputs.device).manual_seed(rounding or 0)
    sides = _Sides(model, problem, rounding, generator) if rounding and not problem.mixed else None
    for batch, target in zip(inputs, targets, strict=True):
        seen = parameters
        if rounding is not None and problem.mixed:
            seen = _off(parameters, TOLERANCES[problem.mixed].eps, generator)
        if sides:
            sides.choose(seen, batch)
        loss, after = reference_step(model, problem, seen, batch, target)
        losses.append(loss)
        parameters = {name: value + (parameters[name] - seen[name]) for name, value in after.items()}
        if rounding is not None:
            parameters = _off(parameters, torch.finfo(problem.dtype).eps, generator)
    return torch.stack(losses), parameters


class _Sides:
    """Lets the ReLUs of a model take points within rounding of their kink for above it (1), below it (2), or draws."""

    def __init__(self, model: nn.Module, problem: Problem, rounding: int, generator: torch.Generator) -> None:
        self._layers, self._unit = chain(model), units(problem).sums
        self._drawn_from, self._generator = {1: (1, 2), 2: (0, 1)}.get(rounding, (0, 2)), generator
        self._on: dict[nn.Module, Tensor] = {}
        for _, layer in self._layers:
            if isinstance(layer, nn.ReLU):
                layer.register_forward_hook(lambda this, given, _made: given[0] * self._on[this])

    def choose(self, weights: Mapping[str, Tensor], inputs: Tensor) -> None:
        """Say on which side each is in one update with these weights on inputs [batch, features]."""
        signals = _forward(self._layers, weights, inputs)
        for (_, layer), before in zip(self._layers, signals, strict=False):
            if isinstance(layer, nn.ReLU):
                value = before.value
                drawn = torch.randint(
                    *self._drawn_from, value.shape, generator=self._generator, device=value.device, dtype=torch.bool
                )
                self._on[layer] = torch.where(_near_kink(before, self._unit), drawn, value > 0)


def _off(parameters: Mapping[str, Tensor], share: float, generator: torch.Generator) -> dict[str, Tensor]:
    """Return weights that are all off by this share, up or down by chance."""
    off = {}
    for name, value in parameters.items():
        signs = torch.randint(0, 2, value.shape, generator=generator, device=value.device)
        off[name] = value * (1 + share * (2 * signs - 1))
    return off


def expected_update(
    model: nn.Module,
    problem: Problem,
    parameters: Mapping[str, Tensor],
    inputs: Tensor,
    targets: Tensor,
) -> Expected:
    """Return the reference update and the limits of an honest engine in the problem's dtype.

    parameters: the engine's weights before the update, by name. Every layer must be known to `unbounded`.
    """
    of = units(problem)
    unit = of.sums
    loss, new = reference_step(model, problem, parameters, inputs, targets)
    weights = {name: value.double() for name, value in _detached(parameters).items()}

    layers = chain(model)
    signals = _forward(layers, weights, inputs)
    outputs = signals[-1]
    delta, loss_limit = _LOSS_BACKWARD[type(problem.loss)](outputs, _double(targets), unit)

    limits: dict[str, Tensor] = {}
    for (name, layer), before in zip(reversed(layers), reversed(signals[:-1]), strict=True):
        if isinstance(layer, nn.Linear):
            for part, terms, doubt in (
                ("weight", delta.magnitude.T @ before.magnitude, delta.doubt.T @ before.magnitude),
                ("bias", delta.magnitude.sum(0), delta.doubt.sum(0)),
            ):
                full = f"{name}.{part}" if name else part
                if full in weights:
                    off = unit * terms + doubt
                    limits[full] = of.weights * weights[full].abs() + problem.learning_rate * off
        delta = _BACKWARD[type(layer)](layer, before, delta, _own(weights, name), unit)
    return Expected(loss, loss_limit, new, limits)


def _forward(layers: list[tuple[str, nn.Module]], weights: Mapping[str, Tensor], inputs: Tensor) -> list[_Signal]:
    """Return the inputs and what each layer makes of them; weights: float64, by name."""
    value = _double(inputs)
    signals = [_Signal(value, value.abs(), torch.zeros(()))]
    for name, layer in layers:
        signals.append(_FORWARD[type(layer)](layer, signals[-1], _own(weights, name)))
    return signals


def _near_kink(before: _Signal, unit: float) -> Tensor:
    """Return where an honest engine may take either side of 0."""
    return before.value.abs() <= unit * before.magnitude


def _linear_forward(_layer: nn.Module, before: _Signal, own: Mapping[str, Tensor]) -> _Signal:
    value, magnitude = before.value @ own["weight"].T, before.magnitude @ own["weight"].abs().T
    if "bias" in own:
        value, magnitude = value + own["bias"], magnitude + own["bias"].abs()
    return _Signal(value, magnitude, before.doubt)


def _linear_backward(
    _layer: nn.Module, _before: _Signal, delta: _Signal, own: Mapping[str, Tensor], _unit: float
) -> _Signal:
    weight = own["weight"]
    return _Signal(delta.value @ weight, delta.magnitude @ weight.abs(), delta.doubt @ weight.abs())


def _sigmoid_forward(layer: nn.Module, before: _Signal, _own: Mapping[str, Tensor]) -> _Signal:
    """f(x + e) is off by |f'(x)|·e plus its own rounding, for functions as tanh that are accurate relative to f(x)."""
    inputs = before.value.detach().requires_grad_()
    value = layer(inputs)
    (slope,) = torch.autograd.grad(value.sum(), inputs)
    return _Signal(value.detach(), value.detach().abs() + slope.abs() * before.magnitude, before.doubt)


def _gelu_forward(layer: nn.Module, before: _Signal, _own: Mapping[str, Tensor]) -> _Signal:
    """f(x + e) is off by at most 1.13·e, the largest |f'|; x Φ(x) itself is accurate relative to x, not to f(x)."""
    value = layer(before.value)
    return _Signal(value, value.abs() + 1.13 * before.magnitude, before.doubt)


def _relu_forward(_layer: nn.Module, before: _Signal, _own: Mapping[str, Tensor]) -> _Signal:
    return _Signal(before.value.relu(), before.magnitude, before.doubt)


def _relu_backward(
    _layer: nn.Module, before: _Signal, delta: _Signal, _own: Mapping[str, Tensor], unit: float
) -> _Signal:
    """Pass δ where the unit is on; where its input is within rounding of 0, all of δ is in doubt."""
    on = before.value > 0
    near = _near_kink(before, unit)
    doubt = torch.where(near, delta.value.abs() + delta.doubt, delta.doubt * on)
    return _Signal(delta.value * on, delta.magnitude * (on | near), doubt)


def _elementwise_backward(
    layer: nn.Module, before: _Signal, delta: _Signal, _own: Mapping[str, Tensor], _unit: float
) -> _Signal:
    """δ f'(x), off by |δ error|·|f'| + |δ|·(|f''|·|x error| + 1); f' and f'' by float64 autograd of the layer itself.

    The 1: f' is itself computed from numbers of the order of 1, so its own rounding is not relative to f'.
    """
    inputs = before.value.detach().requires_grad_()
    (slope,) = torch.autograd.grad(layer(inputs).sum(), inputs, create_graph=True)
    (curvature,) = torch.autograd.grad(slope.sum(), inputs)
    slope = slope.detach()
    magnitude = delta.magnitude * slope.abs() + delta.value.abs() * (1 + curvature.abs() * before.magnitude)
    return _Signal(delta.value * slope, magnitude, delta.doubt * slope.abs())


def _mse_backward(outputs: _Signal, targets: Tensor, unit: float) -> tuple[_Signal, Tensor]:
    difference = outputs.value - targets
    magnitude = outputs.magnitude + targets.abs()
    count = difference.numel()
    error = unit * magnitude
    # (d + e)² - d² = 2de + e², and the mean's own rounding.
    loss_limit = (2 * difference.abs() * error + error**2 + unit * difference**2).mean()
    delta = _Signal(2 / count * difference, 2 / count * magnitude, torch.zeros_like(difference))
    return delta, loss_limit


def _cross_entropy_backward(outputs: _Signal, targets: Tensor, unit: float) -> tuple[_Signal, Tensor]:
    probability = outputs.value.softmax(1)
    onehot = torch.nn.functional.one_hot(targets, probability.shape[1]).double()
    # A logit off by e changes a probability by a factor of at most e^(2e): relative error 2·max e in its row.
    spread = 1 + 2 * outputs.magnitude.amax(1, keepdim=True)
    batch = len(probability)
    loss_limit = unit * (2 * spread.squeeze(1) + 1).mean()
    delta = _Signal(
        (probability - onehot) / batch, (probability * spread + onehot) / batch, torch.zeros_like(probability)
    )
    return delta, loss_limit


_FORWARD: Mapping[type[nn.Module], Callable[[nn.Module, _Signal, Mapping[str, Tensor]], _Signal]] = {
    nn.Linear: _linear_forward,
    nn.ReLU: _relu_forward,
    nn.Tanh: _sigmoid_forward,
    nn.Sigmoid: _sigmoid_forward,
    nn.GELU: _gelu_forward,
}
_BACKWARD: Mapping[type[nn.Module], Callable[[nn.Module, _Signal, _Signal, Mapping[str, Tensor], float], _Signal]] = {
    nn.Linear: _linear_backward,
    nn.ReLU: _relu_backward,
    nn.Tanh: _elementwise_backward,
    nn.Sigmoid: _elementwise_backward,
    nn.GELU: _elementwise_backward,
}
_LOSS_BACKWARD: Mapping[type[nn.Module], Callable[[_Signal, Tensor, float], tuple[_Signal, Tensor]]] = {
    nn.MSELoss: _mse_backward,
    nn.CrossEntropyLoss: _cross_entropy_backward,
}


def _detached(parameters: Mapping[str, Tensor]) -> dict[str, Tensor]:
    # A copy, also where the cast to float64 is none.
    return {name: value.detach().clone() for name, value in parameters.items()}


def _own(weights: Mapping[str, Tensor], name: str) -> dict[str, Tensor]:
    prefix = f"{name}." if name else ""
    return {part: weights[prefix + part] for part in ("weight", "bias") if prefix + part in weights}


def _double(points: Tensor) -> Tensor:
    return points.double() if points.is_floating_point() else points
