"""Engines whose products are rounded as a GPU would round them, and engines that round more than they may."""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from harness.plan.case import Case
from harness.plan.catalogue import DTYPES
from harness.training.contract import Problem, Updates
from harness.training.engines.autograd import LoopUpdates


def to_tf32(values: Tensor) -> Tensor:
    """Round float32 to the 10 bits of TF32, to the nearest, ties to even."""
    bits = values.contiguous().view(torch.int32)
    return ((bits + 0x0FFF + ((bits >> 13) & 1)) & ~0x1FFF).view(torch.float32)


def cut_to_tf32(values: Tensor) -> Tensor:
    """Cut float32 off to the 10 bits of TF32, towards 0: what a tensor core does that is given plain float32."""
    return (values.contiguous().view(torch.int32) & ~0x1FFF).view(torch.float32)


def to_float8(values: Tensor) -> Tensor:
    """Round to the 3 bits of float8 (e4m3), each value with a scale of its own, so that nothing over- or underflows."""
    scale = torch.exp2(values.abs().clamp_min(1e-30).log2().floor())
    return (values / scale).to(torch.float8_e4m3fn).to(values.dtype) * scale


class _Product(torch.autograd.Function):
    """x Wᵀ + b, where every factor of a product is rounded first, forward and backward; sums are of float32."""

    @staticmethod
    def forward(ctx: Any, inputs: Tensor, weight: Tensor, bias: Tensor, rounded: Callable[[Tensor], Tensor]) -> Tensor:
        ctx.save_for_backward(inputs, weight)
        ctx.rounded = rounded
        return nn.functional.linear(rounded(inputs), rounded(weight), bias)

    @staticmethod
    def backward(ctx: Any, delta: Tensor) -> tuple[Tensor, Tensor, Tensor, None]:  # type: ignore[override]
        (inputs, weight), rounded = ctx.saved_tensors, ctx.rounded
        return rounded(delta) @ rounded(weight), rounded(delta).T @ rounded(inputs), delta.sum(0), None


class Rounded:
    """Eager autograd, every factor of a product rounded by `rounded` before."""

    dtypes = DTYPES
    rounded: Mapping[str, Callable[[Tensor], Tensor]] = {"by": to_tf32}

    def unsupported(self, problem: Problem, case: Case) -> str | None:
        return None

    def prepare(self, problem: Problem, steps: int) -> Updates:
        model, by = problem.model(), self.rounded["by"]

        class Linear(nn.Linear):
            def forward(self, inputs: Tensor) -> Tensor:
                outputs: Tensor = _Product.apply(inputs, self.weight, self.bias, by)  # type: ignore[no-untyped-call]
                return outputs

        for layer in model.modules():
            if type(layer) is nn.Linear:
                layer.__class__ = Linear
        return LoopUpdates(model, lambda inputs, targets: problem.loss(model(inputs), targets), problem.learning_rate)


class InTF32(Rounded):
    """What torch does on a GPU with TF32 on, where factors are rounded to the nearest."""


class InCutTF32(Rounded):
    """The same, where they are cut off."""

    rounded = {"by": cut_to_tf32}


class InFloat8(Rounded):
    """Less precise than any dtype of a case."""

    rounded = {"by": to_float8}
