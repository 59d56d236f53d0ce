"""Reads a batch of hostile files in a process of its own: `python batch.py READER RESULTS FIRST COUNT`.

Prints one JSON object: how many were accepted and refused, what went wrong, the slowest, the peak of memory.
"""

import csv
import io
import json
import math
import os
import random
import re
import resource
import sys
import tempfile
import time
import tomllib
import traceback
import warnings
from collections.abc import Callable, Collection
from dataclasses import replace
from pathlib import Path
from typing import Any

import mutate
import pandas as pd
from rich.console import Console

from harness.comparing.comparable import CASE_KEYS, check_comparable
from harness.comparing.compare import compare_runs
from harness.comparing.run import MEASURED, SUMMARISED, Run
from harness.measuring.machine import COMPARABLE
from harness.plan.errors import NotComparable, PlanError
from harness.plan.sweep import Axes, Sweep, plan_sweep
from harness.reporting.comparison import annotations, as_json, as_markdown, show_comparison
from harness.reporting.terminal import show_bonus, show_summary
from harness.running.journal import FILE
from harness.running.records import MACHINE_FILE, read_journal, read_machine
from harness.tables.build import build_tables
from harness.tables.cells import as_written
from harness.tables.columns import TABLES
from harness.tables.files import _KEYS, read_table, write_tables

# What the broken files are made of.
STORED_RUN = Path("results/amd-epyc-2c/20261124T114830Z-9d137a38a0")
MEMORY = 1536 * 2**20  # of addresses, most of which libraries only reserve; resident memory is measured
EVERY_KEY = (*COMPARABLE, *CASE_KEYS)
STANDARD = Path(sys.modules["harness"].__file__ or "").parent / "plan/standard.toml"


class Files:
    """The good files, and a folder for their broken variants."""

    def __init__(self, results: Path, folder: Path) -> None:
        self.folder = folder
        lines = [json.loads(line) for line in (results / FILE).read_text("utf-8").splitlines()]
        self.real = lines
        self.small = _small(lines)
        self.document = tomllib.loads(STANDARD.read_text("utf-8"))
        self.facts = json.loads((results / MACHINE_FILE).read_text("utf-8")) | {"gpu": "NVIDIA H200", "gpu_mig": False}
        good = folder / "good"
        good.mkdir()
        write_tables(good, build_tables(self.small[0], self.small[1:]))
        self.tables = {name: _cells(good / f"{name}.csv") for name in ("summary", "measurements")}
        self.good = {name: read_table(good, name) for name in ("summary", "measurements")}

    def put(self, name: str, data: bytes) -> Path:
        """Write a file and return the folder that it is in."""
        (self.folder / name).write_bytes(data)
        return self.folder


def _small(lines: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return a small run made of a real one: three cases, one of which crashes."""
    header = json.loads(json.dumps(lines[0]))
    header |= {"session": "monday", "environment": {"cpu_model": "AMD EPYC", "cpus": 2, "torch": "2.13.0+cpu"}}
    cases = header["sweep"]["cases"][4:7]
    header["sweep"] |= {"cases": cases, "rounds": 2, "seeds": 4}
    ids = [
        f"{case['workload']}/{case['engine']}/{case['device']}/{case['dtype']}/b{case['batch_size']}" for case in cases
    ]
    small = [header]
    for record in lines[1:]:
        if record["kind"] != "record" or record["case_id"] not in ids or record["round"] > 1:
            continue
        record = json.loads(json.dumps(record))
        record["blocks_ns"], record["counted"] = record["blocks_ns"][:5], record["counted"][:5]
        if "convergence" in record:
            record["convergence"] = record["convergence"][:4]
        if record["case_id"] == ids[2]:
            record |= {"outcome": "crashed", "reason": "ValueError: shapes differ (own.py:7)", "stderr": "Traceback\n"}
            record.pop("step_ns")
        small.append({"kind": "attempt", "case_id": record["case_id"], "round": record["round"]})
        small.append(record)
    return small


def _cells(path: Path) -> list[list[str]]:
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.reader(file))


# One function for each reader: makes file number `rng`, reads it, uses what it read, and checks the way back.


def journal(files: Files, rng: random.Random) -> None:
    lines = files.real if rng.random() < 0.01 else files.small
    folder = files.put(FILE, mutate.journal(lines, rng))
    header, entries = read_journal(folder)
    tables = build_tables(header, entries)
    sweep = Sweep.from_json(header["sweep"])
    assert Sweep.from_json(json.loads(json.dumps(sweep.to_json(), allow_nan=False))) == sweep
    write_tables(folder, tables)
    for name in ("measurements", "convergence", "summary"):
        stored = getattr(tables, name)
        same(read_table(folder, name), stored.astype(dict.fromkeys(stored.select_dtypes("Int64"), float)))
        no_formula(folder / f"{name}.csv")
    shown(lambda console: show_summary(console, read_table(folder, "summary")))
    files.put(FILE, "".join(json.dumps(entry) + "\n" for entry in (header, *entries)).encode())
    assert read_journal(folder) == (header, entries)


def summary(files: Files, rng: random.Random) -> None:
    folder = files.put("summary.csv", mutate.table(files.tables["summary"], rng))
    table = read_both_ways(folder, "summary", SUMMARISED)
    good = files.good["measurements"]
    judged(Run("good", good, files.good["summary"]), Run("hostile", good.assign(run_id="hostile"), table))
    shown(lambda console: (show_summary(console, table), show_bonus(console, table)))
    back_again(files, table, "summary")


def measurements(files: Files, rng: random.Random) -> None:
    folder = files.put("measurements.csv", mutate.table(files.tables["measurements"], rng))
    table = read_both_ways(folder, "measurements", MEASURED)
    back_again(files, table, "measurements")
    good = Run("good", files.good["measurements"].assign(run_id="good"), files.good["summary"])
    for session in ("one", ""):
        hostile = Run("hostile", read_table(folder, "measurements", MEASURED).assign(session=session))
        judged(replace(good, measurements=good.measurements.assign(session=session)), hostile)


def sweep(files: Files, rng: random.Random) -> None:
    folder = files.put("sweep.toml", mutate.sweep(files.document, rng))
    planned = plan_sweep(folder / "sweep.toml", Axes())
    assert planned.cases
    assert Sweep.from_json(json.loads(json.dumps(planned.to_json(), allow_nan=False))) == planned
    assert all(case.case_id.isprintable() and ".." not in case.case_id for case in planned.cases)


def machine(files: Files, rng: random.Random) -> None:
    folder = files.put(MACHINE_FILE, mutate.machine(files.facts, rng))
    facts = read_machine(folder)
    good = files.good["measurements"].assign(environment="")
    base = Run("base", good, facts=facts)
    new = Run("new", good.assign(run_id="new", fingerprint="ffff", machine="another"), facts=files.facts)
    said = refusal(lambda: check_comparable(base, new))
    theirs, ours = ({key: str(each[key]) for key in COMPARABLE if key in each} for each in (facts, files.facts))
    changed = [key for key in COMPARABLE if theirs and theirs.get(key) != ours.get(key)]
    assert all(f"{key}: " in said for key in changed), (changed, said)
    files.put(MACHINE_FILE, json.dumps(facts, allow_nan=False).encode())
    assert read_machine(folder) == facts


READERS: dict[str, Callable[[Files, random.Random], None]] = {
    each.__name__: each for each in (journal, summary, measurements, sweep, machine)
}


# What must hold


def read_both_ways(folder: Path, name: str, columns: Collection[str]) -> pd.DataFrame:
    """Return the whole table; asked for some columns alone, the reader says the same, but for the columns left out."""
    part, whole = (attempt(folder, name, asked) for asked in (columns, None))
    if isinstance(whole, PlanError):
        # Whole, it may have stumbled over a column that was not asked for.
        of_another = re.search(r"(?:row \d+: |has no column )(\w+)", str(whole))
        known = {column.name for column in TABLES[name]} - {*columns, "schema", *_KEYS[name]}
        ours = (of_another and of_another[1] in known) or "larger than field limit" in str(whole)
        assert ours or str(part) == str(whole), (part, whole)
        raise whole
    assert not isinstance(part, PlanError), part
    pd.testing.assert_frame_equal(part, whole[list(part.columns)])
    return whole


def attempt(folder: Path, name: str, columns: Collection[str] | None) -> pd.DataFrame | PlanError:
    try:
        return read_table(folder, name, columns)
    except PlanError as refused:
        return refused


def judged(one: Run, other: Run) -> None:
    """Compare two runs both ways, and draw what comes out in every form."""
    for base, new in ((one, other), (other, one)):
        try:
            compared = compare_runs(base, new, vary=EVERY_KEY)
        except NotComparable as refused:
            one_line(refused)
            continue
        cases = [case.case_id for case in compared.cases]
        there = [run.summary if run.summary is not None else run.measurements for run in (base, new)]
        assert len(cases) == len(set(cases))
        assert set(cases) >= {*there[0]["case_id"], *there[1]["case_id"]}
        json.dumps(as_json(compared), allow_nan=False)
        shown(lambda console, compared=compared: show_comparison(console, compared))
        for text in (as_markdown(compared), *annotations(compared)):
            assert all(line.isprintable() for line in text.split("\n")), text


def back_again(files: Files, table: pd.DataFrame, name: str) -> None:
    path = files.folder / "again.csv"
    as_written(table, TABLES[name]).to_csv(path, index=False, float_format="%.9g")
    same(read_table(path, name), table)
    no_formula(path)


def same(one: pd.DataFrame, other: pd.DataFrame) -> None:
    pd.testing.assert_frame_equal(one, other, check_dtype=False, check_exact=False, rtol=1e-8)


def no_formula(path: Path) -> None:
    """Assert that no cell that is no number begins as formulas do, and none has a control character."""
    for row in _cells(path)[1:]:
        for cell in row:
            assert not cell.startswith(("=", "+", "@", "\t", "\r")), cell
            assert not cell.startswith("-") or math.isfinite(float(cell)) or cell == "-inf", cell
            assert cell.isprintable(), cell


def shown(show: Callable[[Console], Any]) -> None:
    """Assert that nothing but printable characters reaches a terminal, also one that understands escapes."""
    text = io.StringIO()
    show(Console(file=text, width=180, force_terminal=False, color_system=None))
    for line in text.getvalue().split("\n"):
        assert line.isprintable(), line


def refusal(compare: Callable[[], None]) -> str:
    try:
        compare()
    except NotComparable as refused:
        one_line(refused)
        return str(refused)
    raise AssertionError("they were comparable")


def one_line(refused: Exception) -> None:
    assert str(refused).isprintable(), str(refused)
    assert 0 < len(str(refused)) < 1500, len(str(refused))


def run(reader: str, results: Path, first: int, count: int) -> dict[str, Any]:
    """Read `count` files from seed `first` on."""
    found: dict[str, Any] = {"accepted": 0, "refused": 0, "slowest_s": 0.0, "faults": [], "said": {}}
    with tempfile.TemporaryDirectory() as folder:
        files = Files(results, Path(folder))
        for seed in range(first, first + count):
            started = time.process_time()
            try:
                READERS[reader](files, random.Random(f"{reader}/{seed}"))
                found["accepted"] += 1
            except (PlanError, NotComparable) as refused:
                found["refused"] += 1
                one_line(refused)
            except BaseException:  # noqa: BLE001 - this is what is looked for
                found["faults"].append(f"{reader} seed {seed}:\n{traceback.format_exc()[-3000:]}")
            taken = time.process_time() - started
            if taken > 2:
                found["faults"].append(f"{reader} seed {seed}: took {taken:.1f} s")
            found["slowest_s"] = max(found["slowest_s"], taken)
    return {**found, "peak_mb": peak_mb()}


def peak_mb() -> float:
    """Most resident memory since this program began; getrusage counts what it was forked from as well."""
    try:
        lines = Path("/proc/self/status").read_text("utf-8").splitlines()
    except OSError:  # not Linux
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) / 2**10


if __name__ == "__main__":
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    warnings.simplefilter("error")
    os.fsync = lambda _descriptor: None  # ten thousand times a disk's patience
    print(json.dumps(run(sys.argv[1], Path(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4]))))  # noqa: T201
