"""Starts the ranks of one case by torchrun, in the place of a worker: `python -m harness.measuring.torchrun`.

It reads the request from stdin as a worker does, and hands it to its ranks (`measuring.rank`), of which the first
speaks to the parent. Where a rank is lost, torchrun ends the others and starts none again – a restart in the middle is
another measurement –, and the last line of stderr says which it was.
"""

import os
import signal
import sys
import tempfile
from typing import TYPE_CHECKING

from harness.measuring.ending import die_with_parent
from harness.measuring.protocol import Request
from harness.measuring.rank import REQUEST

if TYPE_CHECKING:
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError, ProcessFailure

# How often torchrun looks at its ranks: a look costs one of them some 100 µs where the parent has no core of its own.
_LOOK_S = 0.5


def main() -> None:
    """Run all ranks of the case on stdin to their end; exit code 1 where one was lost."""
    die_with_parent()
    line = sys.stdin.readline()
    ranks = Request.from_line(line).case.ranks
    # With a number there, torchrun does not warn that it chose one; each rank sets its own threads.
    os.environ |= {REQUEST: line, "OMP_NUM_THREADS": "1"}

    from torch.distributed import run
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError

    with tempfile.TemporaryDirectory(prefix="harness-ranks-") as logs:
        options = (
            *("--standalone", "--local-addr", "127.0.0.1", "--nproc-per-node", str(ranks), "--max-restarts", "0"),
            *("--monitor-interval", str(_LOOK_S), "--log-dir", logs, "--no-python"),
        )
        rank = (sys.executable, "-P", "-m", "harness.measuring.rank")
        try:
            run.run(run.parse_args([*options, *rank]))  # type: ignore[no-untyped-call]
        except ChildFailedError as error:
            failed = _told(error)
        else:
            return
    sys.stderr.write(f"{failed}\n")
    sys.exit(1)


def _told(error: "ChildFailedError") -> str:
    """Say in one line which rank was lost and how.

    Those that torchrun then ended are among the failures, by SIGTERM; of the others, who was killed is why they failed.
    """

    def blame(item: "tuple[int, ProcessFailure]") -> tuple[bool, bool, int, int]:
        rank, failure = item
        return failure.exitcode == -signal.SIGTERM, failure.exitcode >= 0, int(failure.timestamp), rank

    rank, failure = min(error.failures.items(), key=blame)
    if failure.exitcode < 0:
        return f"rank {rank} was killed by {failure.signal_name()}"
    said = str(failure.message).splitlines()[0] if failure.error_file_data["message"] else "it said nothing"
    return f"rank {rank} exited with code {failure.exitcode}: {said}"


if __name__ == "__main__":
    main()
