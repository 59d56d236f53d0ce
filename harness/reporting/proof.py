"""A proof on the terminal: every engine, right and wrong, by how it ends, and what follows."""

import math
from collections.abc import Hashable, Mapping
from typing import Any

import pandas as pd
from rich import box
from rich.console import Console
from rich.progress import Progress
from rich.table import Table
from rich.text import Text

from harness.comparing.proof import Proof
from harness.plan.case import Case
from harness.plan.proof import LESSON_ACCURACY, LESSON_LOSS
from harness.reporting.terminal import redraws

Row = Mapping[Hashable, Any]

_SHOWN_EPOCHS = (1, 2, 3, 5, 7, 10, 15, 20)


class ProofProgress:
    """How much of a proof is finished: on a terminal a bar, elsewhere one plain line per finished process."""

    def __init__(self, console: Console, total: int, *, quiet: bool) -> None:
        self._console = console
        self._total = total
        self._done = 0
        console.quiet = quiet
        self._drawn = redraws(console)
        self._bar = Progress(console=console, auto_refresh=False, transient=True, disable=not self._drawn)
        self._task = self._bar.add_task("proving", total=total)

    def __enter__(self) -> "ProofProgress":
        self._bar.start()
        self._bar.refresh()
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.stop()

    def count(self, case: Case, record: Mapping[str, Any]) -> None:
        """Count a finished process."""
        self._done += 1
        self._bar.update(self._task, advance=1, description=case.case_id)
        self._bar.refresh()
        if not self._drawn:
            told = record["outcome"] if not record["reason"] else f"{record['outcome']}: {record['reason']}"
            text = f"{self._done}/{self._total} {case.case_id} {told} ({record['seconds']:.1f} s)"
            self._console.print(text, soft_wrap=True, highlight=False, markup=False)


def show_proof(console: Console, mistakes: pd.DataFrame, proof: Proof, *, interrupted: bool) -> None:
    """Print the table, best loss first, with the lesson's claim in its place, and then what it proves."""
    console.print(_table(mistakes))
    for text in _conclusions(proof):
        console.print(Text(text), soft_wrap=True)
    if not interrupted:
        show_faults(console, proof)


def show_faults(console: Console, proof: Proof) -> None:
    """Print only what speaks against the proof."""
    for word, rows in (("MISSED", proof.missed), ("FLAGGED", proof.flagged)):
        for row in rows:
            told = f"{row['case_id']}: caught on {row['caught_seeds']:.0f} of {row['gate_seeds']:.0f} seeds"
            console.print(Text(word, style="red"), Text(told), soft_wrap=True)
    for row in proof.unfinished:
        console.print(Text(row["outcome"], style="yellow"), Text(f"{row['case_id']}: {row['reason']}"), soft_wrap=True)


def show_depths(console: Console, one: pd.DataFrame, two: pd.DataFrame) -> None:
    """Answer whether a second hidden layer helps: by epoch, over all seeds."""
    table = Table(
        title="does a second hidden layer help or slow?",
        caption=f"autograd, batch 100, {one['seeds'].iloc[-1]} seeds: median loss [5 % – 95 %]; converged",
        box=box.SIMPLE,
        pad_edge=False,
    )
    for name in ("epoch", "one layer", "", "two layers", ""):
        table.add_column(name, justify="right")
    pairs = zip(one.to_dict("records"), two.to_dict("records"), strict=False)
    for shallow, deep in pairs:
        if shallow["epoch"] in _SHOWN_EPOCHS:
            each = [part for row in (shallow, deep) for part in (_spread(row), f"{row['converged_share']:.1%}")]
            table.add_row(f"{shallow['epoch']}", *each)
    console.print(table)


def _table(mistakes: pd.DataFrame) -> Table:
    table = Table(
        title="gradients, right and wrong",
        caption="caught: by the gate, on how many seeds; by: what was furthest off, at which update, error over limit; "
        "loss: median [5 % – 95 %] after the last epoch; trains: meets the workload's targets",
        box=box.SIMPLE,
        pad_edge=False,
        collapse_padding=True,
    )
    for name in ("engine", "what", "at", "caught", "by", "× limit", "loss", "accuracy", "converged", "trains"):
        table.add_column(name, justify="left" if name in ("engine", "what", "at", "by", "trains") else "right")
    lesson: Row = {"engine": "", "loss_p50": LESSON_LOSS}
    rows: list[Row] = [row for row in mistakes.to_dict("records") if row["outcome"] == "ok"]
    for row in sorted([*rows, lesson], key=lambda row: float(row["loss_p50"])):
        table.add_row(*(_LESSON if row is lesson else _cells(row)))
    return table


_LESSON = (
    *("the lesson's “before”", "manual gradients, as it claims", "", "", "", ""),
    *(f"{LESSON_LOSS:g}", f"{LESSON_ACCURACY:.0%}", "", ""),
)


def _cells(row: Row) -> tuple[str | Text, ...]:
    trains = row["targets_met"] == "yes"
    caught = row["caught_seeds"] > 0
    return (
        row["engine"],
        row["what"] or row["kind"],
        f"{row['workload']} b{row['batch_size']}" + (f" {row['dtype']}" if row["dtype"] != "float32" else ""),
        f"{row['caught_seeds']:.0f} of {row['gate_seeds']:.0f}",
        f"{row['caught_by']} at {row['caught_update']:g}" if caught else "",
        _number(row["error_over_limit"]),
        _spread(row),
        f"{row['accuracy_p50']:.0%}",
        f"{row['converged_share']:.1%}",
        Text("yes", style="red" if row["trains_anyway"] == "yes" else "green") if trains else row["targets_met"],
    )


def _conclusions(proof: Proof) -> list[str]:
    lines = []
    if proof.wrong:
        seeds = max(row["seeds"] for row in proof.wrong)
        lines.append(
            f"{len(proof.wrong)} mistakes, {len(proof.wrong) - len(proof.missed)} of them caught by the gate on every "
            f"seed. {len(proof.anyway)} ({len(proof.anyway) / len(proof.wrong):.0%}) train anyway: over {seeds:.0f} "
            f"seeds they meet the targets, and nothing but a check of the gradients tells."
        )
    for row in proof.right:
        same = row["same_share"]
        ends = (
            ""
            if math.isnan(same) or row["engine"] == "autograd"
            else f"; ends as autograd does, bit for bit: {same:.1%}"
        )
        lines.append(
            f"{row['case_id']}: right; flagged on {row['caught_seeds']:.0f} of {row['gate_seeds']:.0f} seeds, largest "
            f"error {row['gate_share']:.2f} of its limit{ends}"
        )
    for row in proof.oldest:
        lines.append(
            f"{row['case_id']}: {row['forward_passes']:.0f} forward passes per update, "
            f"{1 / row['ratio_to_autograd']:.0f} times autograd's time; updates off by {row['update_error']:.1e} of "
            "their length"
        )
    if proof.nearest is not None:
        row = proof.nearest
        lines.append(
            f"Nearest to the lesson's “before”, loss {LESSON_LOSS:g} and accuracy {LESSON_ACCURACY:.0%}: "
            f"{row['engine']} ({row['what']}), loss {row['loss_p50']:.2g} and accuracy {row['accuracy_p50']:.0%}."
        )
    return lines


def _spread(row: Row) -> str:
    return f"{_number(row['loss_p50'])} [{_number(row['loss_p05'])} – {_number(row['loss_p95'])}]"


def _number(value: float) -> str:
    if math.isnan(value):
        return ""
    if math.isinf(value):
        return "∞"
    return f"{value:.3g}" if value < 1e4 else f"{value:.0e}"
