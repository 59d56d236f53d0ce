"""A machine measured against itself, on the terminal: its noise by case, what each rule makes of it, what to do."""

import math
from typing import Any

import pandas as pd
from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from harness.comparing.rounds import MOST_ROUNDS
from harness.comparing.sessions import SessionSpread

# What a user would call the rules of the columns `…_alarm_share`.
_RULES = {
    "ratio_2": "means more than 2 % apart",
    "ratio_5": "means more than 5 % apart",
    "welch": "Welch, p < 0.05",
    "rule": "the rule of verdicts",
    "paired_rule": "the rule of verdicts, paired by round",
    "baseline": "--baseline",
}


def show_noise(console: Console, noise: pd.DataFrame) -> None:
    """Print a table `noise`: its cases, the false alarms of each rule, and in words how many rounds are needed."""
    console.print(_cases(noise))
    measured = noise[noise["spread"].notna()]
    if measured.empty:
        console.print("No case has a time in every round: nothing is known of the noise.")
        return
    console.print(_alarms(measured))
    console.print(Text(_advice(measured)), soft_wrap=True)


def _cases(noise: pd.DataFrame) -> Table:
    clocked = bool((noise["clock_left"] < 1).any())
    table = Table(
        title=f"{noise['machine'].iloc[0]} against itself" if len(noise) else "no cases",
        caption="spread: robust standard deviation between processes"
        + ("; w/o clock: of pairs, once the core's clock is taken out" * clocked)
        + "; drift: over the whole run, 95 % interval; rounds for: a side, whose test finds such a slowdown in 95 % of "
        "runs (one of 2 %, the least margin, is then called in half of them)",
        box=box.SIMPLE,
    )
    names = (
        "case",
        "rounds",
        "spread",
        *(["w/o clock"] * clocked),
        "drift",
        "disturbed",
        *(f"rounds for {percent} %" for percent in (2, 3, 5, 10)),
    )
    for name in names:
        table.add_column(name, justify="left" if name == "case" else "right", overflow="fold")
    for row in noise.to_dict("records"):
        needed = [_whole(row[f"rounds_for_{percent}"], known=row["spread"]) for percent in (2, 3, 5, 10)]
        drift = (
            "" if pd.isna(row["drift"]) else f"{row['drift']:+.1%} [{row['drift_low']:+.1%}, {row['drift_high']:+.1%}]"
        )
        spreads = [_percent(row["spread"], ".2%")]
        if clocked:
            spreads.append(_percent(row["spread"] * row["clock_left"], ".2%") if row["clock_left"] < 1 else "")
        share = _percent(row["disturbed_share"])
        table.add_row(Text(row["case_id"]), _whole(row["rounds"]), *spreads, drift, share, *needed)
    return table


def _alarms(measured: pd.DataFrame) -> Table:
    table = Table(
        title="false alarms",
        caption=f"between random halves of this run, {_half(measured)} rounds a side: every call is a mistake",
        box=box.SIMPLE,
    )
    for name, justify in (("rule", "left"), ("in the table", "right"), ("worst case", "right")):
        table.add_column(name, justify="left" if justify == "left" else "right")
    for rule, text in _RULES.items():
        anywhere, each = measured[f"{rule}_table_share"].iloc[0], measured[f"{rule}_alarm_share"].max()
        table.add_row(text, _percent(anywhere), _percent(each))
    return table


def _advice(measured: pd.DataFrame) -> str:
    noisiest = measured.iloc[int(measured["spread"].to_numpy(dtype=float).argmax())]
    least = noisiest["least_with_3_rounds"]
    seen = "cannot even see a doubling" if least > 1 else f"cannot see less than {least:.1%}"
    needed = measured["rounds_for_5"]
    if needed.notna().all():
        most = int(needed.max())
        rounds = f"{most} rounds a side see 5 % where both sides take turns in one run"
    else:
        names = _and_more(measured[needed.isna()]["case_id"].tolist())
        rounds = f"for 5 % not even {MOST_ROUNDS} rounds are enough in {names}"
    margin = math.expm1(float(SessionSpread().margin(measured["spread"]).max()))
    return (
        f"With 3 rounds a side this machine {seen} ({noisiest['case_id']}, its noisiest case); {rounds}. All this is "
        f"from one session, and two differ by more than it tells: --baseline, which compares two, calls nothing slower "
        f"that is not slower by {margin:.1%}, however many rounds they have. The halves have {_half(measured)} rounds "
        f"a side: with fewer, false alarms are more."
    )


def _half(measured: pd.DataFrame) -> int:
    return int(measured["rounds"].max()) // 2


def _and_more(names: list[str]) -> str:
    return names[0] + (f" and {len(names) - 1} more" if len(names) > 1 else "")


def _percent(value: float, spec: str = ".1%") -> str:
    return "" if pd.isna(value) else format(value, spec)


def _whole(value: Any, *, known: float = 0.0) -> str:
    """Draw a count; one that is missing though the noise is known is more than anybody waits for."""
    if pd.isna(value):
        return "" if pd.isna(known) else f"> {MOST_ROUNDS}"
    return str(int(value))
