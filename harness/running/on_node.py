"""What runs on a node of a Ray cluster: it measures the cases of one group, one at a time, and sends each entry."""

import signal
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from harness.measuring.cpus import away_from_workers, place
from harness.plan.sweep import Sweep
from harness.running.executor import Measurer, Progress
from harness.running.session import launchers

# Ray interrupts a task by a flag that wakes nobody who sleeps.
_WAKE_S = 1.0


def measure_group(
    sweep: Sweep, progress: Progress, timeout_s: float | None, where: Mapping[str, Any]
) -> Iterator[dict[str, Any]]:
    """Yield the entries of the journal for what the sweep holds and `progress` lacks, each as soon as it is known.

    sweep: of cases that are compared with each other, and so stay on one machine. where: what each record says of this
    machine. KeyboardInterrupt, by which Ray cancels, ends the running case without a record and is raised on.
    """
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a cluster that was started in the background ignores it
    with (
        TemporaryDirectory(prefix="harness-cache-", ignore_cleanup_errors=True) as cache,
        away_from_workers() as allowed,
    ):
        launcher = launchers(sweep, Path(cache), timeout_s)
        measurer = Measurer(
            sweep,
            progress,
            lambda case: replace(launcher(case), wake_s=_WAKE_S),
            lambda case: place(case.device, case.threads, allowed, ranks=case.ranks),
        )
        for round_number, case in sweep.schedule():
            if not progress.needs(case, round_number):
                continue
            for entry in measurer.entries(round_number, case):
                progress.add(entry)
                yield {**entry, **where} if entry["kind"] == "record" else entry
