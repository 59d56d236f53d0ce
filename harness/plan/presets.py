"""How thorough a run is: how many processes each case gets, and how long each of them times."""

from collections.abc import Mapping
from dataclasses import dataclass

# Of a case, a side: how often fewer are wrong was never counted, and they see nothing of 5 % (docs/error-rates.md).
LEAST_ROUNDS = 5


@dataclass(frozen=True)
class Sampling:
    """How long one process times.

    relative_width: until the 95 % interval of its step time is narrower than this share. budget_ns: or so long.
    """

    relative_width: float = 0.005
    budget_ns: int = 1_500_000_000


QUICK = Sampling()


@dataclass(frozen=True)
class Preset:
    """rounds: passes over all cases, each case in a fresh process."""

    rounds: int
    sampling: Sampling = QUICK


# A process costs one to four seconds besides its timing. More rounds narrow the interval of a case, longer timing that
# of a process; the thorough ones use both, so that most of the time they take is measuring.
PRESETS: Mapping[str, Preset] = {
    "quick": Preset(rounds=3),
    "standard": Preset(rounds=5, sampling=Sampling(relative_width=0.001, budget_ns=2_000_000_000)),
    "rigorous": Preset(rounds=12, sampling=Sampling(relative_width=0.0005, budget_ns=8_000_000_000)),
}
