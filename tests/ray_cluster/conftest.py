"""A real Ray cluster on this machine that asks for a token: a head and three nodes; and programs on it."""

import contextlib
import importlib.util
import json
import os
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@dataclass(frozen=True)
class Ended:
    code: int
    out: str
    err: str
    seconds: float

    @property
    def complaints(self) -> list[str]:
        return [line for line in self.err.splitlines() if line.startswith("harness: ")]


class Cluster:
    """nodes: the keys of those that measure."""

    def __init__(self, folder: Path) -> None:
        self.token = secrets.token_hex(32)
        self.nodes: list[str] = []
        self.address = ""
        inherited = {name: value for name, value in os.environ.items() if not name.startswith(("RAY_", "GIT_"))}
        self.environment = inherited | {
            "PYTHONPATH": str(ROOT),
            "HARNESS_REVISION": "c" * 40,
            "NO_COLOR": "1",
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN": self.token,
            "RAY_USAGE_STATS_ENABLED": "0",
            "RAY_TMPDIR": str(folder),
            # A node that is gone is missed after seconds and not half a minute.
            "RAY_health_check_period_ms": "1000",
            "RAY_health_check_timeout_ms": "3000",
            "RAY_health_check_failure_threshold": "3",
        }
        with (folder / "nodes.err").open("w") as err:
            self._process = subprocess.Popen(
                [sys.executable, str(Path(__file__).with_name("nodes.py"))],
                env=self.environment,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=err,
                text=True,
                start_new_session=True,
            )

    def add(self, *cpus: int, lent: int = 1, path: Path | None = None) -> str:
        """Begin a node that may use these CPUs and lends so many; path: goes before its import path."""
        answer = self._ask(add={"cpus": cpus, "lent": lent, "path": str(path or "")})
        if lent:
            self.nodes.append(answer["key"])
        self.address = answer["address"]
        return answer["key"]

    def kill(self, key: str) -> None:
        self._ask(kill=key)
        self.nodes.remove(key)

    def _ask(self, **asked: object) -> dict[str, str]:
        print(json.dumps(asked), file=self._process.stdin, flush=True)
        return json.loads(self._process.stdout.readline())

    def close(self) -> None:
        self._process.stdin.close()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(30)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        self._process.stdout.close()

    @contextlib.contextmanager
    def begun(self, folder: Path, *arguments: object, **environment: str) -> Iterator[subprocess.Popen[str]]:
        """Begin the program in a folder, on this cluster, timing briefly."""
        folder.mkdir(exist_ok=True)
        with (folder / "out").open("w") as out, (folder / "err").open("w") as err:
            process = subprocess.Popen(
                [sys.executable, "-m", "tests.short", "run", "--on", "ray", "--address", self.address]
                + [str(argument) for argument in arguments],
                cwd=folder,
                env={**self.environment, **environment},
                stdout=out,
                stderr=err,
                text=True,
            )
            try:
                yield process
            finally:
                process.kill()
                process.wait()

    def run(self, folder: Path, *arguments: object, **environment: str) -> Ended:
        began = time.monotonic()
        with self.begun(folder, *arguments, **environment) as process:
            return ended(process, folder, began)


def ended(process: subprocess.Popen[str], folder: Path, began: float, within_s: float = 120.0) -> Ended:
    code = process.wait(within_s)
    return Ended(code, (folder / "out").read_text(), (folder / "err").read_text(), time.monotonic() - began)


@pytest.fixture(scope="session")
def cluster() -> Iterator[Cluster]:
    if importlib.util.find_spec("ray") is None:
        pytest.skip("needs Ray: `nox -s tests_ray` has it")
    folder = Path(tempfile.mkdtemp(prefix="hr", dir="/tmp"))
    cluster = Cluster(folder)
    try:
        cpus = sorted(os.sched_getaffinity(0))
        cluster.add(*cpus, lent=0)  # the head, and where the program is
        cluster.add(*cpus)
        cluster.add(*cpus)
        cluster.add(cpus[-1])  # another kind of machine
        yield cluster
    finally:
        cluster.close()
        shutil.rmtree(folder, ignore_errors=True)
