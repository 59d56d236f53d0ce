"""Runs the proof: each engine in a process of its own, two side by side, for nothing is timed but the whole."""

import contextlib
import os
import signal
import subprocess
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass, field
from typing import IO, Any

from harness.measuring.protocol import Request
from harness.plan.case import Case
from harness.running.launcher import WORKER, Launcher

PROVER = (*WORKER[:-1], "harness.measuring.prover")
SIDE_BY_SIDE = 2


@dataclass(frozen=True)
class ProverLauncher(Launcher):
    """A launcher that several threads use, and whose processes can be ended from another one."""

    command: Sequence[str] = PROVER
    _running: set["subprocess.Popen[bytes]"] = field(default_factory=set)
    _stopped: threading.Event = field(default_factory=threading.Event)

    def stop(self) -> None:
        """End what runs and whatever is started after it."""
        self._stopped.set()
        for process in tuple(self._running):
            _kill(process)

    @contextlib.contextmanager
    def _process(self, command: Sequence[str], stderr: IO[bytes]) -> "Iterator[subprocess.Popen[bytes]]":
        with super()._process(command, stderr) as process:
            self._running.add(process)
            if self._stopped.is_set():
                _kill(process)
            try:
                yield process
            finally:
                self._running.discard(process)


def prove(
    cases: Sequence[Case],
    seeds: int,
    launcher: ProverLauncher,
    finished: Callable[[Case, Mapping[str, Any]], None],
) -> None:
    """Prove all cases over seeds 0 … seeds-1; finished() gets the record of each when it is there.

    However this ends, none of its processes outlives it.
    """
    with ThreadPoolExecutor(SIDE_BY_SIDE) as pool:
        found = {pool.submit(launcher.measure, Request(case, 0, seeds, threads=1)): case for case in cases}
        try:
            for each in as_completed(found):
                finished(found[each], each.result())
        except BaseException:
            for each in found:
                each.cancel()
            launcher.stop()
            raise


def _kill(process: "subprocess.Popen[bytes]") -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)
