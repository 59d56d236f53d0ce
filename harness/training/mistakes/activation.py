"""Mistakes in the derivative of the activation."""

import torch
from torch import Tensor

from harness.training.mistakes.mistaken import Mistaken, relu
from harness.training.rules import ReLURule


class _NoMask(ReLURule):
    def backward(self, delta: Tensor, learning_rate: float) -> Tensor:  # noqa: ARG002 - has no weights
        return delta


class ReluMaskForgotten(Mistaken):
    """∂L/∂x = δ everywhere: units that are off learn as well."""

    layer_rules = relu(_NoMask)


class _MaskOfDelta(ReLURule):
    def backward(self, delta: Tensor, learning_rate: float) -> Tensor:  # noqa: ARG002
        return delta.mul_(delta > 0)


class MaskFromTheGradient(Mistaken):
    """∂L/∂x = δ where δ > 0, the mask taken from the wrong tensor."""

    layer_rules = relu(_MaskOfDelta)


class _OtherSide(ReLURule):
    def backward(self, delta: Tensor, learning_rate: float) -> Tensor:  # noqa: ARG002
        return delta.mul_(torch.le(self._outputs, 0, out=self._mask))


class MaskInverted(Mistaken):
    """∂L/∂x = δ where x <= 0: what should be cleared is kept, and what should be kept is cleared."""

    layer_rules = relu(_OtherSide)


class _Value(ReLURule):
    def backward(self, delta: Tensor, learning_rate: float) -> Tensor:  # noqa: ARG002
        return delta.mul_(self._outputs)


class ValueInsteadOfSlope(Mistaken):
    """∂L/∂x = δ max(x, 0), the activation itself in the place of its derivative."""

    layer_rules = relu(_Value)


class _SlopeOfSigmoid(ReLURule):
    def backward(self, delta: Tensor, learning_rate: float) -> Tensor:  # noqa: ARG002
        return delta.mul_(self._outputs).mul_(1 - self._outputs)


class SlopeOfAnotherActivation(Mistaken):
    """∂L/∂x = δ y (1 - y), left over from a sigmoid."""

    layer_rules = relu(_SlopeOfSigmoid)
