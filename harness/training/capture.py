"""Whole updates captured as CUDA graphs: one launch replays many of them.

A captured graph reads and writes the memory that it was captured with, and nothing of Python's runs again. So batches
are copied into slots that the graph reads, losses are copied out of memory that it writes, and weights stay where the
engine has them, which loads by copying.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from harness.plan.case import Case
from harness.training.contract import Updates
from harness.training.module_updates import restored
from harness.training.trial import is_repeated, steps_at_once

# Takes work on memory that stays where it is, and returns what does the same work again.
Capture = Callable[[Callable[[], None]], Callable[[], None]]

# What is made at a first call – handles, workspaces, compiled kernels – cannot be made while capturing.
WARM_UPS = 3


def needs_cuda(case: Case) -> str | None:
    """Return why no CUDA graph can be captured for this case, or None."""
    return None if case.device.startswith("cuda") else "CUDA graphs are captured on a GPU only: --device cuda"


def cuda_graph(run: Callable[[], None]) -> Callable[[], None]:
    """Run on a side stream, as torch asks for, then capture; returns what replays it on the current stream."""
    side, current = torch.cuda.Stream(), torch.cuda.current_stream()  # type: ignore[no-untyped-call]
    side.wait_stream(current)
    with torch.cuda.stream(side):
        for _ in range(WARM_UPS):
            run()
    current.wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        run()
    return graph.replay


@dataclass(frozen=True)
class _Graph:
    """Captured updates: what they read – slots [count, batch, …] of inputs and targets – and write, losses [count]."""

    slots: tuple[Tensor, Tensor]
    losses: Tensor
    replay: Callable[[], None]


class CapturedUpdates:
    """Replays another engine's updates, captured at the first call: `steps` at once, and the rest one by one.

    updates: calls of it must wait for nothing that the device computes. capture: `cuda_graph`, or a test's own.
    """

    def __init__(self, updates: Updates, steps: int, capture: Capture = cuda_graph) -> None:
        self._updates = updates
        self._steps = steps
        self._capture = capture
        self._graphs: tuple[_Graph, _Graph] | None = None

    def load(self, parameters: Mapping[str, Tensor]) -> None:
        """Copy the weights into the memory that the captured updates change."""
        self._updates.load(parameters)

    def parameters(self) -> dict[str, Tensor]:
        """Return the weights by name."""
        return self._updates.parameters()

    def __call__(self, inputs: Tensor, targets: Tensor) -> Tensor:
        """Make one update per batch; inputs [steps, batch, features], returns losses [steps]."""
        if self._graphs is None:
            self._graphs = self._captured(inputs[0], targets[0])
        many, one = self._graphs
        steps, at_once = len(inputs), len(many.losses)
        # A batch that was expanded over steps goes into the slots once, others when their turn comes.
        fresh = []
        for place, batches in enumerate((inputs, targets)):
            if is_repeated(batches):
                many.slots[place][:steps].copy_(batches[:at_once])
            else:
                fresh.append((place, batches))
        losses = inputs.new_empty(steps)
        start = 0
        while start < steps:
            graph = many if start + at_once <= steps else one
            end = start + len(graph.losses)
            for place, batches in fresh:
                graph.slots[place].copy_(batches[start:end])
            graph.replay()
            losses[start:end].copy_(graph.losses)
            start = end
        return losses

    def _captured(self, batch: Tensor, target: Tensor) -> tuple[_Graph, _Graph]:
        """Capture graphs of many updates and of one, on the same memory; the weights are left as they were."""
        count = steps_at_once(self._steps, batch, target)
        inputs, targets = (values.expand(count, *values.shape).clone() for values in (batch, target))
        losses = inputs.new_empty(count)
        with restored(self._updates):
            many = self._graph(inputs, targets, losses)
            one = many if count == 1 else self._graph(inputs[:1], targets[:1], losses[:1])
        return many, one

    def _graph(self, inputs: Tensor, targets: Tensor, losses: Tensor) -> _Graph:
        def run() -> None:
            losses.copy_(self._updates(inputs, targets))

        return _Graph((inputs, targets), losses, self._capture(run))
