from dataclasses import fields
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from harness.plan.case import Case
from harness.plan.errors import PlanError
from harness.plan.sweep import Sweep
from harness.plan.text import printable
from harness.tables.build import build_tables
from harness.tables.columns import SCHEMA, TABLES
from harness.tables.files import Tables, read_table, write_tables

RUN_TABLES = [part.name for part in fields(Tables)]
CASE = Case("line", "autograd", "cpu", "float32", 100)
TARGETS = {
    "max_loss": 0.1,
    "min_accuracy": 0.9,
    "min_converged_share": 0.75,
    "max_median_loss": 0.05,
    "min_median_accuracy": 0.9,
}
SEED = {"seed": 0, "updates": 20, "loss": 0.0123456789, "accuracy": 1.0, "r2": 0.98, "converged": True}
EPOCH = {"epoch": 1, "seeds": 1, "accuracy_p50": 0.5, "converged_share": 0.0}
EPOCH |= dict.fromkeys(("loss_p05", "loss_p50", "loss_p95"), 0.123456789012)
MEASURED = {
    "kind": "record",
    "case_id": CASE.case_id,
    "outcome": "ok",
    "reason": "",
    "threads": 2,
    "step_ns": 216222.7112345,
    "stop_rule": "budget",
    "peak_rss_bytes": 322228224,
    "seconds": 6.7,
}


def tables(*records: dict[str, Any], **identity: Any) -> Tables:
    header = {"run_id": "r", "commit": "ab" * 20, "dirty": False, "machine": "amd-epyc-2c", "fingerprint": "c0ffee"}
    return build_tables({**header, **identity, "sweep": Sweep((CASE,)).to_json()}, records)


def two_rounds(**identity: Any) -> Tables:
    first = {**MEASURED, "round": 0, "convergence": [SEED], "convergence_targets": TARGETS, "epochs": [EPOCH]}
    return tables(first, {**MEASURED, "round": 1}, **identity)


@pytest.fixture
def run(tmp_path) -> Path:
    write_tables(tmp_path, two_rounds())
    return tmp_path


def edit(folder: Path, table: str, change: Any) -> None:
    path = folder / f"{table}.csv"
    change(pd.read_csv(path)).to_csv(path, index=False)


@pytest.mark.parametrize("table", RUN_TABLES)
def test_a_table_comes_back_from_its_folder_as_it_was_to_nine_digits(table, run):
    written, read = getattr(two_rounds(), table), read_table(run, table)
    written = written.astype(dict.fromkeys(written.select_dtypes("Int64"), float))  # its gaps are NaN in a file
    pd.testing.assert_frame_equal(read, written, check_dtype=False, check_exact=False, rtol=1e-8)


@pytest.mark.parametrize("table", RUN_TABLES)
def test_a_table_is_read_from_its_own_file_wherever_it_was_moved(table, run, tmp_path):
    moved = (run / f"{table}.csv").rename(tmp_path / "elsewhere.txt")
    assert list(read_table(moved, table).columns) == [column.name for column in TABLES[table]]


@pytest.mark.parametrize("table", RUN_TABLES)
def test_a_file_begins_with_the_columns_in_their_order(table, run):
    head = (run / f"{table}.csv").read_text("utf-8").splitlines()[0]
    assert head.split(",") == [column.name for column in TABLES[table]]


def test_only_the_tables_are_left_in_the_folder(run):
    assert sorted(path.stem for path in run.iterdir()) == ["convergence", "epochs", "measurements", "summary"]


def test_a_write_that_fails_halfway_leaves_the_old_table_whole(run, monkeypatch):
    before = (run / "measurements.csv").read_bytes()

    def disk_full(_frame: pd.DataFrame, path: Path, **_: Any) -> None:
        path.write_text("workload,eng")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(pd.DataFrame, "to_csv", disk_full)
    with pytest.raises(OSError, match="No space left"):
        write_tables(run, tables())
    assert (run / "measurements.csv").read_bytes() == before


@pytest.mark.parametrize("table", RUN_TABLES)
def test_the_tables_of_a_run_that_measured_nothing_come_back_too(table, tmp_path):
    write_tables(tmp_path, tables())
    assert len(read_table(tmp_path, table)) == (1 if table == "summary" else 0)


def test_texts_that_are_empty_come_back_as_empty_texts(run):
    summary = read_table(run, "summary")
    assert summary["reason"].tolist() == [""]
    assert read_table(run, "measurements")["reason"].tolist() == ["", ""]


@pytest.mark.parametrize("digits", ["123456789012", "000000000012", "12345678e012", "1e9999999999"])
def test_a_commit_or_fingerprint_that_looks_like_a_number_comes_back_digit_by_digit(digits, tmp_path):
    write_tables(tmp_path, two_rounds(commit=digits, fingerprint=digits, run_id=digits))
    for table in RUN_TABLES:
        found = read_table(tmp_path, table)
        for name in ("commit", "fingerprint", "run_id"):
            assert set(found[name]) == {digits}, name


def test_columns_that_this_version_does_not_know_are_kept_and_ignored(run):
    edit(run, "summary", lambda table: table.assign(joules_per_step=3.5))
    summary = read_table(run, "summary")
    assert summary["joules_per_step"].tolist() == [3.5]
    assert set(summary.columns) > {column.name for column in TABLES["summary"]}


@pytest.mark.parametrize("table", RUN_TABLES)
def test_a_higher_schema_is_refused_with_both_numbers_and_what_to_do(table, run):
    edit(run, table, lambda found: found.assign(schema=SCHEMA + 1))
    with pytest.raises(PlanError) as refused:
        read_table(run, table)
    for text in (f"{table}.csv", f"schema {SCHEMA + 1}", f"up to {SCHEMA}", "update"):
        assert text in str(refused.value)


def test_a_higher_schema_is_said_before_a_missing_column(run):
    edit(run, "summary", lambda table: table.drop(columns="step_ns").assign(schema=SCHEMA + 1))
    with pytest.raises(PlanError, match="schema"):
        read_table(run, "summary")


def test_a_missing_column_is_named(run):
    edit(run, "summary", lambda table: table.drop(columns="ratio_low"))
    with pytest.raises(PlanError, match=r"summary\.csv: is no summary table: it has no column ratio_low"):
        read_table(run, "summary")


def test_one_table_is_not_taken_for_another(run):
    with pytest.raises(PlanError, match="is no measurements table"):
        read_table(run / "summary.csv", "measurements")


@pytest.mark.parametrize(
    ("content", "text"),
    [
        (b"", "is no CSV table"),
        (b"\x80\x81\xff\xfe\n", "is no CSV table"),
        (b"a,b\n1,2\n1,2,3,4\n", "is no CSV table"),
        (b'a,b\n"1,2\n', "is no CSV table"),
        (b"\0\0\0\0", "is no"),
        (b"name,price\npear,3\n", "is no results table"),
        (b"# A letter\n\nto a friend\n", "is no results table"),
    ],
    ids=["empty", "binary", "ragged", "an open quote", "zeros", "another table", "text"],
)
def test_what_is_no_table_is_refused_with_its_path(content, text, tmp_path):
    file = tmp_path / "summary.csv"
    file.write_bytes(content)
    with pytest.raises(PlanError, match=text) as refused:
        read_table(tmp_path, "summary")
    assert str(file) in str(refused.value)


def test_a_file_that_is_not_there_is_refused_with_the_reason(tmp_path):
    (tmp_path / "file").touch()
    for path in (tmp_path, tmp_path / "none", tmp_path / "file" / "below", tmp_path / ("long" * 100)):
        with pytest.raises(PlanError, match="cannot be read: "):
            read_table(path, "summary")


# Files of strangers


@pytest.mark.parametrize(
    ("change", "text"),
    [
        (lambda table: table.assign(step_ns="abc"), "row 2: step_ns 'abc': must be a number"),
        (lambda table: table.assign(outcome=["ok", "fine"]), "row 3: outcome 'fine'"),
        (lambda table: table.assign(round=[0, -1]), "row 3: round -1.0: must be a whole number"),
        (lambda table: table.assign(round=[0, 0]), "row 3: run_id and case_id and round are those of an earlier row"),
        (lambda table: table.assign(machine="=cmd"), "row 2: machine '=cmd'"),
        (lambda table: pd.concat([table, table["step_ns"]], axis=1), "has the column 'step_ns' twice"),
    ],
    ids=range(6),
)
def test_a_cell_that_its_column_cannot_hold_is_refused_with_row_and_column(change, text, run):
    edit(run, "measurements", change)
    with pytest.raises(PlanError) as refused:
        read_table(run, "measurements")
    assert f"measurements.csv: {text}" in str(refused.value)


def test_a_case_that_is_twice_in_a_summary_is_refused(run):
    edit(run, "summary", lambda table: pd.concat([table, table]))
    with pytest.raises(PlanError, match="row 3: case_id are those of an earlier row: line/autograd"):
        read_table(run, "summary")


def test_a_table_of_before_a_column_was_added_has_it_empty(run):
    edit(run, "measurements", lambda table: table.drop(columns=["latency_ns", "cpus", "attempts", "members"]))
    found = read_table(run, "measurements")
    assert found["members"].tolist() == [1, 1]
    assert found["latency_ns"].isna().all()
    assert found["attempts"].isna().all()
    assert found["cpus"].tolist() == ["", ""]


@pytest.mark.parametrize("reason", ["=cmd|' /C calc'!A0", "'=1", "-1", "a\x1b[31m\nb\ud800", "None", "NA"], ids=ascii)
def test_whatever_a_reason_says_it_begins_no_formula_breaks_no_line_and_comes_back(reason, tmp_path):
    failed = {**MEASURED, "round": 0, "outcome": "crashed", "reason": reason}
    del failed["step_ns"]
    written = tables(failed)
    write_tables(tmp_path, written)
    assert len((tmp_path / "measurements.csv").read_text("utf-8").splitlines()) == 2
    found = read_table(tmp_path, "measurements")["reason"].tolist()
    assert found == written.measurements["reason"].tolist() == [printable(reason)]


def test_a_table_that_is_too_large_is_refused_before_it_is_read(run):
    with (run / "summary.csv").open("r+b") as file:
        file.truncate(2**30 + 1)
    with pytest.raises(PlanError, match="larger than the 1024 MiB"):
        read_table(run, "summary")
