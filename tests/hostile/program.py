"""The program, ready to run: imports everything once, then forks a process for each command line that it is asked for.

A line of JSON on stdin asks for one, one on stdout says how it ended and what its memory was at most. Python's start,
most of the time of a command that refuses its input, is paid once.
"""

import json
import os
import signal
import sys
import tempfile
import time
import traceback
from typing import IO

# What the command line imports later, once for all runs.
import harness.comparing.compare
import harness.reporting.comparison
import harness.reporting.progress
import harness.reporting.terminal
import harness.running.session
import harness.tables.build
import harness.tables.files  # noqa: F401
from harness import cli

LONGEST_S = 100


def run(request: dict, out: int, err: int) -> None:
    """Be the program, or the code that is to be run in its place; never returns."""
    signal.alarm(LONGEST_S)
    os.dup2(out, 1)
    os.dup2(err, 2)
    os.chdir(request["cwd"])
    sys.argv = ["harness", *request["arguments"]]
    sys.path[0] = request["cwd"]  # as with `python -m`
    code = 1
    try:
        if request["code"]:
            exec(request["code"], {})  # noqa: S102 - of a test of the tests
            code = 0
        else:
            cli.main()
    except SystemExit as ended:
        code = ended.code or 0
    except BaseException:  # noqa: BLE001 - what Python itself does at the end of a program
        traceback.print_exc()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(int(code))


def answer(request: dict) -> dict:
    """Fork a run and tell all about it; peak_mb: of resident memory, its own and that of what it started."""
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        started = time.monotonic()
        child = os.fork()
        if child == 0:
            run(request, out.fileno(), err.fileno())
        _, status, used = os.wait4(child, 0)
        return {
            "code": os.waitstatus_to_exitcode(status),
            "out": everything(out),
            "err": everything(err),
            "peak_mb": used.ru_maxrss / (2**20 if sys.platform == "darwin" else 2**10),
            "seconds": time.monotonic() - started,
        }


def everything(file: IO[bytes]) -> str:
    file.seek(0)
    return file.read().decode(errors="replace")


def main() -> None:
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    print("ready", file=answers, flush=True)
    while line := read_line(0):  # not sys.stdin: a child must not find the next request in its buffer
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
