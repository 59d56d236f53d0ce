"""What is running and how long it will still take. Drawn between phases only, so that nothing runs while timing."""

import time
from collections.abc import Iterable, Mapping
from typing import Any

from rich.console import Console

from harness.plan.case import Case
from harness.plan.estimate import process_seconds, sweep_seconds
from harness.plan.sweep import Sweep
from harness.plan.text import printable
from harness.reporting.screen import Screen
from harness.reporting.so_far import SoFar, round_of
from harness.reporting.terminal import duration, redraws


class RunProgress:
    """Watches a run; on a terminal a screen of what is so far, elsewhere one plain line per finished process.

    entries: of the run's journal, where it is gone on with. arm: in which a case is measured, where there are two.
    """

    def __init__(self, console: Console, sweep: Sweep, entries: Iterable[Mapping[str, Any]] = ()) -> None:
        self.arm = ""
        self._console = console
        self._sweep = sweep
        self._expected_left = sweep_seconds(sweep)
        self._expected_done = 0.0
        self._started = time.monotonic()
        self._so_far = SoFar(sweep, entries)
        self._screen = Screen(console, sweep, self._so_far, self._time_left) if redraws(console) else None

    def __enter__(self) -> "RunProgress":
        if self._screen is not None:
            self._screen.open()
        return self

    def __exit__(self, *_: object) -> None:
        if self._screen is not None:
            self._screen.close()

    def case_started(self, round_number: int, case: Case) -> None:
        """Show which process runs; the same once more where it is begun again."""
        planned = self._so_far.total
        self._so_far.started(round_number, case, self.arm)
        if self._so_far.total > planned:
            self._expected_left += process_seconds(case, round_number, self._sweep)
        if self._screen is not None:
            self._screen.draw(table=True)

    def phase_started(self, phase: str) -> None:
        """Show which phase it is in."""
        self._so_far.entered(phase)
        if self._screen is not None:
            self._screen.draw()

    def case_finished(self, round_number: int, case: Case, record: Mapping[str, Any]) -> None:
        """Count it; without a terminal, say so. The screen has it when the next begins, which is at once."""
        expected = process_seconds(case, round_number, self._sweep)
        self._expected_done += expected
        self._expected_left -= expected
        self._so_far.finished(round_number, case, self.arm, record)
        if self._screen is None:
            self._console.print(self._line(round_number, case, record), soft_wrap=True, highlight=False, markup=False)

    def case_skipped(self, round_number: int, case: Case) -> None:
        """Count it without taking it for time that was needed."""
        self._expected_left -= process_seconds(case, round_number, self._sweep)
        self._so_far.done += 1

    def measured_again(self, count: int) -> None:
        """Expect so many processes more, as what they had found is lost."""
        self._so_far.total += count

    def _line(self, round_number: int, case: Case, record: Mapping[str, Any]) -> str:
        so_far, arm = self._so_far, f" of {printable(self.arm, 40)}" if self.arm else ""
        told = record["outcome"] if not record["reason"] else f"{record['outcome']}: {printable(record['reason'])}"
        step = f", step {duration(record['step_ns'])}" if record.get("step_ns") is not None else ""
        named = f"{round_of(round_number, self._sweep.rounds)} {case.case_id}{arm}"
        return f"{so_far.done}/{so_far.total} {named} {told} ({record['seconds']:.1f} s){step}"

    def _time_left(self) -> str:
        """Return the estimate, corrected by how this machine has kept to it so far."""
        pace = 1.0
        if self._expected_done > 20:
            pace = (time.monotonic() - self._started) / self._expected_done
        left = max(0.0, self._expected_left * pace)
        return f"about {left / 60:.0f} min left" if left > 90 else f"about {left:.0f} s left"
