"""An engine, the image that it builds from this checkout once, and a place to run it in."""

import itertools
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.docker.engine import IMAGE, ROOT, SANDBOX, Engine, NoEngineError, Place, noxfile


@pytest.fixture(scope="session")
def engine() -> Iterator[Engine]:
    """The container engine; without one nothing here can be tested, and what was tried is told."""
    try:
        found = Engine.find()
    except NoEngineError as error:
        pytest.skip(f"no container engine, and none can be prepared: {error}")
    yield found
    listed = ("--format", "{{.Repository}}:{{.Tag}}", "--filter", "reference=localhost/harness-test*")
    for name in found("image", "ls", *listed).stdout.split():
        found.forget(name)


@pytest.fixture(scope="session")
def image(engine: Engine) -> str:
    """The CPU image, built by the session that its users call; once."""
    built = engine.nox("docker_build", "--", "cpu", cwd=ROOT, timeout_s=1200)
    assert built.returncode == 0, built.stdout[-3000:] + built.stderr[-3000:]
    return IMAGE


@pytest.fixture(scope="session")
def place(engine: Engine, image: str, tmp_path_factory: pytest.TempPathFactory) -> Callable[[], Place]:
    def make() -> Place:
        folder = tmp_path_factory.mktemp("checkout")
        for name in ("noxfile.py", "pyproject.toml"):
            shutil.copy(ROOT / name, folder)
        (folder / "results").mkdir()
        return Place(engine, folder)

    return make


@pytest.fixture
def run(engine: Engine, image: str) -> Iterator[Callable[..., subprocess.CompletedProcess[str]]]:
    """Run an image in the sandbox, with these flags of the engine; the container goes when the test ends."""
    numbers, names = itertools.count(), []

    def call(*arguments: str, flags: tuple[str, ...] = (), of: str = image) -> subprocess.CompletedProcess[str]:
        names.append(f"harness-test-{next(numbers)}")
        return engine("run", "--rm", "--name", names[-1], *SANDBOX, *flags, of, *arguments, check=False)

    yield call
    for name in names:
        engine("rm", "--force", name, check=False)


@pytest.fixture
def writable(engine: Engine, tmp_path: Path) -> tuple[str, ...]:
    """The flags that give the container a folder to write to, `tmp_path / "results"`."""
    results = tmp_path / "results"
    results.mkdir()
    return (*noxfile.user_flags(engine.name, results), f"--volume={results}:/results:z")


@pytest.fixture
def tell(capsys: pytest.CaptureFixture[str]) -> Callable[[str], None]:
    """Say a figure on the terminal."""

    def call(line: str) -> None:
        with capsys.disabled():
            sys.stdout.write(f"\n{line}\n")

    return call
