import contextlib
import itertools
import os
import signal
import statistics
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest

from harness.measuring.protocol import PHASES, PROTOCOL, Request
from harness.plan.case import Case
from harness.running import launcher as launcher_module
from harness.running.launcher import WORKER, Launcher, worker_environment
from harness.running.outside import Listener

ROOT = Path(__file__).parents[2]
REQUEST = Request(Case("line", "manual", "cpu", "float32", 100), round=2, seeds=5)
LAX_S = 30.0  # a deadline that nothing here comes near, however slow the machine

SPEAK = """
import json, os, resource, signal, subprocess, sys, time

def send(event, **fields):
    print(json.dumps({"event": event, **fields}), flush=True)

def phase(name):
    send("phase", phase=name)

def finish(**facts):
    send("record", record={"outcome": "ok", "reason": "", **facts})

def say_pid(*more):
    with open("pids.partial", "w") as file:
        print(os.getpid(), *more, file=file)
    os.rename("pids.partial", "pids")

def live_on():
    time.sleep(120)

resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
"""


@pytest.fixture
def worker(tmp_path, monkeypatch):
    """Makes a launcher whose worker is this small program, run in a folder of its own."""
    monkeypatch.chdir(tmp_path)

    def make(program: str, timeout_s: float = LAX_S, term_s: float = 1.0) -> Launcher:
        Path("worker.py").write_text(SPEAK + program)
        command = (sys.executable, "-S", "-P", "worker.py")
        return Launcher({**os.environ, "PYTHONPATH": str(ROOT)}, command, timeout_s, term_s)

    return make


def running(pid: int) -> bool:
    """Whether a process runs; one that has ended but was not waited for by its parent does not."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    stat = Path(f"/proc/{pid}/stat")
    try:
        return stat.read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return not Path("/proc/self").exists()


def ended(pid: int) -> bool:
    deadline = time.monotonic() + 10
    while running(pid) and time.monotonic() < deadline:
        time.sleep(0.02)
    return not running(pid)


def said_pids() -> list[int]:
    deadline = time.monotonic() + 20
    while not Path("pids").exists() and time.monotonic() < deadline:
        time.sleep(0.02)
    return [int(pid) for pid in Path("pids").read_text().split()]


def was_waited_for(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    return False


# A worker that does as it should


def test_the_record_comes_back_with_the_seconds_the_process_took(worker):
    record = worker(f"send('hello', protocol={PROTOCOL}); time.sleep(0.2); finish(step_ns=7)").measure(REQUEST)
    parents = {"seconds": record["seconds"], "phases_ns": record["phases_ns"]}
    assert record == {"outcome": "ok", "reason": "", "step_ns": 7} | parents
    assert 0.2 <= record["seconds"] < LAX_S


@pytest.mark.parametrize("ending", ["finish()", "os._exit(3)", "os.write(1, b'nonsense\\n'); live_on()", "live_on()"])
def test_the_phases_take_together_as_long_as_the_process(worker, ending):
    program = f"phase('import'); time.sleep(0.1); phase('timing'); time.sleep(0.3); phase('import'); {ending}"
    record = worker(program, timeout_s=1.0 if ending == "live_on()" else LAX_S).measure(REQUEST)
    phases = record["phases_ns"]
    assert list(phases) == ["start", "import", "timing", *(["exit"] if ending == "finish()" else [])]
    # By the parent's clock: how late it hears of a beginning is missing from the phase.
    assert phases["import"] >= 0.05e9
    assert 0.25e9 <= phases["timing"] < 2e9
    assert sum(phases.values()) / 1e9 == pytest.approx(record["seconds"], abs=0.02)


def test_the_worker_is_told_the_case_in_one_line(worker):
    record = worker("finish(line=sys.stdin.readline(), rest=sys.stdin.read())").measure(REQUEST)
    assert Request.from_line(record["line"]) == REQUEST
    assert record["rest"] == ""


def test_phases_are_passed_on_in_the_order_they_start(worker):
    heard = []
    program = "phase('import'); phase('setup'); send('begin'); phase('timing'); finish()"
    worker(program).measure(REQUEST, heard.append)
    assert heard == ["import", "setup", "timing"]


def test_events_are_read_however_they_are_cut_into_pieces(worker):
    program = """
lines = b'{"event": "phase", "phase": "timing"}\\n'
lines += b'{"event": "record", "record": {"outcome": "ok", "reason": "\\\\u00b5"}}\\n'
for byte in lines:
    os.write(1, bytes([byte]))
    time.sleep(0.001)
"""
    heard = []
    assert worker(program).measure(REQUEST, heard.append)["reason"] == "µ"
    assert heard == ["timing"]


def test_a_record_larger_than_the_pipe_arrives_whole(worker):
    record = worker("finish(numbers=list(range(10**9, 10**9 + 300_000)))").measure(REQUEST)
    assert record["numbers"] == list(range(10**9, 10**9 + 300_000))


def test_the_worker_has_the_environment_it_is_given_and_no_other(worker, monkeypatch):
    monkeypatch.setenv("SECRET_OF_THE_PARENT", "1")
    launcher = worker("finish(names=sorted(os.environ))")
    own = Launcher({"ONLY": "this"}, launcher.command)
    names = own.measure(REQUEST)["names"]
    assert "ONLY" in names
    assert "SECRET_OF_THE_PARENT" not in names


def test_the_parent_sleeps_while_the_worker_measures(worker):
    launcher = worker("phase('timing'); time.sleep(1); finish()")
    before = time.process_time()
    launcher.measure(REQUEST)
    assert time.process_time() - before < 0.3


# Blocks that are timed

BLOCKS = """
def timed(blocks, ns, told=None):
    phase("timing")
    for block in range(blocks):
        send("begin")
        time.sleep(ns / 1e9)
        send("end")
    told = told or ns
    blocks_ns = [told] * blocks
    finish(step_ns=told / 10, blocks_ns=blocks_ns, counted=list(range(blocks)), block_steps=10, **more)
more = {}
"""


def test_blocks_that_both_clocks_have_seen_alike_keep_their_time(worker):
    record = worker(f"{BLOCKS}timed(5, 50_000_000, 50_100_000)").measure(REQUEST)
    assert (record["outcome"], record["step_ns"]) == ("ok", 5_010_000)
    assert 0.95 < record["clock_ratio"] < 1.1


def test_a_worker_whose_clock_runs_slower_than_the_parents_has_no_time(worker):
    record = worker(f"{BLOCKS}timed(5, 50_000_000, 25_000_000)").measure(REQUEST)
    assert record["outcome"] == "rejected"
    assert "the worker's clock is not to be trusted" in record["reason"]
    assert "step_ns" not in record
    assert record["phases_ns"]["timing"] > 0.25e9


@pytest.fixture
def busy_core():
    """Moves this thread to a core on which two others compute all the time, and lets it wait for its turn."""
    if not Path("/proc/thread-self/schedstat").exists() or len(os.sched_getaffinity(0)) < 2:
        pytest.skip("needs two cores, and a kernel that counts how long a thread waits for one")
    before = os.sched_getaffinity(0)
    core = min(before)
    spin = f"import os\nos.sched_setaffinity(0, {{{core}}})\nwhile True: pass"
    others = [subprocess.Popen([sys.executable, "-S", "-c", spin]) for _ in range(2)]
    os.sched_setaffinity(0, {core})
    os.sched_setscheduler(0, os.SCHED_BATCH, os.sched_param(0))
    yield core
    os.sched_setscheduler(0, os.SCHED_OTHER, os.sched_param(0))
    os.sched_setaffinity(0, before)
    for other in others:
        other.kill()
        other.wait()


def test_a_parent_that_has_to_wait_for_a_core_knows_all_the_same_when_a_message_came(worker, monkeypatch, busy_core):
    heard, dated_back = [], set()

    class Noting(Listener):
        def heard(self):
            heard = super().heard()
            if heard.exact and time.monotonic_ns() - heard.ns > 500_000:
                dated_back.add(heard.ns)
            return heard

    monkeypatch.setattr(launcher_module, "Listener", Noting)
    monkeypatch.setattr(launcher_module, "witnessed", lambda record, brackets: [heard.extend(brackets), record][1])
    program = """
os.sched_setaffinity(0, set(range(os.cpu_count())) - {%d})
phase("timing")
for block in range(100):
    send("begin")
    start = time.monotonic_ns()
    time.sleep(0.005)
    send("end", ns=time.monotonic_ns() - start)
    time.sleep(0.015 * (block %% 2))  # for the parent to catch up
finish()
"""
    launcher = worker(program % busy_core)
    errors_ns: list[int] = []
    for _ in range(20):  # how often it has to wait for long is the kernel's affair
        launcher.measure(REQUEST)
        waited = [each for each in heard if each.exact and {each.began_ns, each.ended_ns} & dated_back]
        errors_ns = [abs(each.seen_ns - each.told_ns) for each in waited]
        if len(errors_ns) > 20:
            break
    assert len(errors_ns) > 20
    assert statistics.median(errors_ns) < 200_000


@pytest.mark.usefixtures("busy_core")
def test_a_parent_that_has_to_wait_before_it_sleeps_does_not_say_that_a_message_came_then():
    with contextlib.closing(Listener()) as listener:
        listener.sleeps()
        until = time.thread_time() + 0.03
        while time.thread_time() < until:  # the others take their turns meanwhile
            pass
        now_ns = time.monotonic_ns()
        heard = listener.heard()
    assert not heard.exact
    assert heard.ns >= now_ns


@pytest.mark.parametrize(
    ("said", "outcome", "reason"),
    [
        ("50_000_000", "ok", ""),
        (
            "50_000_001",
            "rejected",
            "the record contradicts itself: block 1 takes 50 ms in it, and took 50.000001 ms when it",
        ),
        ("'long'", "crashed", "the worker's record of its blocks makes no sense: TypeError: "),
    ],
)
def test_how_long_a_block_took_is_what_the_worker_said_when_it_ended(worker, said, outcome, reason):
    program = BLOCKS.replace('send("end")', f'send("end", ns={said})')
    record = worker(f"{program}timed(5, 50_000_000)").measure(REQUEST)
    assert record["outcome"] == outcome
    assert record["reason"].startswith(reason)
    assert ("step_ns" in record) == (outcome == "ok")


@pytest.mark.parametrize(("events", "named"), [("'begin', 'begin', 'end'", "begin"), ("'begin', 'end', 'end'", "end")])
def test_a_block_that_begins_or_ends_twice_is_a_crash(worker, events, named):
    program = f"{BLOCKS}phase('timing')\nfor at in ({events}): send(at)\n"
    record = worker(f"{program}finish(blocks_ns=[1], counted=[0], block_steps=1)").measure(REQUEST)
    assert record["outcome"] == "crashed"
    wanted = f"the worker wrote an event that is unknown, or comes at the wrong time: '{named}', in phase timing"
    assert record["reason"] == wanted


@pytest.mark.parametrize(
    "more",
    [
        "blocks_ns=[0, 0], counted=[0, 1]",
        "blocks_ns=[10**7, 10**7], counted=[7]",
        "blocks_ns=[10**7, 10**7], counted=[]",
        "blocks_ns=[10**7, 10**7]",
        "blocks_ns=['a', 'b'], counted=[0, 1]",
        "blocks_ns=5, counted=[0]",
        "blocks_ns={'a': 1, 'b': 2}, counted=[0, 1]",
        "blocks_ns=[10**7, 10**7], counted=None",
    ],
)
def test_a_record_whose_blocks_make_no_sense_ends_its_case_and_not_the_run(worker, more):
    blocks = 'phase(\'timing\')\nos.write(1, b\'{"event": "begin"}\\n{"event": "end"}\\n\' * 2)\n'
    record = worker(f"{blocks}finish(block_steps=1, {more})").measure(REQUEST)
    assert record["outcome"] == "crashed"
    assert record["reason"].startswith("the worker's record of its blocks makes no sense: ")


# A worker that dies


def test_an_exit_code_is_told_with_the_phase_and_the_last_line_of_stderr(worker):
    program = "phase('setup'); print('first', 'no such layer: Swish', sep='\\n', file=sys.stderr); os._exit(3)"
    program = program.replace("os._exit", "sys.stderr.flush(); os._exit")
    record = worker(program).measure(REQUEST)
    assert record["outcome"] == "crashed"
    assert record["reason"] == "exited with code 3 in phase setup: no such layer: Swish"
    assert record["stderr"] == "first\nno such layer: Swish\n"


def test_a_worker_that_ends_in_silence_and_peace_but_without_a_record_has_crashed(worker):
    record = worker("phase('gate')").measure(REQUEST)
    assert (record["outcome"], record["reason"]) == ("crashed", "exited with code 0 in phase gate: it said nothing")


@pytest.mark.parametrize("name", ["SIGSEGV", "SIGABRT", "SIGKILL", "SIGBUS"])
def test_a_signal_is_told_by_its_name(worker, name):
    record = worker(f"phase('timing'); os.kill(os.getpid(), signal.{name}); live_on()").measure(REQUEST)
    assert (record["outcome"], record["reason"]) == ("crashed", f"killed by {name} in phase timing")


def test_a_kill_by_the_kernel_for_memory_is_out_of_memory(worker, monkeypatch):
    kills = itertools.count(41)
    monkeypatch.setattr(launcher_module, "_oom_kills", lambda: next(kills))
    record = worker("phase('setup'); os.kill(os.getpid(), signal.SIGKILL); live_on()").measure(REQUEST)
    assert (record["outcome"], record["reason"]) == (
        "out_of_memory",
        "killed by the kernel for memory in phase setup",
    )


def test_a_worker_that_dies_before_it_reads_its_case_is_a_crash(worker):
    # A case that does not fit into the pipe, so that writing it surely meets the closed end.
    large = Request(Case("x" * 1_000_000, "manual", "cpu", "float32", 1), round=0, seeds=0)
    record = worker("os.close(0); os._exit(7)").measure(large)
    assert (record["outcome"], record["reason"]) == ("crashed", "exited with code 7 in phase start: it said nothing")


def test_many_megabytes_on_stderr_neither_block_the_worker_nor_fill_the_record(worker):
    program = (
        "phase('setup'); print(('y' * 99 + '\\n') * 200_000 + 'the end', file=sys.stderr, flush=True); os._exit(1)"
    )
    record = worker(program).measure(REQUEST)
    assert record["reason"] == "exited with code 1 in phase setup: the end"
    assert len(record["stderr"]) <= 4000


def test_stderr_that_is_no_text_does_no_harm(worker):
    record = worker("os.write(2, b'\\xff\\xfe broken \\x00'); os._exit(1)").measure(REQUEST)
    assert record["outcome"] == "crashed"
    assert "broken" in record["reason"]


# A worker that hangs


@pytest.mark.parametrize("phase", [phase for phase in PHASES if phase in ("start", "import", "timing", "convergence")])
def test_a_hang_is_a_timeout_that_names_the_phase(worker, phase):
    reached = "".join(f"phase({name!r}); " for name in PHASES[1 : PHASES.index(phase) + 1])
    record = worker(f"{reached}live_on()", timeout_s=1.0).measure(REQUEST)
    assert (record["outcome"], record["reason"]) == ("timeout", f"took longer than 1 s in phase {phase}")
    assert record["seconds"] < 5


def test_each_phase_has_the_whole_time_to_itself(worker):
    program = "time.sleep(0.5); phase('import'); time.sleep(0.5); phase('setup'); time.sleep(0.5); finish()"
    assert worker(program, timeout_s=1.3).measure(REQUEST)["outcome"] == "ok"


def test_blocks_do_not_put_off_the_deadline(worker):
    program = """
phase('timing')
for _ in range(100):
    send('begin')
    time.sleep(0.1)
    send('end')
"""
    record = worker(program, timeout_s=1.0).measure(REQUEST)
    assert (record["outcome"], record["reason"]) == ("timeout", "took longer than 1 s in phase timing")


def test_a_worker_that_must_end_may_clean_up_first(worker):
    program = """
def tidy(*_):
    time.sleep(0.3)
    open("tidy", "w").close()
    sys.exit(0)
signal.signal(signal.SIGTERM, tidy)
phase('timing')
live_on()
"""
    record = worker(program, timeout_s=0.5, term_s=20.0).measure(REQUEST)
    assert (record["outcome"], record["reason"]) == ("timeout", "took longer than 0.5 s in phase timing")
    assert Path("tidy").exists()
    assert record["seconds"] < 10


def test_a_worker_that_does_not_heed_a_polite_signal_is_killed_soon(worker):
    program = "signal.signal(signal.SIGTERM, signal.SIG_IGN); say_pid(); phase('timing'); live_on()"
    record = worker(program, timeout_s=0.5, term_s=0.5).measure(REQUEST)
    assert (record["outcome"], record["reason"]) == ("timeout", "took longer than 0.5 s in phase timing")
    assert 1.0 <= record["seconds"] < 5
    assert was_waited_for(said_pids()[0])


@pytest.mark.parametrize("timeout_s", [1e9, float("inf")])
def test_a_deadline_may_be_as_far_away_as_anybody_likes(worker, timeout_s):
    assert worker("phase('timing'); finish()", timeout_s).measure(REQUEST)["outcome"] == "ok"


ENDINGS = {
    "timeout": "live_on()",
    "crashed": "os._exit(3)",
    "ok": "finish()",
}


@pytest.mark.parametrize(("outcome", "ending"), ENDINGS.items(), ids=ENDINGS)
def test_however_a_worker_ends_none_of_its_processes_is_left(worker, outcome, ending):
    # The child outlives its parent, and neither heeds a polite signal.
    program = f"""
for name in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
    signal.signal(name, signal.SIG_IGN)
child = subprocess.Popen(["sleep", "120"], stdout=subprocess.DEVNULL)
gone = subprocess.Popen(["sleep", "120"], stdout=subprocess.DEVNULL, start_new_session=True)
say_pid(child.pid, gone.pid)
phase('timing')
{ending}
"""
    launcher = worker(program, timeout_s=1.0 if outcome == "timeout" else LAX_S, term_s=0.3)
    assert launcher.measure(REQUEST)["outcome"] == outcome
    pid, *children = said_pids()
    assert was_waited_for(pid)
    assert len(children) == 2
    assert all(ended(child) for child in children)


def test_what_a_worker_left_behind_in_a_session_of_its_own_holds_nothing_open(worker):
    # It has the worker's stdout, so that the stream has no end.
    program = "gone = subprocess.Popen(['sleep', '120'], start_new_session=True); say_pid(gone.pid); finish(step_ns=7)"
    record = worker(program).measure(REQUEST)
    assert (record["outcome"], record["step_ns"]) == ("ok", 7)
    assert record["seconds"] < 5
    assert ended(said_pids()[1])


def test_processes_of_others_are_left_alone(worker):
    with subprocess.Popen(["sleep", "120"], start_new_session=True) as other:
        worker("finish()").measure(REQUEST)
        assert other.poll() is None
        other.kill()


# A worker that talks nonsense

NONSENSE = {
    "text": b"Downloading weights: 100%",
    "half an event": b'{"event": "pha',
    "no text at all": b"\xff\xfe\x00",
    "a number": b"7",
    "a list": b'["event", "phase"]',
    "null": b"null",
    "no event": b'{"phase": "timing"}',
    "a phase without name": b'{"event": "phase"}',
    "a record without record": b'{"event": "record"}',
    "a record without outcome": b'{"event": "record", "record": {}}',
    "a record that is none": b'{"event": "record", "record": [1]}',
    "a hello without protocol": b'{"event": "hello"}',
}


@pytest.mark.parametrize("line", NONSENSE.values(), ids=NONSENSE)
def test_nonsense_on_the_stream_is_a_crash_with_a_reason(worker, line):
    record = worker(f"phase('setup'); os.write(1, {line!r} + b'\\n'); time.sleep(0.1); os._exit(0)").measure(REQUEST)
    assert record["outcome"] == "crashed"
    assert "is no event" in record["reason"]
    assert "in phase setup" in record["reason"]


def test_a_worker_that_talks_nonsense_and_lives_on_is_ended_at_once(worker, monkeypatch):
    monkeypatch.setattr(launcher_module, "_EXIT_S", 6.0)
    record = worker("say_pid(); print('nonsense', flush=True); live_on()").measure(REQUEST)
    assert record["outcome"] == "crashed"
    assert "nonsense" in record["reason"]
    assert was_waited_for(said_pids()[0])
    assert record["seconds"] < 5


def test_a_worker_of_another_protocol_is_refused_by_both_numbers(worker):
    record = worker("send('hello', protocol=99); time.sleep(0.1)").measure(REQUEST)
    assert record["outcome"] == "crashed"
    assert record["reason"] == f"the worker speaks protocol 99, this program {PROTOCOL}, in phase start"


def test_an_event_of_an_unknown_kind_is_a_crash_that_names_it(worker):
    record = worker("phase('gate'); send('weather', sky='blue'); finish(step_ns=1)").measure(REQUEST)
    assert record["outcome"] == "crashed"
    assert record["reason"] == (
        "the worker wrote an event that is unknown, or comes at the wrong time: 'weather', in phase gate"
    )


def test_half_a_line_is_a_crash_that_shows_it(worker):
    record = worker("phase('gate'); os.write(1, b'{\"event\": \"rec'); os._exit(0)").measure(REQUEST)
    assert record["outcome"] == "crashed"
    assert record["reason"] == 'the worker wrote half an event: b\'{"event": "rec\', in phase gate'


def test_half_a_line_after_the_answer_is_a_crash_as_well(worker):
    record = worker("finish(step_ns=1); os.write(1, b'and mo'); os._exit(0)").measure(REQUEST)
    assert record["outcome"] == "crashed"
    assert "half an event" in record["reason"]
    assert "step_ns" not in record


@pytest.mark.parametrize(
    "more", ["finish(step_ns=1)", "send('begin')", "phase('timing')", f"send('hello', protocol={PROTOCOL})"]
)
def test_whoever_goes_on_after_its_answer_is_not_believed(worker, more):
    record = worker(f"finish(step_ns=7); {more}; live_on()").measure(REQUEST)
    assert record["outcome"] == "crashed"
    assert record["reason"].startswith("the worker went on after its answer, with event '")
    assert "step_ns" not in record
    assert record["seconds"] < 5


@pytest.mark.parametrize(
    "record", [{"outcome": "fine", "reason": ""}, {"outcome": "ok", "reason": None}, {"outcome": "ok"}, [], 7]
)
def test_a_record_without_a_known_outcome_and_a_text_for_a_reason_is_no_record(worker, record):
    told = worker(f"phase('end'); send('record', record={record!r})").measure(REQUEST)
    assert told["outcome"] == "crashed"
    assert "is no event" in told["reason"]
    assert "in phase end" in told["reason"]


def test_a_line_that_never_ends_is_not_collected_for_ever(worker, monkeypatch):
    monkeypatch.setattr(launcher_module, "MAX_LINE_BYTES", 3 * 2**20)
    program = "phase('gate')\nwhile True: os.write(1, b'x' * 100_000)"
    record = worker(program).measure(REQUEST)
    assert record["outcome"] == "crashed"
    assert record["reason"] == "the worker wrote a line of more than 3 MiB, in phase gate"
    assert record["seconds"] < 10


def test_an_event_that_is_nested_too_deeply_is_a_crash(worker):
    record = worker("os.write(1, b'[' * 100_000 + b']' * 100_000 + b'\\n'); time.sleep(0.1)").measure(REQUEST)
    assert record["outcome"] == "crashed"


def test_a_worker_that_has_answered_but_does_not_exit_is_ended_and_not_believed(worker, monkeypatch):
    monkeypatch.setattr(launcher_module, "_EXIT_S", 0.3)
    record = worker("say_pid(); finish(step_ns=7); live_on()").measure(REQUEST)
    assert (record["outcome"], record["reason"]) == ("crashed", "it answered but did not exit, in phase exit")
    assert "step_ns" not in record
    assert was_waited_for(said_pids()[0])


def test_a_worker_that_closes_its_stream_and_lives_on_is_ended(worker, monkeypatch):
    monkeypatch.setattr(launcher_module, "_EXIT_S", 0.5)
    record = worker("say_pid(); phase('timing'); os.close(1); live_on()").measure(REQUEST)
    assert record["outcome"] == "crashed"
    assert "in phase timing" in record["reason"]
    # It was this program that killed it: the user is not to look for whoever sent a SIGKILL.
    assert "SIGKILL" not in record["reason"]
    assert was_waited_for(said_pids()[0])


def test_what_a_library_prints_after_the_worker_claimed_stdout_does_not_spoil_the_stream(worker):
    program = """
import ctypes
from harness.measuring.protocol import PROTOCOL, claim_stdout
events = claim_stdout()
events.send("hello", protocol=PROTOCOL)
os.write(1, b"from the system call\\n")
libc = ctypes.CDLL(None)
libc.puts(b"from C")
libc.fflush(None)
subprocess.run(["echo", "from a child"])
print("from Python", flush=True)
events.send("record", record={"outcome": "crashed", "reason": "so that stderr is kept"})
"""
    record = worker(program).measure(REQUEST)
    assert record["reason"] == "so that stderr is kept"
    assert record["stderr"].splitlines() == ["from the system call", "from C", "from a child", "from Python"]


# The user interrupts

PARENT = """
import os, signal, sys
from harness.measuring.protocol import Request
from harness.plan.case import Case
from harness.running.launcher import Launcher
signal.signal(signal.SIGINT, signal.default_int_handler)  # tests may run in the background, where it is ignored
launcher = Launcher(dict(os.environ), (sys.executable, "-S", "-P", "worker.py"), term_s=0.5)
try:
    launcher.measure(Request(Case("line", "manual", "cpu", "float32", 100), 0, 0))
except KeyboardInterrupt:
    print("interrupted")
    sys.exit(130)
"""


@pytest.mark.parametrize("moment", ["start", "timing"])
def test_an_interrupt_ends_the_worker_and_all_its_processes_and_is_raised_on(worker, moment):
    program = f"""
for name in (signal.SIGTERM, signal.SIGINT):
    signal.signal(name, signal.SIG_IGN)
if {moment == "timing"}:
    phase("timing")
child = subprocess.Popen(["sleep", "120"])
say_pid(child.pid)
live_on()
"""
    environment = worker(program).environment
    with subprocess.Popen((sys.executable, "-c", PARENT), env=environment, stdout=subprocess.PIPE, text=True) as parent:
        pid, child = said_pids()
        parent.send_signal(signal.SIGINT)
        said, _ = parent.communicate(timeout=20)
    assert (said, parent.returncode) == ("interrupted\n", 130)
    assert ended(pid)
    assert ended(child)


def test_a_terminals_interrupt_does_not_reach_the_worker_by_itself(worker):
    record = worker("finish(group=os.getpgid(0), session=os.getsid(0), pid=os.getpid())").measure(REQUEST)
    assert record["group"] == record["session"] == record["pid"]


# What a worker is started with


def test_caches_are_the_runs_own_and_compiling_starts_no_processes_beside_the_timing(tmp_path, monkeypatch):
    names = ("TORCHINDUCTOR_CACHE_DIR", "TRITON_CACHE_DIR", "TORCH_EXTENSIONS_DIR", "CUDA_CACHE_PATH")
    for name in names:
        monkeypatch.setenv(name, "/somewhere/else")
    environment = worker_environment(tmp_path)
    assert all(Path(environment[name]).is_relative_to(tmp_path) for name in names)
    assert len({environment[name] for name in names}) == len(names)
    assert environment["TORCHINDUCTOR_COMPILE_THREADS"] == "1"


def test_what_the_caller_set_reaches_the_worker(tmp_path, monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1")
    monkeypatch.setenv("PYTHONPATH", "/mine")
    environment = worker_environment(tmp_path)
    assert environment["CUDA_VISIBLE_DEVICES"] == "1"
    assert environment["PYTHONPATH"].split(os.pathsep) == [str(ROOT), "/mine"]


def test_a_folder_named_harness_where_the_user_stands_is_not_this_program(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "harness").mkdir()
    (tmp_path / "harness/__init__.py").write_text("raise SystemExit('the wrong one')")
    options = WORKER[1 : WORKER.index("-m")]
    program = """
import harness, json
print(json.dumps({"event": "record", "record": {"outcome": "ok", "reason": harness.__file__}}))
"""
    launcher = Launcher(worker_environment(tmp_path), (WORKER[0], *options, "-c", program))
    assert Path(launcher.measure(REQUEST)["reason"]).parent == ROOT / "harness"


# Several ranks


def test_several_ranks_are_started_by_what_starts_them_with_the_arms_own_python():
    several = replace(REQUEST, case=replace(REQUEST.case, ranks=2))
    launcher = Launcher({}, ("/arm/python", *WORKER[1:]))
    assert launcher._command(REQUEST) == ("/arm/python", *WORKER[1:])
    assert launcher._command(several) == ("/arm/python", "-P", "-m", "harness.measuring.torchrun")
    other = Launcher({}, ("/arm/python", "worker.py"))
    assert other._command(several) == ("/arm/python", "worker.py")


def test_a_rank_that_the_kernel_kills_for_memory_is_out_of_memory(worker, monkeypatch):
    counts = iter([3, 4])
    monkeypatch.setattr(launcher_module, "_oom_kills", lambda: next(counts))
    program = "sys.stderr.write('rank 1 was killed by SIGKILL\\n'); sys.exit(1)"
    assert worker(program).measure(REQUEST)["outcome"] == "out_of_memory"


def test_a_rank_that_is_killed_otherwise_is_a_crash_that_names_it(worker):
    record = worker("phase('gate'); sys.stderr.write('rank 1 was killed by SIGKILL\\n'); sys.exit(1)").measure(REQUEST)
    ending = "exited with code 1 in phase gate: rank 1 was killed by SIGKILL"
    assert (record["outcome"], record["reason"]) == ("crashed", ending)
