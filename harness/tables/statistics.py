"""The intervals that the summary shows."""

from collections.abc import Sequence

import numpy as np
from scipy import special, stats


def log_interval(values: Sequence[float]) -> tuple[float, float, float]:
    """Return the geometric mean of positive `values` and its 95 % t-interval on the logs (centre, low, high).

    With one value the interval is unknown: (value, nan, nan).
    """
    logs = np.log(np.asarray(values, dtype=float))
    centre = float(logs.mean())
    if len(logs) < 2:
        return float(np.exp(centre)), float("nan"), float("nan")
    half = float(special.stdtrit(len(logs) - 1, 0.975) * logs.std(ddof=1) / np.sqrt(len(logs)))
    return float(np.exp(centre)), float(np.exp(centre - half)), float(np.exp(centre + half))


def wilson_interval(successes: int, trials: int) -> tuple[float, float]:
    """Return the 95 % Wilson score interval of a share."""
    interval = stats.binomtest(successes, trials).proportion_ci(0.95, method="wilson")
    return float(interval.low), float(interval.high)
