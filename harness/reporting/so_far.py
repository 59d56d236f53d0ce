"""What is known of a run while it goes on, case by case: what its screen shows."""

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from harness.comparing.rule import spread
from harness.plan.case import Case
from harness.plan.outcome import Outcome
from harness.plan.sweep import Sweep
from harness.tables.statistics import log_interval

Key = tuple[str, str]  # case_id and arm


def round_of(number: int, rounds: int) -> str:
    """Return a round's name: of those planned, or a spare one, for what a neighbour spoilt."""
    return f"round {number + 1}/{rounds}" if number < rounds else f"spare round {number + 1 - rounds}"


@dataclass
class Found:
    """What is known of a case in one arm. steps_ns: of its processes, by round; outcome: how it ended, if not `ok`."""

    case_id: str
    arm: str = ""
    steps_ns: dict[int, float] = field(default_factory=dict)
    outcome: str = Outcome.OK

    @property
    def step_ns(self) -> float:
        """Nanoseconds of one update so far, as the table of the run will have it; NaN where it has no time."""
        if self.outcome != Outcome.OK or not self.steps_ns:
            return float("nan")
        return log_interval(list(self.steps_ns.values()))[0]

    @property
    def spread(self) -> float:
        """Robust standard deviation between processes, as a share of the step time; NaN for fewer than two."""
        return float(spread(np.log(list(self.steps_ns.values()))))


@dataclass
class Running:
    """A process under way. phase: empty before the first; again: whether it was begun more than once."""

    round_number: int
    case_id: str
    arm: str
    phase: str = ""
    again: bool = False


class SoFar:
    """What an observer of a run has heard.

    entries: of the run's journal before this program went on with it. done: processes that are not to come any more, of
    `total`. found: what is known of each case, the newest last. running: processes under way, the newest last; more
    than one on a cluster only. arms: in the order in which they were heard of.
    """

    def __init__(self, sweep: Sweep, entries: Iterable[Mapping[str, Any]] = ()) -> None:
        self.done = 0
        self.total = len(sweep.cases) * sweep.rounds
        self._rounds = sweep.rounds
        self.found: dict[Key, Found] = {}
        self.running: dict[tuple[str, str, int], Running] = {}
        self.arms = {"": 0}
        for entry in entries:
            if entry["kind"] == "record":
                self._know(entry["case_id"], "", entry["round"], entry)

    @property
    def newest(self) -> Running | None:
        """The process that was begun last."""
        return next(reversed(self.running.values()), None)

    def started(self, round_number: int, case: Case, arm: str) -> None:
        """Hear that a process starts, or once more that it does."""
        self.arms.setdefault(arm, len(self.arms))
        key = (case.case_id, arm, round_number)
        again = self.running.pop(key, None) is not None
        self.total += round_number >= self._rounds and not again  # a spare one
        self.running[key] = Running(round_number, case.case_id, arm, again=again)

    def entered(self, phase: str) -> None:
        """Hear that the process begun last is in a phase."""
        if self.newest is not None:
            self.newest.phase = phase

    def finished(self, round_number: int, case: Case, arm: str, record: Mapping[str, Any]) -> None:
        """Hear how a process has ended."""
        self.running.pop((case.case_id, arm, round_number), None)
        self.done += 1
        self._know(case.case_id, arm, round_number, record)

    def without_time(self) -> Counter[str]:
        """Count the cases that have ended otherwise than `ok`, by how."""
        return Counter(each.outcome for each in self.found.values() if each.outcome != Outcome.OK)

    def _know(self, case_id: str, arm: str, round_number: int, record: Mapping[str, Any]) -> None:
        found = self.found.pop((case_id, arm), None) or Found(case_id, arm)
        self.found[case_id, arm] = found
        found.outcome = str(record["outcome"])
        if record.get("step_ns") is not None:
            found.steps_ns[round_number] = record["step_ns"]
