"""What a comparison of two runs says."""

import math
from dataclasses import dataclass
from enum import StrEnum

from harness.comparing.run import Run
from harness.comparing.sessions import SessionSpread


class Status(StrEnum):
    """What is said of a case.

    regressed, improved, same, undecided: by the rule, in one session. slower, faster, within (what sessions differ by):
    between two sessions, advisory. lost: `ok` in the base and not any more. converges_less: in fewer seeds. fixed:
    `ok` only now. failing: on neither side. new, missing: on one side only. changed: another thing under the same name.
    """

    REGRESSED = "regressed"
    IMPROVED = "improved"
    SAME = "same"
    UNDECIDED = "undecided"
    SLOWER = "slower"
    FASTER = "faster"
    WITHIN = "within"
    LOST = "lost"
    CONVERGES_LESS = "converges_less"
    FIXED = "fixed"
    FAILING = "failing"
    NEW = "new"
    MISSING = "missing"
    CHANGED = "changed"


_FAILED = (Status.REGRESSED, Status.SLOWER, Status.LOST, Status.CONVERGES_LESS)
_FIRM = (Status.REGRESSED, Status.IMPROVED, Status.SAME)


@dataclass(frozen=True)
class CaseResult:
    """One case against its base.

    change: of the step time, 0.05 is 5 % slower, with its 95 % interval. p: adjusted over the table. margin: the least
    change that counts. spread: between processes, from `noise`, the `rounds` themselves, or `assumed`. rounds_needed: a
    side, of one session, until an undecided case is decided; NaN where no number of rounds would.
    """

    case_id: str
    status: Status
    reason: str = ""
    base_ns: float = math.nan
    new_ns: float = math.nan
    change: float = math.nan
    low: float = math.nan
    high: float = math.nan
    p: float = math.nan
    margin: float = math.nan
    spread: float = math.nan
    spread_from: str = ""
    rounds_base: int = 0
    rounds_new: int = 0
    rounds_needed: float = math.nan

    @property
    def failed(self) -> bool:
        """Whether this is a regression."""
        return self.status in _FAILED


@dataclass(frozen=True)
class Aggregate:
    """Geometric mean of the changes of all cases that are `ok` on both sides, with its 95 % interval."""

    cases: int
    change: float
    low: float
    high: float


@dataclass(frozen=True)
class Disturbed:
    """Pairs of which a side was disturbed from beginning to end: how many are left_out, and kept all the same.

    base, new: how many processes of each side were.
    """

    left_out: int = 0
    kept: int = 0
    base: int = 0
    new: int = 0


@dataclass(frozen=True)
class Compared:
    """A whole comparison.

    firm: whether both sides were measured in one session; paired: in the same rounds. sessions: what is known of how
    this machine's sessions differ, None for nothing. disturbed: which pairs are left out. clocked: the share of the
    spread of pairs that is left without what the core's clock did to them. varied: what differs as declared, with both
    values.
    """

    base: Run
    new: Run
    cases: tuple[CaseResult, ...]
    aggregate: Aggregate | None
    firm: bool
    paired: bool
    sessions: SessionSpread | None = None
    disturbed: Disturbed = Disturbed()
    clocked: float = 1.0
    varied: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()

    @property
    def failed(self) -> tuple[CaseResult, ...]:
        """The regressions."""
        return tuple(case for case in self.cases if case.failed)

    @property
    def lost(self) -> bool:
        """Whether a case that was right is not any more: no question of noise, nor of sessions."""
        return any(case.status in (Status.LOST, Status.CONVERGES_LESS) for case in self.cases)

    @property
    def undecided(self) -> bool:
        """Whether any case is, or is another thing than it was, or nothing has a time on both sides."""
        return self.aggregate is None or bool(self.of(Status.UNDECIDED, Status.CHANGED))

    def of(self, *statuses: Status) -> tuple[CaseResult, ...]:
        """Return the cases with one of these statuses."""
        return tuple(case for case in self.cases if case.status in statuses)
