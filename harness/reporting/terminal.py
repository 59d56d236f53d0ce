"""A run on the terminal: one row per case, words beside colour."""

import math
import os
import sys
from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import Any

import pandas as pd
from rich import box
from rich.console import Console
from rich.measure import Measurement
from rich.table import Table
from rich.text import Text

_STYLE = {
    "yes": "green",
    "met": "green",
    "ok": "green",
    "no": "red",
    "missed": "red",
    "undecided": "yellow",
    "unsupported": "yellow",
    "interrupted": "yellow",
    "": "dim",
}
# Shares of disturbed blocks that are shown in the table, and that get a line of their own.
_AUDIBLE, _LOUD = 0.05, 0.25
_UNITS = (("s", 1e9), ("ms", 1e6), ("µs", 1e3), ("ns", 1.0))


class Terminal(Console):
    """A console that is wide where nobody looks, and that falls silent when its reader has gone."""

    def __init__(self, *, stderr: bool = False) -> None:
        wide = not (sys.stderr if stderr else sys.stdout).isatty()
        super().__init__(stderr=stderr, width=180 if wide else None)

    def on_broken_pipe(self) -> None:
        """Say nothing more; the run goes on and its exit code stays what it is (rich would end it with 1)."""
        self.quiet = True
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, self.file.fileno())  # nor may the interpreter complain when it flushes at its end
        os.close(null)


def redraws(console: Console) -> bool:
    """Whether it is a terminal on which a line can be drawn once more; colour that is forced makes a file none."""
    forced = os.environ.get("FORCE_COLOR") or os.environ.get("TTY_COMPATIBLE")
    return console.is_interactive and not console.quiet and not (forced and not console.file.isatty())


def duration(nanoseconds: float) -> str:
    """Return a duration in the unit that gives it one to three digits before the point; empty for NaN."""
    if math.isnan(nanoseconds):
        return ""
    nanoseconds = float(f"{nanoseconds:.3g}")  # 999.7 ns is shown as 1 µs, not as 1e+03 ns
    unit, size = next((pair for pair in _UNITS if nanoseconds >= pair[1]), _UNITS[-1])
    return f"{nanoseconds / size:.3g} {unit}"


def show_summary(console: Console, summary: pd.DataFrame, *, only_wrong: bool = False) -> None:
    """Print the table of a run, one row per case, then every target that is not met and every case without a time."""
    if not only_wrong:
        console.print(_summary_table(console, summary))
    for row in summary.to_dict("records"):
        for target in filter(None, row["targets"].split("; ")):
            status, _, text = target.partition(": ")
            if status != "met":
                _say(console, status.upper(), status, f"{row['case_id']}: {text}")
        if row["outcome"] != "ok" and "missed: " not in row["targets"]:
            _say(console, row["outcome"], row["outcome"], f"{row['case_id']}: {row['reason']}")
        if row["disturbed_share"] >= _LOUD:
            text = f"{row['case_id']}: {row['disturbed_share']:.0%} of its blocks: {row['disturbances']}"
            _say(console, "DISTURBED", "undecided", text)


def _say(console: Console, word: str, style: str, text: str) -> None:
    console.print(styled(word, style), Text(text), soft_wrap=True)


# Every column with how to draw its cell, and in which order columns are given up on a narrow terminal (0: never).
_COLUMNS: tuple[tuple[str, Callable[[Mapping[Hashable, Any]], str | Text], int], ...] = (
    ("workload", lambda row: Text(row["workload"]), 0),
    ("batch", lambda row: str(row["batch_size"]), 0),
    ("engine", lambda row: Text(row["engine"]), 0),
    ("outcome", lambda row: styled(row["outcome"]), 0),
    ("machine", lambda row: Text(row["machine"]), 0),
    ("dtype", lambda row: Text(row["dtype"]), 0),
    ("step", lambda row: duration(row["step_ns"]), 0),
    ("±", lambda row: half_width(row["step_ns"], row["step_ns_low"], row["step_ns_high"]), 4),
    ("latency", lambda row: duration(row["latency_ns"]) if _on_gpu(row) else "", 3),
    ("device", lambda row: duration(row["device_ns"]), 3),
    ("samples/s", lambda row: _number(row["samples_per_s"], ".3g"), 3),
    ("× autograd", lambda row: ratio_interval(row), 0),
    ("× floor", lambda row: factor(row["above_floor"]), 5),
    ("loss p50", lambda row: _number(row["loss_p50"], ".4f"), 2),
    ("converged", lambda row: converged(row), 6),
    ("first call cold/warm", lambda row: first_calls(row), 1),
    ("disturbed", lambda row: disturbed(row), 2),
    ("targets", lambda row: styled({"yes": "met", "no": "missed"}.get(row["targets_met"], row["targets_met"])), 0),
)
_NUMBERS = {"batch", "step", "±", "latency", "device", "samples/s", "× autograd", "× floor", "loss p50", "converged"}
_NUMBERS |= {"first call cold/warm"}
# Left out where all rows have the same, or where no row has anything there.
_VARIED = ("machine", "dtype")
_OPTIONAL = {*_VARIED, "× floor", "latency", "device", "disturbed"}


def _summary_table(console: Console, summary: pd.DataFrame) -> Table:
    """Draw the summary with as many columns as the terminal is wide."""
    rows = summary.to_dict("records")
    several = {name: summary[name].nunique() > 1 for name in _VARIED}
    shown = [
        each
        for each in _COLUMNS
        if each[0] not in _OPTIONAL or several.get(each[0], any(str(each[1](row)) for row in rows))
    ]
    for given_up in range(max(order for _, _, order in _COLUMNS) + 1):
        kept = [column for column in shown if column[2] == 0 or column[2] > given_up]
        table = _table(summary, kept)
        if Measurement.get(console, console.options.update(max_width=10_000), table).maximum <= console.width:
            break
    return table


def _table(
    summary: pd.DataFrame, columns: Sequence[tuple[str, Callable[[Mapping[Hashable, Any]], str | Text], int]]
) -> Table:
    several = "members" in summary and summary["members"].max() > 1
    of_one = ", of one model where an engine trains several at once" if several else ""
    floor = "× floor: of the least that an update takes here; " if any(each[0] == "× floor" for each in columns) else ""
    table = Table(
        title=_title(summary),
        caption=f"step: time of one update{of_one}; ±: 95 % interval; {floor}× autograd: above 1 is faster",
        box=box.SIMPLE,
        pad_edge=False,
        collapse_padding=True,
    )
    for name, _, _ in columns:
        table.add_column(name, justify="right" if name in _NUMBERS else "left", no_wrap=True)
    previous = None
    for row in summary.to_dict("records"):
        group = (row["workload"], row["batch_size"], row["device"], row["dtype"])
        if previous not in (None, group):
            table.add_section()
        previous = group
        table.add_row(*(cell(row) for _, cell, _ in columns))
    return table


def show_bonus(console: Console, summary: pd.DataFrame) -> None:
    """Answer the lesson's bonus question in one line, where both workloads were trained at the same batch size."""
    rows = summary[summary["outcome"].isin(["ok", "not_converged"]) & summary["converged_share"].notna()]
    for engine in ("autograd", *rows["engine"].unique()):
        for _, group in rows[rows["engine"] == engine].groupby(["batch_size", "device", "dtype"], sort=False):
            pair = {row["workload"]: row for row in group.to_dict("records")}
            if {"line", "line_deep"} <= pair.keys():
                console.print(_bonus(pair["line"], pair["line_deep"]), soft_wrap=True, highlight=False)
                return


def _title(summary: pd.DataFrame) -> str:
    if summary.empty:
        return "no cases"
    first = summary.iloc[0]
    dirty = " with uncommitted changes" if first["dirty"] else ""
    machines = summary["machine"].nunique()
    where = first["machine"] if machines == 1 else f"{machines} kinds of machine"
    return f"{where}, commit {str(first['commit'])[:10]}{dirty}"


def _bonus(shallow: Mapping[Hashable, Any], deep: Mapping[Hashable, Any]) -> str:
    if deep["converged_low"] > shallow["converged_high"]:
        helps = "helps"
    else:  # the intervals overlap, or it is worse
        helps = "hurts" if deep["converged_high"] < shallow["converged_low"] else "does not help"
    text = (
        f"Does a second hidden layer help or slow? It {helps}: {deep['converged_share']:.0%} of seeds "
        f"converge instead of {shallow['converged_share']:.0%} (median loss {deep['loss_p50']:.3f} instead of "
        f"{shallow['loss_p50']:.3f})"
    )
    if math.isnan(deep["step_ns"]) or math.isnan(shallow["step_ns"]):
        return text + "."
    told_apart = deep["step_ns_low"] > shallow["step_ns_high"] or deep["step_ns_high"] < shallow["step_ns_low"]
    if not told_apart:  # the intervals overlap, or a single round has none
        time = "; which update takes longer, this run does not tell"
    else:
        time = f", and an update takes {deep['step_ns'] / shallow['step_ns']:.2f} times as long"
    return f"{text}{time} ({shallow['engine']}, batch {shallow['batch_size']})."


def styled(word: str, style: str | None = None) -> Text:
    """Return a word in the colour of an outcome or a status, its own where none is named."""
    return Text(word, style=_STYLE.get(word if style is None else style, "red"))


def _number(value: float, spec: str) -> str:
    return "" if math.isnan(value) else format(value, spec)


def factor(value: float) -> str:
    """Return a factor to two digits or more, never in powers of ten."""
    return "" if math.isnan(value) else f"{value:.1f}" if value < 10 else f"{value:,.0f}"


def half_width(value: float, low: float, high: float) -> str:
    """Return how far an interval reaches from its value, as a share of it; empty where there is none."""
    if math.isnan(low) or math.isnan(high):
        return ""
    half = max(high / value, value / low) - 1
    return f"{half:.1%}" if half < 1 else "> 100%"


def ratio_interval(row: Mapping[Hashable, Any]) -> str:
    """Return the ratio to autograd with its interval; empty where there is none."""
    if math.isnan(row["ratio_to_autograd"]):
        return ""
    if math.isnan(row["ratio_low"]) or row["ratio_low"] == row["ratio_high"]:
        return f"{row['ratio_to_autograd']:.2f}"
    return f"{row['ratio_to_autograd']:.2f} [{row['ratio_low']:.2f}, {row['ratio_high']:.2f}]"


def converged(row: Mapping[Hashable, Any]) -> str:
    """Return the share of seeds converged, of how many; empty where none was trained."""
    return "" if math.isnan(row["converged_share"]) else f"{row['converged_share']:.0%} of {row['seeds']:.0f}"


def _on_gpu(row: Mapping[Hashable, Any]) -> bool:
    return str(row["device"]).startswith("cuda")


def disturbed(row: Mapping[Hashable, Any]) -> str:
    """Return the share of disturbed blocks and what disturbed most of them."""
    if not row["disturbed_share"] >= _AUDIBLE:
        return ""
    return f"{row['disturbed_share']:.0%} {row['disturbances'].partition(',')[0].rpartition(' ')[0]}"


def first_calls(row: Mapping[Hashable, Any]) -> str:
    """Return the time of the first call with a cold and with a warm compile cache, as far as there is one."""
    return " / ".join(filter(None, (duration(row["first_call_cold_ns"]), duration(row["first_call_warm_ns"]))))
