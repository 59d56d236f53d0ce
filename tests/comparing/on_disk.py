"""Simulated runs as the program would have stored them, and what its command line says of two of them."""

import json
import math
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from harness.cli.common import Exit
from harness.comparing.compared import Status
from harness.comparing.noise import measure_noise
from harness.comparing.rule import Array
from harness.plan.case import Case
from harness.plan.sweep import Sweep
from harness.tables.build import build_tables
from harness.tables.files import read_table, write_tables
from harness.tables.noise_file import write_noise
from tests.comparing.simulated import Cell, Change, InTurn, slowed

STEP_NS, CORE_NS = 200_000.0, 5_000.0  # of every case: only ratios count
IDENTITY = {"commit": "ab" * 20, "dirty": False, "machine": "simulated", "fingerprint": "00aa11bb22cc"}


@dataclass(frozen=True)
class Said:
    """What `harness compare --format json` says, and its exit code; statuses by case."""

    code: int
    firm: bool
    paired: bool
    statuses: dict[str, str]


def disagreements(cell: Cell, change: Change, seed: int) -> list[str]:
    """Write one table, compare its sides by the command line, and return what it says otherwise than `judge` does."""
    base, new, more = cell.draw(np.random.default_rng(seed), 1)
    new = slowed(new, change)
    with TemporaryDirectory() as folder:
        machine = Path(folder) / IDENTITY["machine"]
        in_turn = isinstance(cell, InTurn)
        if cell.firm and more.size and not in_turn:
            _write_noise(machine, more[0])
        for number, stored in enumerate([] if cell.firm else more[0]):
            _write_run(machine / f"stored-{number}", stored)
        told = [_told(*more[0, side::2]) if in_turn else {} for side in range(2)]
        # A session is one only where both say so, and rounds are paired where they have the same numbers.
        session, first = "base-ab" if cell.firm else "", cell.rounds if cell.firm and not cell.paired else 0
        _write_run(machine / "base", base[0], told[0], session=session)
        _write_run(machine / "new", new[0], told[1], session=session, first_round=first)
        said = _compare(machine / "base", machine / "new")
    expected = cell.statuses(_as_read(base), _as_read(new), more if in_turn else _as_read(more))[0].tolist()
    found = list(said.statuses.values())
    differing = [f"{mine}, not {theirs}" for mine, theirs in zip(found, expected, strict=True) if mine != theirs]
    wrong = [f"{len(differing)} of {len(found)} statuses: {differing[0]}"] if differing else []
    if said.firm is not cell.firm or said.paired is not cell.paired:
        wrong.append(f"firm: {said.firm}, paired: {said.paired}")
    if not cell.firm and {Status.REGRESSED, Status.IMPROVED, Status.SAME} & set(found):
        wrong.append("a firm verdict from two sessions")
    if said.code != (Exit.MISSED if cell.slower in found else Exit.MET):
        wrong.append(f"exit code {said.code}")
    return wrong


def _cases(number: int) -> tuple[Case, ...]:
    return tuple(Case("line", "autograd", "cpu", "float32", 1 + each) for each in range(number))


def _as_read(logs: Array) -> Array:
    """Return the logs that a reader of the CSV gets: its cells have nine digits."""
    steps_ns = np.exp(logs) * STEP_NS
    return np.log(np.array([float(f"{step_ns:.9g}") for step_ns in steps_ns.flat]).reshape(steps_ns.shape))


def _told(work: Array, beside: Array) -> dict[tuple[int, int], dict[str, object]]:
    """Return what processes tell of their core, by case and round: logs of the work, and where a neighbour was."""
    quiet = {"blocks": 100, "blocks_disturbed": 0}
    spoilt = {"blocks": 100, "blocks_disturbed": 100, "disturbances": {"slow core": 100}}
    return {
        place: {"core_work": "simulated", "core_ns": CORE_NS * math.exp(log), **(spoilt if beside[place] else quiet)}
        for place, log in np.ndenumerate(work)
    }


def _write_run(
    folder: Path,
    logs: Array,
    told: Mapping[tuple[int, int], Mapping[str, object]] | None = None,
    *,
    session: str = "",
    first_round: int = 0,
) -> None:
    """Write the tables of a run, log step times `[cases, rounds]` over STEP_NS, into a new folder."""
    sweep = Sweep(_cases(len(logs)), rounds=logs.shape[1])
    header = {"run_id": folder.name, "session": session or folder.name, "sweep": sweep.to_json(), **IDENTITY}
    always = {"kind": "record", "outcome": "ok", "reason": "", "threads": 2, "stop_rule": "budget", "seconds": 5.0}
    records = [
        {
            **always,
            **(told or {}).get((place, number), {}),
            "case_id": case.case_id,
            "round": first_round + number,
            "step_ns": step_ns,
        }
        for place, (case, row) in enumerate(zip(sweep.cases, np.exp(logs) * STEP_NS, strict=True))
        for number, step_ns in enumerate(row.tolist())
    ]
    folder.mkdir(parents=True)
    write_tables(folder, build_tables(header, records))


def _write_noise(machine: Path, logs: Array) -> None:
    """Write the noise of a machine that was measured alone, log step times `[cases, rounds]` over STEP_NS."""
    with TemporaryDirectory() as folder:
        _write_run(Path(folder) / "run", logs)
        measurements = read_table(Path(folder) / "run", "measurements")
    machine.mkdir(parents=True, exist_ok=True)
    write_noise(machine, measure_noise(measurements, splits=1))


def _compare(base: Path, new: Path) -> Said:
    """Compare two stored runs by the command line, in a process of its own."""
    command = [sys.executable, "-m", "harness", "compare", str(base), str(new), "--format", "json"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode not in (Exit.MET, Exit.MISSED):
        raise RuntimeError(f"exit code {done.returncode} of compare: {done.stderr.strip()}")
    told = json.loads(done.stdout)
    return Said(
        done.returncode, told["firm"], told["paired"], {case["case_id"]: case["status"] for case in told["cases"]}
    )
