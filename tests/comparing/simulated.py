"""Tables whose truth is known, drawn from seeded noise, and how often the program's own verdicts on them are wrong.

A table has 54 cases. Its logs are those of the process' step times, as `comparing.judge.judge` takes them.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Self
from zlib import crc32

import numpy as np
from numpy.random import Generator
from numpy.typing import ArrayLike, NDArray

from harness.comparing.compared import Status
from harness.comparing.judge import judge
from harness.comparing.pairs import Evidence, judge_pairs
from harness.comparing.rule import Array, spread
from harness.comparing.sessions import SessionSpread, session_means, session_spread

CASES = 54
NOISE_ROUNDS = 20  # as many as `harness noise` has without options
DRIFT = 0.03  # between paired rounds, shared by both sides
CLOCK_SLOPE, CLOCK_ERROR = 0.9, 0.008
BESIDE = (0.35, 0.6)  # slower, on the other hyperthread of whose core somebody computes
CHUNK = 250  # tables at once: some 50 MB

Shape = tuple[int, ...]


def gaussian(draws: Generator, shape: Shape, spread: float) -> Array:
    return draws.normal(0, spread, shape)


def skewed(draws: Generator, shape: Shape, spread: float) -> Array:
    """A hard lower end and an exponential tail upwards, as step times have; its 1.4826 MAD is the spread."""
    return draws.standard_exponential(shape) * (spread / (1.4826 * math.asinh(0.5)))


def contaminated(draws: Generator, shape: Shape, spread: float) -> Array:
    """Gaussian, and one process in ten is slower by 20 to 100 %."""
    slower = np.log1p(draws.uniform(0.2, 1.0, shape))
    return draws.normal(0, spread, shape) + np.where(draws.random(shape) < 0.1, slower, 0)


NOISES: Mapping[str, Callable[[Generator, Shape, float], Array]] = {
    "Gaussian": gaussian,
    "skewed": skewed,
    "contaminated": contaminated,
}


class Change(NamedTuple):
    """The first `cases` of a table are slower by `slowdown`: 0.05 is 5 %."""

    cases: int
    slowdown: float


NONE = Change(0, 0.0)


@dataclass(frozen=True)
class Rates:
    """How many tables there were, and in how many a case was called slower or faster that is not.

    slower: cases that really are; found: of these, called so.
    """

    tables: int = 0
    false: int = 0
    slower: int = 0
    found: int = 0

    def __add__(self, other: Self) -> "Rates":
        return Rates(*(mine + theirs for mine, theirs in zip(self._counts, other._counts, strict=True)))

    @property
    def _counts(self) -> tuple[int, int, int, int]:
        return self.tables, self.false, self.slower, self.found

    @property
    def false_share(self) -> float:
        return self.false / self.tables

    @property
    def power(self) -> float:
        return self.found / self.slower if self.slower else math.nan


@dataclass(frozen=True)
class OneSession:
    """Both sides measured in one session: firm verdicts.

    noise: one of NOISES. spread: between processes. rounds: a side. paired: in the same rounds, which drift: all cases
    of a `round` alike, or each `pair` for itself. known: what the program knows of the spread: `noise` measured
    beforehand without drift, `drifting`: with it, or `nothing`.
    """

    noise: str
    spread: float
    rounds: int
    paired: bool
    known: str
    drift: str = "round"
    firm = True
    slower, faster = Status.REGRESSED, Status.IMPROVED

    def draw(self, draws: Generator, tables: int) -> tuple[Array, Array, Array]:
        """Return log step times of base, new, and the machine alone, maybe of no rounds: `[tables, cases, rounds]`."""
        noise = NOISES[self.noise]
        shape = (tables, CASES, self.rounds)
        base, new = noise(draws, shape, self.spread), noise(draws, shape, self.spread)
        if self.paired:
            drift = draws.normal(0, DRIFT, (tables, CASES if self.drift == "pair" else 1, self.rounds))
            base, new = base + drift, new + drift
        alone = noise(draws, (tables, CASES, 0 if self.known == "nothing" else NOISE_ROUNDS), self.spread)
        if self.known == "drifting":
            alone += draws.normal(0, DRIFT, (tables, 1, NOISE_ROUNDS))
        return base, new, alone

    def statuses(self, base: Array, new: Array, alone: Array) -> NDArray[np.str_]:
        """Return what the program says of each case, `[tables, cases]`."""
        return judge(base, new, paired=self.paired, known=spread(alone)).status


@dataclass(frozen=True)
class TwoSessions:
    """Each side in a session of its own: advisory verdicts.

    common: standard deviation of what all cases of a session share; own: of what each has for itself. stored: sessions
    from which the program knows how much they differ, 0 for none.
    """

    noise: str
    spread: float
    rounds: int
    common: float
    own: float
    stored: int
    firm = paired = False
    slower, faster = Status.SLOWER, Status.FASTER

    def draw(self, draws: Generator, tables: int) -> tuple[Array, Array, Array]:
        """Return log step times of base and new, `[tables, cases, rounds]`, and `[tables, stored, cases, rounds]`."""
        return (
            self._sessions(draws, tables, 1)[:, 0],
            self._sessions(draws, tables, 1)[:, 0],
            self._sessions(draws, tables, self.stored),
        )

    def statuses(self, base: Array, new: Array, stored: Array) -> NDArray[np.str_]:
        """Return what the program says of each case, `[tables, cases]`."""
        known = OfEach([session_spread(means) for means in session_means(stored)])
        return judge(base, new, paired=False, firm=False, sessions=known).status

    def _sessions(self, draws: Generator, tables: int, number: int) -> Array:
        shape = (tables, number, CASES, self.rounds)
        common = draws.normal(0, self.common, (tables, number, 1, 1))
        own = draws.normal(0, self.own, (tables, number, CASES, 1))
        return NOISES[self.noise](draws, shape, self.spread) + common + own


@dataclass(frozen=True)
class InTurn:
    """Both sides measured in the same rounds, as `ab` does: each process tells of its core. The spread is not known.

    clock: standard deviation of the core's clock between processes; what they tell of it is off by CLOCK_ERROR. beside:
    the share of processes beside which a neighbour computes all along, and they say so: by BESIDE slower, and so is
    what they tell of the clock. cases: of a table.
    """

    noise: str
    spread: float
    rounds: int
    clock: float
    beside: float
    cases: int
    firm = paired = True
    slower, faster = Status.REGRESSED, Status.IMPROVED

    def draw(self, draws: Generator, tables: int) -> tuple[Array, Array, Array]:
        """Return log step times of base and new, `[tables, cases, rounds]`.

        And, `[tables, 4, cases, rounds]`, of both sides the fixed work, and where the neighbour was.
        """
        shape = (tables, self.cases, self.rounds)
        speed = draws.normal(0, self.clock, (2, *shape))
        there = draws.random((2, *shape)) < self.beside
        # A neighbour does not slow down an engine as it does the work.
        steps, work = (np.where(there, np.log1p(draws.uniform(*BESIDE, there.shape)), 0) for _ in range(2))
        base, new = (NOISES[self.noise](draws, shape, self.spread) + side for side in CLOCK_SLOPE * speed + steps)
        work += speed + draws.normal(0, CLOCK_ERROR, speed.shape)
        return base, new, np.stack([*work, *there], axis=1)

    def statuses(self, base: Array, new: Array, told: Array) -> NDArray[np.str_]:
        """Return what the program says of each case, `[tables, cases]`."""
        evidence = Evidence((told[:, 0], told[:, 1]), (told[:, 2] > 0, told[:, 3] > 0))
        return judge_pairs(base, new, evidence, known=np.full(base.shape[:-1], math.nan)).found.status


Cell = OneSession | TwoSessions | InTurn


@dataclass(frozen=True)
class OfEach:
    """The `SessionSpread` of each of many tables, for `judge` to take at once."""

    tables: Sequence[SessionSpread]

    def margin(self, spreads: ArrayLike) -> Array:
        rows = np.asarray(spreads, dtype=float)
        return np.stack([table.margin(row) for table, row in zip(self.tables, rows, strict=True)])


def rates(cell: Cell, tables: int, changes: Sequence[Change], seed: int = 0) -> dict[Change, Rates]:
    """Return by change how often the verdicts on so many tables are wrong, and right; the noise is that of all changes.

    Every cell, and every CHUNK of tables of it, has random numbers of its own.
    """
    found = dict.fromkeys(changes, Rates())
    for first in range(0, tables, CHUNK):
        draws = np.random.default_rng([seed, crc32(repr(cell).encode()), first])
        base, new, more = cell.draw(draws, min(CHUNK, tables - first))
        for change in changes:
            status = cell.statuses(base, slowed(new, change), more)
            found[change] += counted(status, change, cell.slower, cell.faster)
    return found


def slowed(new: Array, change: Change) -> Array:
    logs = new.copy()
    logs[:, : change.cases] += math.log1p(change.slowdown)
    return logs


def counted(status: NDArray[np.str_], change: Change, slower: Status, faster: Status) -> Rates:
    """Count what is called slower or faster in tables `[tables, cases]` of which the first cases are slower."""
    up, down = status == slower, status == faster
    false = np.concatenate([down[:, : change.cases], (up | down)[:, change.cases :]], axis=1)
    found = up[:, : change.cases]
    return Rates(len(status), int(false.any(axis=1).sum()), found.size, int(found.sum()))
