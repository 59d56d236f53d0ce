import io
import math
from typing import Any

import numpy as np
import pandas as pd
import pytest
from rich.console import Console

from harness.comparing.sessions import SessionSpread
from harness.reporting.noise import show_noise
from harness.tables.columns import NOISE

ROW: dict[str, Any] = {
    **{column.name: 0.0 for column in NOISE if column.unit == "share"},
    "case_id": "line/manual/cpu/float32/b100",
    "machine": "amd-epyc-2c",
    "rounds": 20,
    "spread": 0.0123,
    "drift": 0.004,
    "drift_low": -0.011,
    "drift_high": 0.019,
    "clock_left": 1.0,
    "disturbed_share": 0.034,
    "least_with_3_rounds": 0.456,
    "rounds_for_2": 27,
    "rounds_for_3": 16,
    "rounds_for_5": 9,
    "rounds_for_10": 6,
    "ratio_2_alarm_share": 0.21,
    "ratio_2_table_share": 0.73,
}
UNKNOWN = dict.fromkeys(
    [
        *("spread", "clock_left", "drift", "drift_low", "drift_high", "disturbed_share", "least_with_3_rounds"),
        *("rounds_for_2", "rounds_for_3", "rounds_for_5", "rounds_for_10"),
        *(name for name in ROW if name.endswith("_alarm_share")),
    ],
    np.nan,
)


def shown(*changes: dict[str, Any], width: int = 160) -> str:
    console = Console(file=io.StringIO(), width=width)
    show_noise(console, pd.DataFrame([{**ROW, **change} for change in changes or ({},)]))
    return console.file.getvalue()


def line(text: str, *parts: str) -> str:
    return next(each for each in text.splitlines() if all(part in each for part in parts))


def test_a_row_shows_the_noise_of_its_case_and_the_rounds_it_needs():
    cells = line(shown(), "line/manual/cpu/float32/b100", "1.23%").split()
    assert cells[1:] == ["20", "1.23%", "+0.4%", "[-1.1%,", "+1.9%]", "3.4%", "27", "16", "9", "6"]


def test_what_is_left_without_the_cores_clock_is_shown_where_it_is_less():
    text = shown({"clock_left": 0.4}, {"case_id": "other"}, width=200)
    assert line(text, "line/manual/cpu/float32/b100").split()[1:5] == ["20", "1.23%", "0.49%", "+0.4%"]
    assert line(text, "other").split()[1:4] == ["20", "1.23%", "+0.4%"]
    assert "w/o clock" in line(text, "spread", "drift", "rounds")
    assert "once the core's clock is taken out" in " ".join(text.split())
    assert "clock" not in shown()


def test_the_false_alarms_of_each_rule_are_shown_for_the_table_and_its_worst_case():
    text = shown({}, {"case_id": "other", "ratio_2_alarm_share": 0.55})
    assert line(text, "more than 2 %").split()[-2:] == ["73.0%", "55.0%"]
    for rule in ("more than 5 %", "Welch", "the rule of verdicts", "paired by round", "--baseline"):
        assert line(text, rule).split()[-2:] == ["0.0%", "0.0%"]
    assert "10 rounds a side" in text


def test_it_says_in_words_what_three_rounds_cannot_see_and_how_many_are_needed():
    advice = shown({}, {"case_id": "noisy", "spread": 0.03, "least_with_3_rounds": 0.81, "rounds_for_5": 31})
    said = line(advice, "With 3 rounds")
    assert "cannot see less than 81.0% (noisy, its noisiest case)" in said
    assert "31 rounds a side see 5 % where both sides take turns in one run" in said
    assert "from one session, and two differ by more than it tells" in said
    assert (
        f"--baseline, which compares two, calls nothing slower that is not slower by {session_margin(0.03):.1%}" in said
    )
    assert "The halves have 10 rounds a side" in said


def session_margin(spread):
    return math.expm1(float(SessionSpread().margin(spread)))


def test_the_margin_of_a_baseline_is_that_of_the_noisiest_case():
    quiet, noisy = {"spread": 0.001}, {"case_id": "noisy", "spread": 0.1}
    assert session_margin(0.1) > session_margin(0.001)
    for rows in ((quiet, noisy), (noisy, quiet)):
        assert f"not slower by {session_margin(0.1):.1%}," in shown(*rows)
    assert f"not slower by {session_margin(0.001):.1%}," in shown(quiet)


def test_where_nothing_is_enough_no_number_is_suggested():
    noisy = {"spread": 0.2, "least_with_3_rounds": 30.0, "rounds_for_5": np.nan, "rounds_for_2": np.nan}
    text = shown({}, {**noisy, "case_id": "noisy"}, {**noisy, "case_id": "noisier"})
    assert "cannot even see a doubling" in text
    assert "not even 200 rounds are enough in noisy and 1 more" in text
    assert "rounds a side see 5 %" not in text
    assert "> 200" in line(text, "noisier", "20.00%")


def test_a_case_without_noise_keeps_its_row_and_its_cells_are_empty():
    text = shown({}, {**UNKNOWN, "case_id": "broken", "rounds": 4})
    assert line(text, "broken").split() == ["broken", "4"]
    assert "nan" not in text.lower()


def test_a_table_without_any_noise_says_so():
    text = shown({**UNKNOWN, "rounds": 0})
    assert "nothing is known of the noise" in text
    assert "nan" not in text.lower()


def test_whole_numbers_with_gaps_are_drawn_alike():
    frame = pd.DataFrame([ROW, {**ROW, "rounds_for_5": None}]).astype({"rounds_for_5": "Int64", "rounds": "Int64"})
    console = Console(file=io.StringIO(), width=160)
    show_noise(console, frame)
    assert "> 200" in console.file.getvalue()
    assert "<NA>" not in console.file.getvalue()


@pytest.mark.parametrize("name", ["[red]mine[/red].py:Mine", "a[/]b.py:Mine"])
def test_the_name_of_a_users_file_is_shown_as_it_is(name):
    assert name in shown({"case_id": name})
