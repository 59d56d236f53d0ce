"""What is said of a machine's newest run, beside its earlier sessions."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum

TREND_SESSIONS = 200  # Theil–Sen takes the slopes of all pairs


class Status(StrEnum):
    """What is said of a case of the newest run.

    slower, faster: beyond the interval in two sessions in a row; with a question mark, in the newest alone. machine:
    moved, but with the machine. too few: sessions to be judged by. changed: another thing, or other threads, than in
    those. lost: was `ok` in the last session that had it. failing: was not `ok` there either. new: never had a time
    before. not run: in earlier sessions only.
    """

    SLOWER = "slower"
    MAYBE_SLOWER = "slower?"
    FASTER = "faster"
    MAYBE_FASTER = "faster?"
    STEADY = "steady"
    MACHINE = "machine"
    TOO_FEW = "too few"
    CHANGED = "changed"
    LOST = "lost"
    FAILING = "failing"
    NEW = "new"
    NOT_RUN = "not run"


@dataclass(frozen=True)
class CaseHistory:
    """One case over the sessions.

    change: of the newest step time against the mean of the `sessions` it is judged by, 0.05 is 5 % slower; limit: how
    much it may be. trend: change per session by Theil–Sen, over at most TREND_SESSIONS, with its 95 % interval. times:
    step time in ns of every session, oldest first, the newest run's last; NaN where it has none, or was another thing.
    """

    case_id: str
    status: Status
    reason: str = ""
    change: float = math.nan
    limit: float = math.nan
    sessions: int = 0
    trend: float = math.nan
    trend_low: float = math.nan
    trend_high: float = math.nan
    first_ns: float = math.nan
    best_ns: float = math.nan
    last_ns: float = math.nan
    times: tuple[float, ...] = ()

    @property
    def failed(self) -> bool:
        """Whether this fails the gate."""
        return self.status in (Status.SLOWER, Status.LOST)


@dataclass(frozen=True)
class RunLine:
    """One run of the series, `ok` cases with a time; change: the median over cases, against the same sessions.

    part: `newest`, `reference`, `earlier` than those, `dirty`, or `same session` as another that is taken.
    """

    run_id: str
    commit: str
    session: str
    part: str
    ok: int
    change: float


@dataclass(frozen=True)
class Move:
    """The machine itself against the sessions before: change, 0.04 is 4 % slower; by: `frozen` or `median`."""

    device: str
    change: float
    by: str


@dataclass(frozen=True)
class History:
    """A machine's newest run against its earlier sessions.

    runs: of the newest one's fingerprint, oldest first. sessions: how many of these are in the table. others: runs of
    other fingerprints, which are left out, by fingerprint; with what differs there, where the tables tell. untold:
    devices with slower cases where neither the frozen engine nor enough cases tell the machine from the commit.
    """

    machine: str
    fingerprint: str
    dirty: bool
    runs: tuple[RunLine, ...]
    sessions: int
    cases: tuple[CaseHistory, ...]
    moves: tuple[Move, ...] = ()
    others: Mapping[str, tuple[int, str]] = field(default_factory=dict)
    untold: tuple[str, ...] = ()

    @property
    def newest(self) -> RunLine:
        """The run that is judged."""
        return self.runs[-1]

    @property
    def failed(self) -> bool:
        """Whether the gate fails."""
        return any(case.failed for case in self.cases)

    @property
    def undecided(self) -> bool:
        """Whether a case seems slower that another session has yet to confirm."""
        return any(case.status is Status.MAYBE_SLOWER for case in self.cases)

    def of(self, *statuses: Status) -> tuple[CaseHistory, ...]:
        """Return the cases with one of these statuses."""
        return tuple(case for case in self.cases if case.status in statuses)
