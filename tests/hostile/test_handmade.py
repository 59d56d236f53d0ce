"""Files made to exhaust whoever reads them, and things that are no files: refused at once, in little memory."""

import json
import os
import random
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
# Of resident memory; the largest line of a journal, 32 MiB, is there twice.
MEMORY_MB = 500
SECONDS = 10  # on a busy machine


@dataclass(frozen=True)
class Ended:
    code: int
    out: str
    err: str
    peak_mb: float
    seconds: float


@pytest.fixture(scope="module")
def program() -> Iterator[Callable[..., Ended]]:
    """Runs a command line, or code in its place, in a process of its own, which has imported all it needs."""
    environment = {name: value for name, value in os.environ.items() if name not in ("FORCE_COLOR", "HARNESS_REVISION")}
    with subprocess.Popen(
        [sys.executable, Path(__file__).with_name("program.py")],
        env={**environment, "PYTHONPATH": str(ROOT), "OPENBLAS_NUM_THREADS": "1"},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout.readline() == "ready\n"

        def ended(*arguments: object, cwd: Path = ROOT, code: str = "") -> Ended:
            request = {"arguments": list(map(str, arguments)), "cwd": str(cwd), "code": code}
            print(json.dumps(request), file=process.stdin, flush=True)
            return Ended(**json.loads(process.stdout.readline()))

        yield ended


def assert_refused(ended: Ended, *codes: int) -> None:
    assert ended.code in codes, ended.err
    assert ended.out == ""
    assert ended.err.startswith("harness: ")
    assert ended.err.count("\n") == 1
    assert ended.err.rstrip("\n").isprintable()
    assert "Traceback" not in ended.err
    assert len(ended.err) < 1500


READERS: dict[str, Callable[[Path], list[object]]] = {
    "journal.jsonl": lambda folder: ["run", "--resume", folder],
    "summary.csv": lambda folder: ["show", folder],
    "measurements.csv": lambda folder: ["run", "--baseline", folder, "--out", folder / "out"],
    "sweep.toml": lambda folder: ["run", "--dry-run", "--sweep", folder / "sweep.toml"],
}


def zeros(path: Path) -> None:
    with path.open("wb") as file:
        for _ in range(300):
            file.write(bytes(2**20))


def sparse(path: Path) -> None:
    with path.open("wb") as file:
        file.truncate(10**9)


def wide(path: Path) -> None:
    path.write_bytes(b"," * 10_000_000 + b"\n")


def deep(path: Path) -> None:
    path.write_bytes(b'{"kind": "run", "a": ' + b"[" * 100_000 + b"\n")


def deep_values(path: Path) -> None:
    path.write_bytes(b"a = " + b"[" * 100_000 + b"]" * 100_000 + b"\n")


def many_values(path: Path) -> None:
    path.write_bytes(b'{"kind": "run", "a": [' + b"[]," * 10_000_000 + b"[]]}\n")


def one_text(path: Path) -> None:
    path.write_bytes(b'{"kind": "run", "a": "' + b"x" * 30 * 2**20 + b'"}\n')


def one_cell(path: Path) -> None:
    path.write_bytes(b'schema,a\n1,"' + b"x\n" * 10 * 2**20 + b'"\n')


def many_rows(path: Path) -> None:
    """Of the columns that a comparison reads, and no others."""
    names = b"schema,case_id,round,outcome,reason,step_ns,threads,run_id,commit,dirty,machine,fingerprint"
    path.write_bytes(names + b"\n" + (b"," * 11 + b"\n") * 5_000_000)


def quotes(path: Path) -> None:
    path.write_bytes(b"schema,case_id\n" + b'"' * 60 * 2**20 + b"\n")


def dotted(path: Path) -> None:
    path.write_bytes(b".".join([b"a"] * 300_000) + b" = 1\n")


def huge_number(path: Path) -> None:
    path.write_bytes(b'[[grid]]\nworkload = "line"\nengine = "manual"\nbatch_size = 0x' + b"f" * 900_000 + b"\n")


def long_path(path: Path) -> None:
    path.write_bytes(b'[[grid]]\nworkload = "line"\nbatch_size = 1\nengine = "' + b"a/" * 400_000 + b'x.py:A"\n')


def many_cases(path: Path) -> None:
    numbers = ", ".join(map(str, range(1, 91)))
    grid = f'[[grid]]\nworkload = "line"\nengine = "manual"\nbatch_size = [{numbers}]\nthreads = [{numbers}]\n'
    path.write_text(grid * 1000)


def pipe(path: Path) -> None:
    os.mkfifo(path)


def device(path: Path) -> None:
    path.symlink_to("/dev/zero")


def folder(path: Path) -> None:
    path.mkdir()


def loop(path: Path) -> None:
    path.symlink_to(path.name)


def process(path: Path) -> None:
    path.symlink_to("/proc/self/maps")


NO_FILES = (pipe, device, folder, loop, process)
MADE: dict[str, tuple[Callable[[Path], None], ...]] = {
    "journal.jsonl": (zeros, sparse, deep, many_values, one_text, *NO_FILES),
    "summary.csv": (zeros, sparse, wide, one_cell, *NO_FILES),
    "measurements.csv": (zeros, sparse, wide, one_cell, many_rows, quotes, *NO_FILES),
    "sweep.toml": (zeros, sparse, deep_values, dotted, huge_number, long_path, many_cases, *NO_FILES),
}


@pytest.mark.parametrize(
    ("name", "make"),
    [(name, make) for name, made in MADE.items() for make in made],
    ids=lambda each: getattr(each, "__name__", each),
)
def test_a_file_made_to_exhaust_its_reader_is_refused_at_once(name, make, program, tmp_path):
    make(tmp_path / name)
    ended = program(*READERS[name](tmp_path))
    assert_refused(ended, 2)
    assert ended.peak_mb < MEMORY_MB
    assert ended.seconds < SECONDS
    assert not (tmp_path / "out").exists()
    if make is not folder:
        (tmp_path / name).unlink()  # hundreds of megabytes


def test_the_limit_of_memory_can_be_exceeded(program):
    assert program("list", "engines").peak_mb < MEMORY_MB / 2
    assert program(code="x = bytearray(600 * 2**20)").peak_mb > MEMORY_MB


@pytest.mark.parametrize("make", MADE["measurements.csv"], ids=lambda each: each.__name__)
def test_a_comparison_refuses_such_a_file_as_well(make, program, tmp_path):
    make(tmp_path / "measurements.csv")
    ended = program("compare", tmp_path / "measurements.csv", tmp_path / "measurements.csv")
    assert_refused(ended, 2)
    assert ended.peak_mb < MEMORY_MB
    assert ended.seconds < SECONDS
    if make is not folder:
        (tmp_path / "measurements.csv").unlink()


# Names of files


@pytest.mark.parametrize(
    "name",
    [
        "=cmd|.py",
        "a,b.py",
        "a\nb.py",
        "a\x1b[31m.py",
        "a\u202eb.py",
        "-x.py",
        "@x.py",
        "+x.py",
        'a"b.py',
        "a b.py",
        "ключ.py",
    ],
    ids=ascii,
)
def test_a_file_of_the_users_with_an_unsafe_name_is_refused_when_planning_and_is_to_be_renamed(name, program, tmp_path):
    (tmp_path / name).touch()
    ended = program("run", "--dry-run", "--engine", f"./{name}:Mine", cwd=tmp_path)
    assert_refused(ended, 2)
    assert "rename the file" in ended.err


# The real command line


CASES = 8


@pytest.mark.parametrize("reader", READERS)
def test_the_program_itself_ends_with_a_code_and_at_most_one_line(reader, program, tmp_path):
    sys.path.insert(0, str(Path(__file__).parent))
    try:
        import batch
    finally:
        sys.path.pop(0)
    files = batch.Files(ROOT / batch.STORED_RUN, tmp_path)
    measured = files.tables["measurements"]
    for row in measured[1:]:
        row[measured[0].index("fingerprint")] = "0" * 12  # else it may be compared here, and is run
    files.real[0]["commit"] = files.small[0]["commit"] = "0" * 40
    files.small[0].pop("session", None)  # one side of an A/B run is not resumed at all
    codes = set()
    for seed in range(CASES):
        rng = random.Random(f"command line {reader} {seed}")
        kind = reader.partition(".")[0]
        if kind == "journal":
            data = batch.mutate.journal(files.small, rng)
        elif kind == "sweep":
            data = batch.mutate.sweep(files.document, rng)
        else:
            data = batch.mutate.table(files.tables[kind], rng)
        files.put(reader, data)
        ended = program(*READERS[reader](tmp_path))
        codes.add(ended.code)
        assert "Traceback" not in ended.err
        assert all(line.isprintable() for line in (ended.out + ended.err).split("\n"))
        if ended.code == 0:
            assert ended.err == ""
            assert kind in ("summary", "sweep")
        else:
            assert_refused(ended, 2, 3)
    # Stored runs are of another commit and machine, so that the good ones end with 3.
    assert codes == ({0, 2} if kind in ("summary", "sweep") else {2, 3})
