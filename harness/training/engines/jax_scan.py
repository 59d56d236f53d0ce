"""The same training in JAX: `jax.jit` of a `jax.lax.scan` over updates, `jax.value_and_grad`, SGD written out.

XLA compiles a scan for its length, and a call may be of any number of updates. So a call is made of scans of one
length, and what is left over goes through the same loop with its length as an argument. The first call compiles both,
for a batch that is the same in every update and for batches that differ: nothing is compiled while anything is timed.
"""

import gc
import importlib
import importlib.util
import os
import resource
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy
import torch
from torch import Tensor, nn
from torch.utils.dlpack import from_dlpack

from harness.plan.case import Case
from harness.plan.outcome import CaseEnded, Outcome
from harness.training.contract import Problem, Updates
from harness.training.layers import chain, describe
from harness.training.rules import has_loss_rule

# Updates of one scan. On a CPU, a loop of unknown length is as fast, and entering XLA takes some 10 µs. On a GPU, the
# host has to ask before each update whether there is another, and need not wait for a scan to enter the next.
LENGTHS = {"cpu": 4096, "cuda": 64}
# Batches that differ are handed over with the rest filled up to a scan's length: not more than a cache holds.
MAX_BATCHES_BYTES = 4 * 2**20
# Updates that show whether XLA keeps to one thread.
TRIED = 10

_LAYERS = (nn.Linear, nn.ReLU, nn.Tanh, nn.Sigmoid, nn.GELU)

Array = Any  # of JAX, which is not imported before it is needed; or of numpy, where JAX takes either
Weights = Mapping[str, Array]
Updated = Any  # a pair of Weights and losses [steps], as JAX traces it
# weights, inputs, targets → the weights after one update and the loss before it.
Update = Callable[[Weights, Array, Array], tuple[Weights, Array]]


@dataclass(frozen=True)
class Programs:
    """Compiled for batches of one shape; weights, inputs, targets → the weights after, and losses [length].

    whole: makes `length` updates. rest: as many as a fourth argument says; the losses after these mean nothing.
    """

    length: int
    whole: Callable[..., tuple[Weights, Array]]
    rest: Callable[..., tuple[Weights, Array]]


class JaxScan:
    """Gradients and loop by XLA: a whole stretch of training is one program."""

    def unsupported(self, problem: Problem, case: Case) -> str | None:  # noqa: ARG002
        """Name what was not written in JAX, or what is missing to run it."""
        for name, layer in chain(problem.template):
            if type(layer) not in _LAYERS or getattr(layer, "approximate", "none") != "none":
                return f"layer {name or 'model'}, {describe(layer)}, is not written in JAX"
        if not has_loss_rule(problem.loss):
            return f"the loss {describe(problem.loss)} is not written in JAX"
        if importlib.util.find_spec("jax") is None:
            return "JAX is not installed: pip install -e '.[jax]'"
        try:
            _device(problem)
        except (ImportError, RuntimeError) as error:
            hint = (
                " (pip install 'jax[cuda13]', or cuda12 where torch has that)" if problem.device.type == "cuda" else ""
            )
            return f"JAX finds no {problem.device.type} here{hint}: {str(error).splitlines()[0]}"
        return None

    def prepare(self, problem: Problem, steps: int) -> Updates:  # noqa: ARG002
        """Compile nothing yet: the first call shows what a batch looks like."""
        return ScanUpdates(problem, _device(problem))


class ScanUpdates:
    """SGD updates by scans. What JAX was given or holds it never changes: each scan returns new weights."""

    def __init__(self, problem: Problem, device: Array) -> None:
        self._device = device
        self._length = LENGTHS[problem.device.type]
        self._update = _sgd_update(problem)
        self._names = [name for name, _ in problem.template.named_parameters()]
        self._weights: Weights = {}
        self._batch: tuple[object, ...] = ()
        self._programs: dict[bool, Programs] = {}
        self.load(dict(problem.template.named_parameters()))

    def load(self, parameters: Mapping[str, Tensor]) -> None:
        """Copy the weights."""
        self._weights = {name: _given(parameters[name].detach().clone()) for name in self._names}

    def __call__(self, inputs: Tensor, targets: Tensor) -> Tensor:
        """Make one update per batch; inputs [steps, batch, features], returns losses [steps]."""
        if targets.dtype == torch.int64:
            targets = targets.int()  # JAX has no whole numbers of 64 bits unless told
        batch = (inputs.shape[1:], inputs.dtype, targets.shape[1:], targets.dtype)
        if batch != self._batch:
            self._programs = {same: self._compile(inputs[0], targets[0], same=same) for same in (True, False)}
            self._batch = batch
            self._check_threads(inputs[0], targets[0])
        steps = len(inputs)
        # A full batch, expanded over steps, is handed over once.
        same = steps == 1 or inputs.stride(0) == targets.stride(0) == 0
        programs, weights, losses = self._programs[same], self._weights, []
        length = programs.length
        given = (_given(inputs[0]), _given(targets[0])) if same else ()
        for begin in range(0, steps, length):
            if not same:
                given = tuple(_given(_filled(each[begin : begin + length], length)) for each in (inputs, targets))
            if steps - begin >= length:
                weights, made = programs.whole(weights, *given)
            else:
                weights, made = programs.rest(weights, *given, numpy.int32(steps - begin))
            losses.append(made)
        self._weights = weights
        returned = self._returned(losses)
        return (returned[0] if len(returned) == 1 else torch.cat(returned))[:steps]

    def parameters(self) -> dict[str, Tensor]:
        """Return copies of the weights by name."""
        return dict(zip(self._names, self._returned([self._weights[name] for name in self._names]), strict=True))

    def _returned(self, arrays: Sequence[Array]) -> list[Tensor]:
        """Return arrays, which may be read-only, as tensors of torch's own; waits for them."""
        if self._device.platform == "cpu":
            return [torch.from_numpy(numpy.array(array)) for array in arrays]
        copies = [from_dlpack(array).clone() for array in arrays]
        # JAX does not know that torch still reads, and would use the memory again.
        torch.cuda.current_stream(copies[0].device).synchronize()
        return copies

    def _check_threads(self, inputs: Tensor, targets: Tensor) -> None:
        """Raise CaseEnded (unsupported) where one thread is not enough; no setting of XLA's decides that.

        Where parts of an update do not hang on each other and are not small, it leaves them to a thread of its own.
        """
        if self._device.platform != "cpu" or torch.get_num_threads() > 1 or sys.platform != "linux":
            return
        arguments = self._weights, _given(inputs), _given(targets), numpy.int32(TRIED)
        for _ in range(10):  # another thread may be at work for another reason
            process, thread = _cpu_s(resource.RUSAGE_SELF), _cpu_s(resource.RUSAGE_THREAD)
            self._programs[True].rest(*arguments)[1].block_until_ready()
            process, thread = _cpu_s(resource.RUSAGE_SELF) - process, _cpu_s(resource.RUSAGE_THREAD) - thread
            if process - thread <= 0.05 * process:
                return
        raise CaseEnded(Outcome.UNSUPPORTED, "XLA computes updates of this size on two threads: use --threads 2")

    def _compile(self, inputs: Tensor, targets: Tensor, *, same: bool) -> Programs:
        """Compile for batches like these, inputs [batch, …]: the same in every update, or not."""
        import jax

        length = self._length
        if not same:
            length = max(1, min(length, MAX_BATCHES_BYTES // (inputs.nbytes + targets.nbytes)))
        placed = jax.sharding.SingleDeviceSharding(self._device)

        def like(value: Array, *steps: int) -> Array:
            return jax.ShapeDtypeStruct((*steps, *value.shape), value.dtype, sharding=placed)

        weights = {name: like(value) for name, value in self._weights.items()}
        batches = [like(_given(batch), *(() if same else (length,))) for batch in (inputs, targets)]
        whole = jax.jit(partial(_whole, self._update, length, same=same))
        rest = jax.jit(partial(_rest, self._update, length, same=same))
        return Programs(
            length,
            whole.lower(weights, *batches).compile(),
            rest.lower(weights, *batches, like(numpy.int32(0))).compile(),
        )


def _whole(update: Update, length: int, weights: Weights, inputs: Array, targets: Array, *, same: bool) -> Updated:
    """Make `length` updates, on inputs [batch, …] that are the same in each, or [length, batch, …]."""
    from jax import lax

    if same:
        return lax.scan(lambda now, _: update(now, inputs, targets), weights, length=length)
    return lax.scan(lambda now, batch: update(now, *batch), weights, (inputs, targets), length=length)


def _rest(
    update: Update, length: int, weights: Weights, inputs: Array, targets: Array, steps: Array, *, same: bool
) -> Updated:
    """Make the first `steps` of these updates."""
    from jax import lax
    from jax import numpy as jnp

    def make(step: Array, state: tuple[Weights, Array]) -> tuple[Weights, Array]:
        now, losses = state
        batch = (
            (inputs, targets)
            if same
            else (
                lax.dynamic_index_in_dim(each, step, keepdims=False, allow_negative_indices=False)
                for each in (inputs, targets)
            )
        )
        now, loss = update(now, *batch)
        # Without asking whether the step is negative, it is as fast as a scan.
        return now, lax.dynamic_update_index_in_dim(losses, loss, step, 0, allow_negative_indices=False)

    return lax.fori_loop(0, steps, make, (weights, jnp.zeros(length, inputs.dtype)))


def _sgd_update(problem: Problem) -> Update:
    """Return one SGD update, as JAX traces it."""
    import jax

    value_and_grad, learning_rate = jax.value_and_grad(_forward_loss(problem)), problem.learning_rate

    def update(weights: Weights, inputs: Array, targets: Array) -> tuple[Weights, Array]:
        loss, gradients = value_and_grad(weights, inputs, targets)
        return {name: value - learning_rate * gradients[name] for name, value in weights.items()}, loss

    return update


def _forward_loss(problem: Problem) -> Callable[[Weights, Array, Array], Array]:
    """Return model and loss, written in JAX: the loss (0-d) by weights, inputs [batch, …] and targets [batch, …]."""
    from jax import nn as functions
    from jax import numpy as jnp

    activations: Mapping[type[nn.Module], Callable[[Array], Array]] = {
        nn.ReLU: functions.relu,
        nn.Tanh: jnp.tanh,
        nn.Sigmoid: functions.sigmoid,
        nn.GELU: partial(functions.gelu, approximate=False),
    }

    def mean_squared_error(outputs: Array, targets: Array) -> Array:
        return jnp.mean(jnp.square(outputs - targets))

    def cross_entropy(outputs: Array, targets: Array) -> Array:
        # Not by a gather: its gradient is a scatter, which XLA makes point by point on a CPU.
        chosen = targets[:, None] == jnp.arange(outputs.shape[1])
        return -jnp.sum(jnp.where(chosen, functions.log_softmax(outputs), 0)) / outputs.shape[0]

    layers = chain(problem.template)
    loss = cross_entropy if isinstance(problem.loss, nn.CrossEntropyLoss) else mean_squared_error

    def forward_loss(weights: Weights, inputs: Array, targets: Array) -> Array:
        values = inputs
        for name, layer in layers:
            if isinstance(layer, nn.Linear):
                own = f"{name}." if name else ""
                # `highest`: XLA takes TF32 on a GPU otherwise, and calls it float32.
                values = jnp.matmul(values, weights[f"{own}weight"].T, precision="highest")
                if f"{own}bias" in weights:
                    values = values + weights[f"{own}bias"]
            else:
                values = activations[type(layer)](values)
        return loss(values, targets)

    return forward_loss


def _filled(batches: Tensor, length: int) -> Tensor:
    """Return batches [at most length, …] as [length, …]; what is put after them is never read."""
    if len(batches) == length:
        return batches
    filled = batches.new_empty(length, *batches.shape[1:])
    filled[: len(batches)] = batches
    return filled


def _cpu_s(who: int) -> float:
    """Return the CPU time of this thread or process."""
    used = resource.getrusage(who)
    return used.ru_utime + used.ru_stime


def _given(value: Tensor) -> Array:
    """Return a tensor's own memory as JAX takes it."""
    if value.device.type == "cpu":
        return value.numpy()
    import jax

    return jax.dlpack.from_dlpack(value.contiguous())


def _device(problem: Problem) -> Array:
    """Return the problem's device as JAX knows it; raises ImportError or RuntimeError where it knows none."""
    if "jax" not in sys.modules:
        _import(problem.device.type)
    import jax

    if problem.dtype == torch.float64:
        jax.config.update("jax_enable_x64", val=True)
    return jax.devices(problem.device.type)[problem.device.index or 0]


def _import(device_type: str) -> None:
    """Import JAX for this process, so that it keeps to the device and to torch's number of threads."""
    threads = torch.get_num_threads()
    flags = [os.environ.get("XLA_FLAGS", ""), *(["--xla_cpu_multi_thread_eigen=false"] if threads == 1 else [])]
    os.environ |= {
        "JAX_PLATFORMS": "cpu" if device_type == "cpu" else f"{device_type},cpu",
        "JAX_ENABLE_COMPILATION_CACHE": "false",  # the user's is neither read nor filled
        "NPROC": str(threads),  # of XLA's own pool
        "XLA_FLAGS": " ".join(filter(None, flags)),
        "XLA_PYTHON_CLIENT_PREALLOCATE": "false",  # torch is on the same GPU, and three quarters of it are much
    }
    callbacks = list(gc.callbacks)
    jax = importlib.import_module("jax")
    # JAX has XLA look for garbage of its own whenever Python does; nothing may run between what is measured.
    gc.callbacks[:] = callbacks
    # The thread that calls is the one that computes; the call ends when that is done.
    jax.config.update("jax_cpu_enable_async_dispatch", val=False)
