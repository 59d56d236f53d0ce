"""Runs a sweep on this machine: one fresh process after the other, each finished record kept before the next."""

import itertools
import json
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from harness.measuring.core import SLOW_CORE
from harness.measuring.cpus import Placement
from harness.measuring.protocol import Request
from harness.plan.case import Case
from harness.plan.outcome import Outcome
from harness.plan.sweep import Sweep
from harness.running.again import (
    CREDIT,
    CREDIT_PER_QUIET,
    MOST_AGAIN,
    MOST_IN_VAIN,
    best_of,
    disturbed_throughout,
    may_pass,
    worth_it,
)
from harness.running.journal import Keeper
from harness.running.launcher import Launcher
from harness.running.records import check_entry

# What the journal keeps of each process where one was measured again.
_TOLD = ("outcome", "step_ns", "blocks", "blocks_disturbed", "disturbances", "core_ns", "seconds")


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
    """What a run has already.

    finished: rounds of cases. without_time: cases that have ended without one. attempts: how often each round of a case
    was begun; one that was interrupted or disturbed throughout is begun again. disturbed: rounds that stayed so; lost:
    those of them by what comes from elsewhere.
    in_vain: how often in a row one was begun again and stayed so. core_ns: of its fastest process; core_work: what that
    is the time of (`measuring.core`); cores: that time of each.
    """

    finished: set[tuple[str, int]] = field(default_factory=set)
    without_time: set[str] = field(default_factory=set)
    attempts: Counter[tuple[str, int]] = field(default_factory=Counter)
    disturbed: set[tuple[str, int]] = field(default_factory=set)
    lost: set[tuple[str, int]] = field(default_factory=set)
    in_vain: int = field(default=0, compare=False)
    core_ns: float | None = None
    core_work: str = ""
    cores: dict[tuple[str, int], float] = field(default_factory=dict)

    @classmethod
    def of(cls, entries: Iterable[Mapping[str, Any]]) -> "Progress":
        """Return the progress that these entries of a journal stand for."""
        progress = cls()
        for entry in entries:
            progress.add(entry)
        return progress

    def add(self, entry: Mapping[str, Any]) -> None:
        """Count one attempt or one finished record."""
        key = (entry["case_id"], entry["round"])
        if entry["kind"] == "attempt":
            self.attempts[key] += 1
            return
        self.finished.add(key)
        if disturbed_throughout(entry):
            self.disturbed.add(key)
            self.lost |= {key} if may_pass(entry) else set()
            self.in_vain += self.attempts[key] - 1 if key in self.attempts else 0
        elif entry["outcome"] == Outcome.OK:
            self.in_vain = 0
        if entry.get("core_ns"):
            self.cores[key] = entry["core_ns"]
        self.core_ns = min(filter(None, (self.core_ns, entry.get("core_ns"))), default=None)
        self.core_work = entry.get("core_work") or self.core_work
        if entry["outcome"] != Outcome.OK:
            self.without_time.add(entry["case_id"])

    def forget(self, case_ids: Collection[str]) -> None:
        """Count these cases as not measured yet, only as begun."""
        self.finished = {key for key in self.finished if key[0] not in case_ids}
        self.disturbed &= self.finished
        self.lost &= self.finished
        self.cores = {key: took for key, took in self.cores.items() if key in self.finished}
        self.without_time -= set(case_ids)

    def of_cases(self, case_ids: Collection[str]) -> "Progress":
        """Return the part that is of these cases."""
        return Progress(
            {key for key in self.finished if key[0] in case_ids},
            {case_id for case_id in self.without_time if case_id in case_ids},
            Counter({key: count for key, count in self.attempts.items() if key[0] in case_ids}),
            {key for key in self.disturbed if key[0] in case_ids},
            {key for key in self.lost if key[0] in case_ids},
            cores={key: took for key, took in self.cores.items() if key[0] in case_ids},
        )

    def lost_rounds(self, case_id: str) -> set[int]:
        """Return the rounds of a case that are lost, also by what was not known yet: how fast the core can be."""
        late = {key for key, took in self.cores.items() if self.core_ns and took > SLOW_CORE * self.core_ns}
        return {number for name, number in self.lost | late if name == case_id}

    def may_repeat(self, case: Case, round_number: int) -> bool:
        """Whether a process that was disturbed throughout may be measured again, which must not go on for ever."""
        quiet = sum(key not in self.disturbed and key[0] not in self.without_time for key in self.finished)
        repeated = self.attempts.total() - len(self.attempts)
        here = self.attempts[case.case_id, round_number]
        enough = repeated >= CREDIT + CREDIT_PER_QUIET * quiet or self.in_vain + here > MOST_IN_VAIN
        return here <= MOST_AGAIN and not enough

    def needs(self, case: Case, round_number: int) -> bool:
        """Whether this round of the case is still to be measured.

        A case that once ended otherwise than `ok` gets no time, so its further rounds would only cost the user's.
        """
        return (case.case_id, round_number) not in self.finished and case.case_id not in self.without_time


@dataclass(frozen=True)
class Measurer:
    """Measures cases of a sweep on this machine, one at a time; keeps nothing.

    launcher: starts the worker of a case. place: says on which CPUs. sent: the case as its worker gets it, where the
    run keeps it by another name.
    """

    sweep: Sweep
    progress: Progress
    launcher: Callable[[Case], Launcher]
    place: Callable[[Case], Placement]
    sent: Callable[[Case], Case] = lambda case: case

    def entries(
        self, round_number: int, case: Case, on_phase: Callable[[str], None] = lambda _phase: None
    ) -> Iterator[dict[str, Any]]:
        """Yield the attempt at one round of a case, then measure it and yield its record.

        One that was disturbed throughout is attempted again before it has a record. Whoever takes them adds each to
        `progress` before the next. KeyboardInterrupt ends the case without a record and is raised on.
        """
        key = {"case_id": case.case_id, "round": round_number}
        yield {"kind": "attempt", **key}
        record = self._measured(round_number, case, self.sweep.seeds if round_number == 0 else 0, on_phase)
        processes = [record]
        while (
            disturbed_throughout(record)
            and may_pass(record)
            and worth_it(self.sweep.sampling)
            and self.progress.may_repeat(case, round_number)
        ):
            yield {"kind": "attempt", **key}
            processes.append(self._measured(round_number, case, 0, on_phase))
            record = best_of(record, processes[-1])
        if len(processes) > 1:  # nothing that was found is hidden
            record["processes"] = [{name: each.get(name) for name in _TOLD} for each in processes]
        yield {**record, "attempts": self.progress.attempts[case.case_id, round_number]}

    def _measured(self, round_number: int, case: Case, seeds: int, on_phase: Callable[[str], None]) -> dict[str, Any]:
        where = self.place(case)
        sampling, fast_core_ns = self.sweep.sampling, self.progress.core_ns
        request = Request(
            self.sent(case), round_number, seeds, sampling, where.worker, where.threads, fast_core_ns=fast_core_ns
        )
        measured = self.launcher(case).measure(request, on_phase)
        attempts = self.progress.attempts[case.case_id, round_number]
        ours = {"kind": "record", "case_id": case.case_id, "round": round_number, "attempts": attempts}
        return _readable({**measured, **ours}, self.sweep.all_rounds, ours)


@dataclass(frozen=True)
class Executor:
    """Measures the cases of one run, one at a time, and keeps each: a `Measurer` with a journal and an observer."""

    sweep: Sweep
    progress: Progress
    journal: Keeper
    launcher: Callable[[Case], Launcher]
    place: Callable[[Case], Placement]
    observer: Observer
    sent: Callable[[Case], Case] = lambda case: case

    def measure(self, round_number: int, case: Case) -> None:
        """Measure one case in one round: the attempt is in the journal before, the record after.

        KeyboardInterrupt ends the case without a record and is raised on.
        """
        measurer = Measurer(self.sweep, self.progress, self.launcher, self.place, self.sent)
        for entry in measurer.entries(round_number, case, self.observer.phase_started):
            self.journal.append(entry)
            self.progress.add(entry)
            if entry["kind"] == "attempt":
                self.observer.case_started(round_number, case)
            else:
                self.observer.case_finished(round_number, case, entry)


def execute(
    sweep: Sweep,
    progress: Progress,
    launcher: Callable[[Case], Launcher],
    journal: Keeper,
    observer: Observer,
    place: Callable[[Case], Placement],
    after_round: Callable[[], None] = lambda: None,
) -> None:
    """Measure whatever the sweep holds and `progress` lacks; launcher(case) starts it, place(case) says on which CPUs.

    KeyboardInterrupt ends the running case without a record and is raised on; everything before it is kept.
    """
    executor = Executor(sweep, progress, journal, launcher, place, observer)
    for round_number, scheduled in itertools.groupby(sweep.schedule(), key=lambda pair: pair[0]):
        for _, case in scheduled:
            if progress.needs(case, round_number):
                executor.measure(round_number, case)
            else:
                observer.case_skipped(round_number, case)
        after_round()


def _readable(record: dict[str, Any], rounds: int, ours: Mapping[str, Any]) -> dict[str, Any]:
    """Return the record, or one that says what is wrong with it: a worker's nonsense must not spoil the journal."""
    try:
        check_entry(record, [ours["case_id"]], rounds)
        json.dumps(record, allow_nan=False)
    except ValueError as error:  # PlanError is one
        reason = f"the worker's record makes no sense: {error}"
        return {**ours, "outcome": Outcome.CRASHED, "reason": reason, "seconds": record.get("seconds")}
    return record
