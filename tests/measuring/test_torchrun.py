import signal
from types import SimpleNamespace
from typing import Any

import pytest

from harness.measuring.torchrun import _told

KILLED, ENDED = -signal.SIGKILL, -signal.SIGTERM


def failed(exitcode: int, message: str = "", timestamp: int = 100) -> Any:
    """Return a failure as torchrun keeps it: with a message of its own where the rank left none."""
    return SimpleNamespace(
        exitcode=exitcode,
        timestamp=timestamp,
        message=message or "To enable traceback see: …",
        error_file_data={"message": message},
        signal_name=lambda: signal.Signals(-exitcode).name,
    )


@pytest.mark.parametrize(
    ("failures", "told"),
    [
        ({1: failed(KILLED)}, "rank 1 was killed by SIGKILL"),
        ({0: failed(ENDED), 1: failed(KILLED)}, "rank 1 was killed by SIGKILL"),
        ({0: failed(ENDED), 1: failed(7)}, "rank 1 exited with code 7: it said nothing"),
        (
            {0: failed(1, "crashed: first\nmore", 99), 1: failed(1, "crashed: later")},
            "rank 0 exited with code 1: crashed: first",
        ),
        (
            {0: failed(1, "crashed: later"), 1: failed(1, "crashed: first", 99)},
            "rank 1 exited with code 1: crashed: first",
        ),
        ({0: failed(1, "crashed: lost the other", 99), 2: failed(KILLED)}, "rank 2 was killed by SIGKILL"),
        ({0: failed(ENDED), 1: failed(ENDED)}, "rank 0 was killed by SIGTERM"),
    ],
)
def test_the_rank_that_is_why_the_others_ended_is_named(failures: Any, told: str) -> None:
    assert _told(SimpleNamespace(failures=failures)) == told
