"""An explained case on the terminal: in words, where the time goes, and what it consists of."""

from collections.abc import Mapping
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from harness.comparing.explained import Explained
from harness.plan.text import printable
from harness.reporting.terminal import duration


def show_explained(console: Console, case_id: str, record: Mapping[str, Any], found: Explained) -> None:
    """Print what bounds a case, the shares of its update, its operations or kernels, and what was compiled."""
    inside = record["inside"]
    console.print(Text(f"{case_id}: {duration(record['step_ns'])} per update. {found.why}"), soft_wrap=True)
    console.print(_shares(found, record))
    parts = inside["kernels"] or inside["parts"]
    console.print(_parts(parts, "kernels on the GPU" if inside["kernels"] else "operations"))
    for line in _compiled(record):
        console.print(Text(line), soft_wrap=True)


def _shares(found: Explained, record: Mapping[str, Any]) -> Table:
    inside = record["inside"]
    table = Table(
        title="where an update's time goes",
        caption=(f"by torch.profiler, under which it takes {duration(inside['profiled_ns'])}; outside: what is left"),
        box=box.SIMPLE,
        pad_edge=False,
    )
    for name in ("part", "share", "what"):
        table.add_column(name, justify="right" if name == "share" else "left")
    for share in found.shares:
        table.add_row(share.name, f"{share.share:.0%}", share.meaning)
    return table


def _parts(parts: list[Mapping[str, Any]], title: str) -> Table:
    table = Table(title=title, caption="per update; self: without its parts", box=box.SIMPLE, pad_edge=False)
    for name in ("name", "how often", "self"):
        table.add_column(name, justify="left" if name == "name" else "right", overflow="fold")
    for part in parts:
        table.add_row(printable(part["name"], 100), f"{part['per_step']:.3g}", duration(part["self_ns"]))
    return table


def _compiled(record: Mapping[str, Any]) -> list[str]:
    inside = record["inside"]
    if not record["graphs"]:
        return []
    lines = [
        f"compiled: {record['graphs']} graphs, {record['graph_breaks']} graph breaks, {record['recompiles']} recompiles"
    ]
    lines += [f"graph break, {count} times: {printable(reason, 300)}" for reason, count in inside["breaks"].items()]
    return lines + [f"recompiled: {printable(reason, 300)}" for reason in inside["recompiles"]]
