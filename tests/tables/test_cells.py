import math

import pandas as pd
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from harness.plan.errors import PlanError
from harness.tables.cells import (
    as_written,
    checked,
    environment_cell,
    environment_of,
    from_cell,
    parsed,
    plain_numbers,
    to_cell,
)
from harness.tables.columns import MEASUREMENTS, SUMMARY, TABLES, Column

BY_NAME = {column.name: column for columns in TABLES.values() for column in columns}
FORMULAS = ["=1", "+1", "-1", "@SUM(A1)", "\t=1", "\r=1", "＝1", "'=1", "''=1"]


@given(st.text() | st.tuples(st.sampled_from("'=+-@\t\r"), st.text("'=+-@ab")).map("".join))
@example("'")
@example("'=")
def test_a_text_comes_back_from_its_cell_as_it_was_and_never_begins_a_formula(text):
    assert from_cell(to_cell(text)) == text
    assert not to_cell(text).startswith(("=", "+", "-", "@", "\t", "\r"))


@pytest.mark.parametrize("text", FORMULAS)
def test_a_formula_gets_one_apostrophe_and_other_texts_none(text):
    assert to_cell(text) == f"'{text}"
    assert to_cell(f"it is {text}") == f"it is {text}"
    assert to_cell("'quoted'") == "'quoted'"


@pytest.mark.parametrize(
    ("name", "text", "value"),
    [
        ("step_ns", "12.5", 12.5),
        ("step_ns", "", None),
        ("blocks", "40", 40),
        ("blocks", "40.0", 40),
        ("peak_rss_bytes", "3.22228224e+08", 322228224),
        ("gate_share", "0.5", 0.5),
        ("loss", "-1e300", -1e300),
        ("loss_p95", "inf", math.inf),
        ("r2", "-0.5", -0.5),
        ("dirty", "False", False),
        ("converged", "TRUE", True),
        ("reason", "'=1", "=1"),
        ("reason", "a\x1bb", "a\\x1bb"),
        ("targets_met", "", ""),
        ("outcome", "ok", "ok"),
    ],
)
def test_a_cell_holds_what_its_columns_unit_says(name, text, value):
    assert parsed(BY_NAME[name], text) == value


@pytest.mark.parametrize(
    ("name", "text"),
    [
        *(
            ("step_ns", text)
            for text in ("abc", "-1", "0", "nan", "inf", "1e999", "1_0", " 1", "0x10", "1e19", "9" * 5000)
        ),
        *(("blocks", text) for text in ("-1", "1.5", "abc", "1e300", "True", "9" * 17)),
        *(("gate_share", text) for text in ("1.01", "-0.1")),
        *(("round", text) for text in ("", "-1")),
        *(("dirty", text) for text in ("", "maybe", "1")),
        *(("outcome", text) for text in ("", "fine")),
        ("targets_met", "perhaps"),
        ("seconds", "-1"),
        ("loss", "nan"),
        *(("case_id", text) for text in ("", "=cmd", "a b", "../x", "a\x1b", "a" * 701, "é")),
        *(("machine", text) for text in ("", "-x", "a,b")),
    ],
)
def test_what_a_column_cannot_hold_is_refused_with_its_name(name, text):
    with pytest.raises(PlanError, match=name) as refused:
        parsed(BY_NAME[name], text)
    assert len(str(refused.value)) < 300


@pytest.mark.parametrize("column", SUMMARY, ids=lambda column: column.name)
@pytest.mark.parametrize("value", [[], {"a": 1}, object(), b"x"], ids=lambda value: type(value).__name__)
def test_no_column_holds_a_part_of_json_that_is_no_cell(value, column):
    with pytest.raises(PlanError, match=column.name):
        checked(column, value)


def test_a_long_reason_is_cut():
    assert len(str(checked(Column("reason", "text", ""), "x" * 10**6))) == 2000


def test_a_count_with_gaps_is_written_digit_by_digit():
    table = pd.DataFrame({"peak_rss_bytes": [123456789012.0, math.nan], "reason": ["-1", ""]})
    assert as_written(table, MEASUREMENTS).to_csv(index=False) == "peak_rss_bytes,reason\n123456789012,'-1\n,\n"


# What a fingerprint is made of


facts = st.text(st.characters(exclude_characters=";", exclude_categories=("Cs",)), max_size=20) | st.integers()


@given(st.dictionaries(st.sampled_from(["cpu_model", "cpus", "gpu", "torch", "gpu_mig"]), facts | st.booleans()))
def test_an_environment_comes_back_from_its_cell_as_texts(found):
    assert environment_of(environment_cell(found)) == {name: str(value) for name, value in found.items()}


def test_an_environment_may_be_empty_or_hold_what_is_none():
    assert environment_of("") == environment_of("; ; x") == {}
    assert environment_of("a=b=c; d") == {"a": "b=c"}
    assert environment_cell({"gpu": "one; two=2"}) == "gpu=one, two=2"


# Many numbers at once


numbers = (
    st.floats(allow_nan=False).map(str) | st.integers().map(str) | st.sampled_from(["", "1e3", "-0", "+.5", "inf"])
)


@given(
    st.lists(numbers | st.text("0123456789+-.eE_ xnaif１", max_size=4), max_size=4),
    st.sampled_from([*BY_NAME.values()]),
)
@example(["1_0"], BY_NAME["step_ns"])
@example(["nan"], BY_NAME["step_ns"])
@example(["-inf"], BY_NAME["loss"])
def test_numbers_that_are_read_at_once_are_those_that_are_read_one_by_one(texts, column):
    found = plain_numbers(column, texts)
    if found is not None:
        expected = [parsed(column, text) for text in texts]
        assert found.tolist() == pytest.approx(
            [math.nan if value is None else value for value in expected], nan_ok=True
        )
