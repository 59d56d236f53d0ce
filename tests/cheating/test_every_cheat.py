"""Every cheat, and how it is caught: `nox -s tests -- tests/cheating`, some minutes.

Those left to chance are tried ten times.
"""

import re
from dataclasses import replace

import pytest

from harness.plan.case import Case
from tests.cheating.verdicts import CAUGHT, NEED_A_GPU, OUT_OF_REACH, TIMES, case_of, measured

BY_CHANCE = ("SkipsInEverySecondBlock", "SkipsAfterBlock20", "SkipsIn40PercentOfBlocks")
HONEST = ("manual", "autograd")
TIMES_TRIED = 10


def honest(engine: str) -> Case:
    return Case("line", engine, "cpu", "float32", 100)


def assert_caught(name, record):
    assert TIMES & record.keys() == set(), f"{name} gets a time"
    assert record["outcome"] in (("crashed",) if name == "AnswersTwice" else ("rejected", "wrong_gradient"))
    assert re.search(CAUGHT[name], record["reason"]), record["reason"]


@pytest.fixture(scope="module")
def times_tried(request) -> int:
    return TIMES_TRIED // 4 if request.config.getoption("--quarter") else TIMES_TRIED


@pytest.fixture(scope="module")
def records(request, submit, times_tried):
    """The future record of each engine that is asked for, by name and seed."""
    params = [item.callspec.params for item in request.session.items if hasattr(item, "callspec")]
    asked = {param[name] for param in params for name in ("name", "engine") if name in param}
    cases = {name: case_of(name) for name in (*CAUGHT, *OUT_OF_REACH)} | {name: honest(name) for name in HONEST}
    futures = {(name, 0): submit(case) for name, case in cases.items() if name in asked}
    again = [(name, seed) for name in BY_CHANCE if name in asked for seed in range(1, times_tried)]
    return futures | {(name, seed): submit(cases[name], seed) for name, seed in again}


@pytest.mark.parametrize("name", CAUGHT)
def test_a_cheat_gets_no_time_and_the_reason_says_where_it_was_caught(name, records, verdicts):
    record = records[name, 0].result()
    verdicts[name] = f"{record['outcome']}: {record['reason']}"
    assert_caught(name, record)


@pytest.mark.parametrize("name", BY_CHANCE)
def test_a_cheat_in_some_blocks_is_caught_every_time(name, records, verdicts, times_tried):
    found = [records[name, seed].result() for seed in range(times_tried)]
    caught = [record for record in found if record["outcome"] == "rejected"]
    verdicts[f"{name}, {times_tried} times"] = f"caught {len(caught)} times"
    assert len(caught) == len(found)


@pytest.mark.parametrize("name", OUT_OF_REACH)
def test_what_speaks_for_the_worker_from_within_is_out_of_reach(name, records, verdicts):
    record = records[name, 0].result()
    verdicts[name] = f"{record['outcome']}: out of reach"
    assert record["outcome"] == "ok"


@pytest.mark.parametrize("engine", HONEST)
def test_an_honest_engine_is_timed_by_the_same_checks(engine, records, verdicts):
    record = records[engine, 0].result()
    verdicts[engine] = f"{record['outcome']}: {record.get('step_ns', 0):.0f} ns per update"
    assert record["outcome"] == "ok", record["reason"]


@pytest.mark.cuda
@pytest.mark.parametrize("name", NEED_A_GPU)
def test_a_cheat_on_a_gpu_is_caught_or_gains_nothing(name, tmp_path, verdicts):
    record = measured(case_of(name, "cuda"), tmp_path)
    verdicts[name] = f"{record['outcome']}: {record['reason']}"
    if name == "WorksOnASideStreamWhileTimed" and record["outcome"] == "ok":
        honest = measured(replace(case_of(name, "cuda"), engine="autograd"), tmp_path)
        verdicts[name] += f", {record['step_ns'] / honest['step_ns']:.2f} of the honest time"
        assert record["step_ns"] >= 0.95 * honest["step_ns"]
        return
    assert record["outcome"] in ("rejected", "wrong_gradient"), record["reason"]
    assert TIMES & record.keys() == set()
