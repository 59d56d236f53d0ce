"""What `run --json` writes, read as a machine reads it."""

import json
import math
import os
from contextlib import contextmanager
from pathlib import Path

import pandas as pd
import pytest

from harness.plan.case import Case
from harness.plan.estimate import sweep_seconds
from harness.plan.sweep import Sweep
from harness.reporting.events import Events, plan_of

CASE = Case("line", "autograd", "cpu", "float32", 100)
SWEEP = Sweep((CASE,), rounds=2)
RECORD = {"outcome": "ok", "reason": "", "step_ns": 205_000.5, "blocks": 40, "blocks_disturbed": 10, "seconds": 6.5}


def refuse(constant: str) -> None:
    pytest.fail(f"{constant} is no JSON")


@contextmanager
def pipe():
    """Yield events that go into a pipe, and a function that returns what has come out of it since."""
    reading, writing = os.pipe()
    os.set_blocking(reading, False)

    def heard() -> list[dict]:
        text = os.read(reading, 1 << 16).decode("utf-8", "strict")
        assert text.endswith("\n")
        return [json.loads(line, parse_constant=refuse) for line in text.splitlines()]

    with os.fdopen(writing, "w", encoding="ascii") as stream:
        yield Events(stream), heard
        os.close(reading)


def test_each_event_is_there_when_it_happens(tmp_path):
    key = {"case_id": CASE.case_id, "round": 1}
    with pipe() as (events, heard):
        events.begin(SWEEP, tmp_path)
        size = {"cases": 1, "rounds": 2, "processes": 2, "expected_seconds": round(sweep_seconds(SWEEP), 1)}
        assert heard() == [{"event": "begin", "schema": 1, "folder": str(tmp_path), **size}]
        events.case_skipped(0, CASE)
        assert heard() == [{"event": "case_skipped", "case_id": CASE.case_id, "round": 0}]
        events.case_started(1, CASE)
        assert heard() == [{"event": "case_started", **key}]
        events.phase_started("timing")
        assert heard() == [{"event": "phase_started", **key, "phase": "timing"}]
        events.case_finished(1, CASE, RECORD)
        told = {name: RECORD[name] for name in ("outcome", "reason", "step_ns", "seconds")}
        assert heard() == [{"event": "case_finished", **key, **told, "disturbed_share": 0.25}]
        events.measured_again(2)
        assert heard() == [{"event": "measured_again", "processes": 2}]


def test_a_process_without_a_time_has_null_in_its_place():
    with pipe() as (events, heard):
        events.case_finished(0, CASE, {"outcome": "crashed", "reason": "killed by SIGSEGV", "seconds": 1.0})
        [told] = heard()
    assert (told["outcome"], told["reason"], told["seconds"]) == ("crashed", "killed by SIGSEGV", 1.0)
    assert told["step_ns"] is told["disturbed_share"] is None


def test_no_text_and_no_number_spoils_the_json(tmp_path):
    reason = "two\nlines, \x1b[31m, a lone \udcff and µs"
    summary = pd.DataFrame(
        {
            "case_id": [CASE.case_id],
            "reason": [reason],
            "step_ns": [math.nan],
            "loss_p50": [math.inf],
            "graphs": pd.array([None], dtype="Int64"),
            "rounds": pd.array([3], dtype="Int64"),
            "dirty": [True],
            "targets": ["met: converged 91%; missed: 2.0 × autograd, 1.5"],
        }
    )
    with pipe() as (events, heard):
        events.case_finished(0, CASE, {**RECORD, "reason": reason, "step_ns": math.inf})
        events.verdict(summary, tmp_path, 1)
        finished, verdict = heard()
    assert finished["step_ns"] is None
    assert finished["reason"] == verdict["rows"][0]["reason"] == r"two\x0alines, \x1b[31m, a lone \udcff and µs"
    row = {"case_id": CASE.case_id, "step_ns": None, "loss_p50": None, "graphs": None, "rounds": 3, "dirty": True}
    assert verdict["rows"][0].items() >= row.items()
    assert verdict["targets"] == [
        {"case_id": CASE.case_id, "status": "met", "target": "converged 91%"},
        {"case_id": CASE.case_id, "status": "missed", "target": "2.0 × autograd, 1.5"},
    ]
    assert (verdict["exit_code"], verdict["folder"]) == (1, str(tmp_path))


def test_a_reader_that_goes_away_does_not_end_the_run():
    reading, writing = os.pipe()
    with os.fdopen(writing, "w") as stream:
        events = Events(stream)
        os.close(reading)
        for _ in range(3):
            events.case_started(0, CASE)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="Linux has a device that is always full")
def test_a_full_disk_is_told_once_and_not_again_when_the_program_ends():
    with Path("/dev/full").open("w") as stream:
        events = Events(stream)
        with pytest.raises(OSError, match="No space left"):
            events.case_started(0, CASE)


def test_a_plan_is_one_object_with_its_cases():
    plan = json.loads(json.dumps(plan_of(SWEEP), allow_nan=False))
    assert (plan["event"], plan["cases"], plan["processes"], plan["seeds"]) == ("plan", 1, 2, 64)
    [case] = plan["case_list"]
    assert case.pop("case_id") == CASE.case_id
    assert Case.from_json(case) == CASE
