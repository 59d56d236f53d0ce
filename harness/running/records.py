"""Reads what a run's folder holds besides its tables, however it came to be: the journal and the machine's facts.

A folder may be a stranger's. Nothing is believed: sizes are limited before anything is read, and whatever the rest of
the program relies on is checked here, so that it ends in one line with the place, and never in a traceback.
"""

import json
import math
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO, NoReturn

from harness.plan.case import Case, whole_number
from harness.plan.errors import PlanError
from harness.plan.outcome import Outcome
from harness.plan.reading import open_regular, read_regular
from harness.plan.sweep import MAX_SEEDS
from harness.plan.targets import ConvergenceTargets
from harness.plan.text import printable, shown
from harness.running.header import FORMAT as FORMAT  # the version of all that is read here
from harness.running.header import (
    LARGEST_NUMBER,
    MAX_PARTS,
    Facts,
    check_environment,
    check_identity,
    checked_header,
    fact,
)
from harness.running.journal import FILE

MACHINE_FILE = "machine.json"

# What the largest plan writes (`plan.sweep`): 200 000 records of 4 kB and a million trainings of 160 bytes.
MAX_BYTES = 2**30
# A record with the convergence of 100 000 seeds has 16 MB and 800 000 values.
MAX_LINE_BYTES = 2**25
MAX_LINE_VALUES = 1_000_000
# A fact is a line of text at most.
MAX_MACHINE_BYTES = 2**16

# An update takes between a picosecond and thirty years: intervals and ratios of such numbers stay finite.
SHORTEST_NS, LONGEST_NS = 1e-3, 1e18
# Whole numbers up to here survive being a float.
LARGEST_COUNT = 2**53

# What a record says of its machine where those of a run are of several; else its header does.
PLACE = ("machine", "fingerprint", "node")

_MAX_CPUS = 2**16
_COUNTS = frozenset(
    {"threads", "blocks", "blocks_disturbed", "block_steps", "graphs", "graph_breaks", "recompiles", "attempts"}
    | {"members"}
)
_COUNTS |= {"bytes_per_step"}
_TEXTS = frozenset({"reason", "stop_rule", "stderr", "compile_cache", "core_work", "workload_digest"})


def read_journal(folder: Path) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Return header and entries of the run in a folder: attempts (`kind` is `attempt`) and finished records.

    A torn last line is left out, and so are the records that a later line says are lost (`kind` is `lost`): of all
    cases that are compared with the one it names. Keys that this version does not know are kept. Raises PlanError,
    naming file and line, when the folder holds no journal, one that is damaged, or one of another version of this
    program.
    """
    path = folder / FILE
    found = _Found()
    try:
        with open_regular(path, MAX_BYTES) as file:
            for number, line in enumerate(_lines(file), start=1):
                try:
                    found.add(parsed(line))
                except (PlanError, RecursionError) as error:
                    what = "is damaged" if found.header else "is damaged or of another version of this program"
                    raise PlanError(f"{printable(str(path))} {what}: line {number}: {said(error)}") from error
    except OSError as error:
        raise PlanError(f"{printable(str(folder))} is no results folder: {FILE} cannot be read") from error
    if not found.header:
        raise PlanError(f"{printable(str(path))} is damaged: it has no whole line")
    return found.header, found.entries


@dataclass
class _Found:
    """What was read of a journal so far."""

    header: dict[str, Any] = field(default_factory=dict)
    rounds: int = 0
    groups: dict[str, Case] = field(default_factory=dict)  # of each case, by its id
    lines: dict[int, dict[str, Any]] = field(default_factory=dict)
    read: int = 0
    finished: dict[Case, dict[tuple[str, int], int]] = field(default_factory=dict)  # where its records are in `lines`
    places: dict[Case, tuple[Any, ...]] = field(default_factory=dict)

    @property
    def entries(self) -> list[dict[str, Any]]:
        """What still counts of the lines after the first."""
        return list(self.lines.values())

    def add(self, entry: dict[str, Any]) -> None:
        """Check the next line and keep it; raises PlanError."""
        if not self.header:
            sweep = checked_header(entry)
            self.header, self.rounds = entry, sweep.all_rounds
            self.groups = {case.case_id: case.group for case in sweep.cases}
            return
        check_entry(entry, self.groups, self.rounds)
        self.read += 1
        group = self.groups[entry["case_id"]]
        if entry["kind"] == "lost":
            for line in self.finished.pop(group, {}).values():
                del self.lines[line]
            self.places.pop(group, None)
            return
        if entry["kind"] == "record":
            self._finish(group, entry)
        self.lines[self.read] = entry

    def _finish(self, group: Case, record: Mapping[str, Any]) -> None:
        key = (record["case_id"], record["round"])
        finished = self.finished.setdefault(group, {})
        if key in finished:
            raise PlanError(f"a second record of {key[0]} in round {key[1]}")
        finished[key] = self.read
        place = tuple(record.get(name) for name in PLACE)
        if record["outcome"] == Outcome.OK and self.places.setdefault(group, place) != place:
            raise PlanError(f"{key[0]} has a time of another machine than those it is compared with")


def check_entry(entry: Mapping[str, Any], case_ids: Collection[str], rounds: int) -> None:
    """Raise PlanError, in one line, unless this is an attempt, a record or a loss of one of these cases.

    case_ids, rounds: of the sweep. Keys that are not known are looked at only for the unit in their name.
    """
    if entry.get("kind") not in ("attempt", "record", "lost"):
        raise PlanError(f"kind {shown(entry.get('kind'))}: must be attempt, record or lost, after one run")
    case_id = entry.get("case_id")
    if not isinstance(case_id, str) or case_id not in case_ids:
        raise PlanError(f"case_id {shown(case_id)}: is none of the run's cases")
    if entry["kind"] != "lost":
        whole_number("round", entry.get("round"), 0, rounds - 1)
    if entry["kind"] == "record":
        _check_record(entry)


def read_machine(folder: Path) -> Facts:
    """Return the facts of the machine that a run's folder is of, by name; none where it has no `machine.json`.

    Raises PlanError when that is something else than a small flat object of texts, numbers and flags.
    """
    path = folder / MACHINE_FILE
    try:
        content = read_regular(path, MAX_MACHINE_BYTES)
    except FileNotFoundError:
        return {}
    except OSError as error:
        raise PlanError(f"{printable(str(path))}: cannot be read: {error.strerror}") from error
    try:
        return checked_facts(parsed(content))
    except (PlanError, RecursionError) as error:
        raise PlanError(f"{printable(str(path))} is damaged: {said(error)}") from error


def checked_facts(told: Mapping[str, Any]) -> Facts:
    """Return the facts of a machine as they may be shown; raises PlanError where one is none."""
    return {printable(name, 100): fact(name, value) for name, value in told.items()}


def said(error: Exception) -> str:
    """Return what is wrong with a line that `parsed` and its check refused."""
    return "it is nested too deeply" if isinstance(error, RecursionError) else str(error)


def _lines(file: BinaryIO) -> Iterator[bytes]:
    """Yield the whole lines of a journal, one by one; not the last one where it was being written at the end.

    That is one without an end, or with a NUL, which JSON never has: a block that was not on the disk yet. A line that
    is too long comes cut, and ends the file.
    """
    line = file.readline(MAX_LINE_BYTES + 1)
    while line.endswith(b"\n"):
        following = file.readline(MAX_LINE_BYTES + 1)
        if following or b"\0" not in line:
            yield line
        line = following
    if len(line) > MAX_LINE_BYTES:
        yield line


def parsed(line: bytes) -> dict[str, Any]:
    """Return a JSON object; raises PlanError (or RecursionError) for anything else, and for NaN and Infinity."""
    if len(line) > MAX_LINE_BYTES:
        raise PlanError(f"longer than {MAX_LINE_BYTES >> 20} MiB")
    # As many values as it may at most have: each takes up to 240 bytes of memory.
    if line.count(b",") + line.count(b"[") + line.count(b"{") > MAX_LINE_VALUES:
        raise PlanError(f"more than {MAX_LINE_VALUES} values")
    try:
        value = json.loads(line.decode("utf-8"), parse_constant=_no_number)
    except UnicodeDecodeError as error:
        raise PlanError("is no UTF-8 text") from error
    except json.JSONDecodeError as error:
        raise PlanError(f"is no JSON: {error.msg}, at character {error.pos + 1}") from error
    except PlanError:
        raise
    except ValueError as error:  # a number of more digits than Python reads
        raise PlanError(f"is no JSON: {error}") from error
    if not isinstance(value, dict):
        raise PlanError(f"{shown(value)}: must be an object")
    return value


def _no_number(constant: str) -> NoReturn:
    raise PlanError(f"{constant} is no number in JSON")


def _check_record(record: Mapping[str, Any]) -> None:
    outcome = record.get("outcome")
    if outcome not in list(Outcome):
        raise PlanError(f"outcome {shown(outcome)}: must be one of {', '.join(Outcome)}")
    if not isinstance(record.get("reason"), str):
        raise PlanError(f"reason {shown(record.get('reason'))}: must be a text")
    for name, value in record.items():
        _check_value(printable(name, 100), value)
    _check_parts(record)
    for name in PLACE:
        if name in record:
            check_identity(name, record[name])
    check_environment(record)
    for name in record.keys() & {"step_ns", "step_median_ns", "step_min_ns"}:
        if record[name] is not None:
            check_number(name, record[name], SHORTEST_NS, LONGEST_NS)
    if outcome == Outcome.OK and record.get("step_ns") is None:
        raise PlanError("outcome ok without step_ns")
    if (record.get("blocks_disturbed") or 0) > (record.get("blocks") or 0):
        raise PlanError(f"blocks_disturbed {record['blocks_disturbed']}: is more than blocks {record.get('blocks')}")
    if "convergence" in record:
        _check_convergence(record)
    _check_epochs(record.get("epochs", []))


def _check_value(name: str, value: object) -> None:
    """Raise PlanError unless a value of a record is what the unit in its name says, or null."""
    if value is None:
        return
    if name in _COUNTS or name.endswith("_bytes"):
        whole_number(name, value, 0, LARGEST_COUNT)
    elif name in _TEXTS:
        if not isinstance(value, str):
            raise PlanError(f"{name} {shown(value)}: must be a text")
    elif isinstance(value, list | dict):
        return
    elif name.endswith("_share"):
        check_number(name, value, 0, 1)
    elif name.endswith(("_ns", "_per_step", "_per_s")) or name == "seconds":
        check_number(name, value, 0, LONGEST_NS)
    elif not isinstance(value, str | bool):
        check_number(name, value)


def _check_parts(record: Mapping[str, Any]) -> None:
    """Raise PlanError unless what is put into cells part by part has such parts."""
    for name in ("disturbances", "phases_ns"):
        parts = record.get(name, {})
        if not isinstance(parts, dict) or len(parts) > MAX_PARTS:
            raise PlanError(f"{name} {shown(parts)}: must be an object of numbers")
        for part, value in parts.items():
            whole_number(f"{name} {shown(part)}", value, 0, LARGEST_COUNT)
    cpus = record.get("cpus", [])
    if not isinstance(cpus, list) or len(cpus) > _MAX_CPUS:
        raise PlanError(f"cpus {shown(cpus)}: must be a list of whole numbers")
    for cpu in cpus:
        whole_number("cpus", cpu, 0, _MAX_CPUS)


def check_number(name: str, value: object, low: float = -math.inf, high: float = math.inf) -> None:
    """Raise PlanError unless the value is a finite number within [low, high]."""
    if (
        isinstance(value, bool)
        or not isinstance(value, int | float)
        or not low <= value <= high
        or abs(value) > LARGEST_NUMBER
    ):
        within = "finite" if math.isinf(high) else f"from {low:g} to {high:g}"
        raise PlanError(f"{name} {shown(value)}: must be a number, {within}")


def _check_convergence(record: Mapping[str, Any]) -> None:
    ConvergenceTargets.from_json(record.get("convergence_targets"))
    rows = record["convergence"]
    if not isinstance(rows, list) or len(rows) > MAX_SEEDS:
        raise PlanError(f"convergence {shown(rows)}: must be a list of at most {MAX_SEEDS} seeds")
    seen: set[int] = set()
    for row in rows:
        if not isinstance(row, dict):
            raise PlanError(f"convergence: {shown(row)}: must be an object")
        try:
            _check_seed(row)
        except PlanError as error:
            raise PlanError(f"convergence of seed {shown(row.get('seed'))}: {error}") from error
        if row["seed"] in seen:
            raise PlanError(f"convergence: seed {row['seed']} is there twice")
        seen.add(row["seed"])


def _check_epochs(rows: object) -> None:
    if not isinstance(rows, list) or len(rows) > MAX_PARTS:
        raise PlanError(f"epochs {shown(rows)}: must be a list of at most {MAX_PARTS} epochs")
    before = 0
    for row in rows:
        if not isinstance(row, dict):
            raise PlanError(f"epochs: {shown(row)}: must be an object")
        before = whole_number("epochs: epoch", row.get("epoch"), before + 1, LARGEST_COUNT)
        whole_number("epochs: seeds", row.get("seeds"), 1, MAX_SEEDS)
        for name in ("loss_p05", "loss_p50", "loss_p95"):
            if row.get(name) is not None:
                check_number(f"epochs: {name}", row[name])
        for name in ("accuracy_p50", "converged_share"):
            check_number(f"epochs: {name}", row.get(name), 0, 1)


def _check_seed(row: Mapping[str, Any]) -> None:
    whole_number("seed", row.get("seed"), 0, MAX_SEEDS)
    for name in ("updates", "epochs_to_target"):
        if row.get(name) is not None:
            whole_number(name, row[name], 0, LARGEST_COUNT)
    for name in ("loss", "accuracy", "r2"):
        if name not in row:
            raise PlanError(f"has no {name}")
        if row[name] is not None:
            check_number(name, row[name], *((0, 1) if name == "accuracy" else ()))
    if not isinstance(row.get("converged"), bool):
        raise PlanError(f"converged {shown(row.get('converged'))}: must be true or false")
