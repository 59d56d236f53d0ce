"""What one update has to do whichever engine makes it: floating-point operations, and bytes that must move."""

import sys
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from harness.training.contract import Problem
from harness.training.layers import chain


@dataclass(frozen=True)
class Work:
    """Of one update.

    flops: of its matrix products, as torch's flop counter counts forward and backward; elementwise work, which it does
    not count, only adds to what an update takes. moved_bytes: the batch read once, every weight read and written once.
    working_set_bytes: the batch and the weights. Activations are in neither: a fused engine never lets them leave the
    registers, and a floor is what no engine can beat.
    """

    flops: int
    moved_bytes: int
    working_set_bytes: int


def work_of(problem: Problem, inputs: Tensor, targets: Tensor) -> Work:
    """Return the work of one update on a batch, inputs and targets [batch, …] on the problem's device."""
    batch_bytes = inputs.nbytes + targets.nbytes
    weight_bytes = sum(value.nbytes for value in problem.template.parameters())
    # torch's counter imports torch's compiler, 1.3 s: a process that has not needed it counts by itself where it can.
    flops = None if "torch._dynamo" in sys.modules else flops_of_chain(problem.template, len(inputs))
    flops = counted_flops(problem, inputs, targets) if flops is None else flops
    return Work(flops, batch_bytes + 2 * weight_bytes, batch_bytes + weight_bytes)


def counted_flops(problem: Problem, inputs: Tensor, targets: Tensor) -> int:
    """Return the floating-point operations of forward and backward on a batch, by torch's own counter."""
    from torch.utils.flop_counter import FlopCounterMode

    model = problem.model()
    with FlopCounterMode(display=False) as counter:
        torch.autograd.grad(problem.forward_loss(model)(inputs, targets), tuple(model.parameters()))
    return int(counter.get_total_flops())


def flops_of_chain(model: nn.Module, batch_size: int) -> int | None:
    """Return what torch's counter finds for a chain of layers of which only `nn.Linear` have weights, else None.

    2 · batch · inputs · outputs each forward, for the gradient by the weights, and for that by the inputs, which the
    first layer does not need.
    """
    layers = [layer for _, layer in chain(model)]
    if any(type(layer) is not nn.Linear and (layer._parameters or layer._modules) for layer in layers):
        return None
    linear = [
        2 * batch_size * layer.in_features * layer.out_features for layer in layers if isinstance(layer, nn.Linear)
    ]
    return 3 * sum(linear) - sum(linear[:1])
