"""How a worker's case ends: whatever happens to it becomes a record. Never imports torch where it is not there."""

import ctypes
import signal
import sys
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from harness.plan.catalogue import label
from harness.plan.outcome import CaseEnded, Outcome


@dataclass
class Record:
    """What is learnt about one case in one round; the journal keeps it as JSON. Times are in nanoseconds."""

    outcome: Outcome = Outcome.OK
    reason: str = ""
    facts: dict[str, Any] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """Return the record as one flat JSON object."""
        return {"outcome": self.outcome, "reason": self.reason, **self.facts}


def run_to_its_end(run: Callable[[], None], record: Record) -> bool:
    """Run a case that fills a record; however it ends, the record says so.

    Returns whether it ended as cases do: False for an exception that is no CaseEnded.
    """
    started, foreseen = time.time(), True
    try:
        run()
    except CaseEnded as ended:
        record.outcome, record.reason = ended.outcome, ended.reason
    except Exception as error:  # noqa: BLE001 - a user's engine may raise anything; it becomes a row
        traceback.print_exc()
        record.outcome, record.reason = _outcome_of(error), _one_line(error)
        foreseen = False
    if record.outcome is not Outcome.OK:
        # A fast wrong answer never gets a number.
        for name in _TIMES:
            record.facts.pop(name, None)
    record.facts.setdefault("peak_rss_bytes", _peak_rss_bytes())
    record.facts["started_unix_s"] = started
    return foreseen


def die_with_parent() -> None:
    """Ask Linux to end this process when the one that started it is killed."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG


_TIMES = (
    *("step_ns", "step_median_ns", "step_min_ns", "latency_ns", "device_ns", "kernel_ns", "energy_per_step_j"),
    *("blocks_ns", "counted", "timed_ns"),
)


def _outcome_of(error: Exception) -> Outcome:
    try:
        from harness.measuring.probes import out_of_memory
    except ImportError:  # torch is not there
        return Outcome.CRASHED
    return Outcome.OUT_OF_MEMORY if out_of_memory(error) else Outcome.CRASHED


def _one_line(error: Exception) -> str:
    frames = traceback.extract_tb(error.__traceback__)
    place = f" ({label(frames[-1].filename)}:{frames[-1].lineno})" if frames else ""
    text = str(error).strip().splitlines()
    return f"{type(error).__name__}{f': {text[0]}' if text else ''}{place}"


def _peak_rss_bytes() -> int | None:
    try:
        from harness.measuring.probes import peak_rss_bytes
    except ImportError:
        return None
    return peak_rss_bytes()
