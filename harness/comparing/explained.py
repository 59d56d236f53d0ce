"""What bounds an update, from what was counted and measured inside it: a verdict in words, never a guess."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

# What takes more than half of an update is what it is bound by.
MOST = 0.5
_NAMED = 0.2


@dataclass(frozen=True)
class Share:
    """A part of an update: its share of the time, and what it is."""

    name: str
    share: float
    meaning: str


@dataclass(frozen=True)
class Explained:
    """Where the time of an update goes. bound: `launches`, `overhead` or `work`. why: in words. shares: add up to 1."""

    bound: str
    why: str
    shares: tuple[Share, ...]


def explained(record: Mapping[str, Any]) -> Explained:
    """Explain the record of an explainer that has `inside` and times."""
    inside = record["inside"]
    if inside["kernels"]:
        return _on_gpu(record, inside)
    return _on_cpu(record, inside)


def _on_cpu(record: Mapping[str, Any], inside: Mapping[str, Any]) -> Explained:
    within = inside["machinery_ns"] + inside["work_ns"]
    total = max(record["step_ns"], within, 1e-9)
    calling = min(inside["work_ns"], inside["operations"] * inside["least_ns"])
    work = inside["work_ns"] - calling
    shares = (
        Share("outside torch", (total - within) / total, "Python, and code that torch knows nothing of"),
        Share(
            "torch's machinery",
            inside["machinery_ns"] / total,
            f"{_count(inside['machinery'])} autograd nodes, views, compiled regions",
        ),
        Share(
            "calling operations",
            calling / total,
            f"{_count(inside['operations'])} × {_time(inside['least_ns'])}, what the least of them takes",
        ),
        Share("work", work / total, "inside them"),
    )
    busy = _busiest(inside["parts"], work)
    if inside["operations"] * record.get("members", 1) < 1:
        why = (
            f"Torch sees {_count(inside['operations'])} operations per update: the engine makes its updates in code of "
            f"its own, in which the profiler cannot look. "
        )
        return Explained("work", why + _memory(record, inside), shares)
    if 1 - shares[-1].share > MOST:
        why = (
            f"Overhead-bound: {_count(inside['operations'])} operations and {_count(inside['machinery'])} pieces of "
            f"machinery per update, and only {shares[-1].share:.0%} of its time is work. Fewer and larger calls pay: "
            f"the whole update in one graph, many updates per call, or a larger batch. "
        )
        return Explained("overhead", why + _memory(record, inside), shares)
    why = f"Work-bound: {shares[-1].share:.0%} of the time is inside operations{busy}. "
    return Explained("work", why + _memory(record, inside), shares)


def _on_gpu(record: Mapping[str, Any], inside: Mapping[str, Any]) -> Explained:
    step, kernels = record["step_ns"], sum(part["self_ns"] for part in inside["kernels"])
    kernels = record.get("kernel_ns") or kernels
    count = record.get("kernels_per_step") or sum(part["per_step"] for part in inside["kernels"])
    busy = min(1.0, kernels / step)
    shares = (
        Share("kernels", busy, f"{_count(count)} on the GPU"),
        Share("gaps", 1 - busy, "the GPU waits for the host, or for the kernel before"),
    )
    replays = record.get("graph_launches_per_step") or 0
    if busy < MOST:
        cure = (
            "they are replayed from a captured graph, so only fewer kernels help: fuse"
            if replays
            else "capture the update (cuda_graph_…) or fuse it"
        )
        why = (
            f"Launch-bound: {_count(count)} kernels for {_time(kernels)} of work in an update of {_time(step)}: "
            f"the GPU idles {1 - busy:.0%} of it; {cure}. "
        )
        return Explained("launches", why, shares)
    longest = _busiest(inside["kernels"], kernels)
    return Explained("work", f"Work-bound: kernels fill {busy:.0%} of the update{longest}. ", shares)


def _busiest(parts: list[Mapping[str, Any]], whole_ns: float) -> str:
    if not parts or whole_ns <= 0:
        return ""
    named = [part for part in parts if part["self_ns"] > _NAMED * whole_ns][:2]
    return ", most in " + " and ".join(str(part["name"]) for part in named) if named else ""


def _memory(record: Mapping[str, Any], inside: Mapping[str, Any]) -> str:
    if inside["allocations"] < 0.5:
        return "It takes no memory while it runs."
    text = f"It takes memory {_count(inside['allocations'])} times per update, {inside['allocated_bytes']:,.0f} bytes"
    faults = record.get("minor_faults_per_step") or 0
    return text + (f", and has {_count(faults)} page faults." if faults >= 0.5 else ".")


def _count(value: float) -> str:
    return f"{value:,.0f}" if value >= 10 else f"{value:.2g}"


def _time(nanoseconds: float) -> str:
    return f"{nanoseconds / 1000:.3g} µs" if nanoseconds >= 1000 else f"{nanoseconds:.3g} ns"
