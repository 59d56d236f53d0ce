"""The program, ready to run: imports everything once, then forks a process for each run that it is asked for.

A line of JSON on stdin asks for a run, one on stdout says how it ended. Each run is the whole command line in a process
of its own, with its own files; only its workers are `worker.py`, and what the machine is, is said and not looked up.
Python's start, most of the time of so short a run, is paid once.
"""

import contextlib
import ctypes
import fcntl
import functools
import json
import os
import select
import signal
import sys
import time
import traceback
from pathlib import Path

# What the command line imports later, once for all runs.
import harness.comparing.compare
import harness.reporting.comparison
import harness.reporting.profile
import harness.reporting.progress
import harness.reporting.terminal
import harness.running.restored
import harness.tables.build
import harness.tables.files
import harness.tables.find
import harness.tables.profile
from harness import cli
from harness.measuring.protocol import PROTOCOL
from harness.running import session
from harness.running.journal import Journal
from harness.running.launcher import Launcher

FACTS = {"cpu_model": "a CPU", "cpus": 2, "machine_arch": "none", "torch": "2.13.0+cpu", "python_minor": "3.11"}
LONGEST_S = 60.0
WORKER = Path(__file__).with_name("worker.py")
disk = ctypes.CDLL(None)
disk.disk_moments.restype = ctypes.c_char_p


def acknowledge(pipe: int) -> None:
    """From now on send each line of a journal through a pipe once `append` or, for the first, `create` has returned."""
    append, create = Journal.append, Journal.create

    def say(entry):
        os.write(pipe, json.dumps(entry).encode() + b"\n")

    def acknowledged(journal, entry):
        append(journal, entry)
        if entry["kind"] != "run":
            say(entry)

    def created(folder, header):
        journal = create(folder, header)
        say({"kind": "run", **header})
        return journal

    Journal.append, Journal.create = acknowledged, staticmethod(created)


def swallow_an_interrupt() -> None:
    """Let SIGTERM come while the tables are built for the first time, and its exception be lost, as in numpy."""
    build, calls = harness.tables.build.build_tables, []

    def swallowed(*arguments):
        calls.append(1)
        if len(calls) == 1:
            with contextlib.suppress(KeyboardInterrupt):
                signal.raise_signal(signal.SIGTERM)
        return build(*arguments)

    harness.tables.build.build_tables = swallowed


def run(request: dict, acknowledgements: int, marks: int, begun: int) -> None:
    """Be the program, once that is said; never returns."""
    os.setsid()
    for descriptor, name in ((1, "out"), (2, "err")):
        os.dup2(os.open(request["says"] + "." + name, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), descriptor)
    os.chdir(request["cwd"])
    acknowledge(acknowledgements)
    command = (sys.executable, "-S", "-E", str(WORKER), request["workers"], str(PROTOCOL), str(request["worker_s"]))
    session.Launcher = functools.partial(Launcher, command=command)
    session.describe_machine = lambda *_: FACTS
    where = request["disk"].encode()
    if request["fails"]:
        at, more, error, half = request["fails"]
        disk.disk_fails(where, ctypes.c_long(at), ctypes.c_long(more), error, half)
    if request["slow_us"]:
        disk.disk_is_slow(where, request["slow_us"], marks)
    if request["swallows"]:
        swallow_an_interrupt()
    sys.argv = ["harness", *request["arguments"]]
    code = 1
    os.close(begun)
    try:
        cli.main()
    except SystemExit as ended:
        code = ended.code or 0
    except BaseException:  # noqa: BLE001 - what Python itself does at the end of a program
        traceback.print_exc()
    sys.stdout.flush()
    sys.stderr.flush()
    os.write(marks, disk.disk_moments())
    os._exit(int(code))


def pipe() -> tuple[int, int]:
    reading, writing = os.pipe()
    fcntl.fcntl(writing, fcntl.F_SETPIPE_SZ, 1 << 20)  # nobody reads before the end
    return reading, writing


def everything(descriptor: int) -> str:
    with os.fdopen(descriptor, "rb") as file:
        return file.read().decode()


def answer(request: dict) -> dict:
    """Fork a run, send it a signal at its moment, and tell all about it."""
    acknowledgements, marks, begun = pipe(), pipe(), os.pipe()
    child = os.fork()
    if child == 0:
        run(request, acknowledgements[1], marks[1], begun[1])
    for _, writing in (acknowledgements, marks, begun):
        os.close(writing)
    everything(begun[0])
    started = time.monotonic()
    ended = os.pidfd_open(child)
    signalled = False
    if request["signal"]:
        signalled = not select.select([ended], [], [], request["after_s"])[0]
        if signalled:
            (os.killpg if request["signal"] == signal.SIGKILL else os.kill)(child, request["signal"])
    if not select.select([ended], [], [], LONGEST_S)[0]:
        os.killpg(child, signal.SIGKILL)
    os.close(ended)
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    return {
        "code": code,
        "signalled": signalled,
        "life_s": time.monotonic() - started,
        "acknowledged": everything(acknowledgements[0]),
        "marks": everything(marks[0]),
    }


def main() -> None:
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    print("ready", file=answers, flush=True)
    # Not sys.stdin: a child must not find the next request in its buffer.
    for line in iter(functools.partial(read_line, 0), b""):
        print(json.dumps(answer(json.loads(line))), file=answers, flush=True)


def read_line(descriptor: int) -> bytes:
    line = b""
    while not line.endswith(b"\n"):
        some = os.read(descriptor, 1 << 16)
        if not some:
            return b""
        line += some
    return line


if __name__ == "__main__":
    main()
