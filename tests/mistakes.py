"""Gradients derived by hand, each with one real mistake, as user engines: `--engine tests/mistakes.py:NAME`.

Each is the manual engine with one rule changed.
"""

import torch
from torch import Tensor, nn

from harness.training.engines.manual import Manual
from harness.training.rules import LAYER_RULES, LOSS_RULES, LinearRule, MSERule, ReLURule


class _NoMaskRule(ReLURule):
    def backward(self, delta: Tensor, learning_rate: float) -> Tensor:
        return delta


class ReluMaskForgotten(Manual):
    layer_rules = {**LAYER_RULES, nn.ReLU: _NoMaskRule}


class _WrongMaskRule(ReLURule):
    def backward(self, delta: Tensor, learning_rate: float) -> Tensor:
        return delta.mul_(delta > 0)


class MaskFromTheGradient(Manual):
    layer_rules = {**LAYER_RULES, nn.ReLU: _WrongMaskRule}


class _NoMeanRule(MSERule):
    def forward(self, outputs: Tensor, targets: Tensor, loss: Tensor) -> Tensor:
        return super().forward(outputs, targets, loss).mul_(outputs.numel())


class MeanForgotten(Manual):
    loss_rules = {**LOSS_RULES, nn.MSELoss: _NoMeanRule}


class _NoTwoRule(MSERule):
    def forward(self, outputs: Tensor, targets: Tensor, loss: Tensor) -> Tensor:
        return super().forward(outputs, targets, loss).mul_(0.5)


class FactorTwoLost(Manual):
    loss_rules = {**LOSS_RULES, nn.MSELoss: _NoTwoRule}


class _OneSampleBiasRule(LinearRule):
    def backward(self, delta: Tensor, learning_rate: float) -> Tensor:
        assert self.bias is not None
        before = self.bias.clone()
        gradient = super().backward(delta, learning_rate)
        self.bias.copy_(before - learning_rate * delta[0])
        return gradient


class BiasFromOneSample(Manual):
    layer_rules = {**LAYER_RULES, nn.Linear: _OneSampleBiasRule}


class _NotClearedRule(LinearRule):
    _kept: Tensor | None = None

    def backward(self, delta: Tensor, learning_rate: float) -> Tensor:
        gradient = super().backward(delta, learning_rate)
        if self._kept is not None:
            self.weight.sub_(self._kept, alpha=learning_rate)
        new = delta.t() @ self._inputs
        self._kept = new if self._kept is None else self._kept + new
        return gradient


class GradientsNotCleared(Manual):
    layer_rules = {**LAYER_RULES, nn.Linear: _NotClearedRule}


class _StaleRule(LinearRule):
    _stale: Tensor | None = None

    def backward(self, delta: Tensor, learning_rate: float) -> Tensor:
        now = self._inputs.clone()
        if self._stale is not None:
            self._inputs = self._stale
        self._stale = now
        return super().backward(delta, learning_rate)


class StaleActivations(Manual):
    layer_rules = {**LAYER_RULES, nn.Linear: _StaleRule}


class _UpdatedFirstRule(LinearRule):
    def backward(self, delta: Tensor, learning_rate: float) -> Tensor:
        super().backward(delta, learning_rate)
        return delta @ self.weight if self._gradient is not None else delta


class UpdatedBeforeTheLayerBelow(Manual):
    layer_rules = {**LAYER_RULES, nn.Linear: _UpdatedFirstRule}


class _LowPrecisionRule(LinearRule):
    def backward(self, delta: Tensor, learning_rate: float) -> Tensor:
        return super().backward(delta.bfloat16().to(delta.dtype), learning_rate)


class GradientInLowPrecision(Manual):
    layer_rules = {**LAYER_RULES, nn.Linear: _LowPrecisionRule}


class _OnePercentRule(LinearRule):
    def backward(self, delta: Tensor, learning_rate: float) -> Tensor:
        return super().backward(delta, learning_rate * 1.01)


class LearningRateOffByOnePercent(Manual):
    layer_rules = {**LAYER_RULES, nn.Linear: _OnePercentRule}


class _HalfRule(LinearRule):
    def forward(self, inputs: Tensor) -> Tensor:
        return super().forward(inputs.to(torch.float16).to(inputs.dtype))


class ForwardInHalfPrecision(Manual):
    layer_rules = {**LAYER_RULES, nn.Linear: _HalfRule}


ALL = (
    ReluMaskForgotten,
    MaskFromTheGradient,
    MeanForgotten,
    FactorTwoLost,
    BiasFromOneSample,
    GradientsNotCleared,
    StaleActivations,
    UpdatedBeforeTheLayerBelow,
    GradientInLowPrecision,
    LearningRateOffByOnePercent,
    ForwardInHalfPrecision,
)
