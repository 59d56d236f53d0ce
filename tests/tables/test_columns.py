from pathlib import Path

import pytest

from harness.tables.columns import DOCUMENTS, SUMMARY, TABLES, column_table, with_column_tables

# Whoever reads a summary by position may rely on these.
SUMMARY_BEGINS_WITH = [
    *("workload", "engine", "device", "dtype", "batch_size", "threads", "outcome", "reason", "targets_met"),
    *("step_ns", "step_ns_low", "step_ns_high", "samples_per_s", "ratio_to_autograd", "ratio_low", "ratio_high"),
    *("loss_p05", "loss_p50", "loss_p95", "accuracy_p50", "converged_share", "converged_low", "converged_high"),
    "rounds",
]
IDENTITY = {"schema", "case_id", "run_id", "commit", "dirty", "machine", "fingerprint"}


def names(table: str) -> list[str]:
    return [column.name for column in TABLES[table]]


def test_the_summary_begins_with_the_columns_that_readers_rely_on():
    assert [column.name for column in SUMMARY][: len(SUMMARY_BEGINS_WITH)] == SUMMARY_BEGINS_WITH


@pytest.mark.parametrize("table", TABLES)
def test_every_table_stands_alone_by_naming_case_run_commit_and_machine(table):
    assert set(names(table)) >= IDENTITY


@pytest.mark.parametrize("table", TABLES)
def test_every_column_is_described_once_with_a_known_unit(table):
    assert len(names(table)) == len(set(names(table)))
    for column in TABLES[table]:
        assert column.meaning
        assert column.unit in ("ns", "s", "bytes", "1/s", "count", "share", "ratio", "text", "", "MHz", "°C", "W", "J")


def test_a_column_has_the_same_unit_in_every_table():
    units: dict[str, set[str]] = {}
    for column in (column for table in TABLES.values() for column in table):
        units.setdefault(column.name, set()).add(column.unit)
    assert {name: each for name, each in units.items() if len(each) > 1} == {}


@pytest.mark.parametrize(
    ("ending", "unit"), [("_ns", "ns"), ("_bytes", "bytes"), ("_per_s", "1/s"), ("_share", "share")]
)
def test_a_unit_in_a_name_is_the_columns_unit(ending, unit):
    columns = [column for table in TABLES.values() for column in table if column.name.endswith(ending)]
    assert columns
    assert {column.unit for column in columns} == {unit}


@pytest.mark.parametrize("table", TABLES)
def test_the_column_table_of_the_readme_has_a_row_for_every_column(table):
    head, rule, *rows = column_table(table).splitlines()
    assert head == "| column | unit | meaning |"
    assert rule == "| --- | --- | --- |"
    assert [row.split("`")[1] for row in rows] == names(table)
    assert all(row.count("|") == 4 for row in rows)


@pytest.mark.parametrize("document", DOCUMENTS)
def test_the_documents_show_the_columns_as_they_are(document):
    text = Path(document).read_text("utf-8")
    assert with_column_tables(text, DOCUMENTS[document]) == text, "run python -m harness.tables.columns"
