"""Which engine to use where, on the terminal and as JSON: who is fastest, who overtakes whom, what a compile pays."""

import math
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from harness.comparing.crossover import BreakEven, Crossing, Group, Size, Standing
from harness.plan.text import printable
from harness.reporting.terminal import duration

JSON_SCHEMA = 1

_RUNNERS_UP = 3


def show_crossovers(console: Console, groups: Sequence[Group]) -> None:
    """Print each group: the fastest engine by batch size, where engines cross, and what preparing them costs."""
    for group in groups:
        console.print(_fastest(group))
        for crossing in group.crossings:
            console.print(Text(told(crossing)), soft_wrap=True)
        if group.break_evens:
            console.print(_paid(group))
    if any(group.rounds < 2 for group in groups):
        console.print("One round has no interval: nothing is told apart. Measure more: --rounds 3", highlight=False)


def as_json(groups: Sequence[Group]) -> dict[str, Any]:
    """Return the groups as a JSON object; what is not known, and what never happens, is null."""
    return {"schema": JSON_SCHEMA, "groups": [_plain(asdict(group)) for group in groups]}


def told(crossing: Crossing) -> str:
    """Say in one line which engine overtakes which, and between which batch sizes that is certain."""
    low = "below what was measured" if math.isnan(crossing.low) else _count(crossing.low)
    high = "beyond what was measured" if math.isnan(crossing.high) else _count(crossing.high)
    return (
        f"{printable(crossing.above)} overtakes {printable(crossing.below)} at a batch size of about "
        f"{_count(crossing.batch_size)} (95 %: {low} to {high})."
    )


def _fastest(group: Group) -> Table:
    what = f"{printable(group.workload)}, {group.device}, {group.dtype}, {group.threads} threads"
    table = Table(
        title=f"fastest engine: {what if group.threads != 1 else what.removesuffix('s')}",
        caption="level: not told apart by these rounds; ×: step time over the fastest one's, 95 % interval",
        box=box.SIMPLE,
        pad_edge=False,
    )
    for name in ("batch", "fastest", "step", "level with it", "then"):
        table.add_column(name, justify="right" if name in ("batch", "step") else "left")
    for size in group.sizes:
        table.add_row(*fastest_cells(size))
    return table


def fastest_cells(size: Size) -> tuple[str, str, str, str, str]:
    """Return, of a batch size: it, the fastest engine, its step time, those level with it, and those behind."""
    others = size.standings[1:]
    level = [printable(each.engine) for each in others if each.level]
    behind = [_behind(each) for each in others if not each.level]
    more = [f"{len(behind) - _RUNNERS_UP} more"] if len(behind) > _RUNNERS_UP else []
    return (
        f"{size.batch_size:,}",
        printable(size.fastest.engine),
        duration(size.fastest.step_ns),
        ", ".join(level),
        ", ".join([*behind[:_RUNNERS_UP], *more]),
    )


def _behind(standing: Standing) -> str:
    behind, low, high = (
        _count(each) if each >= 1000 else f"{each:.3g}" for each in (standing.behind, standing.low, standing.high)
    )
    return f"{printable(standing.engine)} {behind} × [{low}, {high}]"


def _paid(group: Group) -> Table:
    table = Table(
        title="updates until an engine has paid for its preparation, against autograd",
        caption="cold, warm: with an empty and a filled compile cache; 95 % interval of the time saved per update",
        box=box.SIMPLE,
        pad_edge=False,
    )
    for name in ("batch", "engine", "cold", "warm"):
        table.add_column(name, justify="left" if name == "engine" else "right")
    for each in group.break_evens:
        table.add_row(f"{each.batch_size:,}", printable(each.engine), *paid_cells(each))
    return table


def paid_cells(each: BreakEven) -> tuple[str, str]:
    """Return after how many updates an engine has paid for its preparation: with a cold cache and with a warm one."""
    return (
        _updates(each.cold, each.cold_low, each.cold_high),
        _updates(each.warm, each.warm_low, each.warm_high),
    )


def _updates(updates: float, low: float, high: float) -> str:
    if math.isnan(updates):
        return ""
    if math.isinf(updates):
        return "never" if math.isinf(low) or math.isnan(low) else f"never, or {_count(low)} and more"
    if updates == 0:
        return "at once"
    if math.isnan(low):
        return _count(updates)
    return f"{_count(updates)} [{_count(low)}, {_count(high)}]"


def _count(value: float) -> str:
    """Return a number to three digits, in thousands as people read them."""
    return "never" if math.isinf(value) else f"{float(f'{value:.3g}'):,.0f}"


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _plain(part) for name, part in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(part) for part in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
