"""What a run needs beside the machine: torch, a compiler, a folder for compiled kernels."""

import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from harness.measuring.doctor.findings import Finding, gib, ok, warning, worthless
from harness.training.toolchain import missing_toolchain

# Compile caches of a run take some 100 MiB; less than this and something else will soon fill the rest.
SCARCE_SPACE_BYTES = 2**30
# What is written on trial: of the size of one compiled kernel's library.
TRIAL_BYTES = 2**20
# The first that can trace autograd into a graph; `training/engines/compile_step.py` asks torch itself.
COMPILE_STEP_TORCH = (2, 11)


def torch_build(device: str) -> Iterator[Finding]:
    """Judge the torch that is installed, without importing it."""
    cuda = device.startswith("cuda")
    install = f"nox -s bench_{'cuda' if cuda else 'cpu'} installs the build that fits; elsewhere: pip install torch"
    found = torch_version()
    if found is None:
        yield worthless("torch", "not installed: nothing can be measured", install)
        return
    numbers = re.match(r"(\d+)\.(\d+)", found)
    if cuda and "+cpu" in found:
        yield worthless("torch", f"{found} is a build without CUDA", install)
    elif numbers and (int(numbers[1]), int(numbers[2])) < COMPILE_STEP_TORCH:
        oldest = ".".join(map(str, COMPILE_STEP_TORCH))
        yield warning("torch", f"{found}: `compile_step` will be `unsupported`", f"pip install 'torch>={oldest}'")
    else:
        yield ok("torch", found)


def torch_version() -> str | None:
    """Return the version that is installed, such as `2.13.0+cu130`, or None."""
    try:
        return str(version("torch"))
    except PackageNotFoundError:
        return None


def toolchain(device: str) -> Iterator[Finding]:
    """Judge what torch.compile needs beside torch."""
    missing = missing_toolchain(device)
    if missing:
        yield warning("compiler", missing, "install it, or the compiled engines come out as `unsupported`")
    else:
        yield ok("compiler", "what torch.compile needs is there")


def cache_folder() -> Iterator[Finding]:
    """Write a program where the compile caches of a run will lie, and start it."""
    elsewhere = "choose another folder: TMPDIR=~/tmp harness run …"
    try:
        folder = tempfile.gettempdir()
        with tempfile.TemporaryDirectory(prefix="harness-doctor-", ignore_cleanup_errors=True) as own:
            program = Path(own) / "program"
            program.write_bytes(b"#!/bin/sh\nexit 0\n".ljust(TRIAL_BYTES, b"#"))
            program.chmod(0o700)
            free = shutil.disk_usage(own).free
            try:
                subprocess.run([program], check=False, capture_output=True)
            except OSError as error:
                found = f"{folder}: no program starts there ({error.strerror}), so no compiled kernel loads"
                yield worthless("cache folder", found, f"mount it without noexec, or {elsewhere}")
                return
    except OSError as error:
        where = error.filename or tempfile.tempdir or "no folder for temporary files"
        yield worthless("cache folder", f"{where}: {error.strerror or error}", f"make room there, or {elsewhere}")
        return
    if free < SCARCE_SPACE_BYTES:
        yield warning("cache folder", f"{folder}: only {gib(free)} free", f"make room there, or {elsewhere}")
    else:
        yield ok("cache folder", f"{folder}: {gib(free)} free, programs start there")
