"""Every cheat, and how it is caught: `nox -s tests -- tests/cheating`, some minutes.

Those left to chance are tried ten times.
"""

import re
from dataclasses import replace

import pytest

from harness.plan.case import Case
from tests.cheating.verdicts import CAUGHT, NEED_A_GPU, OUT_OF_REACH, TIMES, case_of, measured

BY_CHANCE = ("SkipsInEverySecondBlock", "SkipsAfterBlock20", "SkipsIn40PercentOfBlocks")


def assert_caught(name, record):
    assert TIMES & record.keys() == set(), f"{name} gets a time"
    assert record["outcome"] in (("crashed",) if name == "AnswersTwice" else ("rejected", "wrong_gradient"))
    assert re.search(CAUGHT[name], record["reason"]), record["reason"]


@pytest.mark.parametrize("name", CAUGHT)
def test_a_cheat_gets_no_time_and_the_reason_says_where_it_was_caught(name, tmp_path, verdicts):
    record = measured(case_of(name), tmp_path)
    verdicts[name] = f"{record['outcome']}: {record['reason']}"
    assert_caught(name, record)


@pytest.mark.parametrize("name", BY_CHANCE)
def test_a_cheat_in_some_blocks_is_caught_every_time(name, tmp_path, verdicts):
    records = [measured(case_of(name), tmp_path, seed) for seed in range(10)]
    caught = [record for record in records if record["outcome"] == "rejected"]
    verdicts[f"{name}, ten times"] = f"caught {len(caught)} times"
    assert len(caught) == len(records)


@pytest.mark.parametrize("name", OUT_OF_REACH)
def test_what_speaks_for_the_worker_from_within_is_out_of_reach(name, tmp_path, verdicts):
    record = measured(case_of(name), tmp_path)
    verdicts[name] = f"{record['outcome']}: out of reach"
    assert record["outcome"] == "ok"


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


@pytest.mark.parametrize("engine", ["manual", "autograd"])
def test_an_honest_engine_is_timed_by_the_same_checks(engine, tmp_path, verdicts):
    record = measured(Case("line", engine, "cpu", "float32", 100), tmp_path)
    verdicts[engine] = f"{record['outcome']}: {record.get('step_ns', 0):.0f} ns per update"
    assert record["outcome"] == "ok", record["reason"]
