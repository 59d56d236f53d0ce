"""The disk that fails and the programs that run on it; at the end, what happened in figures."""

import contextlib
import queue
import shutil
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

import pytest

from tests.faults.runs import Place, Program

FIGURES = pytest.StashKey[dict[str, "Figures"]]()
Item = TypeVar("Item")


class Figures(Counter[str]):
    """What a test counts, from two threads."""

    def __init__(self) -> None:
        super().__init__()
        self._lock = threading.Lock()

    def add(self, **counted: int) -> None:
        with self._lock:
            self.update({name.replace("_", " "): int(number) for name, number in counted.items()})


@pytest.fixture(scope="session")
def disk(tmp_path_factory) -> Path:
    if sys.platform != "linux":
        pytest.skip("a disk that fails needs LD_PRELOAD and /proc, as Linux has them")
    compiler = shutil.which("cc") or shutil.which("g++")
    if compiler is None:
        pytest.skip("a disk that fails needs a C compiler, and there is neither cc nor g++")
    library = tmp_path_factory.mktemp("disk") / "disk.so"
    source = Path(__file__).with_name("disk.c")
    subprocess.run(
        [compiler, "-x", "c", "-shared", "-fPIC", "-O1", "-Wall", "-Werror", "-o", library, source, "-ldl"], check=True
    )
    return library


@pytest.fixture(scope="session")
def programs(disk) -> Iterator[queue.SimpleQueue]:
    with contextlib.ExitStack() as stack:
        idle: queue.SimpleQueue[Program] = queue.SimpleQueue()
        for _ in range(2):
            idle.put(stack.enter_context(contextlib.closing(Program(disk))))
        yield idle


@pytest.fixture
def each(programs, tmp_path) -> Callable[[Callable[[Program, Place, Item], None], Iterable[Item]], None]:
    """Calls a function for each item, two at a time: with a program and a place of its own, gone when it was well."""

    def each(function, items):
        def one(numbered):
            number, item = numbered
            program = programs.get()
            place = Place(tmp_path / str(number))
            try:
                function(program, place, item)
            finally:
                programs.put(program)
            shutil.rmtree(place.folder)

        with ThreadPoolExecutor(2) as pool:
            for _ in pool.map(one, enumerate(items)):
                pass

    return each


@pytest.fixture
def figures(request) -> Figures:
    """What a test counts, printed at the end under its name."""
    name = request.node.name.removeprefix("test_").replace("_", " ")
    return request.config.stash.setdefault(FIGURES, {}).setdefault(name, Figures())


def pytest_terminal_summary(terminalreporter, config) -> None:
    found = config.stash.get(FIGURES, {})
    if not found:
        return
    terminalreporter.section("figures")
    for name, counted in {**found, "all": sum(found.values(), Counter())}.items():
        told = ", ".join(f"{counted[what]} {what}" for what in dict.fromkeys([*counted, "lost", "torn tables"]))
        terminalreporter.line(f"{name}: {told}")
