"""Runs of the program under faults, and what must hold of their folders whatever happened."""

import csv
import errno
import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass, fields
from pathlib import Path

from harness.running.journal import FILE
from harness.tables.columns import TABLES as SCHEMAS
from harness.tables.files import Tables

ROOT = Path(__file__).parents[2]
PLAN = ("--workload", "line", "--engine", "manual", "--engine", "autograd", "--batch-size", "100")
NEW = ("run", *PLAN, "--rounds", "2", "--seeds", "2", "--out", "out")
CASES = [f"line/{engine}/cpu/float32/b100" for engine in ("manual", "autograd")]
ROWS = [(case, number) for case in sorted(CASES) for number in (0, 1)]
TABLES = [part.name for part in fields(Tables)]
SIGNALS = (signal.SIGINT, signal.SIGTERM)
TORN = "harness: the last record was being written when the run ended; it is measured again"


@dataclass(frozen=True)
class Fault:
    """The disk's moment `at` fails, and so many more after it (-1: all); with `half`, a write first takes half."""

    at: int
    more: int
    error: int
    half: bool = False

    @classmethod
    def full(cls, at: int) -> "Fault":
        return cls(at, -1, errno.ENOSPC)

    @classmethod
    def full_in_the_middle(cls, at: int) -> "Fault":
        return cls(at, -1, errno.ENOSPC, half=True)

    @classmethod
    def broken_once(cls, at: int) -> "Fault":
        return cls(at, 0, errno.EIO)


NOTHING = Fault(0, 0, 0)


@dataclass(frozen=True)
class Ended:
    """How a run ended: acknowledged holds the lines whose `append` had returned, marks what the disk said."""

    code: int
    signalled: bool
    life_s: float
    acknowledged: str
    marks: str
    out: str
    err: str

    @property
    def inside_a_write(self) -> bool:
        return self.marks.count("(") > self.marks.count(")")

    @property
    def complaints(self) -> list[str]:
        return [line for line in self.err.splitlines() if line.startswith("harness: ") and line != TORN]


class Program:
    """`program.py`: one run at a time."""

    def __init__(self, disk: Path) -> None:
        environment = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
        environment |= {"LD_PRELOAD": str(disk), "PYTHONPATH": str(ROOT), "HARNESS_REVISION": "c" * 40}
        environment |= {"OPENBLAS_NUM_THREADS": "1", "GIT_CEILING_DIRECTORIES": "/", "NO_COLOR": "1"}
        command = (sys.executable, "-P", str(Path(__file__).with_name("program.py")))
        self._process = subprocess.Popen(
            command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        if self._process.stdout.readline() != "ready\n":
            self.close()
            raise RuntimeError("the program does not start: see what it says on stderr")

    def run(
        self,
        place: "Place",
        *arguments: object,
        fault: Fault = NOTHING,
        slow_us: int = 0,
        number: int = 0,
        after_s: float = 0.0,
        worker_s: float = 0.0,
        swallows: bool = False,
    ) -> Ended:
        """Run the command line in a place; `number` is a signal for it `after_s`, SIGKILL for its whole group.

        swallows: an interrupt comes while the tables are written after the first round, and its exception is lost.
        """
        request = {
            "arguments": [str(argument) for argument in arguments],
            "cwd": str(place.folder),
            "says": str(place.folder / "says"),
            "workers": str(place.folder / "workers"),
            "disk": str(place.folder / "out"),
            "fails": [fault.at, fault.more, fault.error, int(fault.half)],
            "slow_us": slow_us,
            "signal": int(number),
            "after_s": after_s,
            "worker_s": worker_s,
            "swallows": swallows,
        }
        print(json.dumps(request), file=self._process.stdin, flush=True)
        answer = json.loads(self._process.stdout.readline())
        out, err = ((place.folder / f"says.{name}").read_text() for name in ("out", "err"))
        return Ended(**answer, out=out, err=err)

    def close(self) -> None:
        self._process.stdin.close()
        self._process.wait(30)
        self._process.stdout.close()


class Place:
    """A folder of its own to run the program in, outside any repository."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        (folder / "workers").mkdir(parents=True)

    @property
    def runs(self) -> list[Path]:
        return list((self.folder / "out").glob("*/*"))

    @property
    def run(self) -> Path:
        [run] = self.runs
        return run

    @property
    def begun(self) -> bool:
        """Whether there is a run to go on with: its journal has its first line."""
        return any((run / FILE).exists() and b"\n" in (run / FILE).read_bytes() for run in self.runs)

    def orphans(self, within_s: float = 5.0) -> list[int]:
        """The workers that live on."""
        deadline = time.monotonic() + within_s
        while True:
            alive = [int(path.name) for path in (self.folder / "workers").iterdir() if running(int(path.name))]
            if not alive or time.monotonic() > deadline:
                return alive
            time.sleep(0.01)


def running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except (FileNotFoundError, ProcessLookupError):
        return False


def records(journal: bytes) -> list[tuple[str, int]]:
    """Case and round of each record in the whole lines of a journal."""
    entries = [json.loads(line) for line in journal[: journal.rfind(b"\n") + 1].splitlines()]
    return [(entry["case_id"], entry["round"]) for entry in entries if entry["kind"] == "record"]


def lost(place: Place, ended: Ended) -> list[str]:
    """The acknowledged lines that are not byte for byte at their place in the journal."""
    whole = (place.run / FILE).read_bytes() if place.begun else b""
    acknowledged = ended.acknowledged.encode().splitlines(keepends=True)
    kept = whole.splitlines(keepends=True)
    return [line.decode() for index, line in enumerate(acknowledged) if kept[index : index + 1] != [line]]


def torn_tables(place: Place) -> list[str]:
    """What is wrong with the tables that are there: each must be whole, and of one moment of the run."""
    return [f"{run.name}/{name}: {wrong}" for run in place.runs for name in TABLES if (wrong := _torn(run, name))]


def _torn(run: Path, name: str) -> str:
    path = run / f"{name}.csv"
    if not path.exists():
        return ""
    text = path.read_bytes().decode()
    header, *rows = list(csv.reader(text.splitlines(), strict=True)) or [[]]
    columns = [column.name for column in SCHEMAS[name]]
    if header != columns or not text.endswith("\n"):
        return "is cut"
    if any(len(row) != len(columns) for row in rows):
        return "has a row that is cut"
    names = [dict(zip(columns, row, strict=True)) for row in rows]
    if name == "measurements":
        wanted = set(records((run / FILE).read_bytes()))
        found = [(row["case_id"], int(row["round"])) for row in names]
        if len(set(found)) < len(found) or not set(found) <= wanted:
            return f"has rows that the journal has not: {found}"
    if name == "summary" and [row["case_id"] for row in names] != CASES:
        return "lacks a case"
    return ""


def rows(run: Path, name: str) -> list[tuple[str, int]]:
    """Case and round of each row of a table; of each case and seed for `convergence`."""
    with (run / f"{name}.csv").open(newline="") as file:
        return [
            (row["case_id"], int(row["seed" if name == "convergence" else "round"])) for row in csv.DictReader(file)
        ]


def assert_gone_on_with(program: Program, place: Place) -> Ended:
    """Go on with the run to its end: then it has each row of the plan once, and what it had before it still has."""
    before = (place.run / FILE).read_bytes()
    kept = before[: before.rfind(b"\n") + 1]
    ended = program.run(place, "run", "--resume", place.run)
    assert ended.code == 0, ended.err
    assert (TORN in ended.err.splitlines()) == (kept != before)
    journal = (place.run / FILE).read_bytes()
    assert journal.startswith(kept)
    assert journal.endswith(b"\n")
    assert sorted(records(journal)) == sorted(ROWS)
    assert sorted(rows(place.run, "measurements")) == sorted(ROWS)
    assert sorted(rows(place.run, "convergence")) == sorted((case, seed) for case in CASES for seed in (0, 1))
    assert torn_tables(place) == []
    names = {"journal.jsonl", "machine.json", *(f"{name}.csv" for name in TABLES)}
    assert {path.name for path in place.run.iterdir()} == names
    return ended
