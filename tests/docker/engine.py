"""The container engine that the tests use: one that works here, or one that a script prepares."""

import contextlib
import importlib.util
import os
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

ROOT = Path(__file__).parents[2]
PREPARE = "HARNESS_CONTAINERS_PREPARE"
IMAGE = "localhost/harness:cpu"
# What an image has to work in: docker/README.md.
SANDBOX = (
    "--network=none",
    "--read-only",
    "--tmpfs=/tmp:rw,exec",
    "--cap-drop=all",
    "--security-opt=no-new-privileges",
)


def load_noxfile() -> ModuleType:
    spec = importlib.util.spec_from_file_location("noxfile_of_docker", ROOT / "noxfile.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


noxfile = load_noxfile()


class NoEngineError(Exception):
    """There is none; the text says what was tried."""


@dataclass(frozen=True)
class Engine:
    """docker or podman. environment: with which it is called, HARNESS_BUILD_ARGS in it."""

    name: str
    environment: Mapping[str, str]

    @classmethod
    def find(cls) -> "Engine":
        """Return an engine; raises NoEngineError where there is none and none can be prepared."""
        environment = dict(os.environ)
        if script := os.environ.get(PREPARE):
            environment = prepared(script, ROOT / ".nox/containers")
        probe = "import noxfile; print(noxfile.container_engine())"
        python = (sys.executable, "-c", probe)
        found = subprocess.run(python, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
        if found.returncode == 0:
            return cls(found.stdout.strip(), environment)
        tried = [f"{name}: {why_not(name, environment)}" for name in ("docker", "podman")]
        raise NoEngineError("; ".join([*tried, f"{PREPARE}: {os.environ.get(PREPARE) or 'not set'}"]))

    def __call__(
        self, *arguments: object, timeout_s: float = 120, check: bool = True
    ) -> subprocess.CompletedProcess[str]:
        """Call the engine; what it says is in the failure, if it must not fail."""
        ended = self._run((self.name, *map(str, arguments)), ROOT, timeout_s)
        assert ended.returncode == 0 or not check, (
            arguments,
            ended.returncode,
            ended.stdout[-2000:],
            ended.stderr[-4000:],
        )
        return ended

    def nox(self, *arguments: str, cwd: Path, timeout_s: float = 600) -> subprocess.CompletedProcess[str]:
        """Call a nox session as its user does."""
        return self._run((sys.executable, "-m", "nox", "-s", *arguments), cwd, timeout_s)

    def build_arguments(self) -> list[str]:
        """Return what every build here needs, as `nox -s docker_build` adds it."""
        return shlex.split(self.environment.get("HARNESS_BUILD_ARGS", ""))

    def inspect(self, image: str, template: str) -> str:
        """Return what the engine says of an image."""
        return self("image", "inspect", "--format", f"{{{{{template}}}}}", image).stdout.strip()

    def forget(self, name: str) -> None:
        """Take the name from an image that a test made; what it is made of stays in the cache for the next build."""
        command = ("untag",) if self.name == "podman" else ("image", "rm", "--no-prune")
        self(*command, name, check=False)

    @contextlib.contextmanager
    def served(self) -> Iterator[dict[str, str]]:
        """Yield the environment in which other programs find the engine; podman answers them only while this lasts."""
        if self.name == "docker":
            yield dict(self.environment)
            return
        with tempfile.TemporaryDirectory() as folder:
            socket = Path(folder) / "socket"
            command = (self.name, "system", "service", "--time=0", f"unix://{socket}")
            service = subprocess.Popen(command, env=self.environment, stderr=subprocess.DEVNULL)
            try:
                deadline = time.monotonic() + 30
                while not socket.exists() and time.monotonic() < deadline:
                    time.sleep(0.05)
                yield {**self.environment, "DOCKER_HOST": f"unix://{socket}"}
            finally:
                service.terminate()
                service.wait(timeout=30)

    def _run(self, command: tuple[str, ...], cwd: Path, timeout_s: float) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            command,
            cwd=cwd,
            env={**self.environment, "NO_COLOR": "1"},
            capture_output=True,
            text=True,
            timeout=timeout_s,
            check=False,
        )


@dataclass(frozen=True)
class Place:
    """A checkout of nothing but the noxfile, whose `results` the container writes to."""

    engine: Engine
    folder: Path

    @property
    def results(self) -> Path:
        return self.folder / "results"

    def bench(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run the benchmark as its users do, until it ends."""
        return self.engine.nox("docker_bench", "--", "cpu", *arguments, cwd=self.folder)

    def start(self, *arguments: str) -> "subprocess.Popen[str]":
        """Run the benchmark as its users do, and go on; in a process group of its own."""
        return subprocess.Popen(
            [sys.executable, "-m", "nox", "-s", "docker_bench", "--", "cpu", *arguments],
            cwd=self.folder,
            env={**self.engine.environment, "NO_COLOR": "1"},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )


def prepared(script: str, folder: Path) -> dict[str, str]:
    """Let the script make an engine with what it keeps in the folder; return the environment to use it with."""
    subprocess.run([script, folder], check=True, timeout=600, stdout=sys.stderr)
    told = 'source "$0/env" && export HARNESS_BUILD_ARGS="${BUILD_ARGS[*]}" && env -0'
    out = subprocess.run(["bash", "-c", told, folder], check=True, capture_output=True, text=True, timeout=60).stdout
    return dict(line.split("=", 1) for line in out.split("\0") if line)


def why_not(name: str, environment: Mapping[str, str]) -> str:
    """Return why an engine does not work here, in one line."""
    if shutil.which(name) is None:
        return "not installed"
    info = subprocess.run([name, "info"], env=environment, capture_output=True, text=True, check=False)
    return (info.stderr.strip() or "is another engine").splitlines()[-1]
