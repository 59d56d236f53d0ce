"""What is running and how long it will still take. Redrawn between phases only, so that nothing runs while timing."""

import time
from collections.abc import Mapping
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

from harness.plan.case import Case
from harness.plan.estimate import process_seconds, sweep_seconds
from harness.plan.sweep import Sweep
from harness.plan.text import printable


class RunProgress:
    """Watches a run; on a terminal a bar, elsewhere one plain line per finished process.

    arm: in which a case is measured, where there are two.
    """

    def __init__(self, console: Console, sweep: Sweep) -> None:
        self.arm = ""
        self._console = console
        self._sweep = sweep
        self._expected_left = sweep_seconds(sweep)
        self._expected_done = 0.0
        self._started = time.monotonic()
        self._running = ""
        self._done = 0
        self._total = len(sweep.cases) * sweep.rounds
        # No refresh thread: it would wake up a core beside the worker ten times a second.
        self._bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[left]}"),
            console=console,
            auto_refresh=False,
            transient=True,
            disable=not console.is_terminal,
        )
        self._task = self._bar.add_task("starting", total=self._total, left="")

    def __enter__(self) -> "RunProgress":
        self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.stop()

    def case_started(self, round_number: int, case: Case) -> None:
        """Show which process runs."""
        self._running = self._named(round_number, case)

    def phase_started(self, phase: str) -> None:
        """Show which phase it is in."""
        self._bar.update(self._task, description=f"{escape(self._running)} [dim]{phase}[/]", left=self._time_left())
        self._bar.refresh()

    def case_finished(self, round_number: int, case: Case, record: Mapping[str, Any]) -> None:
        """Count it; without a terminal, say so."""
        expected = process_seconds(case, round_number, self._sweep)
        self._expected_done += expected
        self._count(expected)
        if not self._console.is_terminal:
            told = record["outcome"] if not record["reason"] else f"{record['outcome']}: {record['reason']}"
            self._console.print(
                f"{self._done}/{self._total} {self._named(round_number, case)} {told} ({record['seconds']:.1f} s)",
                soft_wrap=True,
                highlight=False,
                markup=False,
            )

    def case_skipped(self, round_number: int, case: Case) -> None:
        """Count it without taking it for time that was needed."""
        self._count(process_seconds(case, round_number, self._sweep))

    def measured_again(self, count: int) -> None:
        """Expect so many processes more, as what they had found is lost."""
        self._total += count
        self._bar.update(self._task, total=self._total)

    def _named(self, round_number: int, case: Case) -> str:
        arm = f" of {printable(self.arm, 40)}" if self.arm else ""
        return f"round {round_number + 1}/{self._sweep.rounds} {case.case_id}{arm}"

    def _count(self, expected: float) -> None:
        self._done += 1
        self._expected_left -= expected
        self._bar.update(self._task, advance=1)

    def _time_left(self) -> str:
        """Return the estimate, corrected by how this machine has kept to it so far."""
        pace = 1.0
        if self._expected_done > 20:
            pace = (time.monotonic() - self._started) / self._expected_done
        left = max(0.0, self._expected_left * pace)
        return f"about {left / 60:.0f} min left" if left > 90 else f"about {left:.0f} s left"
