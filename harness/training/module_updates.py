"""What engines share that train an `nn.Module` in place."""

import contextlib
from collections.abc import Iterator, Mapping

import torch
from torch import Tensor, nn

from harness.training.contract import Updates


class ModuleUpdates:
    """Loads and returns the weights of a module; whoever inherits makes the updates."""

    def __init__(self, model: nn.Module) -> None:
        self._model = model

    def load(self, parameters: Mapping[str, Tensor]) -> None:
        """Copy the weights into the memory that the module already has: compiled and captured code reads it."""
        with torch.no_grad():
            for name, parameter in self._model.named_parameters():
                parameter.copy_(parameters[name])

    def parameters(self) -> dict[str, Tensor]:
        """Return the weights by name."""
        return {name: value.detach() for name, value in self._model.named_parameters()}


@contextlib.contextmanager
def restored(updates: Updates) -> Iterator[None]:
    """Put an engine's weights back at the end: for updates that are made only to compile or to warm up."""
    before = {name: value.clone() for name, value in updates.parameters().items()}
    yield
    updates.load(before)
