"""Engines that try to look fast get no time: a few of them; all by `nox -s tests -- tests/cheating`."""

import re
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest

from tests import cheats
from tests.cheating.verdicts import CAUGHT, FILE, NEED_A_GPU, OUT_OF_REACH, TIMES, case_of, measured

A_FEW = ("SkipsEverySecondUpdateWhileTimed", "SlowClockInBlocks", "AnswersTwice")


@pytest.mark.parametrize("name", A_FEW)
def test_a_cheat_gets_no_time_and_the_reason_says_where_it_was_caught(name: str, tmp_path: Path) -> None:
    record = measured(case_of(name), tmp_path)
    assert TIMES & record.keys() == set()
    assert record["outcome"] in ("rejected", "wrong_gradient", "crashed")
    assert re.search(CAUGHT[name], record["reason"]), record["reason"]


def test_every_cheat_has_a_verdict() -> None:
    bases = {"Cheat", "WhileTimed", "LowPrecision", "Skipper", "Members"}
    engines = {
        name
        for name, kind in vars(cheats).items()
        if isinstance(kind, type) and kind.__module__ == cheats.__name__ and not name.startswith("_")
    }
    assert engines - bases == {*CAUGHT, *OUT_OF_REACH, *NEED_A_GPU}


def test_cheats_end_a_run_with_1_and_their_honest_neighbours_are_timed(tmp_path: Path) -> None:
    names = ("SkipsInEverySecondBlock", "LeavesTheLastUpdate")
    engines = [f"{FILE}:{name}" for name in names]
    flags = [flag for engine in (*engines, "manual", "autograd") for flag in ("--engine", engine)]
    few = ("--workload", "line", "--batch-size", "100", "--rounds", "1", "--seeds", "4", "--out", str(tmp_path))
    done = subprocess.run(
        [sys.executable, "-m", "tests.short", "run", *flags, *few],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
        cwd=FILE.parents[1],
    )
    assert done.returncode == 1, done.stderr
    [path] = tmp_path.glob("*/*/summary.csv")
    summary = pd.read_csv(path).set_index("case_id")
    for name, outcome in zip(names, ("rejected", "wrong_gradient"), strict=True):
        row = summary.loc[f"line/cheats.py:{name}/cpu/float32/b100"]
        assert row["outcome"] == outcome
        assert pd.isna(row["step_ns"])
    for name in ("manual", "autograd"):
        row = summary.loc[f"line/{name}/cpu/float32/b100"]
        assert row["outcome"] == "ok"
        assert row["step_ns"] > 0
