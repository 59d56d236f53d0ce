"""What the kernel counts while this process sleeps: others' load, stolen time, throttling, pages that move."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from harness.measuring.doctor.findings import Finding, gib, ok, warning, worthless
from harness.measuring.kernel import control_groups, read_counts, read_text

# Fifty ticks of the kernel's 100 Hz accounting: 10 % of a core is five of them, clear of one tick's chance.
INTERVAL_S = 0.5
# Of one core. An idle system's services stay well below; a browser or an editor that indexes does not.
BUSY_CORES = 0.1
# Of all CPUs, where that is more: the services of a server with a hundred of them add up to more than 0.1 of a core.
BUSY_SHARE = 0.01
# Of all cores. What is left is no core of its own for the worker: it would measure the scheduler.
WORTHLESS_BUSY_SHARE = 0.8
# The harness tells differences of about 1 % apart; a core that is gone a tenth of the time hides every one of them.
STEAL_SHARE, WORTHLESS_STEAL_SHARE = 0.01, 0.10


@dataclass(frozen=True)
class Counters:
    """What the kernel counts up, in ticks of the allowed CPUs where it is time; None: not readable."""

    cpus: int = 0
    busy: int = 0
    stolen: int = 0
    total: int = 0
    throttled: int | None = None
    swapped: int | None = None

    @classmethod
    def read(cls, root: Path, allowed: Sequence[int]) -> "Counters":
        """Read all of them as they stand now."""
        names = {f"cpu{cpu}" for cpu in allowed}
        cpus = busy = stolen = total = 0
        for line in (read_text(root / "proc/stat") or "").splitlines():
            name, *fields = line.split() or [""]
            if name not in names or len(fields) < 8 or not all(field.isdecimal() for field in fields[:8]):
                continue
            user, nice, system, idle, waiting, hard, soft, steal = (int(field) for field in fields[:8])
            cpus += 1
            busy += user + nice + system + hard + soft
            stolen += steal
            total += user + nice + system + idle + waiting + hard + soft + steal
        throttles = [read_counts(folder / "cpu.stat").get("nr_throttled") for folder in control_groups(root, "cpu")]
        known = [count for count in throttles if count is not None]
        moved = read_counts(root / "proc/vmstat")
        swapped = moved["pswpin"] + moved["pswpout"] if {"pswpin", "pswpout"} <= moved.keys() else None
        return cls(cpus, busy, stolen, total, sum(known) if known else None, swapped)


def load(before: Counters, after: Counters, root: Path) -> Iterator[Finding]:
    """Judge what others ran: this process slept."""
    total = after.total - before.total
    if total <= 0:
        return
    share = (after.busy - before.busy) / total
    average, *_ = (read_text(root / "proc/loadavg") or "").split() or [""]
    found = f"{share * after.cpus:.2f} of {after.cpus} CPUs busy with others"
    found += f", load average {average}" if average else ""
    if share > WORTHLESS_BUSY_SHARE:
        yield worthless("load", found, "wait until they are done, or stop them: `top` names them")
    elif share * after.cpus > max(BUSY_CORES, BUSY_SHARE * after.cpus):
        yield warning("load", found, "stop what need not run, `top` names it; disturbed blocks are thrown away")
    else:
        yield ok("load", found)


def steal(before: Counters, after: Counters) -> Iterator[Finding]:
    """Judge what the hypervisor gave to other machines, now and, of the time that was wanted, since boot."""
    total = after.total - before.total
    if total <= 0:
        return
    now = (after.stolen - before.stolen) / total
    # An idle machine has nothing stolen: what was stolen so far is held against the time that it wanted to run.
    ever = after.stolen / max(1, after.busy + after.stolen)
    found = f"{now:.1%} of the time taken by the hypervisor now, {ever:.1%} of the time used since boot"
    advice = "the host runs too many virtual machines: measure at another time, or on a dedicated one"
    if now > WORTHLESS_STEAL_SHARE:
        yield worthless("steal", found, advice)
    elif max(now, ever) > STEAL_SHARE:  # the past alone makes nothing worthless
        yield warning("steal", found, advice)
    else:
        yield ok("steal", found)


def throttling(before: Counters, after: Counters) -> Iterator[Finding]:
    """Judge how often the container was stopped, now and since it started."""
    if before.throttled is None or after.throttled is None:
        return
    found = f"the container was stopped {after.throttled} times for using up its CPU quota"
    advice = "raise its quota (docker --cpus, Kubernetes limits.cpu), or run fewer things in it"
    if after.throttled > before.throttled:
        yield worthless("throttling", f"{found}, {after.throttled - before.throttled} of them just now", advice)
    elif after.throttled:
        yield warning("throttling", found, advice)
    else:
        yield ok("throttling", "never stopped for a CPU quota")


def swapping(before: Counters, after: Counters, root: Path) -> Iterator[Finding]:
    """Judge pages that move: those that lie in swap and stay there disturb nobody."""
    if before.swapped is None or after.swapped is None:
        return
    memory = read_counts(root / "proc/meminfo")
    used = (memory.get("SwapTotal", 0) - memory.get("SwapFree", 0)) * 1024
    if after.swapped > before.swapped:
        found = f"{after.swapped - before.swapped} pages moved just now, {gib(used)} in use"
        yield warning("swap", found, "memory is short: close what uses it (`top`, then M)")
    else:
        yield ok("swap", f"{gib(used)} in use, no page moved just now" if used > 0 else "not in use")
