"""What `run` says of what it has measured: to people, or with --json to machines; and its exit code."""

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from harness.cli.common import Exit
from harness.plan.sweep import Sweep

if TYPE_CHECKING:
    from collections.abc import Sequence

    import pandas as pd

    from harness.comparing.compared import Compared
    from harness.reporting.events import Events
    from harness.tables.profile import Part


@dataclass(frozen=True)
class Finished:
    """A run that has ended. compared: with a baseline, if there is one; parts: of its wall time, where asked for."""

    folder: Path
    sweep: Sweep
    summary: "pd.DataFrame"
    interrupted: bool = False
    compared: "Compared | None" = None
    parts: "Sequence[Part] | None" = None

    def exit_code(self, *, strict: bool) -> Exit:
        """Return the exit code, by its own targets and by the baseline."""
        from harness.cli.compare import exit_code

        if self.interrupted:
            return Exit.INTERRUPTED
        code = verdict(self.summary, self.sweep, strict=strict)
        if self.compared is not None and code is not Exit.MISSED:
            code = exit_code(self.compared, strict=strict) or code
        return code


def show_measured(found: Finished, *, quiet: bool) -> None:
    """Print the table of a run, and where its time went; quiet: only what is wrong."""
    from harness.reporting.profile import show_profile
    from harness.reporting.terminal import Terminal, show_bonus, show_summary

    console = Terminal()
    show_summary(console, found.summary, only_wrong=quiet)
    if not quiet:
        show_bonus(console, found.summary)
        console.print(f"kept in {found.folder}", soft_wrap=True, highlight=False, markup=False)
    if found.parts is not None:
        show_profile(console, found.parts)


def events_to_stdout() -> "Events":
    """Return what writes the events of a run."""
    from harness.reporting.events import Events

    return Events(sys.stdout)


def write_finished(events: "Events", found: Finished, code: Exit) -> None:
    """Write the same as an event, and what a comparison adds to GitHub's summary of a job."""
    from harness.reporting.comparison import as_json, step_summary

    compared = None
    if found.compared is not None:
        compared = as_json(found.compared)
        step_summary(found.compared)
    seconds = None if found.parts is None else {part.name: part.seconds for part in found.parts}
    events.verdict(found.summary, found.folder, code, compared=compared, wall_seconds=seconds)


def verdict(summary: "pd.DataFrame", sweep: Sweep, *, strict: bool) -> Exit:
    """Return the exit code of a finished run by its own targets."""
    from harness.plan.catalogue import label

    named = {label(engine) for engine in sweep.named_engines}
    excused = (summary["outcome"] == "unsupported") & ~summary["engine"].isin(named)
    failed = ~(summary["outcome"] == "ok") & ~excused
    nothing = not (summary["outcome"] == "ok").any()
    statuses = set(summary["targets_met"])
    if failed.any() or nothing or "no" in statuses:
        return Exit.MISSED
    if strict and "undecided" in statuses:
        return Exit.UNDECIDED
    return Exit.MET
