"""Reads what the kernel says in files below /proc and /sys; where it says nothing, so does the answer."""

import re
from pathlib import Path

ROOT = Path("/")


def read_text(path: Path) -> str | None:
    """Return a file without the space around it, or None where it cannot be read."""
    try:
        return path.read_text("utf-8", errors="replace").strip()
    except OSError:
        return None


def read_counts(path: Path) -> dict[str, int]:
    """Read a file of lines such as `nr_throttled 3` or `MemTotal: 24684084 kB`."""
    counts = {}
    for line in (read_text(path) or "").splitlines():
        name, *numbers = line.split() or [""]
        if numbers and numbers[0].isdecimal():
            counts[name.rstrip(":")] = int(numbers[0])
    return counts


def control_groups(root: Path, controller: str) -> list[Path]:
    """Return the folders of this process's control group and of those above it, whose limits hold as well.

    In a container of its own namespace that is the top folder. Versions 1 and 2.
    """
    top = root / "sys/fs/cgroup"
    folders = [top, top / controller]
    for line in (read_text(root / "proc/self/cgroup") or "").splitlines():
        _, controllers, path = line.split(":", 2) if line.count(":") >= 2 else ("", "?", "")
        own = path.strip("/")
        if ".." in own or (controllers and controller not in controllers.split(",")):
            continue
        base = top / controller if controllers else top
        while own:
            folders.append(base / own)
            own = own.rpartition("/")[0]
    return folders


def is_virtual(root: Path) -> bool:
    """Return whether the CPU says that a hypervisor runs this machine."""
    return re.search(r"^flags\s*:.*\bhypervisor\b", read_text(root / "proc/cpuinfo") or "", re.MULTILINE) is not None
