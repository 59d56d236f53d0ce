"""Notices when an engine has replaced what it is measured and checked by.

An engine runs in the worker's own process and could put other functions in the place of the clock, the reference or
the checks, or have Python run something of its own between them. A seal is taken before it is loaded, and compared now
and then while blocks are timed, and when everything is done. It is no protection against code that sets out to forge a
record from within; the parent's own clock (`running.outside`) is a second witness.
"""

import gc
import os
import random
import resource
import signal
import sys
import time
from types import BuiltinFunctionType, FunctionType, GetSetDescriptorType, ModuleType
from typing import Any

from harness.plan.outcome import CaseEnded, Outcome

# Each engine is a module of its own here, loaded later or not at all.
_NOT_SEALED = ("harness.training.engines.", "harness.training.workloads.")

_taken: dict[str, Any] = {}


def take() -> dict[str, Any]:
    """Return what the program's modules, the clocks and what the checks use of torch are now, by name."""
    global _taken  # what is checked far below the worker need not be handed down through every function
    _taken = _now()
    return _taken


def broken(sealed: dict[str, Any]) -> str | None:
    """Return the name of the first thing that is not any more what it was, or None."""
    return _first_difference(sealed, _now())


def check() -> None:
    """Raise CaseEnded (rejected) when something is not any more what it was when the seal was taken, if one was."""
    replaced = broken(_taken) if _taken else None
    if replaced is not None:
        raise CaseEnded(Outcome.REJECTED, told(replaced))


def told(replaced: str) -> str:
    """Return the reason of a case whose engine has replaced this."""
    return f"the engine replaces {replaced}, which it is measured or checked by"


def _first_difference(sealed: dict[str, Any], now: dict[str, Any]) -> str | None:
    return next((name for name, value in sealed.items() if name not in now or now[name] != value), None)


def _now() -> dict[str, Any]:
    modules = [
        module
        for name, module in list(sys.modules.items())
        if name.startswith("harness.") and not name.startswith(_NOT_SEALED) and module is not None
    ]
    sealed = {
        f"{module.__name__}.{name}": _identity(value)
        for module in (*modules, time, resource, random, os)
        for name, value in list(vars(module).items())
        if not name.startswith("__") and not isinstance(value, ModuleType) and name not in ("environ", "_taken")
    }
    for module in (*modules, random):
        for kind in [value for value in vars(module).values() if isinstance(value, type)]:
            if kind.__module__ == module.__name__:
                for name, value in list(vars(kind).items()):
                    if isinstance(value, FunctionType | property | classmethod | staticmethod):
                        sealed[f"{module.__name__}.{kind.__name__}.{name}"] = _identity(value)
    return sealed | _interpreter() | _torch()


def _interpreter() -> dict[str, Any]:
    """Return what Python has been told to run between the program's own lines."""
    hooks = {
        "sys.setprofile": sys.getprofile(),
        "sys.settrace": sys.gettrace(),
        "gc.callbacks": list(gc.callbacks),
        "signal.signal": [signal.getsignal(number) for number in signal.valid_signals()],
    }
    if hasattr(sys, "monitoring"):  # from Python 3.12
        hooks["sys.monitoring"] = [sys.monitoring.get_tool(number) for number in range(6)]
    return {name: repr(value) for name, value in hooks.items()}


def _torch() -> dict[str, Any]:
    torch = sys.modules.get("torch")
    if torch is None:
        return {}
    functions = {
        f"torch.{name}": value for name, value in list(vars(torch).items()) if isinstance(value, BuiltinFunctionType)
    } | {
        f"{place}.{name}": value
        for place, things in (
            ("torch.nn.functional", torch.nn.functional),
            ("torch.Generator", torch.Generator),
            ("torch.Tensor", torch._C.TensorBase),
            ("torch.Tensor", torch.Tensor),  # a method of its own is before that of its base
            ("torch.nn.Linear", torch.nn.Linear),
        )
        for name, value in list(vars(things).items())
        if callable(value) or isinstance(value, GetSetDescriptorType | property)
    }
    things = {
        "torch.autograd.grad": torch.autograd.grad,
        "torch.func.functional_call": torch.func.functional_call,
        "torch.cuda.synchronize": torch.cuda.synchronize,
        "torch.cuda.Event": torch.cuda.Event,
        **{
            f"torch.distributed.{name}": getattr(torch.distributed, name, None)
            for name in ("all_gather_object", "all_reduce", "broadcast", "get_rank", "get_world_size")
        },
        # torch's compiler wraps others, as `__init__`, when it is imported.
        "torch.nn.Module.__call__": torch.nn.Module.__call__,
        "torch.nn.Module._call_impl": torch.nn.Module._call_impl,
    }
    modes = {
        "torch.overrides.TorchFunctionMode": torch._C._len_torch_function_stack(),
        "torch.utils._python_dispatch.TorchDispatchMode": torch._C._len_torch_dispatch_stack(),
    }
    return {name: _identity(value) for name, value in (functions | things | modes).items()}


def _identity(value: object) -> Any:
    """Return what is equal as long as a thing is the same and does the same."""
    if isinstance(value, FunctionType):
        return (value, value.__code__, value.__defaults__)
    if isinstance(value, dict | list | set):
        return repr(value)
    # A number or text is itself; of everything else, being the same object is enough.
    return value if isinstance(value, int | float | str | tuple | frozenset) else id(value)
