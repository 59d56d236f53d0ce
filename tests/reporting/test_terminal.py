import io
import math
import re
from typing import Any

import pandas as pd
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from rich.console import Console

from harness.reporting.terminal import duration, show_bonus, show_summary

MET = (
    "met: converged_share >= 0.75: 0.906 [0.810, 0.956] of 64 seeds; met: loss_p50 <= 0.05: 0.02024; "
    "met: accuracy_p50 >= 0.9: 1.000; met: ratio_to_autograd >= 2: 4.01 [3.90, 4.12]"
)
ROW: dict[str, Any] = {
    "workload": "line",
    "engine": "manual",
    "device": "cpu",
    "dtype": "float32",
    "batch_size": 100,
    "outcome": "ok",
    "reason": "",
    "targets_met": "yes",
    "step_ns": 53_900.0,
    "step_ns_low": 53_361.0,
    "step_ns_high": 54_439.0,
    "samples_per_s": 1.855e6,
    "ratio_to_autograd": 4.01,
    "ratio_low": 3.9,
    "ratio_high": 4.12,
    "loss_p50": 0.02024,
    "converged_share": 0.90625,
    "seeds": 64,
    "first_call_cold_ns": 9.1e9,
    "first_call_warm_ns": 2.5e9,
    "above_floor": 402.7,
    "latency_ns": 61_000.0,
    "device_ns": math.nan,
    "disturbed_share": 0.02,
    "disturbances": "preempted 2",
    "targets": MET,
    "case_id": "line/manual/cpu/float32/b100",
    "commit": "0123456789abcdef0123456789abcdef01234567",
    "dirty": False,
    "machine": "amd-epyc-9654-2c",
}
NO_TIME = dict.fromkeys(
    (
        *("step_ns", "step_ns_low", "step_ns_high", "samples_per_s"),
        *("ratio_to_autograd", "ratio_low", "ratio_high"),
        *("first_call_cold_ns", "first_call_warm_ns", "latency_ns", "device_ns", "disturbed_share"),
        "above_floor",
    ),
    math.nan,
)
NO_CONVERGENCE = {"loss_p50": math.nan, "converged_share": math.nan, "seeds": math.nan}
CRASHED = {**NO_TIME, **NO_CONVERGENCE, "outcome": "crashed", "targets_met": "", "targets": ""}


@pytest.fixture(autouse=True)
def _nothing_forces_colour(monkeypatch):
    for name in ("FORCE_COLOR", "NO_COLOR", "TTY_COMPATIBLE", "TTY_INTERACTIVE", "COLORTERM"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("TERM", "xterm-256color")


def summary(*changes: dict[str, Any]) -> pd.DataFrame:
    return pd.DataFrame([{**ROW, **change} for change in changes])


def shown(table: pd.DataFrame, *, terminal: bool = False, width: int = 180, **options: Any) -> str:
    console = Console(file=io.StringIO(), width=width, force_terminal=terminal or None)
    show_summary(console, table, **options)
    return console.file.getvalue()


def below_the_table(text: str) -> list[str]:
    _, caption, below = text.partition("above 1 is faster")
    assert caption
    return below.splitlines()[1:]


# Durations


@pytest.mark.parametrize(
    ("nanoseconds", "text"),
    [
        (math.nan, ""),
        (0.5, "0.5 ns"),
        (1, "1 ns"),
        (52.34, "52.3 ns"),
        (999, "999 ns"),
        (999.7, "1 µs"),
        (1000, "1 µs"),
        (53_948.98, "53.9 µs"),
        (2_133_200, "2.13 ms"),
        (9.1e9, "9.1 s"),
        (123.4e9, "123 s"),
    ],
)
def test_a_duration_has_the_unit_that_leaves_one_to_three_digits(nanoseconds, text):
    assert duration(nanoseconds) == text


@example(999_999.0)
@given(st.floats(1, 999e9))
def test_a_duration_is_right_to_three_digits_and_never_in_powers_of_ten(nanoseconds):
    number, unit = duration(nanoseconds).split()
    assert "e" not in number
    assert float(number) < 1000
    assert float(number) * {"ns": 1, "µs": 1e3, "ms": 1e6, "s": 1e9}[unit] == pytest.approx(nanoseconds, rel=0.006)


# The table


def test_a_row_shows_the_case_its_time_and_how_it_stands():
    text = shown(summary({}))
    for part in (
        *("amd-epyc-9654-2c", "commit 0123456789", "line", "100", "manual", "ok", "53.9 µs", "1.0%"),
        *("1.86e+06", "4.01 [3.90, 4.12]", "0.0202", "91% of 64", "9.1 s / 2.5 s", "met"),
    ):
        assert part in text
    assert "uncommitted" not in text


def test_a_run_of_uncommitted_code_says_so_in_its_title():
    assert "with uncommitted changes" in shown(summary({"dirty": True}))


def test_a_case_without_a_time_leaves_its_cells_empty():
    text = shown(summary({**CRASHED, "reason": "killed"}))
    assert "nan" not in text.lower()
    assert "crashed" in text


def test_a_time_without_an_interval_shows_no_spread():
    unknown = dict.fromkeys(("step_ns_low", "step_ns_high", "ratio_low", "ratio_high"), math.nan)
    text = shown(summary({**unknown, "targets": ""}))
    assert "4.01 " in text
    assert "nan" not in text


@pytest.mark.parametrize("width", [180, 120, 100, 80])
def test_a_narrow_terminal_keeps_what_matters_in_rows_of_one_line(width):
    text = shown(summary({}, {**CRASHED, "engine": "compile_step", "reason": "killed"}), width=width)
    table = text.partition("step: time")[0].splitlines()
    assert max(map(len, table)) <= width
    for engine, cells in (("manual", ("line", "100", "ok", "53.9 µs", "4.01", "met")), ("compile_step", ("crashed",))):
        (row,) = [line for line in table if engine in line]
        for cell in cells:
            assert cell in row


@pytest.mark.parametrize("width", [180, 120, 100])
def test_how_far_it_is_above_the_floor_is_shown_also_on_a_hundred_columns(width):
    text = shown(summary({}, {"engine": "compile_step", "above_floor": 1234.5}, {"above_floor": 3.14}), width=width)
    assert "× floor" in text.splitlines()[2]
    for cell in (" 403 ", " 1,234 ", " 3.1 "):
        assert cell in text
    assert "× floor: of the least that an update takes here" in " ".join(text.split())


def test_a_run_that_measured_no_floor_has_no_column_for_it():
    assert "floor" not in shown(summary({"above_floor": math.nan}))


def test_a_run_without_cases_is_shown_as_such():
    assert "no cases" in shown(summary({}).iloc[:0])


@pytest.mark.parametrize("name", ["own[v2].py:Fast", "[red].py:Fast", "own.py:Fast"])
def test_the_name_of_a_users_file_is_shown_as_it_is(name):
    assert name in shown(summary({"engine": name}))


# What is wrong


def test_when_all_targets_are_met_nothing_is_said_below_the_table():
    assert below_the_table(shown(summary({}, {"engine": "autograd"}))) == []
    assert shown(summary({}), only_wrong=True) == ""


@pytest.mark.parametrize(("status", "word"), [("missed", "MISSED"), ("undecided", "UNDECIDED")])
def test_a_target_that_is_not_met_is_named_with_its_case_and_what_was_measured(status, word):
    target = "ratio_to_autograd >= 2: 1.51 [1.42, 1.60]"
    for only_wrong in (False, True):
        text = shown(summary({"targets": MET.rpartition("; ")[0] + f"; {status}: {target}"}), only_wrong=only_wrong)
        lines = text.splitlines() if only_wrong else below_the_table(text)
        assert lines == [f"{word} {ROW['case_id']}: {target}"]


def test_every_missed_target_of_a_case_has_a_line():
    targets = "missed: loss_p50 <= 0.05: 0.4; met: accuracy_p50 >= 0.9: 1.000; missed: converged_share >= 0.75: 0.3"
    text = shown(summary({**NO_TIME, "outcome": "not_converged", "targets": targets}), only_wrong=True)
    assert [line.partition(": ")[2] for line in text.splitlines()] == [
        "loss_p50 <= 0.05: 0.4",
        "converged_share >= 0.75: 0.3",
    ]


@pytest.mark.parametrize(
    "reason",
    [
        "killed by SIGSEGV in phase timing",
        "ValueError: shapes [1, 2] and [3] differ (own.py:7)",
        "RuntimeError: [red] is no [/red] colour",
        "KeyError: '[/]' [bold] :smile: \\[x]",
        "a reason " + "that is longer than the terminal is wide " * 6,
    ],
    ids=["plain", "shapes", "markup", "broken markup", "long"],
)
@pytest.mark.parametrize("outcome", ["crashed", "wrong_gradient", "unsupported", "timeout", "interrupted"])
def test_the_reason_of_a_case_without_a_time_is_said_word_by_word_in_one_line(outcome, reason):
    text = shown(summary({**CRASHED, "outcome": outcome, "reason": reason}))
    assert below_the_table(text) == [f"{outcome} {ROW['case_id']}: {reason}"]


def test_a_crash_after_a_round_that_converged_still_says_its_reason():
    text = shown(summary({**NO_TIME, "outcome": "crashed", "reason": "killed"}), only_wrong=True)
    assert text == f"crashed {ROW['case_id']}: killed\n"


def test_training_that_leaves_the_finite_numbers_in_a_later_round_still_says_its_reason():
    reason = "training leaves the finite numbers while timed"
    text = shown(summary({**NO_TIME, "outcome": "not_converged", "reason": reason}), only_wrong=True)
    assert text == f"not_converged {ROW['case_id']}: {reason}\n"


# Colour


def test_a_file_or_pipe_gets_no_escape_codes():
    assert "\x1b" not in shown(summary({}, {**CRASHED, "reason": "killed"}))


def test_a_terminal_gets_colour_beside_the_words():
    text = shown(summary({}, {**CRASHED, "reason": "killed"}), terminal=True)
    assert re.search(r"\x1b\[3[12]m", text)


def test_no_color_takes_the_colour_and_leaves_the_words(monkeypatch):
    monkeypatch.setenv("NO_COLOR", "1")
    text = shown(summary({"targets": "missed: loss_p50 <= 0.05: 0.4"}), terminal=True)
    assert not re.search(r"\x1b\[[0-9;]*\b[349][0-9]", text)
    assert "MISSED" in text
    assert "loss_p50 <= 0.05: 0.4" in text


# The bonus question


def bonus(*changes: dict[str, Any]) -> str:
    console = Console(file=io.StringIO(), width=60)
    show_bonus(console, summary(*changes))
    return console.file.getvalue()


LINE = {
    "engine": "autograd",
    "step_ns": 200_000.0,
    "step_ns_low": 190_000.0,
    "step_ns_high": 210_000.0,
    "loss_p50": 0.02,
    "converged_share": 0.9,
    "converged_low": 0.81,
    "converged_high": 0.95,
}
DEEP = {
    "engine": "autograd",
    "workload": "line_deep",
    "step_ns": 300_000.0,
    "step_ns_low": 290_000.0,
    "step_ns_high": 310_000.0,
    "loss_p50": 0.04,
    "converged_share": 0.7,
    "converged_low": 0.58,
    "converged_high": 0.82,
}


def test_the_bonus_question_is_answered_in_one_line_with_both_shares_and_the_time():
    text = bonus(LINE, DEEP)
    assert text.count("\n") == 1
    for part in ("does not help", "70%", "90%", "0.040", "0.020", "1.50 times as long", "autograd", "batch 100"):
        assert part in text


@pytest.mark.parametrize("low", [209_000.0, math.nan], ids=["intervals overlap", "a single round"])
def test_the_bonus_answer_has_no_time_that_noise_could_have_made(low):
    text = bonus(LINE, {**DEEP, "step_ns_low": low})
    assert "times as long" not in text
    assert "does not tell (autograd, batch 100)" in text


def test_a_second_layer_that_converges_more_often_helps():
    assert "It helps" in bonus({**LINE, "converged_share": 0.5, "converged_high": 0.57}, DEEP)
    assert "It hurts" in bonus(LINE, {**DEEP, "converged_high": 0.8})
    assert "It does not help" in bonus({**LINE, "converged_share": 0.6, "converged_high": 0.6}, DEEP)  # they overlap


def test_without_a_time_the_bonus_answer_is_of_convergence_alone():
    text = bonus({**LINE, "step_ns": math.nan}, DEEP)
    assert "70%" in text
    assert "times as long" not in text
    assert "nan" not in text


@pytest.mark.parametrize(
    "rows",
    [
        [LINE],
        [DEEP],
        [LINE, {**DEEP, "batch_size": 10}],
        [LINE, {**DEEP, "engine": "manual"}],
        [LINE, {**DEEP, "device": "cuda"}],
        [LINE, {**DEEP, "dtype": "float64"}],
        [LINE, {**DEEP, **CRASHED}],
    ],
    ids=["no deep", "no shallow", "batch size", "engine", "device", "dtype", "no convergence"],
)
def test_networks_that_were_not_trained_alike_answer_no_bonus_question(rows):
    assert bonus(*rows) == ""


def test_the_bonus_compares_one_device_with_itself_where_there_are_two():
    cuda = {"device": "cuda", "step_ns": 20_000.0}
    assert "1.50 times as long" in bonus(LINE, {**LINE, **cuda}, DEEP)
    assert "1.50 times as long" in bonus({**LINE, **cuda}, LINE, {**DEEP, **cuda, "step_ns": 30_000.0}, DEEP)


def test_the_bonus_is_answered_for_another_engine_where_autograd_was_not_run():
    assert "manual" in bonus({**LINE, "engine": "manual"}, {**DEEP, "engine": "manual"})


# Disturbances and devices


def test_a_disturbed_case_says_so_in_the_table_and_a_badly_disturbed_one_in_a_line_of_its_own() -> None:
    text = shown(
        summary(
            {"case_id": "quiet"},
            {"case_id": "heard", "disturbed_share": 0.12, "disturbances": "stolen 20, preempted 3"},
            {"case_id": "loud", "disturbed_share": 0.41, "disturbances": "preempted 60, waited 2"},
        )
    )
    assert re.search(r"12% stolen\b", text)
    assert re.search(r"41% preempted\b", text)
    assert "2% preempted" not in text
    lines = [line for line in text.splitlines() if line.startswith("DISTURBED")]
    assert lines == ["DISTURBED loud: 41% of its blocks: preempted 60, waited 2"]


def test_rows_of_several_machines_say_of_which_they_are_and_rows_of_one_do_not() -> None:
    several = shown(summary({"machine": "nvidia-h200"}, {"machine": "amd-epyc-9654-2c"}))
    assert "2 kinds of machine, commit" in several
    assert "nvidia-h200" in several
    assert "amd-epyc-9654-2c" in several
    one = shown(summary({"machine": "nvidia-h200"}, {"machine": "nvidia-h200"}))
    assert one.count("nvidia-h200") == 1
    assert "machine" not in one


def test_where_an_engine_trains_several_models_at_once_the_table_says_that_a_step_is_of_one() -> None:
    assert "of one model" in " ".join(shown(summary({"members": 1}, {"members": 64})).split())
    assert "of one model" not in shown(summary({"members": 1}, {"members": 1}))


def test_rows_of_several_dtypes_say_of_which_they_are_and_rows_of_one_do_not() -> None:
    several = shown(summary({"dtype": "float32"}, {"dtype": "bfloat16"}))
    assert {"dtype", "float32", "bfloat16"} <= set(several.split())
    assert not {"dtype", "float32"} & set(shown(summary({})).split())


def test_columns_of_what_nobody_has_are_left_out() -> None:
    assert not {"device", "latency", "disturbed"} & set(shown(summary({})).split())
    text = shown(summary({"device": "cuda", "device_ns": 8_200.0}))
    assert "61 µs" in text
    assert "8.2 µs" in text
