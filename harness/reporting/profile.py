"""Where the wall time of a run went, on the terminal."""

from collections.abc import Sequence

from rich import box
from rich.console import Console
from rich.table import Table

from harness.tables.profile import Part


def show_profile(console: Console, parts: Sequence[Part]) -> None:
    """Print seconds and shares, and the share that is measuring."""
    wall_s = sum(part.seconds for part in parts)
    measuring = sum(part.seconds for part in parts if part.measuring) / wall_s
    table = Table(
        title=f"where {wall_s:.1f} s went",
        caption=f"{measuring:.0%} in timed blocks or cold compiles",
        box=box.SIMPLE,
        pad_edge=False,
    )
    for name in ("part", "s", "share"):
        table.add_column(name, justify="left" if name == "part" else "right")
    for part in parts:
        table.add_row(part.name, f"{part.seconds:.1f}", f"{part.seconds / wall_s:.1%}")
    console.print(table)
