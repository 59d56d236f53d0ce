"""What machine this is: hardware and software, for the results folder's name and the fingerprint. Never imports torch.

Names the hardware, never the host.
"""

import hashlib
import json
import os
import platform
import re
import shutil
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, distribution, version
from pathlib import Path
from typing import Any

from harness.measuring.kernel import ROOT
from harness.measuring.limits import cpu_quota, memory_limit_bytes, shm_limit_bytes
from harness.measuring.nvml import visible

_ALWAYS = ("cpu_model", "cpus", "gpu", "gpu_count", "gpu_mig", "torch", "python_minor", "machine_arch")
# What a container was given less of than there is. Without a limit they are no part of a fingerprint, which so is that
# of runs that were stored before they were known.
_LIMITS = ("cpu_quota", "memory_limit_bytes", "shm_limit_bytes")
# Two runs whose values differ here measure different things.
COMPARABLE = (*_ALWAYS, *_LIMITS)


def describe_machine(device: str, root: Path = ROOT) -> dict[str, Any]:
    """Return hardware and software as a JSON object; for a CUDA device with what nvidia-smi says of the GPUs.

    Memory in bytes. A fact that cannot be read is left out. root: where the container's limits are read; tests have
    another.
    """
    facts: dict[str, Any] = {
        "cpu_model": _cpu_model(),
        "cpus": _usable_cpus(),
        "machine_arch": platform.machine(),
        "memory_bytes": _memory_bytes(),
        "system": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
        "python_minor": ".".join(platform.python_version_tuple()[:2]),
        "torch": _torch(),
        "numpy": _version("numpy"),
        "triton": _version("triton"),
        "compiler": _compiler(),
        "cpu_quota": cpu_quota(root),
        "memory_limit_bytes": memory_limit_bytes(root),
        "shm_limit_bytes": shm_limit_bytes(root),
        "image": _image(),
    }
    if device.startswith("cuda"):
        facts |= _gpu(device)
    return {name: value for name, value in facts.items() if value is not None}


def slug(facts: Mapping[str, Any]) -> str:
    """Return the folder name of this hardware, e.g. `amd-epyc-9654-2c` or `nvidia-h200`."""
    gpu = facts.get("gpu")
    text = f"{gpu}" if gpu else f"{facts.get('cpu_model', 'cpu')} {facts.get('cpus', 1)}c"
    text = re.sub(r"\((r|tm)\)|\bprocessor\b|\bcpu\b|\b\d+-core\b|@.*ghz", " ", text.lower())
    return re.sub(r"[^a-z0-9]+", "-", text).strip("-")


def fingerprint(facts: Mapping[str, Any]) -> str:
    """Return twelve hex digits that are equal where two runs may be compared."""
    kept = {name: facts.get(name) for name in _ALWAYS} | {name: facts[name] for name in _LIMITS if name in facts}
    return hashlib.sha256(json.dumps(kept, sort_keys=True).encode()).hexdigest()[:12]


def _cpu_model() -> str | None:
    try:
        for line in Path("/proc/cpuinfo").read_text("utf-8").splitlines():
            name, _, value = line.partition(":")
            if name.strip() in ("model name", "Model"):
                return value.strip()
    except OSError:  # not Linux
        return _output("sysctl", "-n", "machdep.cpu.brand_string")
    return platform.machine()


def _usable_cpus() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _memory_bytes() -> int | None:
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (ValueError, OSError):
        return None


def _image() -> str | None:
    """Return the digest of the image that this runs in, which only who starts it knows. Its commit is in every row."""
    named = os.environ.get("HARNESS_IMAGE", "")
    return named if re.fullmatch(r"[A-Za-z0-9._:/@+-]{1,300}", named) else None


def _compiler() -> str | None:
    found = _output(os.environ.get("CXX", "g++"), "--version")
    return found.splitlines()[0] if found else None


def _gpu(device: str) -> dict[str, Any]:
    fields = ("name", "driver_version", "memory.total", "compute_cap", "uuid", "mig.mode.current", "power.limit")
    found = _output("nvidia-smi", f"--query-gpu={','.join(fields)}", "--format=csv,noheader,nounits")
    if not found:
        return {}
    listed = [[part.strip() for part in line.split(",")] for line in found.splitlines()]
    rows = _visible(listed, _mig_slices() if "Enabled" in found else [])
    index = int(device.partition(":")[2] or 0)
    if index >= len(rows):
        return {"gpu_count": len(rows)}
    (name, driver, memory, capability, uuid, mode, power), mig = rows[index]
    return {
        "gpu": f"{name} MIG {mig.profile}" if mig else name,
        "gpu_count": len(rows),
        "gpu_driver": driver,
        # A slice's memory is a part of this that nvidia-smi does not tell.
        "gpu_memory_bytes": int(float(memory) * 2**20) if memory.replace(".", "").isdigit() and not mig else None,
        "gpu_compute_capability": capability,
        "gpu_uuid": mig.uuid if mig else uuid,
        "gpu_mig": mig.profile if mig else mode,
        "gpu_power_limit_w": power,
    }


@dataclass(frozen=True)
class MigSlice:
    """A part of a GPU that is lent as a GPU of its own. profile: `1g.10gb`. gpu: UUID of the whole."""

    profile: str
    uuid: str
    gpu: str


def _mig_slices() -> list[MigSlice]:
    slices: list[MigSlice] = []
    gpu = ""
    for line in (_output("nvidia-smi", "-L") or "").splitlines():
        if found := re.match(r"GPU \d+: .*\(UUID: (\S+)\)", line):
            gpu = found[1]
        elif found := re.match(r"\s+MIG (\S+)\s+Device\s+\d+: \(UUID: (\S+)\)", line):
            slices.append(MigSlice(found[1], found[2], gpu))
    return slices


def _visible(rows: list[list[str]], slices: list[MigSlice]) -> list[tuple[list[str], MigSlice | None]]:
    """Return the GPUs that CUDA sees, in its order, each with the slice of it that is used; nvidia-smi lists all.

    Of GPUs with slices, CUDA shows a process only one slice: that which CUDA_VISIBLE_DEVICES names, or the first.
    """
    by_uuid = {row[4]: row for row in rows}
    by_slice = {each.uuid: each for each in slices}
    cut = {each.gpu: each for each in reversed(slices)}
    seen: list[tuple[list[str], MigSlice | None]] = []
    for uuid in visible(list(by_uuid), os.environ.get("CUDA_VISIBLE_DEVICES")):
        part = by_slice.get(uuid) or cut.get(uuid)
        row = by_uuid.get(part.gpu if part else uuid)
        if row is not None:
            seen.append((row, part))
    return [pair for pair in seen if pair[1]][:1] or seen


def _torch() -> str | None:
    """Return torch's version with its build, which the wheel that PyPI has for Linux tells in a file of its own."""
    named = _version("torch")
    try:
        text = Path(str(distribution("torch").locate_file("torch/version.py"))).read_text("utf-8")
    except (PackageNotFoundError, OSError):
        return named
    told = re.search(r"^__version__ = '([\w.+]+)'$", text, re.MULTILINE)
    return told[1] if named and told and told[1].startswith(named) else named


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _output(*command: str) -> str | None:
    if shutil.which(command[0]) is None:
        return None
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=20, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None
