"""The fast reader of some columns against the one that reads cell by cell: what it takes, that one takes as well."""

import csv
import io
from pathlib import Path

import pandas as pd
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

import harness.tables.files as files
import harness.tables.part as part
from harness.plan.errors import PlanError
from harness.tables.columns import TABLES
from harness.tables.files import read_table
from harness.tables.part import read_cells

STORED = Path(__file__).with_name("data") / "schema1"


def cells(content: bytes, *wanted: str) -> dict[str, list[str]] | None:
    """Return the wanted cells by column; whatever is small is read in one piece and line by line."""
    made = []
    for block in (part._BLOCK, 1)[: 1 if len(content) > 1000 else 2]:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(part, "_BLOCK", block)
            found = read_cells(io.BytesIO(content), wanted or ("a", "c"), 100, 1_000_000)
        made.append(None if found is None else {name: held.by_row() for name, held in found.items()})
    assert made[0] == made[-1]
    return made[0]


def cell_by_cell(content: bytes, *wanted: str) -> dict[str, list[str]] | None:
    """Return what Python's own reader makes of a file: None where it is no plain table."""
    try:
        text = io.StringIO(content.decode("utf-8-sig"), newline="")
        header, *rows = csv.reader(text, strict=True)
    except (ValueError, csv.Error):
        return None
    if "\0" in content.decode() or any(len(row) != len(header) for row in rows) or len(set(header)) < len(header):
        return None
    return {name: [row[at] for row in rows] for at, name in enumerate(header) if name in wanted}


# What is a plain table


@pytest.mark.parametrize(
    ("content", "found"),
    [
        (b"a,b,c\n1,2,3\n4,5,6\n", {"a": ["1", "4"], "c": ["3", "6"]}),
        (b"a,b,c\r\n1,2,3\r\n", {"a": ["1"], "c": ["3"]}),
        (b"\xef\xbb\xbfa,b,c\n1,2,3\n", {"a": ["1"], "c": ["3"]}),
        (b'"a",b,"c"\n1,2,3\n', {"a": ["1"], "c": ["3"]}),
        (b"a,b,c\n", {"a": [], "c": []}),
        (b"a,b,c\n,,\n", {"a": [""], "c": [""]}),
        (b'a,b,c\n"1,5",2,"x"\n', {"a": ["1,5"], "c": ["x"]}),
        (b'a,b,c\n"1,5",2,"x\ny"\n', None),  # lines are looked at one by one
        (b'a,b,c\n"say ""no""",2,"""\n', None),
        (b'a,b,c\n"say ""no""",2,""""\n', {"a": ['say "no"'], "c": ['"']}),
        (b"a,b,c\n 1 ,2,NA\n", {"a": [" 1 "], "c": ["NA"]}),
        (b"a,b,c\nnan,2,None\n", {"a": ["nan"], "c": ["None"]}),
        (b"a,b,c\n#1,2,3\n", {"a": ["#1"], "c": ["3"]}),
        (b"a,b,c\n1e5,2,0012\n", {"a": ["1e5"], "c": ["0012"]}),
        ("a,b,c\né,–,日本\n".encode(), {"a": ["é"], "c": ["日本"]}),
        (b'a,b,c\n5"x,2,6"\n', None),  # the quotes enclose two commas: not so simple
        (b'a,b,c\n5"6",2,3\n', None),  # two quotes within a cell
    ],
)
def test_the_wanted_cells_of_a_plain_table_are_read_as_they_stand(content, found):
    assert cells(content) == found
    if found is not None:
        assert cell_by_cell(content, "a", "c") == found


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\n",
        b"a,b,c",
        b"a,b,c\n1,2,3",
        b"a,b,c\n1,2,3\n4",
        b"a,b,c\n1,2\n",
        b"a,b,c\n1,2,3,4\n",
        b"a,b,c\n1,2\n3,4,5,6\n",
        b"a,b,c\n\n1,2,3\n",
        b"a,b,c\n1,2,3\n\n",
        b"a,b,c\n1,2,3\n\r\n",
        b'a,b,c\n"1,2,3\n',
        b'a,b,c\n1,2,"3\n',
        b"a,b,c\n1,2,3\0\n",
        b"a,b,c\n1,\xff,3\n",
        b"a,a,c\n1,2,3\n",
        b"x,y,z\n1,2,3\n",
        b'"a\nb",b,c\n1,2,3\n',
        "a,b,c\n1,2,3\n".encode("utf-16"),
        b"a,b,c\r1,2,3\r",
        b"\x89PNG\r\n\x1a\n",
    ],
    ids=repr,
)
def test_what_is_no_plain_table_is_left_to_the_reader_that_says_what_is_wrong(content):
    assert cells(content) is None


@pytest.mark.parametrize("content", [b"a,b,c\n1,2\r3,4\n", b"a,b,c\n\r1,2,3\n", b"a,b,c\n1,2,\r3\n"], ids=repr)
def test_a_lone_carriage_return_invents_no_row(content):
    assert cells(content) is None


@pytest.mark.parametrize("content", [b'a,b,c\n"1"5,2,3\n', b'a,b,c\n1,2,""3\n', b'a,b,c\n1,"2"x,3\n'], ids=repr)
def test_a_cell_that_goes_on_after_its_closing_quote_is_none(content):
    assert cell_by_cell(content, "a", "c") is None
    assert cells(content) is None


def test_a_table_of_one_column_is_no_exception():
    assert cells(b'a\n"x"\n') == {"a": ["x"]}
    assert cells(b'a\n"x"y\n') is None


@pytest.mark.parametrize("at", [0, 30_000, 65_000, 99_999])
@pytest.mark.parametrize("wrong", [b"1,2\n", b'1,"2,3\n', b'1,"2"x,3\n'], ids=repr)
def test_one_wrong_line_is_found_wherever_it_is_in_a_large_table(at, wrong):
    lines = [b'1,"two ""and"", a half, as it goes",3\n'] * 100_000
    assert cells(b"a,b,c\n" + b"".join(lines), "a") == {"a": ["1"] * 100_000}
    lines[at] = wrong
    assert cells(b"a,b,c\n" + b"".join(lines), "a") is None


def test_a_line_of_more_than_a_mebibyte_is_left_to_the_other_reader_wherever_it_is():
    for before in (1, 20_000, 200_000):
        for size, found in ((2**20 - 4, True), (2**20, False)):
            content = b"a,b,c\n" + b"1,2,3\n" * before + b"1," + b"2" * size + b",3\n"
            assert (cells(content, "a") is not None) == found


def test_a_cell_so_wide_that_all_as_wide_would_fill_the_memory_is_left_to_the_other_reader():
    content = b"a,b,c\n" + b"1,2,3\n" * 100_000 + b"x" * 2000 + b",2,3\n"
    assert cells(content, "a") is None
    assert cells(content, "b") == {"b": ["2"] * 100_001}


@settings(max_examples=300)
@given(
    st.lists(st.sampled_from([b"a", b"1", b",", b",", b"\n", b"\r\n", b"\r", b'"', b'""', b"\xc3\xa9"]), max_size=25)
)
@example([b"1,2,3\n4"])
def test_whatever_is_read_at_once_is_what_is_read_cell_by_cell(parts):
    content = b"a,b,c\n" + b"".join(parts)
    found = cells(content)
    assert found is None or found == cell_by_cell(content, "a", "c")


words = st.text(st.sampled_from('a1,"\n .é'), max_size=5)


@settings(max_examples=100)
@given(st.lists(st.tuples(words, words, words), max_size=6), st.sampled_from(["\n", "\r\n"]))
def test_what_a_writer_of_csv_wrote_is_read(rows, end):
    text = io.StringIO(newline="")
    csv.writer(text, lineterminator=end).writerows([("a", "b", "c"), *rows])
    found = cells(text.getvalue().encode())
    if any("\n" in cell for row in rows for cell in row):
        assert found is None
    else:
        assert found == {"a": [row[0] for row in rows], "c": [row[2] for row in rows]}


# Some columns of a stored table


@pytest.fixture
def run(tmp_path) -> Path:
    for name in ("measurements", "summary", "convergence"):
        (tmp_path / f"{name}.csv").write_bytes((STORED / f"{name}.csv").read_bytes())
    return tmp_path


@pytest.mark.parametrize("name", ["measurements", "summary", "convergence"])
def test_some_columns_are_those_of_the_whole_table(name, run):
    whole = read_table(run, name)
    asked = list(whole.columns)[::3]
    found = read_table(run, name, asked)
    own = {"convergence": {"run_id", "case_id", "seed"}, "summary": {"case_id"}}
    assert set(found.columns) == {*asked, "schema", *own.get(name, {"run_id", "case_id", "round"})}
    pd.testing.assert_frame_equal(found, whole[list(found.columns)])


def test_a_column_that_was_not_written_yet_is_there_and_empty(run):
    found = read_table(run, "measurements", ["session", "environment", "step_ns"])
    assert set(found["session"]) == set(found["environment"]) == {""}


def test_a_column_that_no_table_has_is_not_read(run):
    assert "colour" not in read_table(run, "measurements", ["step_ns", "colour"])


def test_a_table_that_is_not_plain_is_read_cell_by_cell_with_the_same_result(run):
    whole = read_table(run, "measurements", ["step_ns", "reason"])
    file = run / "measurements.csv"
    file.write_bytes(file.read_bytes().replace(b"\n", b"\n\n", 3))
    pd.testing.assert_frame_equal(read_table(run, "measurements", ["step_ns", "reason"]), whole)


def test_many_rows_are_as_well_checked_as_few(run, monkeypatch):
    """A column of numbers is looked at as a whole where it is long."""
    file = run / "measurements.csv"
    whole = read_table(run, "measurements", ["step_ns", "latency_ns", "threads"])
    monkeypatch.setattr(files, "_MANY", 1)
    pd.testing.assert_frame_equal(read_table(run, "measurements", ["step_ns", "latency_ns", "threads"]), whole)
    first = file.read_text().splitlines()[3].split(",")[9]
    for wrong in ("abc", "-1", "1e400", "nan", "0x10", "0", "1e-9"):
        file.write_text((STORED / "measurements.csv").read_text().replace(f",{first},", f",{wrong},"))
        with pytest.raises(PlanError, match=r"measurements\.csv: row 4: step_ns "):
            read_table(run, "measurements", ["step_ns"])


@pytest.mark.parametrize("wrong", ["1_000.5", " 1000.5", "１０００", "+1000.5\t"])
def test_a_number_that_is_refused_in_a_short_table_is_refused_in_a_long_one(wrong, run, monkeypatch):
    file = run / "measurements.csv"
    first = file.read_text().splitlines()[3].split(",")[9]
    file.write_text(file.read_text().replace(f",{first},", f",{wrong},"))
    with pytest.raises(PlanError, match="row 4: step_ns"):
        read_table(run, "measurements")
    monkeypatch.setattr(files, "_MANY", 1)
    with pytest.raises(PlanError, match="row 4: step_ns"):
        read_table(run, "measurements")


def test_the_limits_of_a_table_hold_for_some_of_its_columns_too(run, monkeypatch):
    monkeypatch.setattr(files, "_MAX_COLUMNS", 10)
    for columns in (None, ["step_ns"]):
        with pytest.raises(PlanError, match=r"columns, more than 10"):
            read_table(run, "measurements", columns)


def test_of_a_table_too_large_to_be_kept_some_columns_are_read(run, monkeypatch):
    whole = read_table(run, "measurements", ["step_ns"])
    monkeypatch.setattr(files, "_MAX_CELLS", 100)
    with pytest.raises(PlanError, match="has more than the 100 cells that are read"):
        read_table(run, "measurements")
    pd.testing.assert_frame_equal(read_table(run, "measurements", ["step_ns"]), whole)
    monkeypatch.setattr(files, "_MAX_CELLS_OF_SOME", len(whole) * len(whole.columns) - 1)
    with pytest.raises(PlanError, match="has more than the 74 cells that are read"):
        read_table(run, "measurements", ["step_ns"])


def test_a_file_as_large_as_that_of_100_000_processes_is_read(run):
    file = run / "measurements.csv"
    header, row = file.read_text().splitlines()[:2]
    cells = dict(zip(header.split(","), row.split(","), strict=True))
    with file.open("w") as text:
        text.write(f"{header},remark\n")
        for number in range(720):
            text.write(",".join([*{**cells, "round": str(number)}.values(), "x" * 100_000]) + "\n")
    assert file.stat().st_size > 70_000_000
    assert read_table(run, "measurements", ["step_ns"])["round"].tolist() == [*range(720)]


@pytest.mark.parametrize(
    ("change", "text"),
    [
        (lambda table: table.drop(columns="step_ns"), "is no measurements table: it has no column step_ns"),
        (lambda table: table.drop(columns="schema"), "is no results table: it has no column schema"),
        (lambda table: table.assign(schema=2), "has schema 2, this program reads up to 1"),
        (lambda table: table.assign(outcome="fine"), "row 2: outcome 'fine'"),
        (lambda table: table.assign(round=0), "row 3: run_id and case_id and round are those of an earlier row"),
        (lambda table: table.assign(run_id=""), "row 2: run_id ''"),
        (lambda table: table.assign(run_id="=cmd"), "row 2: run_id '=cmd'"),
    ],
)
def test_what_is_wrong_with_a_column_that_is_read_is_said_with_row_and_column(change, text, run):
    file = run / "measurements.csv"
    change(pd.read_csv(file)).to_csv(file, index=False)
    with pytest.raises(PlanError) as refused:
        read_table(run, "measurements", ["step_ns", "outcome"])
    assert f"measurements.csv: {text}" in str(refused.value)


def test_what_is_wrong_with_a_column_that_is_not_read_is_nobodys_concern(run):
    file = run / "measurements.csv"
    pd.read_csv(file).assign(latency_ns="soon", engine="=cmd").to_csv(file, index=False)
    assert len(read_table(run, "measurements", ["step_ns"])) == 15


def test_every_column_can_be_asked_for_alone(run):
    for column in TABLES["measurements"]:
        assert column.name in read_table(run, "measurements", [column.name])
