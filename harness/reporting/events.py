"""A run for machines: one line of JSON for each event, when it happens. docs/architecture.md says what is in them."""

import json
import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from harness.plan.case import Case
from harness.plan.estimate import sweep_seconds
from harness.plan.sweep import Sweep
from harness.plan.text import printable

if TYPE_CHECKING:
    import pandas as pd

SCHEMA = 1


class Events:
    """Watches a run and writes what it hears to a stream; whoever stops reading does not end the run.

    stream: None where stdout is closed, as Python has it.
    """

    def __init__(self, stream: IO[str] | None) -> None:
        self._stream = stream
        self._running: dict[str, Any] = {}

    def begin(self, sweep: Sweep, folder: Path) -> None:
        """Write what will be measured, and where it is kept."""
        self.write("begin", schema=SCHEMA, folder=str(folder), **_size(sweep))

    def case_started(self, round_number: int, case: Case) -> None:
        """Write that a process starts; the same once more where it is begun again."""
        self._running = {"case_id": case.case_id, "round": round_number}
        self.write("case_started", **self._running)

    def phase_started(self, phase: str) -> None:
        """Write that the process that began last is in a phase; nothing more until that is over."""
        self.write("phase_started", **self._running, phase=phase)

    def case_finished(self, round_number: int, case: Case, record: Mapping[str, Any]) -> None:
        """Write how a process ended."""
        told = {name: record.get(name) for name in ("outcome", "reason", "step_ns")}
        blocks, disturbed = record.get("blocks"), record.get("blocks_disturbed")
        share = disturbed / blocks if blocks and disturbed is not None else None
        told |= {"disturbed_share": share, "seconds": record.get("seconds")}
        self.write("case_finished", case_id=case.case_id, round=round_number, **told)

    def case_skipped(self, round_number: int, case: Case) -> None:
        """Write that a process is not needed."""
        self.write("case_skipped", case_id=case.case_id, round=round_number)

    def measured_again(self, count: int) -> None:
        """Write that what so many processes had found is lost."""
        self.write("measured_again", processes=count)

    def verdict(
        self, summary: "pd.DataFrame | None", folder: Path | None, exit_code: int, **more: Mapping[str, Any] | None
    ) -> None:
        """Write how the run ended: its summary row by row, every target, and what else there is to tell."""
        rows: Sequence[Mapping[Any, Any]] = () if summary is None else _rows(summary)
        where = None if folder is None else str(folder)
        self.write("verdict", exit_code=exit_code, folder=where, targets=_targets(rows), rows=rows, **more)

    def write(self, event: str, **told: Any) -> None:
        """Write one event; raises OSError where it cannot be kept for another reason than that nobody reads it."""
        if self._stream is None:
            return
        line = json.dumps(_plain({"event": event, **told}), allow_nan=False)
        try:
            self._stream.write(line + "\n")
            self._stream.flush()
        except OSError as error:
            null = os.open(os.devnull, os.O_WRONLY)  # what is left in the stream must not fail once more at the end
            os.dup2(null, self._stream.fileno())
            os.close(null)
            if not isinstance(error, BrokenPipeError):
                raise


def plan_of(sweep: Sweep) -> dict[str, Any]:
    """Return what would be measured, as one object."""
    cases = [{"case_id": case.case_id, **case.to_json()} for case in sweep.cases]
    plan = {"event": "plan", "schema": SCHEMA, **_size(sweep), "seeds": sweep.seeds, "case_list": cases}
    return {name: _plain(value) for name, value in plan.items()}


def _size(sweep: Sweep) -> dict[str, Any]:
    processes = len(sweep.cases) * sweep.rounds
    expected = round(sweep_seconds(sweep), 1)
    return {"cases": len(sweep.cases), "rounds": sweep.rounds, "processes": processes, "expected_seconds": expected}


def _rows(summary: "pd.DataFrame") -> list[Mapping[Any, Any]]:
    return list(summary.astype(object).where(summary.notna(), None).to_dict("records"))


def _targets(rows: Sequence[Mapping[Any, Any]]) -> list[dict[str, str]]:
    """Return each target of each case with its status: met, missed or undecided."""
    found = []
    for row in rows:
        for target in filter(None, row["targets"].split("; ")):
            status, _, text = target.partition(": ")
            found.append({"case_id": row["case_id"], "status": status, "target": text})
    return found


def _plain(value: Any) -> Any:
    """Return a value that is the same JSON for everybody: no NaN or infinity, no text that is not UTF-8."""
    if isinstance(value, Mapping):
        return {str(name): _plain(each) for name, each in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(each) for each in value]
    if isinstance(value, str):
        return printable(value)
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
