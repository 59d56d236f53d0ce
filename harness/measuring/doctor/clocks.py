"""The clock that the CPU runs at, and the clock that is read."""

import statistics
from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise
from pathlib import Path

from harness.measuring.doctor.findings import Finding, ok, warning
from harness.measuring.kernel import is_virtual, read_text

# A block of 10 ms is timed by two reads, its evidence by a few more: at 1 µs they are still nothing; an HPET is slower.
CLOCK_READ_NS = 1000
# Read in user space, without a system call. The last is that of Hyper-V, Azure and WSL.
FAST_CLOCKSOURCES = ("tsc", "kvm-clock", "arch_sys_counter", "hyperv_clocksource_tsc_page")


def governor(allowed: Sequence[int], root: Path) -> Iterator[Finding]:
    """Judge what sets the CPU's frequency."""
    folder = root / "sys/devices/system/cpu"
    if not folder.is_dir():
        return
    read = [read_text(folder / f"cpu{cpu}/cpufreq/scaling_governor") for cpu in allowed]
    governors = sorted({text for text in read if text})
    if not governors:
        yield ok("frequency governor", _not_readable(root))
    elif governors == ["performance"]:
        yield ok("frequency governor", "performance")
    else:
        yield warning(
            "frequency governor",
            f"{', '.join(governors)}: the clock follows the load, and a step's time with it",
            "echo performance | sudo tee /sys/devices/system/cpu/cpu*/cpufreq/scaling_governor",
        )


def turbo(root: Path) -> Iterator[Finding]:
    """Judge whether cores may run faster for as long as they stay cool."""
    folder = root / "sys/devices/system/cpu"
    if not folder.is_dir():
        return
    for name, on, off in (("intel_pstate/no_turbo", "0", "1"), ("cpufreq/boost", "1", "0")):
        text = read_text(folder / name)
        if text == on:
            yield warning(
                "turbo",
                "on: times depend on how warm the machine is, and on how many cores are busy",
                f"echo {off} | sudo tee /sys/devices/system/cpu/{name}",
            )
            return
        if text == off:
            yield ok("turbo", "off")
            return
    yield ok("turbo", _not_readable(root))


def _not_readable(root: Path) -> str:
    return "not readable here (virtual machine)" if is_virtual(root) else "not readable here"


def clock(clock_ns: Callable[[], int], root: Path) -> Iterator[Finding]:
    """Judge the clock that blocks are timed by: where it comes from, how long a read takes, how fine it is."""
    source = read_text(root / "sys/devices/system/clocksource/clocksource0/current_clocksource") or ""
    costs, steps = [], []
    for _ in range(5):
        reads = [clock_ns() for _ in range(201)]
        costs.append((reads[-1] - reads[0]) / (len(reads) - 1))
        steps += [after - before for before, after in pairwise(reads) if after > before]
    cost = statistics.median(costs)
    found = (f"{source}, " if source else "") + f"{cost:.0f} ns a read"
    advice = "see what the kernel offers in /sys/devices/system/clocksource/clocksource0/available_clocksource"
    if not steps or min(steps) > max(cost, CLOCK_READ_NS) * 2:
        yield warning("clock", f"{found}, but it stands still between reads: too coarse", advice)
    elif cost > CLOCK_READ_NS:
        yield warning("clock", f"{found}: a read takes a part of a short step", advice)
    elif source and source not in FAST_CLOCKSOURCES:
        yield warning("clock", f"{found}: the kernel gave up the CPU's own counter", advice)
    else:
        yield ok("clock", found)
