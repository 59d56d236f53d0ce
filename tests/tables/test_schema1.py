"""Tables as they were written before rows said of which session they are, and of what their fingerprint is made.

The files in data/schema1 are three cases of a real run. They stay as they are: what was stored once is read for good.
"""

import csv
import json
import sys
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from harness.cli import Exit, main
from harness.comparing.compare import compare_runs
from harness.comparing.run import MEASURED, SUMMARISED, Run
from harness.plan.case import Case
from harness.plan.errors import NotComparable
from harness.plan.sweep import Sweep
from harness.tables.build import build_tables
from harness.tables.columns import TABLES
from harness.tables.files import read_table, write_tables

OLD = Path(__file__).with_name("data") / "schema1"
CASES = [f"line/{engine}/cpu/float32/b100" for engine in ("manual", "autograd", "compile_step")]
ADDED = ("session", "workload_digest", "environment")
ROWS = {"measurements": 15, "convergence": 192, "summary": 3}


def old_run(name: str = "old", **columns: Any) -> Run:
    table = read_table(OLD, "measurements", MEASURED).assign(**columns)
    return Run(name, table, read_table(OLD, "summary", SUMMARISED))


@pytest.fixture
def harness(monkeypatch, capsys, tmp_path):
    """Run the program in this process; return its exit code and what it printed."""
    monkeypatch.setattr("harness.cli.interrupt.signal.signal", lambda *_: None)
    for name in ("GITHUB_STEP_SUMMARY", "FORCE_COLOR"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.chdir(tmp_path)

    def run(*arguments: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["harness", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            main()
        return int(ended.value.code or 0), *capsys.readouterr()

    return run


@pytest.mark.parametrize("name", ROWS)
def test_the_files_are_of_before(name):
    with (OLD / f"{name}.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert {row["schema"] for row in rows} == {"1"}
    assert not set(ADDED) & rows[0].keys()


@pytest.mark.parametrize("name", ROWS)
def test_every_cell_comes_back_and_what_was_added_since_is_empty_or_what_it_was(name):
    table = read_table(OLD, name)
    assert len(table) == ROWS[name]
    assert {column.name for column in TABLES[name]} == set(table.columns)
    with (OLD / f"{name}.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    for column in rows[0]:
        texts = [row[column] for row in rows]
        if pd.api.types.is_numeric_dtype(table[column]) and table[column].dtype != bool:
            assert table[column].fillna(-1.0).tolist() == [float(text or -1) for text in texts], column
        else:
            assert table[column].astype(str).tolist() == texts, column
    for column in set(table.columns) - rows[0].keys():
        if column == "members":  # nothing trained several models at once
            assert (table[column] == 1).all()
        else:
            assert (table[column].isna() | (table[column] == "")).all(), column


def test_an_old_run_is_shown(harness):
    for path in (OLD, OLD / "summary.csv"):
        code, out, err = harness("show", path)
        assert (code, err) == (0, "")
        for text in ("amd-epyc-2c", "9d137a38a0", "manual", "compile_step"):
            assert text in out


@pytest.mark.parametrize("target", ["pytest-benchmark", "github-action-benchmark"])
def test_an_old_run_is_exported(target, harness):
    code, out, err = harness("export", OLD, "--to", target)
    assert (code, err) == (0, "")
    assert len(json.loads(out)["benchmarks"] if target == "pytest-benchmark" else json.loads(out)) == 3


def test_an_old_run_is_its_own_session_and_comparable_where_the_fingerprint_is_the_same(harness, tmp_path):
    old = old_run()
    assert old.session == "20261124T114830Z-9d137a38a0"
    assert old.environment() == {}
    compared = compare_runs(old, old_run("new", run_id="20261125T114830Z-0123456789"))
    assert not compared.firm
    assert [(case.case_id, case.status) for case in compared.cases] == [(case_id, "within") for case_id in CASES]
    text = (OLD / "measurements.csv").read_text("utf-8").replace("20261124T114830Z-9d137a38a0", "20261125T114830Z-new")
    (tmp_path / "new.csv").write_text(text)
    code, out, err = harness("compare", OLD, "new.csv")
    assert (code, err) == (0, "")
    assert all(case_id in out for case_id in CASES)


def test_an_old_run_is_compared_with_one_of_today(tmp_path, harness):
    """Which has the columns that were added since."""
    old = read_table(OLD, "measurements")
    today = old.assign(run_id="today", session="today", workload_digest="0123456789ab", environment="cpus=2; gpu=none")
    today.assign(step_ns=old["step_ns"] * 1.5).to_csv(tmp_path / "today.csv", index=False)
    code, out, err = harness("compare", OLD, "today.csv", "--format", "json")
    assert (code, err) == (Exit.MISSED, "")
    assert json.loads(out)["counts"]["slower"] == 3
    assert harness("compare", "today.csv", OLD)[0] == Exit.MET


def test_an_old_run_of_another_fingerprint_is_refused_for_it_does_not_say_what_differs(tmp_path, harness):
    environment = "cpu_model=AMD EPYC; cpus=4"
    new = old_run("new", run_id="new", fingerprint="ffff", environment=environment)
    for base, other in ((old_run(), new), (new, old_run())):
        with pytest.raises(NotComparable, match="old does not say what it is made of"):
            compare_runs(base, other, vary=["cpus", "cpu_model"])
    text = (OLD / "measurements.csv").read_text("utf-8").replace("20261124T114830Z-9d137a38a0", "20261125T114830Z-new")
    (tmp_path / "new.csv").write_text(text.replace("dffb64119834", "ffff"))
    code, out, err = harness("compare", OLD, "new.csv", "--vary", "torch")
    assert (code, out) == (Exit.NOT_COMPARABLE, "")
    for text in ("dffb64119834", "ffff", "does not say what it is made of"):
        assert text in err
    assert err.count("\n") == 1


def test_an_old_journal_makes_tables_of_today(tmp_path):
    """Its header has neither session nor environment, its records no digest."""
    header = {"run_id": "r", "commit": "ab" * 20, "dirty": False, "machine": "amd-epyc-2c", "fingerprint": "c0ffee"}
    header["sweep"] = Sweep((Case("line", "manual", "cpu", "float32", 100),)).to_json()
    record = {"kind": "record", "case_id": CASES[0], "round": 0, "outcome": "ok", "reason": "", "step_ns": 1000.0}
    write_tables(tmp_path, build_tables(header, [record]))
    for name in ("measurements", "summary"):
        (row,) = read_table(tmp_path, name).to_dict("records")
        assert (row["session"], row["workload_digest"], row["environment"]) == ("r", "", "")
