"""Starts one worker process for one case, holds it to a deadline per phase and says how it ended."""

import contextlib
import json
import os
import selectors
import signal
import subprocess
import sys
import sysconfig
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

import harness
from harness.measuring.protocol import PROTOCOL, Request
from harness.plan.outcome import Outcome

# -P keeps the folder the user stands in off the import path: a folder named `harness` there is not this program.
WORKER = (sys.executable, "-P", "-m", "harness.measuring.worker")
DEFAULT_TIMEOUT_S = 600.0
_EXIT_S = 30.0
_WAKE_S = 3600.0


def worker_environment(cache: Path) -> dict[str, str]:
    """Return the environment of the workers of one run: the caller's, but with compile caches of the run's own."""
    path = [os.environ["PYTHONPATH"]] if os.environ.get("PYTHONPATH") else []
    package = str(Path(harness.__file__).parent.parent)
    if package != sysconfig.get_path("purelib"):  # a checkout that is not installed
        path.insert(0, package)
    return {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(path),
        "TORCHINDUCTOR_CACHE_DIR": str(cache / "inductor"),
        "TRITON_CACHE_DIR": str(cache / "triton"),
        # No compile workers that run on beside the timing.
        "TORCHINDUCTOR_COMPILE_THREADS": "1",
    }


@dataclass
class _Conversation:
    """What the worker has said so far."""

    phase: str = "start"
    record: dict[str, Any] | None = None
    fault: str = ""
    pending: bytes = b""
    since: float = field(default_factory=time.monotonic)


@dataclass(frozen=True)
class Launcher:
    """Runs workers, one at a time.

    environment: of the workers. command: starts one; tests put other programs here. timeout_s: the longest that any
    phase of a case may take.
    """

    environment: Mapping[str, str]
    command: Sequence[str] = WORKER
    timeout_s: float = DEFAULT_TIMEOUT_S

    def measure(self, request: Request, on_phase: Callable[[str], None] = lambda _phase: None) -> dict[str, Any]:
        """Measure one case in a fresh process and return its record, always with `outcome` and `reason`.

        Whatever the process does – crash, hang, exit, talk nonsense – becomes a record. Sleeps while the worker
        measures. KeyboardInterrupt ends the worker and is raised on.
        """
        oom_kills = _oom_kills()
        said = _Conversation()
        started = time.monotonic()
        with tempfile.TemporaryFile() as stderr, self._process(stderr) as process:
            timed_out = not self._listen(process, request, said, on_phase)
            if timed_out or said.fault:
                _kill(process)
            try:
                process.wait(_EXIT_S)
            except subprocess.TimeoutExpired:
                said.fault = said.fault or "it closed its event stream but did not exit"
                _kill(process)
            record = said.record
            if record is None:
                record = self._ended_early(process.wait(), said, stderr, oom_kills, timed_out=timed_out)
            elif record["outcome"] == Outcome.CRASHED:
                record["stderr"] = _tail(stderr)
        return {**record, "seconds": time.monotonic() - started}

    @contextlib.contextmanager
    def _process(self, stderr: IO[bytes]) -> Iterator[subprocess.Popen[bytes]]:
        """Start a worker in a process group of its own; whatever happens, none of the group outlives this block."""
        process = subprocess.Popen(
            self.command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=stderr,
            env=dict(self.environment),
            # A terminal's Ctrl-C is the parent's to handle.
            start_new_session=True,
        )
        try:
            yield process
        finally:
            _kill(process)
            process.wait()
            for stream in (process.stdin, process.stdout):
                if stream is not None:
                    with contextlib.suppress(BrokenPipeError):
                        stream.close()

    def _listen(
        self,
        process: subprocess.Popen[bytes],
        request: Request,
        said: _Conversation,
        on_phase: Callable[[str], None],
    ) -> bool:
        """Send the request and read events until the stream ends; False when a phase passed its deadline."""
        assert process.stdin is not None
        assert process.stdout is not None
        with contextlib.suppress(BrokenPipeError):  # it died at once; the end of its stdout says so
            process.stdin.write(request.to_line().encode())
            process.stdin.close()
        with contextlib.ExitStack() as stack:
            selector = stack.enter_context(selectors.DefaultSelector())
            selector.register(process.stdout, selectors.EVENT_READ)
            if hasattr(os, "pidfd_open"):  # Linux: a child that the worker left behind may hold the stream open
                ended = stack.enter_context(os.fdopen(os.pidfd_open(process.pid), "rb"))
                selector.register(ended, selectors.EVENT_READ)
            while said.record is None and not said.fault:
                left = said.since + self.timeout_s - time.monotonic()
                if left <= 0:
                    return False
                ready = [key.fileobj for key, _ in selector.select(min(left, _WAKE_S))]
                if not ready:
                    continue
                if process.stdout not in ready:  # the worker has ended, and everything that it wrote is read
                    break
                chunk = os.read(process.stdout.fileno(), 1 << 20)
                if not chunk:
                    break
                *lines, said.pending = (said.pending + chunk).split(b"\n")
                for line in lines:
                    _hear(line, said, on_phase)
        return True

    def _ended_early(
        self, code: int, said: _Conversation, stderr: IO[bytes], oom_kills: int, *, timed_out: bool
    ) -> dict[str, Any]:
        tail = _tail(stderr)
        last = tail.strip().splitlines()[-1] if tail.strip() else "it said nothing"
        if timed_out:
            outcome, reason = Outcome.TIMEOUT, f"took longer than {self.timeout_s:g} s in phase {said.phase}"
        elif said.fault:
            outcome, reason = Outcome.CRASHED, f"{said.fault} in phase {said.phase}"
        elif code == -signal.SIGKILL and _oom_kills() > oom_kills:
            outcome, reason = Outcome.OUT_OF_MEMORY, f"killed by the kernel for memory in phase {said.phase}"
        elif code < 0:
            outcome, reason = Outcome.CRASHED, f"killed by {_signal_name(-code)} in phase {said.phase}"
        else:
            outcome, reason = Outcome.CRASHED, f"exited with code {code} in phase {said.phase}: {last}"
        return {"outcome": outcome, "reason": reason, "stderr": tail}


def _hear(line: bytes, said: _Conversation, on_phase: Callable[[str], None]) -> None:
    try:
        event = json.loads(line)
        kind = event["event"]
        if kind == "phase":
            said.phase, said.since = str(event["phase"]), time.monotonic()
        elif kind == "record":
            said.record = {**event["record"], "outcome": Outcome(event["record"]["outcome"])}
        elif kind == "hello" and event["protocol"] != PROTOCOL:
            said.fault = f"the worker speaks protocol {event['protocol']}, this program {PROTOCOL}"
    except (ValueError, KeyError, TypeError):
        said.fault = f"the worker wrote something that is no event: {line[:80]!r}"
        return
    if kind == "phase":
        on_phase(said.phase)


def _kill(process: subprocess.Popen[bytes]) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)


def _tail(stderr: IO[bytes], size: int = 4000) -> str:
    end = stderr.seek(0, os.SEEK_END)
    stderr.seek(max(0, end - size))
    return stderr.read().decode(errors="replace")


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


def _oom_kills() -> int:
    """Count the processes that this kernel has killed for memory since it started; 0 where that cannot be read."""
    try:
        lines = Path("/proc/vmstat").read_text("utf-8").splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) for line in lines if line.startswith("oom_kill ")), 0)
