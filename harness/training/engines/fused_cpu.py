"""`fused` on the CPU: C++ written for one network, number type and batch size; one call makes all updates."""

import ctypes
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from harness.plan.case import Case
from harness.training.contract import Problem, Updates
from harness.training.cpp_library import compiled, no_builder
from harness.training.layers import chain, describe
from harness.training.rules import has_loss_rule
from harness.training.toolchain import missing_compiler

# A layer's sums take a vector for each weight: these are a quarter of a megabyte, what any second-level cache holds.
# Beyond, a library's matrix product, which blocks by weights as well, does better.
MOST_WEIGHTS = 4096
# What a chunk's activations may take of a first-level cache, and its vectors. Measured on `line` and `line_deep` with
# AVX-512: chunks of four are the fastest; of one for many points and few weights, whose sums then stay in registers.
CHUNK_BYTES = 32 * 2**10
CHUNK_VECTORS = 4
FEW_WEIGHTS = 32

_ACTIVATIONS: Mapping[type[nn.Module], str] = {nn.ReLU: "relu", nn.Tanh: "tanh", nn.Sigmoid: "sigmoid"}
_LOSSES: Mapping[type[nn.Module], str] = {nn.MSELoss: "mse", nn.CrossEntropyLoss: "cross_entropy"}
_TYPES: Mapping[torch.dtype, tuple[str, str, str]] = {
    torch.float32: ("float", "int32_t", "f"),
    torch.float64: ("double", "int64_t", ""),
}
_VECTOR_BYTES = {"AVX512": 64, "AVX2": 32}
_LEAST_VECTOR_BYTES = 16


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


@dataclass(frozen=True)
class _Linear:
    """Where a layer's weights are: W [outputs, inputs] from `at` on, then, with a bias, b [outputs]."""

    name: str
    at: int
    inputs: int
    outputs: int
    bias: bool

    @property
    def end(self) -> int:
        return self.at + self.outputs * (self.inputs + self.bias)

    def weights(self, flat: Tensor) -> dict[str, Tensor]:
        """Return the views of its weights in the memory of all, by name."""
        prefix = f"{self.name}." if self.name else ""
        rest = self.at + self.outputs * self.inputs
        found = {f"{prefix}weight": flat[self.at : rest].view(self.outputs, self.inputs)}
        return found | ({f"{prefix}bias": flat[rest : self.end]} if self.bias else {})


def _linears(model: nn.Module) -> list[_Linear]:
    found: list[_Linear] = []
    for name, layer in chain(model):
        if isinstance(layer, nn.Linear):
            at = found[-1].end if found else 0
            found.append(_Linear(name, at, layer.in_features, layer.out_features, layer.bias is not None))
    return found


def _no_code(problem: Problem) -> str | None:
    after_activation = False
    for name, layer in chain(problem.template):
        activation = type(layer) in _ACTIVATIONS
        if type(layer) is not nn.Linear and not activation:
            return f"fused has no code for layer {name or 'model'}, {describe(layer)}"
        if activation and after_activation:
            return f"fused has no code for an activation right after another: layer {name}, {describe(layer)}"
        after_activation = activation
    if type(problem.loss) not in _LOSSES or not has_loss_rule(problem.loss):
        return f"fused has no code for the loss {describe(problem.loss)}"
    linears = _linears(problem.template)
    weights = sum(parameter.numel() for parameter in problem.template.parameters())
    if weights != linears[-1].end:
        return "fused has no code for weights that are used twice"
    if weights > MOST_WEIGHTS:
        return (
            f"fused has code for {MOST_WEIGHTS:,} weights on the CPU and the model has {weights:,}: there a library of "
            "matrix products is faster"
        )
    return None


def source(problem: Problem) -> str:
    """Return the C++ of a problem that is supported: constants, `fused_cpu.cpp`, and the network layer by layer."""
    kernel = Path(__file__).with_suffix(".cpp").read_text("utf-8")
    return "\n".join([*_constants(problem), kernel, *_chunk(problem), *_entry(problem)])


def lanes_of(batch_size: int, itemsize: int) -> int:
    """Return how many numbers of `itemsize` bytes a vector has: as many as fit, and no more than the batch needs."""
    if batch_size == 1:
        return 1
    capability = torch.backends.cpu.get_cpu_capability()
    widest = next((size for name, size in _VECTOR_BYTES.items() if capability.startswith(name)), _LEAST_VECTOR_BYTES)
    lanes = _LEAST_VECTOR_BYTES // itemsize
    while lanes < min(batch_size, widest // itemsize):
        lanes *= 2
    return lanes


def _constants(problem: Problem) -> list[str]:
    number, integer, suffix = _TYPES[problem.dtype]
    linears = _linears(problem.template)
    itemsize = problem.dtype.itemsize
    lanes = lanes_of(problem.batch_size, itemsize)
    # Activations and their gradients: those of every layer but the inputs' own.
    numbers = 2 * (linears[0].inputs + sum(linear.outputs for linear in linears))
    most = max(1, min(CHUNK_VECTORS, CHUNK_BYTES // (numbers * lanes * itemsize)))
    if linears[-1].end < FEW_WEIGHTS and problem.batch_size > 2 * CHUNK_VECTORS * lanes:
        most = 1
    squared = isinstance(problem.loss, nn.MSELoss)
    terms = problem.batch_size * (linears[-1].outputs if squared else 1)
    rate = problem.learning_rate * (2 if squared else 1) / terms
    return [
        f"#define LANES {lanes}",
        f"#define SHUFFLE_INT {integer}",
        *(f"#define {name.upper()} {name}{suffix}" for name in ("exp", "log", "tanh")),
        f"using T = {number};",
        f"constexpr int BATCH = {problem.batch_size}, MOST = {most}, WEIGHTS = {linears[-1].end};",
        f"constexpr T RATE = {float(rate).hex()}, MEAN = {(1 / terms).hex()};",
    ]


def _chunk(problem: Problem) -> list[str]:
    """Return the function of one chunk of points: forward, loss and backward, every layer a line each way."""
    found = _linears(problem.template)
    linears, width = iter(found), found[0].inputs
    forward = [f"V a0[{width}][C];", "load<TAIL>(inputs, a0);"]
    backward: list[str] = []
    place = 0
    for _, layer in chain(problem.template):
        if isinstance(layer, nn.Linear):
            linear = next(linears)
            bias = str(linear.bias).lower()
            before, place = place, place + 1
            forward += [
                f"V a{place}[{linear.outputs}][C];",
                f"linear<{bias}>(w + {linear.at}, a{before}, a{place});",
            ]
            # Nobody asks for the gradient by the data.
            further = [f"V d{before}[{linear.inputs}][C];", f"back(w + {linear.at}, d{place}, d{before});"]
            gradient = f"gradient<{bias}>(a{before}, d{place}, sums + {linear.at});"
            backward = [gradient, *(further if before else []), *backward]
            width = linear.outputs
        else:
            activation = _ACTIVATIONS[type(layer)]
            forward += [f"{activation}(a{place});"]
            backward = [*([f"{activation}_back(a{place}, d{place});"] if place else []), *backward]
    loss = [
        f"V d{place}[{width}][C];",
        f"add(sums[WEIGHTS], {_LOSSES[type(problem.loss)]}<TAIL>(targets, a{place}, d{place}));",
    ]
    return [
        f"using Target = {'T' if isinstance(problem.loss, nn.MSELoss) else 'int64_t'};",
        "template <int C, int TAIL>",
        "INLINE void chunk(const T* inputs, const Target* targets, const T* w, V* sums) {",
        *(f"    {line}" for line in (*forward, *loss, *backward)),
        "}",
    ]


def _entry(problem: Problem) -> list[str]:
    linears = _linears(problem.template)
    wanted = linears[-1].outputs if isinstance(problem.loss, nn.MSELoss) else 1
    full = f"inputs + n * CHUNK * {linears[0].inputs}, targets + n * CHUNK * {wanted}, w, sums"
    return [
        'extern "C" void make_updates(',
        "    int64_t steps, const T* inputs, int64_t next_inputs, const Target* targets, int64_t next_targets,",
        "    T* __restrict w, T* __restrict losses) {",
        "    V sums[PADDED] = {};",
        "    for (int64_t step = 0; step < steps; ++step, inputs += next_inputs, targets += next_targets) {",
        "        if constexpr (CHUNKS > 1)",
        "            for (int i = 0; i <= WEIGHTS; ++i) sums[i] = V{};",
        "        if constexpr (FULL > 0)",
        f"            for (int64_t n = 0; n < FULL; ++n) chunk<MOST, LANES>({full});",
        "        if constexpr (REST > 0) {",
        "            const int64_t n = FULL;",
        f"            chunk<REST_VECTORS, REST_TAIL>({full});",
        "        }",
        "        losses[step] = descend(w, sums);",
        "    }",
        "}",
    ]


class FusedUpdates:
    """Weights in one piece of memory, and the compiled function that changes them.

    Batches are read where they lie, by the stride between them (0 where one is expanded over steps); only batches that
    are not contiguous each are copied first, within the call.
    """

    def __init__(self, problem: Problem) -> None:
        linears = _linears(problem.template)
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
