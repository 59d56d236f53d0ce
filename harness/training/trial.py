"""One seed's start: its data, its weights and the order of its batches, always drawn in the same order."""

import hashlib
import itertools
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from harness.training.contract import Problem, Workload

# Batches that the timed blocks cycle through: enough that a cache cannot hold them all, not so many that they fill a
# small machine.
MAX_BATCH_BYTES = 64 * 2**20
MAX_GPU_BATCH_BYTES = 1024 * 2**20
# Batches that are held at once by engines which unroll. Where one is large, its update does not wait for launches.
MAX_CHUNK_BYTES = 256 * 2**20

# Varied weights differ by up to this share.
VARIED_WEIGHTS = 0.05


@dataclass(frozen=True)
class Trial:
    """What one seed trains on and from.

    inputs: [points, features]; targets: [points, outputs]; both on the case's device.
    parameters: the starting weights by name.
    orders: for each epoch the order of the points, each [points]; None where one batch is the whole data set.
    held_out: inputs and targets of the points that no update sees; None where the workload has none.
    """

    inputs: Tensor
    targets: Tensor
    parameters: dict[str, Tensor]
    orders: tuple[Tensor, ...] | None
    batch_size: int
    held_out: tuple[Tensor, Tensor] | None = None

    def epochs(self) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield inputs [updates, batch, features] and targets [updates, batch, outputs] epoch by epoch, for ever.

        A full batch is not shuffled; a last, smaller batch is left out. After the last epoch the first order returns.
        """
        while True:
            for order in self.orders or (None,):
                yield self._batched(self.inputs, order), self._batched(self.targets, order)

    def batches(self, steps: int) -> tuple[Tensor, Tensor]:
        """Return the first `steps` batches, inputs [steps, batch, features] and targets [steps, batch, outputs].

        A full batch is a view expanded over steps. Real batches that would take more than MAX_BATCH_BYTES are not
        made: ask `max_steps` first.
        """
        if self.orders is None:
            full = next(self.epochs())
            return full[0].expand(steps, *full[0].shape[1:]), full[1].expand(steps, *full[1].shape[1:])
        epochs = -(-steps // (len(self.inputs) // self.batch_size))
        inputs, targets = zip(*itertools.islice(self.epochs(), epochs), strict=True)
        return torch.cat(inputs)[:steps], torch.cat(targets)[:steps]

    def max_steps(self) -> int | None:
        """Return the most batches that `batches` may be asked for; None where they take no memory."""
        if self.orders is None:
            return None
        points = self.batch_size * (self.inputs[0].nbytes + self.targets[0].nbytes)
        return max(1, (MAX_GPU_BATCH_BYTES if self.inputs.is_cuda else MAX_BATCH_BYTES) // points)

    def _batched(self, points: Tensor, order: Tensor | None) -> Tensor:
        updates = len(points) // self.batch_size
        chosen = points if order is None else points[order]
        return chosen[: updates * self.batch_size].view(updates, self.batch_size, *points.shape[1:])


def begin(workload: Workload, batch_size: int, seed: int, device: torch.device, dtype: torch.dtype) -> Trial:
    """Draw data, weights, shuffles and what is held out of one seed, in this order; place them on the device.

    Leaves torch's global random state as it was. Raises ValueError when the workload gives fewer points than a batch,
    or not as many inputs as targets.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        inputs, targets = workload.data(batch_size, seed)
        if len(inputs) < batch_size or len(inputs) != len(targets):
            raise ValueError(
                f"the workload's data has {len(inputs)} inputs and {len(targets)} targets for batches of {batch_size}"
            )
        model = workload.model(seed)
        orders = None
        if len(inputs) // batch_size > 1:
            orders = tuple(torch.randperm(len(inputs)).to(device) for _ in range(workload.epochs))
        held_out = _held_out(workload, batch_size, seed)
    return Trial(
        inputs=_placed(inputs, device, dtype),
        targets=_placed(targets, device, dtype),
        parameters={name: value.detach().to(device=device, dtype=dtype) for name, value in model.named_parameters()},
        orders=orders,
        batch_size=batch_size,
        held_out=held_out and (_placed(held_out[0], device, dtype), _placed(held_out[1], device, dtype)),
    )


def varied(parameters: Mapping[str, Tensor], seed: int) -> dict[str, Tensor]:
    """Return the parameters, each number off by up to VARIED_WEIGHTS."""
    result = {}
    for name, value in parameters.items():
        generator = torch.Generator(value.device).manual_seed(seed)
        noise = torch.empty_like(value, memory_format=torch.contiguous_format)
        result[name] = noise.uniform_(1 - VARIED_WEIGHTS, 1 + VARIED_WEIGHTS, generator=generator) * value
        seed = (seed + 1) % 2**63
    return result


def digest_of(workload: Workload, batch_size: int) -> str:
    """Return twelve hex digits that differ where another thing is trained: model, loss, learning rate, epochs or data.

    Of seed 0, as it is on the CPU in float32; how an engine makes its updates is not in it.
    """
    trial = begin(workload, batch_size, 0, torch.device("cpu"), torch.float32)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        told = f"{workload.model(0)} {workload.loss} {workload.learning_rate} {workload.epochs} {trial.inputs.shape}"
    found = hashlib.sha256(told.encode())
    for values in (trial.inputs, trial.targets, *trial.parameters.values()):
        found.update(values.contiguous().numpy().tobytes())
    return found.hexdigest()[:12]


def each(batches: Tensor) -> Iterable[Tensor]:
    """Return the batches [batch, …] of a tensor [steps, batch, …], for engines that loop over them.

    Making a view costs half a microsecond; a full batch that was expanded over steps needs only one for all of them.
    """
    return itertools.repeat(batches[0], len(batches)) if is_repeated(batches) else batches.unbind()


def chunks(batches: Tensor, steps: int) -> Iterable[Tensor]:
    """Return batches [any, batch, …] in tensors [steps, batch, …], for engines that unroll; what is left is left out.

    All are contiguous, as compiled code is for one layout: a batch that was expanded over steps is copied, once.
    """
    whole = len(batches) // steps
    if whole == 0:
        return ()
    if is_repeated(batches):
        return itertools.repeat(batches[:steps].contiguous(), whole)
    return torch.split(batches[: whole * steps], steps)


def steps_at_once(steps: int, batch: Tensor, target: Tensor) -> int:
    """Return how many batches to unroll by, at most `steps`: where one is large, many would only fill the memory."""
    return min(steps, max(1, MAX_CHUNK_BYTES // (batch.nbytes + target.nbytes)))


def is_repeated(batches: Tensor) -> bool:
    """Whether batches [steps, batch, …] are one batch that was expanded over steps."""
    return len(batches) > 0 and batches.stride(0) == 0


def problem_of(
    workload: Workload, batch_size: int, device: torch.device, dtype: torch.dtype, mixed: str = ""
) -> Problem:
    """Return the problem that engines are prepared for; dtype: of the parameters, mixed: as `Problem` has it."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = workload.model(0)
    return Problem(
        template=model.to(device=device, dtype=dtype),
        loss=workload.loss,
        learning_rate=workload.learning_rate,
        batch_size=batch_size,
        mixed=mixed,
    )


def _held_out(workload: Workload, batch_size: int, seed: int) -> tuple[Tensor, Tensor] | None:
    draw = getattr(workload, "held_out", None)
    if draw is None:
        return None
    inputs, targets = draw(batch_size, seed)
    if not len(inputs) or len(inputs) != len(targets):
        raise ValueError(f"the workload holds out {len(inputs)} inputs and {len(targets)} targets")
    return inputs, targets


def _placed(points: Tensor, device: torch.device, dtype: torch.dtype) -> Tensor:
    return points.to(device=device, dtype=dtype if points.is_floating_point() else None)
