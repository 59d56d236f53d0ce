import itertools
import os
import sys
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest

from harness.measuring.cpus import Placement
from harness.measuring.protocol import PROTOCOL
from harness.plan.case import Case
from harness.plan.errors import PlanError
from harness.plan.presets import Sampling
from harness.plan.sweep import MAX_PROCESSES, Sweep
from harness.running import interleaved as interleaved_module
from harness.running.arms import Arm
from harness.running.executor import Executor, Progress
from harness.running.folder import Revision, digest
from harness.running.interleaved import interleave, measure_in_turn, schedule, start_sides, with_spare
from harness.running.journal import Journal
from harness.running.records import FORMAT, read_journal
from harness.running.session import Machine, Session

CASES = tuple(Case("line", engine, "cpu", "float32", size) for engine in ("manual", "autograd") for size in (10, 100))
SWEEP = Sweep(CASES, rounds=5, seeds=7, sampling=Sampling(relative_width=0.01, budget_ns=5))
HEADER = {"format": FORMAT, "run_id": "r", "commit": "c", "dirty": False, "machine": "m", "fingerprint": "f"}


# The order


def test_cases_come_as_in_an_ordinary_run_and_each_in_both_orders_within_two_rounds():
    sweep = Sweep(CASES, rounds=8)
    planned = list(schedule(sweep))
    assert [(number, case) for number, case, _ in planned] == list(sweep.schedule())
    orders = {(number, case): order for number, case, order in planned}
    for case, pair in itertools.product(CASES, range(4)):
        assert {orders[2 * pair, case], orders[2 * pair + 1, case]} == {(0, 1), (1, 0)}


def test_which_order_comes_first_is_drawn_for_each_case_and_pair_of_rounds_and_always_the_same_way():
    sweep = Sweep(CASES, rounds=100)
    first = {(case, number // 2): order for number, case, order in schedule(sweep) if number % 2 == 0}
    for case in CASES:
        drawn = [first[case, pair] for pair in range(50)]
        assert 10 < Counter(drawn)[0, 1] < 40
        assert len({tuple(first[other, pair] for pair in range(50)) for other in CASES}) == len(CASES)
    assert list(schedule(sweep)) == list(schedule(sweep))
    assert list(schedule(sweep)) != list(schedule(Sweep(CASES, rounds=100, order_seed=1)))


# Going through it


class FakeLauncher:
    """Notes what both arms are asked for, in one list; ends as it is told, else with a time on an ever faster core."""

    work = ("0a1b", "0a1b")

    def __init__(self, arm, asked, told, endings):
        self.arm, self.asked, self.told, self.endings = arm, asked, told, endings

    def measure(self, request, on_phase):
        self.asked.append((request.round, request.case, self.arm, request.seeds))
        self.told.append(request.fast_core_ns)
        on_phase("import")
        ending = self.endings.get((self.arm, request.case, request.round), "ok")
        if isinstance(ending, BaseException):
            raise ending
        why = {"slow": {"slow core": 39}, "waiting": {"waited": 39}}.get(ending)
        if why:
            told = {"outcome": "ok", "reason": "", "seconds": 1.0, "step_ns": 9.0, "core_ns": 10_000.0}
            return {**told, "core_work": self.work[self.arm], "blocks": 40, "blocks_disturbed": 39, "disturbances": why}
        core_ns = 14_000.0 if ending == "slow core" else 10_000.0 - len(self.told)
        outcome, reason = ("ok", "") if ending in ("ok", "slow core") else (ending, "because")
        record = {"outcome": outcome, "reason": reason, "seconds": 1.0, "step_ns": 5.0}
        return {**record, "core_ns": core_ns, "core_work": self.work[self.arm]}


class Heard:
    def __init__(self):
        self.skipped = []

    def case_skipped(self, round_number, case):
        self.skipped.append((round_number, case))

    def __getattr__(self, _name):
        return lambda *_: None


class Run:
    """Goes through the sweep with two fake launchers."""

    def __init__(self, folder, sent):
        self.folders = [folder / name for name in "ab"]
        self.sent, self.asked, self.told, self.turns, self.rounds, self.heard = sent, [], [], [], [], Heard()

    def __call__(self, endings, spare=0):
        sweep = replace(SWEEP, spare=spare)
        executors = []
        for arm, folder in enumerate(self.folders):
            folder.mkdir()
            launcher = FakeLauncher(arm, self.asked, self.told, endings)
            journal = Journal.create(folder, {**HEADER, "sweep": sweep.to_json()})
            executors.append(
                Executor(sweep, Progress(), journal, lambda _, own=launcher: own, placed, self.heard, self.sent)
            )
        try:
            interleave(executors, self.turns.append, lambda number: self.rounds.append((number, len(self.asked))))
        finally:
            for executor in executors:
                executor.journal.close()
        return self

    def kept(self, arm):
        entries = read_journal(self.folders[arm])[1]
        return [(entry["round"], entry["case_id"]) for entry in entries if entry["kind"] == "record"]


def placed(case):
    return Placement((), (), 1)


@pytest.fixture
def run(tmp_path):
    def run(endings=(), sent=lambda case: case, spare=0):
        run.last = Run(tmp_path, sent)
        return run.last(dict(endings), spare)

    return run


def test_each_process_is_told_how_fast_the_core_was_in_either_arm(run):
    told = run().told
    assert told[:2] == [None, None]  # of the other's work nothing is known yet
    assert told[2:] == [10_000.0 - number for number in range(2, len(told))]


def test_arms_that_do_not_tell_by_the_same_work_hear_nothing_of_each_other(run, monkeypatch):
    monkeypatch.setattr(FakeLauncher, "work", ("0a1b", "2c3d"))
    last = run()
    for arm in (0, 1):
        mine = [number for number, asked in enumerate(last.asked) if asked[2] == arm]
        assert [last.told[number] for number in mine] == [None, *(10_000.0 - number - 1 for number in mine[:-1])]


def test_each_case_is_measured_in_both_arms_one_right_after_the_other(run):
    done = run()
    wanted = [(number, case, arm) for number, case, order in schedule(SWEEP) for arm in order]
    assert [asked[:3] for asked in done.asked] == wanted
    assert done.turns == [arm for *_, arm in wanted]
    assert done.kept(0) == done.kept(1) == [(number, case.case_id) for number, case in SWEEP.schedule()]
    assert done.rounds == [(number, 8 * (number + 1)) for number in range(5)]


def test_convergence_is_measured_in_the_first_round_of_both_arms(run):
    assert {(number, arm, seeds) for number, _, arm, seeds in run().asked} == {
        (number, arm, 7 if number == 0 else 0) for number in range(5) for arm in (0, 1)
    }


@pytest.mark.parametrize("arm", [0, 1])
@pytest.mark.parametrize("number", [0, 1, 3])
def test_a_case_that_fails_in_one_arm_is_measured_in_both_in_that_round_and_in_neither_after_it(run, arm, number):
    bad = CASES[1]
    done = run({(arm, bad, number): "crashed"})
    for each in (0, 1):
        assert [at for at, case_id in done.kept(each) if case_id == bad.case_id] == list(range(number + 1))
        assert len(done.kept(each)) == 15 + number + 1
    assert done.heard.skipped == [(at, bad) for at in range(number + 1, 5) for _ in (0, 1)]


# Making up for what was lost


def spare_of(done):
    """What was measured after the planned rounds; both arms have the same."""
    assert done.kept(0) == done.kept(1)
    return [each for each in done.kept(0) if each[0] >= SWEEP.rounds]


def test_a_pair_that_a_neighbour_spoilt_in_either_arm_is_measured_once_more_after_the_last_round(run):
    one, other, *_ = CASES
    done = run({(0, one, 1): "slow", (1, one, 3): "slow", (0, other, 2): "slow", (1, other, 2): "slow"}, spare=3)
    assert sorted(spare_of(done)) == sorted([(5, one.case_id), (6, one.case_id), (5, other.case_id)])
    assert done.asked[40:] == [each for each in done.asked if each[0] >= 5]
    assert done.rounds == [*((number, 8 * (number + 1)) for number in range(5)), (5, 44), (6, 46)]
    assert done.heard.skipped == []


@pytest.mark.parametrize("arm", [0, 1])
@pytest.mark.parametrize("case", CASES[:2])
def test_so_is_one_that_shows_only_later_that_its_core_was_slow(run, arm, case):
    first = next(each for _, each in SWEEP.schedule())  # no process before it tells
    assert spare_of(run({(arm, each, 0): "slow core" for each in (case, first)}, spare=3)) == [
        (5, each.case_id)
        for number, each in replace(SWEEP, rounds=8).schedule()
        if number == 5 and each in (case, first)
    ]


def test_so_is_one_that_was_lost_in_a_spare_round_until_no_spare_round_could_help(run):
    case = CASES[0]
    assert spare_of(run({(1, case, number): "slow" for number in (4, 5, 6)}, spare=3)) == [
        (number, case.case_id) for number in (5, 6, 7)
    ]


def test_where_more_than_half_is_lost_nothing_is_made_up_for(run):
    case = CASES[0]
    assert spare_of(run({(1, case, number): "slow" for number in (0, 1, 2, 3, 4)}, spare=3)) == []


@pytest.mark.parametrize(
    "endings",
    [
        {},
        {(0, CASES[0], 1): "waiting"},  # for threads of its own, which will be there again
        {(0, CASES[0], 1): "slow", (1, CASES[0], 4): "crashed"},  # has no time anyway
    ],
    ids=["nothing lost", "of its own", "crashed"],
)
def test_nothing_else_is_made_up_for(run, endings):
    done = run(endings, spare=3)
    assert spare_of(done) == []
    assert [number for number, _ in done.rounds] == list(range(5))


def test_there_are_spare_rounds_where_processes_time_for_long_enough():
    assert with_spare(SWEEP) == SWEEP
    long = replace(SWEEP, sampling=Sampling(relative_width=0.01, budget_ns=10**9))
    assert with_spare(long) == replace(long, spare=3)
    many = replace(long, rounds=50_000)
    assert with_spare(many).all_rounds * len(CASES) == MAX_PROCESSES
    assert with_spare(replace(many, rounds=45_000)).spare == 5_000


def test_an_interrupt_between_two_arms_leaves_every_record_before_it(run):
    number, case, (first, second) = list(schedule(SWEEP))[6]
    with pytest.raises(KeyboardInterrupt):
        run({(second, case, number): KeyboardInterrupt()})
    done = run.last
    assert len(done.kept(first)) == 7
    assert len(done.kept(second)) == 6
    assert [at for at, _ in done.rounds] == [0]


def test_a_worker_gets_the_arms_case_and_the_journal_keeps_the_one_that_both_share(run):
    def sent(case):
        return Case(case.workload, f"/arm/file.py:{case.engine}", case.device, case.dtype, case.batch_size)

    done = run(sent=sent)
    assert {asked[1].engine for asked in done.asked} == {"/arm/file.py:manual", "/arm/file.py:autograd"}
    assert {case_id for _, case_id in done.kept(0)} == {case.case_id for case in CASES}


# Two runs of one session

BASE = Revision("a" * 40, dirty=False)
NEW = Revision("b" * 40, dirty=True, changes="c" * 12)
HERE = Machine({"torch": "2.13.0+cpu", "cpus": 2}, "amd-epyc-2c", "00aa11bb22cc")
OTHER = Machine({"torch": "2.12.0+cpu", "cpus": 2}, "amd-epyc-2c", "00aa11bb22cd")


def arms(tmp_path: Path, python: str = sys.executable) -> list[Arm]:
    """The arms of two revisions, of which each has an engine of its own in the same file."""
    made = []
    for name, at in (("base", BASE), ("new", NEW)):
        tree = tmp_path / name
        tree.mkdir()
        (tree / "mine.py").write_text(name)
        made.append(Arm(name, at, python, (tree,), tmp_path / "own", tree))
    return made


@pytest.fixture
def sweep(tmp_path):
    (tmp_path / "own").mkdir()
    (tmp_path / "own/mine.py").touch()
    return Sweep((Case("line", f"{tmp_path}/own/mine.py:Mine", "cpu", "float32", 10), CASES[0]), rounds=5, seeds=1)


def test_each_arm_is_a_run_of_its_own_commit_and_machine_and_both_are_one_session(tmp_path, sweep):
    base, new = start_sides(sweep, arms(tmp_path), (HERE, OTHER), tmp_path / "out")
    for side in (base, new):
        side.session.journal.close()
    headers = [read_journal(side.session.folder)[0] for side in (base, new)]
    assert [header["run_id"] for header in headers] == [side.session.folder.name for side in (base, new)]
    assert {header["session"] for header in headers} == {f"{base.session.folder.name}-ab"}
    assert [(header["commit"], header["dirty"], header["changes"]) for header in headers] == [
        ("a" * 40, False, ""),
        ("b" * 40, True, "c" * 12),
    ]
    assert [header["environment"]["torch"] for header in headers] == ["2.13.0+cpu", "2.12.0+cpu"]
    assert [header["fingerprint"] for header in headers] == [HERE.fingerprint, OTHER.fingerprint]
    name = f"{tmp_path}/own/mine.py"
    assert [header["files"] for header in headers] == [{name: digest(b"base")}, {name: digest(b"new")}]
    assert [Sweep.from_json(header["sweep"]) for header in headers] == [sweep, sweep]


def test_one_side_is_not_gone_on_with_by_itself(tmp_path, sweep):
    for side in start_sides(sweep, arms(tmp_path), (HERE, HERE), tmp_path / "out"):
        side.session.journal.close()
        with pytest.raises(PlanError, match="is one side of an A/B run, which cannot be resumed: start `harness ab`"):
            Session.resume(side.session.folder)


def test_where_the_second_cannot_begin_neither_is_left(tmp_path, sweep, monkeypatch):
    begin = Session.begin

    def once(folder, *arguments, **more):
        monkeypatch.setattr(interleaved_module.Session, "begin", refused)
        return begin(folder, *arguments, **more)

    def refused(*_, **__):
        raise PlanError("no space")

    monkeypatch.setattr(interleaved_module.Session, "begin", once)
    with pytest.raises(PlanError, match="no space"):
        start_sides(sweep, arms(tmp_path), (HERE, HERE), tmp_path / "out")
    assert list((tmp_path / "out/amd-epyc-2c").iterdir()) == []


# Real processes

WORKER = """
import json, os, sys
cache = os.environ["TORCHINDUCTOR_CACHE_DIR"]
known = os.path.exists(cache)
os.makedirs(cache, exist_ok=True)
request = json.loads(sys.stdin.readline())
seen = {"path": os.environ["PYTHONPATH"], "cache": cache, "known": known, "engine": request["case"]["engine"]}
record = {"outcome": "ok", "reason": "", "step_ns": 5.0, "seen": seen}
print(json.dumps({"event": "hello", "protocol": %d}))
print(json.dumps({"event": "record", "record": record}))
"""


def test_each_arms_workers_have_its_code_its_files_and_one_compile_cache_that_goes_at_the_end(tmp_path, sweep):
    (tmp_path / "worker.py").write_text(WORKER % PROTOCOL)
    python = tmp_path / "python"
    python.write_text(f'#!/bin/sh\nexec {sys.executable} -S -E {tmp_path}/worker.py "$@"\n')
    python.chmod(0o755)
    sides = start_sides(sweep, arms(tmp_path, str(python)), (HERE, HERE), tmp_path / "out")
    turns = []
    measure_in_turn(sides, Heard(), 60, turns.append, lambda _: None)
    assert Counter(side.arm.name for side in turns) == {"base": 10, "new": 10}
    caches = []
    for side in sides:
        side.session.journal.close()
        records = [entry for entry in read_journal(side.session.folder)[1] if entry["kind"] == "record"]
        assert [record["outcome"] for record in records] == ["ok"] * 10
        seen = [record["seen"] for record in records]
        assert {each["path"].split(os.pathsep)[0] for each in seen} == {str(side.arm.tree)}
        assert {each["engine"] for each in seen} == {"manual", f"{side.arm.tree}/mine.py:Mine"}
        assert [each["known"] for each in seen] == [False] + [True] * 9
        [cache] = {each["cache"] for each in seen}
        caches.append(cache)
    assert len(set(caches)) == 2
    assert len({len(cache) for cache in caches}) == 1
    assert not any(Path(cache).parents[1].exists() for cache in caches)
