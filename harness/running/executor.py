"""Runs a sweep on this machine: one fresh process after the other, each finished record kept before the next."""

import itertools
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from harness.measuring.protocol import Request
from harness.plan.case import Case
from harness.plan.outcome import Outcome
from harness.plan.sweep import Sweep
from harness.running.journal import Journal
from harness.running.launcher import Launcher


class Observer(Protocol):
    """Whoever wants to watch a run; told only between phases, never while blocks are timed."""

    def case_started(self, round_number: int, case: Case) -> None:
        """Hear that a process starts."""
        ...

    def phase_started(self, phase: str) -> None:
        """Hear that the running case begins a phase."""
        ...

    def case_finished(self, round_number: int, case: Case, record: Mapping[str, Any]) -> None:
        """Hear how a process ended."""
        ...

    def case_skipped(self, round_number: int, case: Case) -> None:
        """Hear that a process is not needed any more."""
        ...


@dataclass
class Progress:
    """What a run has already: which rounds of which cases, and which cases have ended without a time."""

    finished: set[tuple[str, int]] = field(default_factory=set)
    without_time: set[str] = field(default_factory=set)

    @classmethod
    def of(cls, records: Iterable[Mapping[str, Any]]) -> "Progress":
        """Return the progress that these records of a journal stand for."""
        progress = cls()
        for record in records:
            progress.add(record)
        return progress

    def add(self, record: Mapping[str, Any]) -> None:
        """Count one finished record."""
        self.finished.add((record["case_id"], record["round"]))
        if record["outcome"] != Outcome.OK:
            self.without_time.add(record["case_id"])

    def needs(self, case: Case, round_number: int) -> bool:
        """Whether this round of the case is still to be measured.

        A case that once ended otherwise than `ok` gets no time, so its further rounds would only cost the user's.
        """
        return (case.case_id, round_number) not in self.finished and case.case_id not in self.without_time


def execute(
    sweep: Sweep,
    progress: Progress,
    launcher: Launcher,
    journal: Journal,
    observer: Observer,
    after_round: Callable[[], None] = lambda: None,
) -> None:
    """Measure whatever the sweep holds and `progress` lacks.

    KeyboardInterrupt ends the running case without a record and is raised on; everything before it is kept.
    """
    for round_number, scheduled in itertools.groupby(sweep.schedule(), key=lambda pair: pair[0]):
        for _, case in scheduled:
            if not progress.needs(case, round_number):
                observer.case_skipped(round_number, case)
                continue
            observer.case_started(round_number, case)
            request = Request(case, round_number, seeds=sweep.seeds if round_number == 0 else 0)
            measured = launcher.measure(request, observer.phase_started)
            record = {"kind": "record", "case_id": case.case_id, "round": round_number, **measured}
            journal.append(record)
            progress.add(record)
            observer.case_finished(round_number, case, record)
        after_round()
