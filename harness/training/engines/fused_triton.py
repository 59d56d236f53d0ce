"""Many updates in one launch of one hand-written Triton kernel, for small networks on an NVIDIA GPU.

A GPU that is launched once per update cannot make one faster than it starts kernels, some 2 to 3 µs each; eager code
launches dozens. Here one block of threads keeps the weights in registers and loops over all updates of a call.

What bounds it is expected, and not yet measured on a GPU. An update is a chain of steps that wait for each other –
forward, sums over the batch, the new weights –, and one of the GPU's 132 multiprocessors works, the others have nothing
to do. Compiled for an H200, a warp has some 150 instructions per update of `line` at batch 1, 450 at 10 and 1,500 at
100 and at 1024, there in each of eight warps that share four schedulers: 0.2 to 1 µs up to batch 100, mostly for the
sums over all threads, and 1.5 to 2 µs at 1024, for arithmetic. `line_deep` should take about 1.5 µs at 100.
"""

import importlib.util
import os
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from harness.plan.case import Case
from harness.training.contract import Problem, Updates
from harness.training.layers import chain, describe
from harness.training.module_updates import ModuleUpdates

# One block of threads has 64 Ki registers for all weights and activations, and nobody to share a large batch with.
MAX_WIDTH = 32
MAX_HIDDEN = 3
MAX_BATCH = 16_384
# A launch that takes seconds looks like a hung GPU to whoever watches over it.
STEPS_PER_LAUNCH = 100_000
# Points that are computed at once; more come one such block after the other.
MAX_BLOCK = 1024

_ACTIVATIONS: dict[type[nn.Module], str] = {nn.ReLU: "relu", nn.Tanh: "tanh"}


class FusedTriton:
    """Chains of Linear, ReLU and Tanh with at most three hidden layers of at most 32 units, and mean squared error."""

    def unsupported(self, problem: Problem, case: Case) -> str | None:  # noqa: ARG002
        """Say what of the problem the kernel was not written for, or what of its toolchain is missing."""
        return _unfit(problem) or _missing(problem.device)

    def prepare(self, problem: Problem, steps: int) -> Updates:  # noqa: ARG002
        """Compile the kernel for this network and batch size, by a launch of no updates."""
        updates = FusedTritonUpdates(problem)
        features, outputs = updates.network.widths[0], updates.network.widths[-1]
        nothing = torch.zeros(0, problem.batch_size, 1, dtype=problem.dtype, device=problem.device)
        updates.launch(nothing.expand(-1, -1, features), nothing.expand(-1, -1, outputs), nothing.flatten())
        return updates


@dataclass(frozen=True)
class Network:
    """A chain of linear layers as the kernel takes it.

    widths: of the inputs, then of each layer's outputs. activations: `relu`, `tanh` or `none`, after each layer.
    """

    linears: tuple[nn.Linear, ...]
    widths: tuple[int, ...]
    activations: tuple[str, ...]

    @classmethod
    def of(cls, model: nn.Module) -> "Network":
        """Return the network of a model that `_unfit` has nothing against."""
        layers = [layer for _, layer in chain(model)]
        linears, activations = [], []
        for layer, after in zip(layers, [*layers[1:], nn.Identity()], strict=True):
            if isinstance(layer, nn.Linear):
                linears.append(layer)
                activations.append(_ACTIVATIONS.get(type(after), "none"))
        widths = (linears[0].in_features, *(linear.out_features for linear in linears))
        return cls(tuple(linears), widths, tuple(activations))


class FusedTritonUpdates(ModuleUpdates):
    """SGD updates by `fused_kernel.train`, on one tensor that all parameters of the module are parts of."""

    def __init__(self, problem: Problem) -> None:
        from harness.training import fused_kernel

        model = problem.model().requires_grad_(requires_grad=False)
        super().__init__(model)
        self.network = Network.of(model)
        self._kernel = fused_kernel.train[(1,)]
        self._weights = _side_by_side(model)
        self._batch = problem.batch_size
        self.constants = _constants(self.network, problem)

    def __call__(self, inputs: Tensor, targets: Tensor) -> Tensor:
        """Make one update per batch; inputs [steps, batch, features], returns losses [steps]."""
        steps, losses = len(inputs), inputs.new_empty(len(inputs))
        inputs, targets = self._readable(inputs, 0), self._readable(targets, -1)
        for start in range(0, steps, STEPS_PER_LAUNCH):
            part = slice(start, start + STEPS_PER_LAUNCH)
            self.launch(inputs[part], targets[part], losses[part])
        return losses

    def launch(self, inputs: Tensor, targets: Tensor, losses: Tensor) -> None:
        """Make one update per batch and write losses [steps], in one launch."""
        # Triton launches on the current device, which another part of the process may have chosen.
        with torch.cuda.device_of(inputs):  # type: ignore[no-untyped-call]
            self._kernel(*self.arguments(inputs, targets, losses), **self.constants)

    def arguments(self, inputs: Tensor, targets: Tensor, losses: Tensor) -> tuple[Any, ...]:
        """Return what a launch is given besides `constants`."""
        return inputs, targets, losses, self._weights, len(losses), inputs.stride(0), targets.stride(0)

    def _readable(self, batches: Tensor, layer: int) -> Tensor:
        """Return batches [steps, batch, width] with each batch's numbers side by side; raises ValueError for others.

        The kernel reads whatever lies where it expects a batch, so that is checked once per call.
        """
        wanted = (self._batch, self.network.widths[layer])
        if batches.shape[1:] != wanted or batches.dtype != self._weights.dtype:
            raise ValueError(
                f"the kernel was compiled for batches of {list(wanted)} {self._weights.dtype}, not "
                f"{list(batches.shape[1:])} {batches.dtype}"
            )
        return batches if len(batches) == 0 or batches[0].is_contiguous() else batches.contiguous()


def _side_by_side(model: nn.Module) -> Tensor:
    """Make all parameters of a model parts of one tensor, one after the other, and return that [weights]."""
    weights = torch.cat([parameter.detach().flatten() for parameter in model.parameters()])
    start = 0
    for parameter in model.parameters():
        parameter.data = weights[start : start + parameter.numel()].view(parameter.shape)
        start += parameter.numel()
    return weights


def _constants(network: Network, problem: Problem) -> dict[str, Any]:
    """Return what the kernel is compiled for, by the names of its parameters."""
    from harness.training import fused_kernel

    codes = {"none": fused_kernel.NOTHING, "relu": fused_kernel.RELU, "tanh": fused_kernel.TANH}
    biases: list[Tensor | None] = [getattr(linear, "bias", None) for linear in network.linears]
    padded = tuple(_power_of_two(width) for width in network.widths)
    block = min(_largest_block(padded), _power_of_two(problem.batch_size))
    return {
        "depth": len(network.linears),
        "widths": network.widths,
        "padded": padded,
        "activations": tuple(codes[activation].value for activation in network.activations),
        "weight_places": tuple(linear.weight.storage_offset() for linear in network.linears),
        "bias_places": tuple(0 if bias is None else bias.storage_offset() for bias in biases),
        "bias_widths": tuple(0 if bias is None else len(bias) for bias in biases),
        "learning_rate": problem.learning_rate,
        "batch": problem.batch_size,
        "block": block,
        # A product and a sum in one instruction, with one rounding; newer versions of Triton ask for a choice.
        "enable_fp_fusion": True,
        "num_warps": _warps(block, padded, problem.dtype.itemsize),
    }


def _power_of_two(count: int) -> int:
    """Return the smallest power of two that is not less than a count of 1 or more."""
    return 1 << (count - 1).bit_length()


def _largest_block(padded: Sequence[int]) -> int:
    """Return how many points can be computed at once, before threads run out of registers.

    A product of two hidden layers' values makes each thread hold whole rows of both.
    """
    hidden = max(padded[1:-1], default=1)
    return MAX_BLOCK if len(padded) <= 3 else max(16, min(128, 32_768 // hidden**2))


def _warps(block: int, padded: Sequence[int], value_bytes: int) -> int:
    """Return the number of warps for a block of points, a power of two.

    As few as have room for all values: in one warp a sum over the batch is shuffles alone; several exchange theirs
    through shared memory and wait at barriers, for each sum once more. A thread has 255 registers, enough for 64 points
    × units of `line`, or for 16 of a network with products of hidden layers: one warp up to 128 points of `line`, eight
    for 1024. Beyond eight, each thread would have fewer registers.
    """
    registers = block * sum(padded[1:]) * value_bytes // 4
    warps = registers // (2048 if len(padded) <= 3 else 512)
    return 1 << min(3, max(1, warps).bit_length() - 1)


def _unfit(problem: Problem) -> str | None:
    """Return what of the model, the loss or the batch the kernel was not written for, or None."""
    linears: list[nn.Linear] = []
    before: nn.Module | None = None
    for name, layer in chain(problem.template):
        if type(layer) is nn.Linear:
            linears.append(layer)
        elif type(layer) not in _ACTIVATIONS or not isinstance(before, nn.Linear):
            return (
                f"the kernel knows Linear, and ReLU or Tanh after it; not {name or 'model'}, {describe(layer)}, there"
            )
        before = layer
    if len(linears) not in range(1, MAX_HIDDEN + 2):
        return f"the kernel knows 1 to {MAX_HIDDEN + 1} linear layers, not {len(linears)}"
    widest = max(max(linear.in_features, linear.out_features) for linear in linears)
    if widest > MAX_WIDTH:
        return f"the kernel holds layers of at most {MAX_WIDTH} units in its registers, not of {widest}"
    if type(problem.loss) is not nn.MSELoss or problem.loss.reduction != "mean":
        return f"the kernel knows the mean MSELoss, not {describe(problem.loss)}"
    if problem.batch_size > MAX_BATCH:
        return f"one block of threads takes batches of at most {MAX_BATCH:,} points, not {problem.batch_size:,}"
    if problem.dtype not in (torch.float32, torch.float64):
        return f"the kernel knows float32 and float64, not {problem.dtype}"
    return None


def _missing(device: torch.device) -> str | None:
    """Return what is missing to compile and launch the kernel here, and how to get it, or None."""
    if importlib.util.find_spec("triton") is None:
        return "the fused kernel needs triton: pip install triton"
    if os.environ.get("TRITON_INTERPRET") == "1":
        return None
    if device.type != "cuda":
        return f"the fused kernel needs an NVIDIA GPU, not {device.type}; TRITON_INTERPRET=1 runs it slowly without one"
    wanted = os.environ.get("CC")
    if not any(shutil.which(name) for name in ((wanted,) if wanted else ("gcc", "clang"))):
        return "triton needs a C compiler and found none (on Debian and Ubuntu: sudo apt-get install gcc python3-dev)"
    return None
