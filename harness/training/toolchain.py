"""What compiling at run time needs besides torch itself."""

import importlib.util
import os
import shutil
import sysconfig
from pathlib import Path

_INSTALL = "on Debian and Ubuntu: sudo apt-get install g++ python3-dev"


def missing_compiler(wanted_by: str) -> str | None:
    """Return that there is no C++ compiler for whoever wants it and how to get one, or None.

    It is looked up as torch does: `$CXX`, else `g++`, `c++` or `clang++` on the PATH.
    """
    wanted = os.environ.get("CXX")
    if any(shutil.which(name) for name in ((wanted,) if wanted else ("g++", "c++", "clang++"))):
        return None
    return f"{wanted_by} needs a C++ compiler and found none ({_INSTALL})"


def missing_toolchain(device: str) -> str | None:
    """Return what torch.compile lacks for this device (`cpu` or `cuda[:N]`) and how to get it, or None."""
    missing = missing_compiler("torch.compile")
    if missing is not None:
        return missing
    include = sysconfig.get_path("include")
    if not (Path(include) / "Python.h").is_file():
        return f"torch.compile needs Python.h and {include} has none ({_INSTALL})"
    if device.startswith("cuda") and importlib.util.find_spec("triton") is None:
        return "torch.compile needs triton on CUDA: pip install triton"
    return None
