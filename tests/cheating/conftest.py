"""What becomes of each cheat: measured two at a time, each on a core of its own, and told at the end."""

import os
import queue
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from types import SimpleNamespace
from typing import Any

import pytest

from harness.measuring.cpus import physical_cores
from harness.plan.case import Case
from tests.cheating.verdicts import CAUGHT, measured

NO_PARAMS = SimpleNamespace(params={})
VERDICTS = pytest.StashKey[dict[str, str]]()


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """With --quarter, leave out who cheats all the time where another cheats like that while it is timed only."""
    if not config.getoption("--quarter"):
        return
    twins = {name for name in CAUGHT if f"{name}WhileTimed" in CAUGHT}
    left_out = [item for item in items if twins & set(getattr(item, "callspec", NO_PARAMS).params.values())]
    config.hook.pytest_deselected(items=left_out)
    items[:] = [item for item in items if item not in left_out]


@pytest.fixture(scope="session")
def submit(tmp_path_factory) -> Iterator[Callable[..., Future[dict[str, Any]]]]:
    """Measures a case on the CPU as soon as a core is free: the parent only sleeps beside it."""
    idle: queue.SimpleQueue[int | None] = queue.SimpleQueue()
    allowed = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else ()
    cpus = [core[0] for core in physical_cores(allowed)[:2]] or [None]
    caches = tmp_path_factory.mktemp("caches")  # of all: those that compile, compile the same
    for cpu in cpus:
        idle.put(cpu)

    def on_a_core(case: Case, seed: int) -> dict[str, Any]:
        cpu = idle.get()
        try:
            return measured(case, caches, seed, cpu)
        finally:
            idle.put(cpu)

    with ThreadPoolExecutor(len(cpus)) as pool:
        yield lambda case, seed=0: pool.submit(on_a_core, case, seed)
        pool.shutdown(cancel_futures=True)


@pytest.fixture
def verdicts(request) -> dict[str, str]:
    """What is found of each engine, printed at the end."""
    return request.config.stash.setdefault(VERDICTS, {})


def pytest_terminal_summary(terminalreporter, config) -> None:
    found = config.stash.get(VERDICTS, {})
    if found:
        terminalreporter.section("cheats")
    for name, verdict in found.items():
        terminalreporter.line(f"{name:40} {verdict}")
