import json
import os
import re
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from harness.measuring import protocol
from harness.measuring.protocol import PHASES, PROTOCOL, EventStream, Request
from harness.plan.case import Case
from harness.plan.presets import PRESETS, Sampling

ROOT = Path(__file__).parents[2]
CASES = [
    Case("line", "manual", "cpu", "float32", 100),
    Case("line_deep", "/home/µ/my_engine.py:Mine", "cuda:1", "float64", 2**28, threads=4),
]


@pytest.mark.parametrize("case", CASES)
def test_a_request_is_one_line_and_comes_back_equal(case):
    for request in (
        Request(case, round=3, seeds=64),
        Request(case, 0, 0, Sampling(relative_width=0.0005, budget_ns=5), cpus=(1, 3), threads=2),
    ):
        line = request.to_line()
        assert line.endswith("\n")
        assert line.count("\n") == 1
        assert Request.from_line(line) == request


def test_without_a_word_about_it_a_request_is_for_a_quick_run_wherever_the_system_likes():
    request = Request(CASES[0], 0, 0)
    assert (request.sampling, request.cpus, request.threads) == (PRESETS["quick"].sampling, (), None)


def test_a_request_of_another_protocol_is_refused_by_both_numbers():
    fields = json.loads(Request(CASES[0], 0, 0).to_line())
    for other in (PROTOCOL - 1, PROTOCOL + 1):
        with pytest.raises(ValueError, match=f"protocol {PROTOCOL}, the request {other}"):
            Request.from_line(json.dumps({**fields, "protocol": other}))


def test_the_transcript_in_the_documentation_is_what_is_said(pipe):
    said = [line[3:].split("   ")[0] for line in protocol.__doc__.splitlines() if line.startswith(("->", "<-"))]
    request = json.loads(re.sub(", …", "", said[0]))
    spoken = json.loads(Request(CASES[0], 0, 64, cpus=(1,), threads=1).to_line())
    assert {"protocol", "case", "round", "seeds", "cpus", "threads"} <= request.keys() <= spoken.keys()
    assert all(request[name] == spoken[name] for name in request.keys() - {"case"})
    events = [json.loads(line.replace(", …", "")) for line in said[1:]]
    assert [event["event"] for event in events] == ["hello", "phase", "begin", "end", "record"]
    assert events[0]["protocol"] == PROTOCOL
    assert events[1]["phase"] in PHASES
    read, write = pipe
    for at in ("begin", "end"):
        EventStream(write).block(at, 10_000_000)
    assert [json.loads(line) for line in os.read(read, 1000).splitlines()] == events[2:4]


@pytest.fixture
def pipe():
    read, write = os.pipe()
    yield read, write
    os.close(read)
    os.close(write)


def test_an_event_is_one_line_of_json_and_is_there_at_once(pipe):
    read, write = pipe
    EventStream(write).send("phase", phase="tim\ning")
    line = os.read(read, 1000)
    assert line.endswith(b"\n")
    assert line.count(b"\n") == 1
    assert json.loads(line) == {"event": "phase", "phase": "tim\ning"}


def test_a_line_that_the_system_takes_in_pieces_arrives_whole(pipe, monkeypatch):
    read, write = pipe
    whole = os.write
    monkeypatch.setattr(os, "write", lambda descriptor, line: whole(descriptor, bytes(line[:7])))
    EventStream(write).send("blocks", ns=[123456789])
    assert json.loads(os.read(read, 1000)) == {"event": "blocks", "ns": [123456789]}


def test_the_lines_around_a_block_are_made_without_the_time_that_json_takes(pipe, monkeypatch):
    read, write = pipe
    events = EventStream(write)
    monkeypatch.setattr(json, "dumps", lambda *_: pytest.fail("json between two blocks"))
    events.block("begin", 0)
    events.block("end", -12)
    assert os.read(read, 1000) == b'{"event": "begin"}\n{"event": "end", "ns": -12}\n'


def test_a_line_longer_than_the_pipe_arrives_whole(pipe):
    read, write = pipe
    blocks = list(range(10**9, 10**9 + 50_000))
    sender = threading.Thread(target=EventStream(write).send, args=("record",), kwargs={"record": blocks})
    sender.start()
    line = b""
    while not line.endswith(b"\n"):
        line += os.read(read, 1 << 16)
    sender.join()
    assert json.loads(line)["record"] == blocks


def spoken(program: str) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run((sys.executable, "-S", "-c", program), cwd=ROOT, capture_output=True, timeout=60, check=True)


def test_after_stdout_is_claimed_only_events_are_on_it():
    said = spoken("""
import ctypes, os, subprocess, sys
print("before", flush=True)
from harness.measuring.protocol import claim_stdout
events = claim_stdout()
events.send("hello", protocol=1)
print("from Python", flush=True)
os.write(1, b"from the system call\\n")
ctypes.CDLL(None).puts(b"from C")
ctypes.CDLL(None).fflush(None)
subprocess.run(["echo", "from a child"])
events.send("phase", phase="import")
""")
    lines = said.stdout.splitlines()
    assert lines[0] == b"before"
    assert [json.loads(line)["event"] for line in lines[1:]] == ["hello", "phase"]
    assert said.stderr.splitlines() == [b"from Python", b"from the system call", b"from C", b"from a child"]


def test_programs_that_the_worker_starts_do_not_hold_the_stream_open():
    said = spoken("""
import os
from harness.measuring.protocol import claim_stdout
events = claim_stdout()
events.send("inheritable", descriptors=[fd for fd in range(3, 50) if os.path.exists(f"/dev/fd/{fd}")
    and os.get_inheritable(fd)])
""")
    assert json.loads(said.stdout)["descriptors"] == []


def test_the_protocol_can_be_spoken_without_torch():
    said = spoken("import sys, harness.measuring.protocol; print('torch' in sys.modules)")
    assert said.stdout == b"False\n"
