"""What torch.compile needs at run time besides torch itself."""

import importlib.util
import os
import shutil
import sysconfig
from pathlib import Path

_INSTALL = "on Debian and Ubuntu: sudo apt-get install g++ python3-dev"


def missing_toolchain(device: str) -> str | None:
    """Return what is missing to compile for this device (`cpu` or `cuda[:N]`) and how to get it, or None.

    The C++ compiler is looked up as torch does: `$CXX`, else `g++`, `c++` or `clang++` on the PATH.
    """
    wanted = os.environ.get("CXX")
    if not any(shutil.which(name) for name in ((wanted,) if wanted else ("g++", "c++", "clang++"))):
        return f"torch.compile needs a C++ compiler and found none ({_INSTALL})"
    include = sysconfig.get_path("include")
    if not (Path(include) / "Python.h").is_file():
        return f"torch.compile needs Python.h and {include} has none ({_INSTALL})"
    if device.startswith("cuda") and importlib.util.find_spec("triton") is None:
        return "torch.compile needs triton on CUDA: pip install triton"
    return None
