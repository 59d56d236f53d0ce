"""From where a worker imports."""

import os
import sysconfig
from collections.abc import Iterable
from pathlib import Path

import harness


def not_installed() -> tuple[Path, ...]:
    """Return the folder of this program's package where it runs from a checkout that is not installed."""
    package = Path(harness.__file__).parent.parent
    return () if str(package) == sysconfig.get_path("purelib") else (package,)


def import_path(first: Iterable[Path]) -> str:
    """Return a PYTHONPATH: these folders, then the caller's."""
    return os.pathsep.join([*map(str, first), *filter(None, [os.environ.get("PYTHONPATH")])])
