"""How the measurement of a case can end."""

from enum import StrEnum


class Outcome(StrEnum):
    """Data with a reason, never a lost row. Only `ok` carries a time."""

    OK = "ok"
    UNSUPPORTED = "unsupported"
    WRONG_GRADIENT = "wrong_gradient"
    NOT_CONVERGED = "not_converged"
    REJECTED = "rejected"
    OUT_OF_MEMORY = "out_of_memory"
    TIMEOUT = "timeout"
    CRASHED = "crashed"
    INTERRUPTED = "interrupted"


class CaseEnded(Exception):  # noqa: N818 - not every early end is an error
    """Ends the measurement of a case early, with its outcome and a reason of one line."""

    def __init__(self, outcome: Outcome, reason: str) -> None:
        super().__init__(reason)
        self.outcome = outcome
        self.reason = reason
