"""`fused` on the CPU: C++ written for one network, number type and batch size; one call makes all updates."""

import ctypes
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from harness.plan.case import Case
from harness.training.contract import Problem, Updates
from harness.training.cpp_library import compiled, no_builder
from harness.training.fused_source import ACTIVATIONS, LOSSES, lanes_of, linears_of, source
from harness.training.layers import chain, describe
from harness.training.rules import has_loss_rule
from harness.training.toolchain import missing_compiler

# A layer's sums take a vector for each weight: these are a quarter of a megabyte, what any second-level cache holds.
# Beyond, a library's matrix product, which blocks by weights as well, does better.
MOST_WEIGHTS = 4096


class FusedCpu:
    """Forward, loss, backward and SGD of all steps in one call, on one core, vectorised across points."""

    def unsupported(self, problem: Problem, case: Case) -> str | None:
        """Name the first part of the problem that no code was written for, or what is missing to compile it."""
        if case.dtype not in ("float32", "float64"):
            return f"fused trains in float32 and float64 on the CPU, not in {case.dtype}"
        return _no_code(problem) or missing_compiler("fused") or no_builder()

    def prepare(self, problem: Problem, steps: int) -> Updates:  # noqa: ARG002 - a loop takes any number
        """Write the source for this problem, compile it or take it from the compile cache, and load it."""
        return FusedUpdates(problem)


def _no_code(problem: Problem) -> str | None:
    after_activation = False
    for name, layer in chain(problem.template):
        activation = type(layer) in ACTIVATIONS
        if type(layer) is not nn.Linear and not activation:
            return f"fused has no code for layer {name or 'model'}, {describe(layer)}"
        if activation and after_activation:
            return f"fused has no code for an activation right after another: layer {name}, {describe(layer)}"
        after_activation = activation
    if type(problem.loss) not in LOSSES or not has_loss_rule(problem.loss):
        return f"fused has no code for the loss {describe(problem.loss)}"
    linears = linears_of(problem.template)
    weights = sum(parameter.numel() for parameter in problem.template.parameters())
    if weights != linears[-1].end:
        return "fused has no code for weights that are used twice"
    if weights > MOST_WEIGHTS:
        return (
            f"fused has code for {MOST_WEIGHTS:,} weights on the CPU and the model has {weights:,}: there a library of "
            "matrix products is faster"
        )
    return None


class FusedUpdates:
    """Weights in one piece of memory, and the compiled function that changes them.

    Batches are read where they lie, by the stride between them (0 where one is expanded over steps); only batches that
    are not contiguous each are copied first, within the call.
    """

    def __init__(self, problem: Problem) -> None:
        linears = linears_of(problem.template)
        lanes = lanes_of(problem.batch_size, problem.dtype.itemsize)
        # The kernel works on whole vectors, and the loss's sum comes after the weights'.
        self._flat = torch.zeros((linears[-1].end // lanes + 1) * lanes, dtype=problem.dtype)
        self._weights = {name: value for linear in linears for name, value in linear.weights(self._flat).items()}
        self._dtype = problem.dtype
        batch, squared = problem.batch_size, isinstance(problem.loss, nn.MSELoss)
        self._inputs = _Batches((batch, linears[0].inputs), problem.dtype)
        self._targets = _Batches(
            (batch, linears[-1].outputs) if squared else (batch,), problem.dtype if squared else torch.int64
        )
        self._make_updates = compiled(source(problem)).make_updates
        pointer, integer = ctypes.c_void_p, ctypes.c_int64
        self._make_updates.argtypes = (integer, pointer, integer, pointer, integer, pointer, pointer)
        self._make_updates.restype = None
        self.load(dict(problem.template.named_parameters()))

    def load(self, parameters: Mapping[str, Tensor]) -> None:
        """Copy the weights into the memory that the compiled function changes."""
        with torch.no_grad():
            for name, value in self._weights.items():
                value.copy_(parameters[name])

    def parameters(self) -> dict[str, Tensor]:
        """Return the weights by name: views of that memory."""
        return dict(self._weights)

    def __call__(self, inputs: Tensor, targets: Tensor) -> Tensor:
        """Make one update per batch; inputs [steps, batch, features], returns losses [steps]."""
        inputs, targets = self._inputs.readable(inputs), self._targets.readable(targets)
        steps = len(inputs)
        if len(targets) != steps:
            raise ValueError(f"{steps} batches of inputs and {len(targets)} of targets")
        losses = torch.empty(steps, dtype=self._dtype)
        self._make_updates(
            steps,
            inputs.data_ptr(),
            inputs.stride(0),
            targets.data_ptr(),
            targets.stride(0),
            self._flat.data_ptr(),
            losses.data_ptr(),
        )
        return losses


class _Batches:
    """What the compiled function reads: batches [steps, *shape] of a dtype, contiguous each."""

    def __init__(self, shape: tuple[int, ...], dtype: torch.dtype) -> None:
        self._shape, self._dtype = torch.Size(shape), dtype
        self._strides = torch.empty(shape, device="meta").stride()

    def readable(self, batches: Tensor) -> Tensor:
        """Return batches as they are, or a copy of them; raises ValueError for what would be read wrongly."""
        if batches.shape[1:] != self._shape or batches.dtype != self._dtype or batches.is_cuda:
            given = f"{batches.dtype} {list(batches.shape[1:])} on {batches.device}"
            raise ValueError(f"batches are {given}, not {self._dtype} {list(self._shape)} on cpu")
        if batches.stride()[1:] == self._strides or batches.is_contiguous():
            return batches
        if len(batches) and batches.stride(0) == 0:
            return batches[0].contiguous().expand_as(batches)
        return batches.contiguous()
