"""A stand-in for CUDA graphs that needs no GPU: operations are recorded once, and replayed on the very same memory."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from harness.training.capture import WARM_UPS


def recorded(run: Callable[[], None]) -> Callable[[], None]:
    """Capture as `cuda_graph` does, on any device: warm up, record, and return what replays.

    As with a CUDA graph nothing of Python's runs again: what `run` decided, and the memory it used, stay. Other than
    with a CUDA graph, recording does the work as well.
    """
    for _ in range(WARM_UPS):
        run()
    with _Recorder() as recorder:
        run()
    return recorder.replay


class _Recorder(TorchDispatchMode):
    """Notes every operation below autograd, its arguments and its results."""

    def __init__(self) -> None:
        super().__init__()
        self._calls: list[tuple[Any, Any, Any, Any]] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        self._calls.append((func, args, kwargs or {}, result))
        return result

    @torch.no_grad()
    def replay(self) -> None:
        for func, args, kwargs, before in self._calls:
            for old, new in zip(tree_leaves(before), tree_leaves(func(*args, **kwargs)), strict=True):
                # A view or an `out=` has its memory already.
                if isinstance(old, Tensor) and old.data_ptr() != new.data_ptr():
                    old.copy_(new)
