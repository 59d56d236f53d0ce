"""Real workers with engines that end in every way there is: each is one row, and nothing else is harmed."""

import contextlib
import sys
import time
import uuid
from pathlib import Path

import pytest

from harness.measuring.cpus import away_from_workers, place
from harness.plan.case import Case
from harness.plan.presets import Sampling
from harness.plan.sweep import Sweep
from harness.running.executor import Progress, execute
from harness.running.journal import Journal
from harness.running.launcher import Launcher, worker_environment
from harness.running.records import FORMAT, read_journal

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="what is left behind is looked for in /proc")

SHORT = Sampling(budget_ns=50_000_000)
HEADER = {"format": FORMAT, "run_id": "r", "commit": "c", "dirty": False, "machine": "m", "fingerprint": "f"}
GOOD = Case("line", "manual", "cpu", "float32", 100, 1)
MARK = "RUN_OF_THIS_TEST"

ENGINES = '''
import ctypes, os, resource, signal, stat, subprocess, sys, time
import torch
from harness.training.engines.manual import Manual

resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def streams():
    """The descriptors that events may be written to."""
    numbers = [int(name) for name in os.listdir("/proc/self/fd")]
    return [number for number in numbers if number > 2 and is_pipe(number)]


def is_pipe(number):
    try:
        return stat.S_ISFIFO(os.fstat(number).st_mode)
    except OSError:
        return False


class AtCall:
    """The manual engine until its first call, or its fifth, which the gate makes."""

    call = 1

    def unsupported(self, problem, case):
        return None

    def prepare(self, problem, steps):
        self.updates, self.calls = Manual().prepare(problem, steps), 0
        return self

    def load(self, parameters):
        self.updates.load(parameters)

    def parameters(self):
        return self.updates.parameters()

    def __call__(self, inputs, targets):
        self.calls += 1
        if self.calls == self.call:
            self.end()
        return self.updates(inputs, targets)


class AtPrepare(AtCall):
    def prepare(self, problem, steps):
        self.end()


class Segfaults(AtCall):
    def end(self):
        ctypes.string_at(0)


class Aborts(AtPrepare):
    def end(self):
        os.abort()


class OverflowsItsStack(AtCall):
    call = 5

    def end(self):
        kind = ctypes.CFUNCTYPE(ctypes.c_int)
        again = kind(lambda: again())
        sys.setrecursionlimit(2**30)
        again()


class RecursesForEver(AtCall):
    def end(self):
        self.end()


class IsKilledForMemory(AtCall):
    def end(self):
        with open("CGROUP/cgroup.procs", "w") as file:
            file.write(str(os.getpid()))
        kept = []
        while len(kept) < 4000:
            kept.append(b"x" * 2**20)


class HasNoMemoryOnTheGpu(AtCall):
    call = 5

    def end(self):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.\\nand more")


class HasNoMemory(AtCall):
    def end(self):
        torch.empty(10**14)


class ReachesItsLimit(AtCall):
    def end(self):
        resource.setrlimit(resource.RLIMIT_AS, (6 * 2**30, 6 * 2**30))
        kept = []
        while len(kept) < 1000:
            kept.append(bytearray(2**28))


class TouchesWhatItMayNot(AtCall):
    call = 5

    def end(self):
        kind = getattr(torch, "AcceleratorError", RuntimeError)
        raise kind("CUDA error: an illegal memory access was encountered\\nCUDA kernel errors might be")


class Raises(AtPrepare):
    def end(self):
        raise ValueError("no such layer: Swish\\nand more")


class ExitsInPeace(AtCall):
    call = 5

    def end(self):
        sys.exit(0)


class ExitsAtOnce(AtCall):
    def end(self):
        os._exit(0)


class ClosesItsStream(AtPrepare):
    def end(self):
        for number in streams():
            os.close(number)


class TalksNonsense(AtCall):
    def end(self):
        for number in streams():
            os.write(number, b"Downloading weights: 100%\\n")
        time.sleep(60)


class SaysHalf(AtCall):
    def end(self):
        for number in streams():
            os.write(number, b'{"event": "record", "rec')
        os._exit(0)


class AnswersTwice(AtCall):
    def end(self):
        for number in streams():
            os.write(number, b'{"event": "record", "record": {"outcome": "ok", "reason": "", "step_ns": 1.0}}\\n' * 2)
        time.sleep(60)


class Hangs(AtCall):
    def end(self):
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        # A child, its child, and one in a session of its own; none heeds a polite signal.
        program = "trap '' TERM HUP; sleep 300 & sleep 300 & wait"
        children = [
            subprocess.Popen(["sh", "-c", program]),
            subprocess.Popen(["sh", "-c", program], start_new_session=True),
        ]
        with open("PIDS", "w") as file:
            file.write(" ".join(str(child.pid) for child in children))
        time.sleep(300)
'''

# Engine: outcome, and what the reason begins with; LINE is where in the file.
ENDINGS = {
    "Segfaults": ("crashed", "killed by SIGSEGV in phase first_call"),
    "Aborts": ("crashed", "killed by SIGABRT in phase setup"),
    "OverflowsItsStack": ("crashed", "killed by SIGSEGV in phase gate"),
    "RecursesForEver": ("crashed", "RecursionError: maximum recursion depth exceeded"),
    "HasNoMemoryOnTheGpu": ("out_of_memory", "OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 GiB. (ends"),
    "HasNoMemory": ("out_of_memory", "RuntimeError: "),
    "ReachesItsLimit": ("out_of_memory", "MemoryError (ends.py:"),
    "TouchesWhatItMayNot": ("crashed", "AcceleratorError: CUDA error: an illegal memory access was encountered (ends"),
    "Raises": ("crashed", "ValueError: no such layer: Swish (ends.py:"),
    "ExitsInPeace": ("crashed", "exited with code 0 in phase gate: it said nothing"),
    "ExitsAtOnce": ("crashed", "exited with code 0 in phase first_call: it said nothing"),
    "ClosesItsStream": ("crashed", "exited with code 1 in phase setup: OSError: [Errno 9] Bad file descriptor"),
    "TalksNonsense": ("crashed", "the worker wrote something that is no event: b'Downloading weights: 100%', in phase"),
    "SaysHalf": ("crashed", 'the worker wrote half an event: b\'{"event": "record", "rec\', in phase first_call'),
    "AnswersTwice": ("crashed", "the worker went on after its answer, with event 'record', in phase exit"),
    "Hangs": ("timeout", "took longer than 8 s in phase first_call"),
}
KILLED = "IsKilledForMemory"
HANG_S = 8.0


class Unheard:
    """An observer of a run that may raise when a phase starts."""

    def __init__(self, at=lambda _case, _phase: None):
        self.at, self.case = at, None

    def case_started(self, _round_number, case):
        self.case = case

    def phase_started(self, phase):
        self.at(self.case, phase)

    def case_finished(self, *_): ...

    def case_skipped(self, *_): ...


class Run:
    """A sweep that is executed with real workers, and its journal."""

    def __init__(self, folder: Path, engines, cgroup):
        self.folder, self.name, self.pids = folder, uuid.uuid4().hex, folder / "pids"
        file = folder / "ends.py"
        file.write_text(ENGINES.replace("CGROUP", str(cgroup)).replace("PIDS", str(self.pids)))
        self.cases = {name: Case("line", f"{file}:{name}", "cpu", "float32", 100, 1) for name in engines}
        self.sweep = Sweep((GOOD, *self.cases.values()), rounds=1, seeds=1, sampling=SHORT)
        Journal.create(folder, {**HEADER, "sweep": self.sweep.to_json()}).close()

    def execute(self, observer=None):
        environment = {**worker_environment(self.folder / "cache"), MARK: self.name}
        journal = Journal.reopen(self.folder)
        with contextlib.closing(journal), away_from_workers() as allowed:
            execute(
                self.sweep,
                Progress.of(read_journal(self.folder)[1]),
                lambda case: Launcher(
                    environment, timeout_s=HANG_S if case.engine.endswith("Hangs") else 120.0, term_s=0.5
                ),
                journal,
                observer or Unheard(),
                lambda case: place(case.device, case.threads, allowed),
            )

    def records(self, case):
        return [entry for entry in self.entries("record") if entry["case_id"] == case.case_id]

    def entries(self, kind):
        return [entry for entry in read_journal(self.folder)[1] if entry["kind"] == kind]

    def left_behind(self):
        """The processes that any worker of this run has started and that still run."""
        wanted = f"{MARK}={self.name}".encode()
        left = []
        for path in Path("/proc").glob("[0-9]*/environ"):
            with contextlib.suppress(OSError):
                if wanted in path.read_bytes().split(b"\0") and running(int(path.parent.name)):
                    left.append(int(path.parent.name))
        return left


def running(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


def memory_group(limit_bytes):
    """Make a control group with a memory limit inside this process's own; raises OSError where that is not allowed."""
    lines = [line.split(":", 2) for line in Path("/proc/self/cgroup").read_text().splitlines()]
    first = next((path for _, names, path in lines if "memory" in names.split(",")), None)
    if first is not None:
        root, file = Path("/sys/fs/cgroup/memory"), "memory.limit_in_bytes"
    else:
        root, file = Path("/sys/fs/cgroup"), "memory.max"
        first = next(path for _, names, path in lines if not names)
    # Within a container the own path may not be there, and the root is the container's.
    for folder in (root / first.lstrip("/"), root):
        with contextlib.suppress(OSError):
            group = folder / f"test-{uuid.uuid4().hex}"
            group.mkdir()
            try:
                (group / file).write_text(str(limit_bytes))
                swap = group / "memory.swap.max"
                if swap.exists():
                    swap.write_text("0")
            except OSError:
                group.rmdir()
                continue
            return group
    raise OSError("no control group with a memory limit can be made here")


def removed(group):
    for _ in range(100):
        with contextlib.suppress(OSError):
            group.rmdir()
            return
        time.sleep(0.05)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A sweep of all these cases that was interrupted in the middle of the good one, and gone on with."""
    try:
        group, engines = memory_group(64 * 2**20), [*ENDINGS, KILLED]
    except OSError:
        group, engines = None, list(ENDINGS)
    run = Run(tmp_path_factory.mktemp("endings"), engines, group)
    run.interrupted, run.left_by_interrupt = [], None

    def interrupt(case, phase):
        if case == GOOD and phase == "gate":
            run.interrupted = run.left_behind()
            raise KeyboardInterrupt

    try:
        with pytest.raises(KeyboardInterrupt):
            run.execute(Unheard(interrupt))
        run.left_by_interrupt = run.left_behind()
        run.had_before = run.entries("record")
        run.execute()
    finally:
        if group is not None:
            removed(group)
    return run


@pytest.mark.parametrize("engine", ENDINGS)
def test_each_ending_is_a_record_with_its_reason(run, engine):
    outcome, reason = ENDINGS[engine]
    [record] = run.records(run.cases[engine])
    assert (record["outcome"], record["reason"][: len(reason)]) == (outcome, reason)
    assert "\n" not in record["reason"]
    assert record["attempts"] == 1
    assert record["seconds"] > 0
    assert sum(record["phases_ns"].values()) / 1e9 == pytest.approx(record["seconds"], abs=0.1)
    assert not {name for name in record if name in ("step_ns", "latency_ns", "blocks_ns", "energy_per_step_j")}


def test_a_worker_that_the_kernel_kills_for_memory_is_out_of_memory(run):
    if KILLED not in run.cases:
        pytest.skip("needs control groups: none with a memory limit can be made here")
    [record] = run.records(run.cases[KILLED])
    if "OSError" in record["reason"] or "PermissionError" in record["reason"]:
        pytest.skip(f"needs control groups that processes may be moved into: {record['reason']}")
    assert record["outcome"] == "out_of_memory"
    assert record["reason"] == "killed by the kernel for memory in phase first_call"


def test_the_other_case_of_the_sweep_is_measured_as_if_nothing_had_been(run):
    [record] = run.records(GOOD)
    assert (record["outcome"], record["reason"]) == ("ok", "")
    assert record["step_ns"] > 0
    assert record["convergence"][0]["converged"] in (True, False)
    assert len(run.entries("record")) == len(run.sweep.cases)


def test_a_case_that_was_interrupted_is_measured_again_and_says_so_and_no_other_is(run):
    assert len(run.interrupted) == 1  # the worker, in the middle of its case
    assert not running(run.interrupted[0])
    assert run.left_by_interrupt == []
    [record] = run.records(GOOD)
    assert record["attempts"] == 2
    assert record not in run.had_before
    assert run.entries("record")[: len(run.had_before)] == run.had_before
    assert len(run.entries("attempt")) == len(run.sweep.cases) + 1


def test_no_process_of_any_worker_is_left(run):
    deadline = time.monotonic() + 10
    while run.left_behind() and time.monotonic() < deadline:
        time.sleep(0.05)
    assert run.left_behind() == []
    children = [int(pid) for pid in run.pids.read_text().split()]
    assert len(children) == 2
    assert not any(running(pid) for pid in children)
