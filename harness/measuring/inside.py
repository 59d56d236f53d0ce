"""What happens inside an update, by torch.profiler and torch's own counters: operations, kernels, memory, compiling.

The profiler makes an update slower, but mostly between operations, where it writes down what it saw: what it says of
the operations themselves can be held against the time of an update without it. Each kind of operation counts with its
median time, since one moment without the core would be more than all of an update.
"""

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from time import perf_counter_ns
from typing import Any

import torch

from harness.measuring.sampling import quantile_of

LISTED = 12
REPEATS = 5
_CALLS = 300

# What the profiler lists beside operations: torch's own marks around them, and memory.
_MEMORY = "[memory]"
_MACHINERY = (
    *("autograd::", "torch::autograd", "Optimizer."),
    *("Torch-Compiled", "TorchDynamo", "AOTDispatcher", "Pregraph", "CompiledFunction"),
)
_NODES = ("Backward", "AccumulateGrad")
# Operations that only make a view or look at one, and are no work in themselves.
_VIEWS = frozenset(
    f"aten::{name}"
    for name in [
        "t",
        "transpose",
        "as_strided",
        "view",
        "reshape",
        "expand",
        "unsqueeze",
        "squeeze",
        "select",
        "slice",
        "detach",
        "detach_",
        "unbind",
        "narrow",
        "permute",
        "alias",
        "resolve_conj",
        "resolve_neg",
        "lift_fresh",
    ]
)


@dataclass(frozen=True)
class Part:
    """One kind of operation or kernel.

    per_step: how often an update has it. self_ns: its time in an update, without that of its parts.
    """

    name: str
    per_step: float
    self_ns: float


@dataclass(frozen=True)
class Inside:
    """What the profiler saw of an update.

    profiled_ns: the whole update under the profiler. machinery_ns: in torch, but in no operation that works: autograd's
    nodes, views, guards of compiled code. work_ns: in operations that do something, the cost of calling them included.
    operations, machinery: how many of each. least_ns: of the least operation there is, so that operations × least_ns is
    what calling them costs at least. allocations, allocated_bytes: memory taken, by number and size. parts: on the CPU,
    what takes longest first. kernels: on the GPU, the same. breaks, recompiles: of compiled code, with their reasons.
    """

    profiled_ns: float
    machinery_ns: float
    work_ns: float
    operations: float
    machinery: float
    least_ns: float
    allocations: float
    allocated_bytes: float
    parts: tuple[Part, ...]
    kernels: tuple[Part, ...]
    breaks: dict[str, int]
    recompiles: tuple[str, ...]


def look_inside(run: Callable[[], Any], steps: int, device: torch.device) -> Inside:
    """Profile run(), which makes so many updates and waits for the device; it has been warmed up.

    Raises RuntimeError where the profiler may not look.
    """
    from torch._C._autograd import DeviceType
    from torch.profiler import ProfilerActivity, profile

    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if device.type == "cuda" else [])]
    with profile(activities=activities, profile_memory=True):  # the profiler's own first time is slow
        run()
    with profile(activities=activities, profile_memory=True) as profiler:
        taken = []
        for _ in range(REPEATS):
            start = perf_counter_ns()
            run()
            taken.append(perf_counter_ns() - start)
    steps_seen = steps * REPEATS
    events = [event for event in profiler.events() or () if not event.is_user_annotation]
    on_host = [event for event in events if event.device_type == DeviceType.CPU]
    on_device = [event for event in events if event.device_type == DeviceType.CUDA]
    calls = [event for event in on_host if event.name != _MEMORY]
    working = [event for event in calls if not _is_machinery(event.name)]
    machinery = [event for event in calls if _is_machinery(event.name)]
    parts = _parts(((event.name, event.self_cpu_time_total * 1000) for event in calls), steps_seen)
    sizes = list(_allocated(_tree(profiler)))
    return Inside(
        profiled_ns=quantile_of(taken, 0.5) / steps,
        machinery_ns=sum(part.self_ns for part in parts if _is_machinery(part.name)),
        work_ns=sum(part.self_ns for part in parts if not _is_machinery(part.name)),
        operations=len(working) / steps_seen,
        machinery=len(machinery) / steps_seen,
        least_ns=_least_ns(device, activities),
        allocations=len(sizes) / steps_seen,
        allocated_bytes=sum(sizes) / steps_seen,
        parts=parts[:LISTED],
        kernels=_parts(((event.name, event.time_range.elapsed_us() * 1000) for event in on_device), steps_seen)[
            :LISTED
        ],
        breaks=_breaks(),
        recompiles=_recompiles(),
    )


def _least_ns(device: torch.device, activities: Iterable[Any]) -> float:
    """Return what the profiler counts for the least operation there is: one number is added to another, in place."""
    from torch.profiler import profile

    one = torch.ones(1, device=device)
    with profile(activities=activities, profile_memory=True) as profiler:
        for _ in range(_CALLS):
            one.add_(one)
    taken = [event.self_cpu_time_total * 1000 for event in profiler.events() or () if event.name == "aten::add_"]
    return quantile_of(taken, 0.25)


def _tree(profiler: Any) -> Iterable[Any]:
    return profiler.profiler.kineto_results.experimental_event_tree()  # type: ignore[no-any-return]


def _allocated(events: Iterable[Any]) -> Iterator[int]:
    """Yield the size in bytes of everything that was allocated; the profiler's flat list has not all of it."""
    from torch._C._profiler import _EventType

    for event in events:
        if event.tag == _EventType.Allocation and event.extra_fields.alloc_size > 0:
            yield event.extra_fields.alloc_size
        yield from _allocated(event.children)


def _is_machinery(name: str) -> bool:
    return name in _VIEWS or name.startswith(_MACHINERY) or any(part in name for part in _NODES)


def _parts(seen: Iterable[tuple[str, float]], steps: int) -> tuple[Part, ...]:
    """Return each kind of what was seen in so many updates, what takes longest first."""
    times: defaultdict[str, list[float]] = defaultdict(list)
    for name, self_ns in seen:
        times[name].append(self_ns)
    parts = [
        Part(name, len(taken) / steps, quantile_of(taken, 0.5) * len(taken) / steps) for name, taken in times.items()
    ]
    return tuple(sorted(parts, key=lambda part: -part.self_ns))


def _breaks() -> dict[str, int]:
    from torch._dynamo.utils import counters

    return {" ".join(str(reason).split())[:300]: int(count) for reason, count in counters["graph_break"].items()}


def _recompiles() -> tuple[str, ...]:
    from torch._dynamo.utils import get_compilation_metrics

    reasons = (metric.recompile_reason for metric in get_compilation_metrics())
    return tuple(" ".join(str(reason).split())[:300] for reason in reasons if reason)
