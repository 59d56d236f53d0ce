"""How much sessions of one machine differ, beyond what their rounds tell.

A session is one run: its temperature, its neighbours, its boot. Its deviation has a part that all cases share and a
part of each case's own; both are estimated from stored sessions, robustly, since some of them may hold a real change.
"""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike
from scipy import special

from harness.comparing.rule import LEAST_MARGIN, Array

ASSUMED = 0.02  # between sessions, while too few are stored
LEAST_SESSIONS = 5
LEVEL = 0.01  # of tables with any false slower or faster; half of it for the common part, half for the cases' own

_MAD_TO_SD = 1.4826


@dataclass(frozen=True)
class SessionSpread:
    """Of the sessions of one machine, in logs; without any, what is assumed.

    sessions: how many it was measured over, 0 for none. common: standard deviation of what all cases share. own: of
    what each case has for itself. cases: how many there were.
    """

    sessions: int = 0
    common: float = ASSUMED
    own: float = 0.0
    cases: int = 0

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
        return float(special.stdtrit(self.sessions - 1, 1 - LEVEL / 4)) * math.sqrt(2) * self.common

    def margin(self, spreads: ArrayLike) -> Array:
        """Return for each case how far two sessions may lie apart; spreads: of its processes, `[..., cases]`."""
        noise = np.asarray(spreads, dtype=float)
        if not self.measured:
            return np.asarray(3 * math.sqrt(2) * np.fmax(ASSUMED, noise))
        freedom = max(1, (self.sessions - 1) * (self.cases - 1))
        cases = max(1, self.cases, noise.shape[-1] if noise.ndim else 1)
        own = float(special.stdtrit(freedom, 1 - LEVEL / 4 / cases)) * math.sqrt(2) * self.own
        return np.full(noise.shape, max(LEAST_MARGIN, self.common_margin + own))


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
    # The medians take a degree of freedom of each case, and one of each session.
    freedom = sessions * cases / max(1, (sessions - 1) * (cases - 1))
    rest = _MAD_TO_SD * float(np.median(np.abs(own))) * math.sqrt(freedom)
    return SessionSpread(sessions, float(shared.std(ddof=1)), rest, cases)
