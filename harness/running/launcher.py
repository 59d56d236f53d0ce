"""Starts one worker process for one case, holds it to a deadline per phase and says how it ended."""

import contextlib
import json
import os
import selectors
import signal
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

from harness.measuring.protocol import PROTOCOL, Request
from harness.plan.outcome import Outcome
from harness.running.import_path import import_path, not_installed
from harness.running.outside import Bracket, Heard, Listener, witnessed
from harness.running.records import MAX_LINE_BYTES

# -P keeps the folder the user stands in off the import path: a folder named `harness` there is not this program.
WORKER = (sys.executable, "-P", "-m", "harness.measuring.worker")
# What starts several ranks, in its place.
_RANKS = "harness.measuring.torchrun"
DEFAULT_TIMEOUT_S = 600.0
_EXIT_S = 30.0
_WAKE_S = 3600.0
_TERM_S = 10.0
# Worker and whatever it started carry this in their environment, also when they have left its process group.
_MARK = "HARNESS_WORKER"


def worker_environment(cache: Path, first: Sequence[Path] | None = None) -> dict[str, str]:
    """Return the environment of the workers of one run: the caller's, but with caches of the run's own.

    first: folders that go before the caller's on the import path; without, this program's, where it is not installed.
    """
    temporary = cache / "tmp"
    temporary.mkdir(parents=True, exist_ok=True)
    return {
        **os.environ,
        "PYTHONPATH": import_path(not_installed() if first is None else first),
        "TORCHINDUCTOR_CACHE_DIR": str(cache / "inductor"),
        "TRITON_CACHE_DIR": str(cache / "triton"),
        "TORCH_EXTENSIONS_DIR": str(cache / "extensions"),
        "CUDA_CACHE_PATH": str(cache / "cuda"),
        # Where inductor keeps compiled headers, whatever its cache folder is.
        "TMPDIR": str(temporary),
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
    phases_ns: dict[str, int] = field(default_factory=dict)
    began: Heard | None = None
    brackets: list[Bracket] = field(default_factory=list)

    def enter(self, phase: str) -> None:
        """Begin a phase, and count the one before it."""
        now = time.monotonic()
        self.phases_ns[self.phase] = self.phases_ns.get(self.phase, 0) + int((now - self.since) * 1e9)
        self.phase, self.since = phase, now


@dataclass(frozen=True)
class Launcher:
    """Runs workers, one at a time.

    environment: of the workers. command: starts one; tests put other programs here. timeout_s: the longest that any
    phase of a case may take. term_s: how long a worker that must end may take for it before it is killed. wake_s: how
    long this process may sleep where nothing but a signal would wake it.
    """

    environment: Mapping[str, str]
    command: Sequence[str] = WORKER
    timeout_s: float = DEFAULT_TIMEOUT_S
    term_s: float = _TERM_S
    wake_s: float = _WAKE_S

    def measure(self, request: Request, on_phase: Callable[[str], None] = lambda _phase: None) -> dict[str, Any]:
        """Measure one case in a fresh process and return its record, always with `outcome` and `reason`.

        Whatever the process does – crash, hang, exit, talk nonsense – becomes a record. Sleeps while the worker
        measures. KeyboardInterrupt ends the worker and is raised on.
        """
        oom_kills = _oom_kills()
        said = _Conversation()
        started = time.monotonic()
        with tempfile.TemporaryFile() as stderr, self._process(self._command(request), stderr) as process:
            timed_out = not self._listen(process, request, said, on_phase)
            if timed_out or said.fault:
                self._end(process)
            try:
                process.wait(_EXIT_S)
            except subprocess.TimeoutExpired:
                closed = "it closed its event stream but did not exit"
                said.fault = said.fault or (closed if said.record is None else "it answered but did not exit")
                self._end(process)
            if said.record is None or said.fault:
                record = self._ended_early(process.wait(), said, stderr, oom_kills, timed_out=timed_out)
            else:
                record = _witnessed(said.record, said.brackets)
                if record["outcome"] == Outcome.CRASHED:
                    record["stderr"] = _tail(stderr)
        said.enter("")
        return {**record, "phases_ns": said.phases_ns, "seconds": time.monotonic() - started}

    def _command(self, request: Request) -> Sequence[str]:
        """Return what measures a case: a worker, or what starts one for each rank."""
        if request.case.ranks == 1 or self.command[-1] != WORKER[-1]:
            return self.command
        return (*self.command[:-1], _RANKS)

    @contextlib.contextmanager
    def _process(self, command: Sequence[str], stderr: IO[bytes]) -> Iterator[subprocess.Popen[bytes]]:
        """Start a worker in a process group of its own; whatever happens, none of the group outlives this block."""
        mark = uuid.uuid4().hex
        process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=stderr,
            env={**self.environment, _MARK: mark},
            # A terminal's Ctrl-C is the parent's to handle.
            start_new_session=True,
        )
        try:
            yield process
        except BaseException:
            self._end(process)
            raise
        finally:
            _kill(process)
            process.wait()
            _kill_marked(mark)
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
            listener = stack.enter_context(contextlib.closing(Listener()))
            while not said.fault:
                # Who has answered has only to end.
                longest = self.timeout_s if said.record is None else _EXIT_S
                left = said.since + longest - time.monotonic()
                if left <= 0:
                    return said.record is not None
                listener.sleeps()
                ready = [key.fileobj for key, _ in selector.select(min(left, self.wake_s))]
                if not ready:
                    continue
                if process.stdout not in ready:  # the worker has ended, and everything that it wrote is read
                    break
                chunk = os.read(process.stdout.fileno(), 1 << 20)
                heard = listener.heard()
                read = Heard(time.monotonic_ns())
                if not chunk:
                    break
                *lines, said.pending = (said.pending + chunk).split(b"\n")
                if len(said.pending) > MAX_LINE_BYTES:
                    said.fault = f"the worker wrote a line of more than {MAX_LINE_BYTES >> 20} MiB"
                for line in lines:
                    if not said.fault:  # the first is what went wrong
                        _hear(line, heard, said, on_phase)
                    heard = read  # the first one woke this thread, the others came before it read them
        if said.pending.strip() and not said.fault:
            said.fault = f"the worker wrote half an event: {said.pending[:80]!r}"
        return True

    def _end(self, process: subprocess.Popen[bytes]) -> None:
        """Ask the process group to end, wait, and kill what is left of it."""
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, signal.SIGTERM)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(self.term_s)
        _kill(process)

    def _ended_early(
        self, code: int, said: _Conversation, stderr: IO[bytes], oom_kills: int, *, timed_out: bool
    ) -> dict[str, Any]:
        tail = _tail(stderr)
        last = tail.strip().splitlines()[-1] if tail.strip() else "it said nothing"
        if timed_out:
            outcome, reason = Outcome.TIMEOUT, f"took longer than {self.timeout_s:g} s in phase {said.phase}"
        elif said.fault:
            outcome, reason = Outcome.CRASHED, f"{said.fault}, in phase {said.phase}"
        # torchrun says of its ranks what a process says of itself by how it ends.
        elif (code == -signal.SIGKILL or last.endswith("was killed by SIGKILL")) and _oom_kills() > oom_kills:
            outcome, reason = Outcome.OUT_OF_MEMORY, f"killed by the kernel for memory in phase {said.phase}"
        elif code < 0:
            outcome, reason = Outcome.CRASHED, f"killed by {_signal_name(-code)} in phase {said.phase}"
        else:
            outcome, reason = Outcome.CRASHED, f"exited with code {code} in phase {said.phase}: {last}"
        return {"outcome": outcome, "reason": reason, "stderr": tail}


def _hear(line: bytes, heard: Heard, said: _Conversation, on_phase: Callable[[str], None]) -> None:
    """Take in one event; whatever is none, or comes at the wrong time, is a fault."""
    try:
        event = json.loads(line)
        kind = event["event"]
        if said.record is not None:
            said.fault = f"the worker went on after its answer, with event {str(kind)[:80]!r}"
        elif kind == "phase":
            said.enter(str(event["phase"]))
        elif kind == "begin" and said.began is None:
            said.began = heard
        elif kind == "end" and said.began is not None:
            exact = said.began.exact and heard.exact
            said.brackets.append(Bracket(said.began.ns, heard.ns, event.get("ns", 0), exact))
            said.began = None
        elif kind == "record":
            said.record = _checked(event["record"])
            said.enter("exit")
        elif kind == "hello" and event["protocol"] != PROTOCOL:
            said.fault = f"the worker speaks protocol {event['protocol']}, this program {PROTOCOL}"
        elif kind != "hello":
            said.fault = f"the worker wrote an event that is unknown, or comes at the wrong time: {str(kind)[:80]!r}"
    except (ValueError, KeyError, TypeError, RecursionError):
        said.fault = f"the worker wrote something that is no event: {line[:80]!r}"
        return
    if kind == "phase" and not said.fault:
        on_phase(said.phase)


def _checked(record: Mapping[str, Any]) -> dict[str, Any]:
    """Return a record whose `outcome` and `reason` are what they must be; raises ValueError, KeyError or TypeError."""
    if not isinstance(record["reason"], str):
        raise TypeError("a reason is a text")
    return {**record, "outcome": Outcome(record["outcome"])}


def _witnessed(record: dict[str, Any], brackets: Sequence[Bracket]) -> dict[str, Any]:
    try:
        return witnessed(record, brackets)
    except (ArithmeticError, LookupError, TypeError, ValueError) as error:
        reason = f"the worker's record of its blocks makes no sense: {type(error).__name__}: {error}".splitlines()[0]
        return {"outcome": Outcome.CRASHED, "reason": reason}


def _kill(process: subprocess.Popen[bytes]) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)


def _kill_marked(mark: str) -> None:
    """Kill what a worker has started and left behind in another session or process group (Linux)."""
    wanted = f"{_MARK}={mark}".encode()
    for path in Path("/proc").glob("[0-9]*/environ"):
        try:
            if wanted in path.read_bytes().split(b"\0"):
                os.kill(int(path.parent.name), signal.SIGKILL)
        except (OSError, ValueError):  # it has ended, or is somebody else's
            continue


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
