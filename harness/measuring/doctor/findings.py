"""What was found on the machine, and how bad it is."""

from dataclasses import dataclass
from enum import StrEnum


class Severity(StrEnum):
    """What a finding means for a measurement."""

    OK = "ok"
    WARNING = "warning"
    WORTHLESS = "worthless"


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at. found: the fact, in one line; advice: what to do, empty where it is ok."""

    what: str
    severity: Severity
    found: str
    advice: str = ""


def ok(what: str, found: str) -> Finding:
    """Return a finding that needs no advice."""
    return Finding(what, Severity.OK, found)


def warning(what: str, found: str, advice: str) -> Finding:
    """Return a finding that makes times worse or less certain."""
    return Finding(what, Severity.WARNING, found, advice)


def worthless(what: str, found: str, advice: str) -> Finding:
    """Return a finding that leaves nothing to measure, or nothing that means something."""
    return Finding(what, Severity.WORTHLESS, found, advice)


def gib(size: float) -> str:
    """Return a size in bytes as a finding tells it."""
    return f"{size / 2**30:.1f} GiB"
