"""A full or a broken disk, at every moment at which the program writes."""

import json
import shutil

import pytest

from harness.running.journal import FILE
from harness.tables.build import build_tables
from harness.tables.files import write_tables
from tests.faults.runs import (
    NEW,
    ROWS,
    TABLES,
    Ended,
    Fault,
    Place,
    Program,
    assert_gone_on_with,
    lost,
    records,
    rows,
    torn_tables,
)

FAULTS = {
    "full": Fault.full,
    "full in the middle of a write": Fault.full_in_the_middle,
    "broken once": Fault.broken_once,
}


@pytest.fixture(scope="module")
def unharmed(programs, tmp_path_factory) -> tuple[Ended, Place]:
    """A run on a disk that works; its marks are the moments at which it writes."""
    place = Place(tmp_path_factory.mktemp("disk") / "unharmed")
    program = programs.get()
    ended = program.run(place, *NEW)
    programs.put(program)
    assert ended.code == 0, ended.err
    assert sorted(records((place.run / FILE).read_bytes())) == sorted(ROWS)
    return ended, place


def moments(marks: str, fault: str) -> list[int]:
    """The moments at which to fail, and one after the end."""
    only_writes = fault == "full in the middle of a write"
    return [at for at, kind in enumerate(marks, 1) if kind == "w" or not only_writes] + [len(marks) + 1]


def count(figures, ended: Ended, *, lost: int, torn: int) -> None:
    acknowledged = len(records(ended.acknowledged.encode()))
    figures.add(moments=1, rows_acknowledged=acknowledged, lost=lost, torn_tables=torn)


def assert_ended_well(ended: Ended, place: Place, figures) -> None:
    """Assert what must hold wherever the disk failed: one clear line, no row lost, no table torn."""
    assert "Traceback" not in ended.err
    missing, torn = lost(place, ended), torn_tables(place)
    count(figures, ended, lost=len(missing), torn=len(torn))
    assert missing == []
    assert torn == []
    assert not [path for run in place.runs for path in run.glob(".*")]
    if ended.code == 0:  # there was another way to do it
        figures.add(runs_that_found_another_way=1)
        assert sorted(records((place.run / FILE).read_bytes())) == sorted(ROWS)
        return
    assert ended.code == 2, ended.err
    [line] = ended.complaints
    assert ended.err.splitlines()[-1] == line
    assert "No space left on device" in line or "Input/output error" in line
    assert "cannot be written" in line
    if place.begun:
        assert line.endswith(
            f"what was finished is kept; go on with: harness run --resume {place.run.relative_to(place.folder)}"
        )
    else:
        assert line.startswith("harness: --out out: cannot be written to: ")
        assert place.runs == []


@pytest.mark.parametrize("name", FAULTS)
def test_wherever_the_disk_fails_a_new_run(name, each, unharmed, figures):
    good, _ = unharmed

    def fail(program: Program, place: Place, at: int) -> None:
        ended = program.run(place, *NEW, fault=FAULTS[name](at))
        assert_ended_well(ended, place, figures)
        assert (ended.code == 0) or at <= len(good.marks)
        if place.begun:
            if any(number == 1 for _, number in records(ended.acknowledged.encode())):  # the second round had begun
                assert all((place.run / f"{table}.csv").exists() for table in TABLES)
                assert len(rows(place.run, "measurements")) in (2, 4)
            assert_gone_on_with(program, place)

    each(fail, moments(good.marks, name))
    assert figures["runs that found another way"] <= 2


@pytest.fixture(scope="module")
def torn(unharmed, tmp_path_factory) -> Place:
    """What is left when a run dies as it writes the first record of its second round: tables, and half a line."""
    _, good = unharmed
    place = Place(tmp_path_factory.mktemp("disk") / "torn")
    shutil.copytree(good.folder / "out", place.folder / "out")
    lines = (place.run / FILE).read_bytes().splitlines(keepends=True)
    third = [index for index, line in enumerate(lines) if records(line)][2]
    (place.run / FILE).write_bytes(b"".join(lines[:third]) + lines[third][:3000])
    header, *entries = map(json.loads, lines[:third])
    write_tables(place.run, build_tables(header, [entry for entry in entries if entry["kind"] == "record"]))
    return place


@pytest.mark.parametrize("name", ["full in the middle of a write", "broken once"])
def test_wherever_the_disk_fails_a_run_that_is_gone_on_with(name, each, torn, programs, tmp_path, figures):
    first = Place(tmp_path / "first")
    shutil.copytree(torn.folder / "out", first.folder / "out")
    program = programs.get()
    good = program.run(first, "run", "--resume", first.run, fault=Fault.broken_once(10_000))
    programs.put(program)
    assert good.code == 0, good.err
    # A disk that is full still lets the torn line be cut off.
    marks = good.marks if name == "broken once" else good.marks.replace("c", "")
    assert good.marks != marks or name == "broken once"

    def fail(program: Program, place: Place, at: int) -> None:
        shutil.copytree(torn.folder / "out", place.folder / "out")
        relative = place.run.relative_to(place.folder)
        before = (place.run / FILE).read_bytes()
        tables = {table: (place.run / f"{table}.csv").read_bytes() for table in TABLES}
        ended = program.run(place, "run", "--resume", relative, fault=FAULTS[name](at))
        assert "Traceback" not in ended.err
        kept = before[: before.rfind(b"\n") + 1]
        missing = not (place.run / FILE).read_bytes().startswith(kept + ended.acknowledged.encode())
        wrong = torn_tables(place)
        count(figures, ended, lost=missing, torn=len(wrong))
        assert not missing
        assert wrong == []
        assert not list(place.run.glob(".*"))
        assert ended.code == (2 if at <= len(marks) else 0), ended.err
        if ended.code:
            [line] = ended.complaints
            assert f"{relative}/" in line
            assert "No space left on device" in line or "Input/output error" in line
            assert "what was finished is kept" in line
            if marks[at - 1] != "c":  # else it did not go on at all
                assert line.endswith(f"go on with: harness run --resume {relative}")
        for table, was in tables.items():  # whole it is: it is the old one or has the rows that came
            now = (place.run / f"{table}.csv").read_bytes()
            assert now == was or len(records(ended.acknowledged.encode())) == 2
        assert_gone_on_with(program, place)

    each(fail, moments(marks, name))
