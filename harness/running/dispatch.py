"""Hands a run out to the machines of a Ray cluster, group by group, and keeps what they send.

A group is what ratios are taken within: all cases that differ only in their engine. One machine measures all of it, and
nothing else meanwhile. Where that machine is lost, what it has found of the group is void, and another begins it anew.
"""

import contextlib
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

from harness.plan.case import Case
from harness.plan.errors import PlanError
from harness.plan.outcome import Outcome
from harness.running.executor import Observer
from harness.running.nodes import Node, one_line, pinned
from harness.running.on_node import measure_group
from harness.running.records import read_journal
from harness.running.session import Session

_END_S = 20.0  # a worker that must end has ten
# What was being measured at so many losses is taken for their cause.
_MOST_LOSSES = 2


class Watcher(Observer, Protocol):
    """Whoever wants to watch a run on a cluster."""

    def measured_again(self, count: int) -> None:
        """Hear that so many finished processes are void."""
        ...


@dataclass
class _Group:
    """Cases that are compared with each other. node: the name of the only one that may measure them, empty for any."""

    cases: tuple[Case, ...]
    node: str = ""

    @property
    def case_ids(self) -> set[str]:
        return {case.case_id for case in self.cases}

    def fits(self, node: Node) -> bool:
        """Whether a node can measure it."""
        return self.node in ("", node.name) and (self.cases[0].device == "cpu" or node.gpus >= 1)


@dataclass
class _Errand:
    """A group that a node measures. begun: the attempt that has no record yet, and when it was heard of."""

    group: _Group
    node: Node
    begun: dict[str, Any] | None = None
    since: float = field(default_factory=time.monotonic)


@dataclass
class FanOut:
    """One run on some nodes.

    after_group() is called when all cases of a group are done; note(line) hears of what is lost.
    """

    session: Session
    nodes: Sequence[Node]
    watcher: Watcher
    timeout_s: float | None
    after_group: Callable[[], None]
    note: Callable[[str], None]
    _waiting: deque[_Group] = field(default_factory=deque)
    _idle: list[Node] = field(default_factory=list)
    _running: dict[Any, _Errand] = field(default_factory=dict)
    _questioned: dict[Any, Node] = field(default_factory=dict)
    _losses: Counter[str] = field(default_factory=Counter)
    _culprits: dict[str, dict[str, Any]] = field(default_factory=dict)
    _told: set[tuple[str, int]] = field(default_factory=set)

    def measure(self) -> None:
        """Measure whatever the run lacks.

        Raises PlanError when no machine is left. However it ends early, all that runs on the nodes is ended first.
        """
        import ray

        self._idle = list(self.nodes)
        self._waiting.extend(self._groups())
        try:
            while self._waiting or self._running:
                self._hand_out()
                self._check_some_left()
                ready, _ = ray.wait([*self._running, *self._questioned], num_returns=1)
                for each in ready:
                    if each in self._running:
                        self._hear(each)
                    else:
                        self._back(each)
        except BaseException:
            self._stop()
            raise

    def _groups(self) -> Iterator[_Group]:
        """Yield the groups that lack something; one whose machine is not there any more begins anew."""
        timed = {
            entry["case_id"]: entry.get("node", "")
            for entry in read_journal(self.session.folder)[1]
            if entry["kind"] == "record" and entry["outcome"] == Outcome.OK
        }
        by_group: dict[Case, list[Case]] = {}
        for case in self.session.sweep.cases:
            by_group.setdefault(case.group, []).append(case)
        rounds = range(self.session.sweep.rounds)
        for cases in by_group.values():
            group = _Group(tuple(cases), next((timed[case.case_id] for case in cases if case.case_id in timed), ""))
            if not any(self.session.progress.needs(case, number) for case in cases for number in rounds):
                self._skip(group)
                continue
            if group.node and all(node.name != group.node for node in self.nodes):
                self._forget(group, group.node, "it is not in the cluster")
            yield group

    def _check_some_left(self) -> None:
        if not self._running and not self._questioned:
            self.after_group()
            raise PlanError(f"no machine of the cluster is left for {self._waiting[0].cases[0].case_id}")

    def _hand_out(self) -> None:
        """Give each idle node the first waiting group that it can measure."""
        import ray

        for node in list(self._idle):
            group = next((group for group in self._waiting if group.fits(node)), None)
            if group is None:
                continue
            self._waiting.remove(group)
            self._idle.remove(node)
            sweep = replace(self.session.sweep, cases=group.cases)
            # All of its CPUs, so that Ray starts nothing beside it.
            options = pinned(node.key, num_cpus=node.cpus, num_gpus=0 if group.cases[0].device == "cpu" else 1)
            task = ray.remote(measure_group).options(**options, num_returns="streaming")
            mine = self.session.progress.of_cases(group.case_ids)
            self._running[task.remote(sweep, mine, self.timeout_s, node.place())] = _Errand(group, node)

    def _hear(self, task: Any) -> None:
        """Take what a node has sent: an entry, its end, or that it is lost."""
        import ray

        errand = self._running[task]
        try:
            entry = ray.get(next(task))
        except StopIteration:
            del self._running[task]
            self._idle.append(errand.node)
            self._skip(errand.group)
            self.after_group()
        except ray.exceptions.RayError as error:
            del self._running[task]
            # One that raises, or is lost before it has begun anything, may do so for ever.
            may_recover = errand.begun is not None and not isinstance(error, ray.exceptions.RayTaskError)
            self._lose(errand, one_line(error))
            if may_recover:
                self._question(errand.node)
        else:
            self._keep(entry, errand)

    def _keep(self, entry: dict[str, Any], errand: _Errand) -> None:
        self.session.journal.append(entry)
        self.session.progress.add(entry)
        case = next(case for case in errand.group.cases if case.case_id == entry["case_id"])
        if entry["kind"] == "attempt":
            errand.begun, errand.since = entry, time.monotonic()
            self.watcher.case_started(entry["round"], case)
            self.watcher.phase_started(f"on {errand.node.called}")
        else:
            errand.begun = None
            self._told.add((case.case_id, entry["round"]))
            self.watcher.case_finished(entry["round"], case, entry)

    def _skip(self, group: _Group) -> None:
        for number, case in replace(self.session.sweep, cases=group.cases).schedule():
            if (case.case_id, number) not in self._told:
                self.watcher.case_skipped(number, case)

    def _lose(self, errand: _Errand, reason: str) -> None:
        """Let a group begin anew whose machine is lost."""
        self._forget(errand.group, errand.node.called, reason)
        if errand.begun is not None:
            self._blame(errand, errand.begun, reason)
        for case_id in errand.group.case_ids & self._culprits.keys():
            self._keep(self._culprits[case_id], errand)
        self._waiting.appendleft(errand.group)

    def _forget(self, group: _Group, called: str, reason: str) -> None:
        self.note(f"{called} is lost, and {group.cases[0].case_id} and its like begin anew: {reason}")
        lost = {"kind": "lost", "case_id": group.cases[0].case_id, "reason": reason}
        self.session.journal.append(lost)
        self.watcher.measured_again(len({key for key in self._told if key[0] in group.case_ids}))
        self._told = {key for key in self._told if key[0] not in group.case_ids}
        self.session.progress.forget(group.case_ids)
        group.node = ""

    def _blame(self, errand: _Errand, attempt: dict[str, Any], reason: str) -> None:
        case_id = attempt["case_id"]
        self._losses[case_id] += 1
        if self._losses[case_id] >= _MOST_LOSSES:
            key = (case_id, attempt["round"])
            self._culprits[case_id] = {
                **attempt,
                "kind": "record",
                "attempts": self.session.progress.attempts[key],
                "outcome": Outcome.CRASHED,
                "reason": f"its machine was lost {self._losses[case_id]} times while it ran: {reason}",
                "seconds": time.monotonic() - errand.since,
                **errand.node.place(),
            }

    def _question(self, node: Node) -> None:
        """Ask a machine that was lost whether it is there; with zero CPUs, so that it answers at once."""
        import ray

        self._questioned[ray.remote(_alive).options(**pinned(node.key, num_cpus=0)).remote()] = node

    def _back(self, answer: Any) -> None:
        """Give a machine that was lost more to measure if it answers."""
        import ray

        node = self._questioned.pop(answer)
        with contextlib.suppress(ray.exceptions.RayError):
            ray.get(answer)
            self._idle.append(node)

    def _stop(self) -> None:
        """End all that runs on the nodes; what had arrived by then is kept."""
        import ray

        ends = {task.completed(): task for task in self._running}
        with contextlib.suppress(ray.exceptions.RayError):
            for task in self._running:
                ray.cancel(task)
            ended, left = ray.wait(list(ends), num_returns=len(ends), timeout=_END_S) if ends else ([], [])
            for end in left:
                ray.cancel(ends[end], force=True)
            for end in ended:
                self._drain(ends[end])

    def _drain(self, task: Any) -> None:
        import ray

        with contextlib.suppress(ray.exceptions.RayError):
            for entry in task:
                self._keep(ray.get(entry), self._running[task])


def _alive() -> None:
    """Answer."""
