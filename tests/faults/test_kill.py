"""The program killed, and interrupted, at moments spread evenly over its life, on a disk that takes its time."""

import signal
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from harness.running.journal import FILE
from tests.faults.runs import (
    CASES,
    NEW,
    ROWS,
    SIGNALS,
    TABLES,
    Ended,
    Place,
    Program,
    assert_gone_on_with,
    lost,
    records,
    rows,
    torn_tables,
)

KILLS = 200
INTERRUPTS = 25
AT_THE_END_S = 0.03  # nothing is done any more in so short a time before the end: the last line is out
# A write takes so long that a good share of the moments falls into one.
SLOW = {"slow_us": 25_000, "worker_s": 0.01}


@pytest.fixture(scope="module")
def life_s(programs, tmp_path_factory) -> float:
    """How long the run takes that nobody stops."""
    program = programs.get()
    lives = [
        program.run(Place(tmp_path_factory.mktemp("life") / str(number)), *NEW, **SLOW).life_s for number in range(3)
    ]
    programs.put(program)
    return sorted(lives)[1]


def stopped(program: Program, place: Place, number: int, share: float, life_s: float) -> tuple[Ended, Place]:
    """Stop a run at that share of its life; one that was faster, and over before, does not count and is tried again."""
    for attempt in range(10):
        tried = Place(place.folder / str(attempt))
        after_s = share * life_s
        ended = program.run(tried, *NEW, **SLOW, number=number, after_s=after_s)
        was_over = ended.code == 0 and ended.life_s - after_s < AT_THE_END_S
        if ended.signalled and not was_over:
            return ended, tried
        life_s = min(life_s, ended.life_s)
    raise AssertionError("it ended ten times before it was stopped")


def test_a_run_killed_at_any_moment_keeps_what_it_had(each, life_s, figures, request):
    kills = KILLS // 4 if request.config.getoption("--quarter") else KILLS

    def kill(program: Program, place: Place, share: float) -> None:
        ended, place = stopped(program, place, signal.SIGKILL, share, life_s)
        missing, torn, orphans = lost(place, ended), torn_tables(place), place.orphans()
        figures.add(
            kills=1,
            inside_a_write=ended.inside_a_write,
            before_the_run_had_begun=not place.begun,
            rows_acknowledged=len(records(ended.acknowledged.encode())),
            lost=len(missing),
            torn_tables=len(torn),
            orphans=len(orphans),
        )
        assert ended.code == -signal.SIGKILL
        assert missing == []
        assert torn == []
        assert orphans == []
        if place.begun:
            [run] = place.runs
            whole = (run / FILE).read_bytes()
            written = whole[: whole.rfind(b"\n") + 1].count(b"\n")
            assert written - ended.acknowledged.count("\n") in (0, 1)  # one was written and not yet acknowledged
            figures.add(torn_lines_recovered=not whole.endswith(b"\n"))
            assert_gone_on_with(program, place)
        else:
            assert not any(run.glob("*.csv") for run in place.runs if list(run.glob("*.csv")))
            for run in place.runs:
                again = program.run(place, "run", "--resume", run)
                assert again.code == 2
                assert len(again.complaints) == 1
                assert "Traceback" not in again.err

    each(kill, [(number + 0.5) / kills for number in range(kills)])
    assert figures["kills"] == kills
    assert figures["inside a write"] >= kills / 10


@pytest.mark.parametrize("number", SIGNALS, ids=lambda number: number.name)
def test_a_run_interrupted_at_any_moment_writes_all_it_has_and_ends_with_130(number, each, life_s, figures):
    def interrupt(program: Program, place: Place, share: float) -> None:
        ended, place = stopped(program, place, number, share, life_s)
        missing, torn, orphans = lost(place, ended), torn_tables(place), place.orphans()
        acknowledged = len(records(ended.acknowledged.encode()))
        figures.add(interrupts=1, rows_acknowledged=acknowledged, lost=len(missing), torn_tables=len(torn))
        assert ended.code == 130, ended.err
        assert "Traceback" not in ended.err
        assert missing == []
        assert torn == []
        assert orphans == []
        if place.begun:
            assert not list(place.run.glob(".*"))
            if all((place.run / f"{table}.csv").exists() for table in TABLES):
                assert sorted(rows(place.run, "measurements")) == sorted(records((place.run / FILE).read_bytes()))
            else:  # interrupted before the first case
                assert records(ended.acknowledged.encode()) == []
            assert_gone_on_with(program, place)

    each(interrupt, [0.05 + 0.9 * (at + 0.5) / INTERRUPTS for at in range(INTERRUPTS)])
    assert figures["interrupts"] == INTERRUPTS


def test_an_interrupt_whose_exception_is_lost_still_ends_the_run(programs, tmp_path):
    program, place = programs.get(), Place(tmp_path / "lost")
    ended = program.run(place, *NEW, swallows=True)
    assert ended.code == 130
    assert f"go on with: harness run --resume {place.run.relative_to(place.folder)}" in ended.err
    assert rows(place.run, "measurements") == [(case, 0) for case in CASES]
    assert_gone_on_with(program, place)
    programs.put(program)


def test_a_run_that_has_not_ended_is_not_gone_on_with_by_another(programs, tmp_path):
    first, second = programs.get(), programs.get()
    place = Place(tmp_path / "live")
    with ThreadPoolExecutor(1) as pool:
        live = pool.submit(first.run, place, *NEW, worker_s=0.5)
        while not place.begun and not live.done():
            time.sleep(0.01)
        refused = second.run(Place(tmp_path / "other"), "run", "--resume", place.run)
        assert not live.done()
    programs.put(first)
    programs.put(second)
    assert refused.code == 2
    [line] = refused.err.splitlines()
    assert line == f"harness: {place.run / FILE} is being written: that run has not ended"
    assert live.result().code == 0
    assert lost(place, live.result()) == []
    assert sorted(records((place.run / FILE).read_bytes())) == sorted(ROWS)
