"""What measures one case of several ranks for real, and finds what it left behind."""

import contextlib
import uuid
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from harness.measuring.cpus import away_from_workers, place
from harness.measuring.protocol import Request
from harness.plan.case import Case
from harness.plan.presets import Sampling
from harness.running.launcher import Launcher, worker_environment

USERS = Path(__file__).with_name("users.py")
MARK = "RANKS_OF_THIS_TEST"
TWO = Case("line", "ddp", "cpu", "float32", 100, 1, ranks=2)
SHORT = Sampling(relative_width=0.1, budget_ns=1)


class Machine:
    """Measures one case after the other; its processes are known by its name."""

    def __init__(self, folder: Path, name: str = "") -> None:
        self.name = name or uuid.uuid4().hex
        self._environment = {**worker_environment(folder / "cache"), MARK: self.name}

    def measure(
        self, engine: str = "ddp", timeout_s: float = 120.0, seeds: int = 0, *, on_one_cpu: bool = False, **case: Any
    ) -> dict[str, Any]:
        """Measure a case of two ranks; an engine of this folder by its name there."""
        wanted = replace(TWO, engine=engine if engine.islower() else f"{USERS}:{engine}", **case)
        with away_from_workers() as allowed:
            cpus = {max(allowed)} if allowed and on_one_cpu else allowed
            where = place(wanted.device, wanted.threads, cpus, ranks=wanted.ranks)
            request = Request(wanted, 0, seeds, SHORT, where.worker, where.threads)
            return Launcher(self._environment, timeout_s=timeout_s, term_s=2.0).measure(request)

    def left_behind(self) -> list[int]:
        """Return the processes that any case has started and that still run."""
        wanted, left = f"{MARK}={self.name}".encode(), []
        for path in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):
                state = (path / "stat").read_text().rpartition(")")[2].split()[0]
                if state not in "ZX" and wanted in (path / "environ").read_bytes().split(b"\0"):
                    left.append(int(path.name))
        return left


@pytest.fixture(scope="session")
def machine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machine]:
    return Machine(tmp_path_factory.mktemp("ranks"))
