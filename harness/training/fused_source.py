"""The C++ of the engine `fused`: one network, number type and batch size, written out layer by layer."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from harness.training.contract import Problem
from harness.training.layers import chain

# What a chunk's activations may take of a first-level cache, and its vectors. Measured on `line` and `line_deep` with
# AVX-512: chunks of four are the fastest; of one for many points and few weights, whose sums then stay in registers.
CHUNK_BYTES = 32 * 2**10
CHUNK_VECTORS = 4
FEW_WEIGHTS = 32


ACTIVATIONS: Mapping[type[nn.Module], str] = {nn.ReLU: "relu", nn.Tanh: "tanh", nn.Sigmoid: "sigmoid"}
LOSSES: Mapping[type[nn.Module], str] = {nn.MSELoss: "mse", nn.CrossEntropyLoss: "cross_entropy"}
_TYPES: Mapping[torch.dtype, tuple[str, str, str]] = {
    torch.float32: ("float", "int32_t", "f"),
    torch.float64: ("double", "int64_t", ""),
}
_VECTOR_BYTES = {"AVX512": 64, "AVX2": 32}
_LEAST_VECTOR_BYTES = 16


@dataclass(frozen=True)
class LinearAt:
    """Where a layer's weights are: W [outputs, inputs] from `at` on, then, with a bias, b [outputs]."""

    name: str
    at: int
    inputs: int
    outputs: int
    bias: bool

    @property
    def end(self) -> int:
        """Where the weights after it begin."""
        return self.at + self.outputs * (self.inputs + self.bias)

    def weights(self, flat: Tensor) -> dict[str, Tensor]:
        """Return the views of its weights in the memory of all, by name."""
        prefix = f"{self.name}." if self.name else ""
        rest = self.at + self.outputs * self.inputs
        found = {f"{prefix}weight": flat[self.at : rest].view(self.outputs, self.inputs)}
        return found | ({f"{prefix}bias": flat[rest : self.end]} if self.bias else {})


def linears_of(model: nn.Module) -> list[LinearAt]:
    """Return where the weights of each `nn.Linear` of a chain are, in order."""
    found: list[LinearAt] = []
    for name, layer in chain(model):
        if isinstance(layer, nn.Linear):
            at = found[-1].end if found else 0
            found.append(LinearAt(name, at, layer.in_features, layer.out_features, layer.bias is not None))
    return found


def source(problem: Problem) -> str:
    """Return the C++ of a problem that is supported: constants, `fused_source.cpp`, and the network layer by layer."""
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
    linears = linears_of(problem.template)
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
    found = linears_of(problem.template)
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
            activation = ACTIVATIONS[type(layer)]
            forward += [f"{activation}(a{place});"]
            backward = [*([f"{activation}_back(a{place}, d{place});"] if place else []), *backward]
    loss = [
        f"V d{place}[{width}][C];",
        f"add(sums[WEIGHTS], {LOSSES[type(problem.loss)]}<TAIL>(targets, a{place}, d{place}));",
    ]
    return [
        f"using Target = {'T' if isinstance(problem.loss, nn.MSELoss) else 'int64_t'};",
        "template <int C, int TAIL>",
        "INLINE void chunk(const T* inputs, const Target* targets, const T* w, V* sums) {",
        *(f"    {line}" for line in (*forward, *loss, *backward)),
        "}",
    ]


def _entry(problem: Problem) -> list[str]:
    linears = linears_of(problem.template)
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
