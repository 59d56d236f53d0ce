"""How much sessions of one machine differ, beyond what their rounds tell.

A session is one run: its temperature, its neighbours, its boot. Its deviation has a part that all cases share and a
part of each case's own. Both are estimated from stored sessions of the cases compared, of which some may hold a real
change: a few cases that changed are outvoted by the medians, and where all cases changed at once and stayed so, each
side of that is measured by itself. A machine that became slower for good looks alike.
"""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike
from scipy import special

from harness.comparing.rule import LEAST_MARGIN, Array, clipped, moments

ASSUMED = 0.02  # between sessions, while too few are stored
LEAST_SESSIONS = 5
# Of tables with any false slower or faster; half of it for the common part, half for the cases' own. Their margins are
# added, which is more than both parts are together: less than half of the level is seen.
LEVEL = 0.02

_MAD_TO_SD = 1.4826
_LEAST_TO_SPLIT = 8
_LEAST_PART = 2  # one session apart is no change that stayed
_SPLIT = 1 / 4  # of the deviation: by chance, the best of all splits takes so much in fewer than one of 5,000


@dataclass(frozen=True)
class SessionSpread:
    """Of the sessions of one machine, in logs; without any, what is assumed.

    sessions: how many it was measured over, 0 for none. common: standard deviation of what all cases share. own: of
    what each case has for itself. cases: how many there were. changed: whether all of them changed for good among these
    sessions, so that `common` is that of before and after.
    """

    sessions: int = 0
    common: float = ASSUMED
    own: float = 0.0
    cases: int = 0
    changed: bool = False

    @property
    def measured(self) -> bool:
        """Whether there were enough sessions to measure it."""
        return self.sessions >= LEAST_SESSIONS

    @property
    def common_margin(self) -> float:
        """How far two sessions may lie apart in what their cases share."""
        if not self.measured:
            return 3 * math.sqrt(2) * ASSUMED
        # A spread known from few sessions is itself uncertain: Student's t says by how much.
        freedom = self.sessions - (2 if self.changed else 1)
        return float(special.stdtrit(freedom, 1 - LEVEL / 4)) * math.sqrt(2) * self.common

    def margin(self, spreads: ArrayLike) -> Array:
        """Return for each case how far two sessions may lie apart; spreads: of its processes, `[..., cases]`."""
        noise = np.asarray(spreads, dtype=float)
        if not self.measured:
            return np.asarray(3 * math.sqrt(2) * np.fmax(ASSUMED, noise))
        freedom = max(1, (self.sessions - 1) * (self.cases - 1))
        cases = max(1, self.cases, noise.shape[-1] if noise.ndim else 1)
        own = float(special.stdtrit(freedom, 1 - LEVEL / 4 / cases)) * math.sqrt(2) * self.own
        return np.full(noise.shape, max(LEAST_MARGIN, self.common_margin + own))


def session_means(logs: ArrayLike) -> Array:
    """Return the mean log step time of sessions, `[sessions, cases]`, of `[sessions, cases, rounds]`; NaN without any.

    Clipped as a comparison has them: a burst in one round of ten is no property of the session.
    """
    return moments(clipped(logs))[0]


def session_spread(logs: ArrayLike) -> SessionSpread:
    """Return the spread between sessions: `[sessions, cases]` of mean log step times, NaN where a session lacks a case.

    With fewer than LEAST_SESSIONS, or no case in all of them, it is what is assumed.
    """
    values = np.asarray(logs, dtype=float)
    values = values[:, np.isfinite(values).all(axis=0)]
    sessions, cases = values.shape
    if sessions < LEAST_SESSIONS or not cases:
        return SessionSpread()
    deviations = values - np.median(values, axis=0)
    shared = np.median(deviations, axis=1)
    own = deviations - shared[:, None]
    # By what sessions lie apart in pairs: around the medians of few sessions, they seem to lie closer than they do.
    one, other = np.triu_indices(sessions, 1)
    apart = float(np.median(np.abs(own[one] - own[other]))) / math.sqrt(2)
    # What they share takes a degree of freedom of each session.
    rest = _MAD_TO_SD * apart * math.sqrt(cases / max(1, cases - 1))
    whole, parted = float(shared.std(ddof=1)), _deviation_parted(shared)
    changed = parted < _SPLIT * whole
    return SessionSpread(sessions, parted if changed else whole, rest, cases, changed)


def _deviation_parted(shared: Array) -> float:
    """Return the pooled standard deviation before and after the one change that explains most; shared: oldest first.

    Infinite of so few that one of the many ways to part them explains much by chance.
    """
    sessions = len(shared)
    if sessions < _LEAST_TO_SPLIT:
        return math.inf
    squares = min(
        sum(float(part.var()) * len(part) for part in np.split(shared, [first]))
        for first in range(_LEAST_PART, sessions - _LEAST_PART + 1)
    )
    return math.sqrt(squares / (sessions - 2))
