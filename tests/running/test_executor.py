from dataclasses import replace

import pytest

from harness.measuring.cpus import Placement
from harness.plan.case import Case
from harness.plan.presets import Sampling
from harness.plan.sweep import Sweep
from harness.running.executor import Progress, execute
from harness.running.journal import Journal
from harness.running.records import FORMAT, read_journal

CASES = tuple(Case("line", engine, "cpu", "float32", size) for engine in ("manual", "autograd") for size in (10, 100))
SAMPLING = Sampling(relative_width=0.01, budget_ns=5)
SWEEP = Sweep(CASES, rounds=3, seeds=7, sampling=SAMPLING)
SEED = {"seed": 0, "loss": 0.1, "accuracy": 0.9, "r2": None, "converged": True}
TARGETS = dict.fromkeys(("max_loss", "min_accuracy", "min_converged_share", "max_median_loss"), 0.5)
TARGETS |= {"min_median_accuracy": 0.5}
HEADER = {"format": FORMAT, "run_id": "r", "commit": "c", "dirty": False, "machine": "m", "fingerprint": "f"}


def kept(folder, kind="record"):
    return [entry for entry in read_journal(folder)[1] if entry["kind"] == kind]


def placed(case):
    return Placement((case.batch_size,), (0,), 3)


def done_before(case, number, outcome="ok"):
    return {"kind": "record", "case_id": case.case_id, "round": number, "outcome": outcome}


class FakeLauncher:
    """Notes each request and what the journal holds at that moment; ends as it is told, else with a time."""

    def __init__(self, folder, endings=()):
        self.folder = folder
        self.endings = dict(endings)
        self.requests = []
        self.kept_before = []

    def measure(self, request, on_phase):
        self.requests.append(request)
        self.kept_before.append(len(kept(self.folder)))
        on_phase("import")
        on_phase("timing")
        ending = self.endings.get((request.case, request.round), self.endings.get(request.case, "ok"))
        ending = ending() if callable(ending) else ending
        if isinstance(ending, BaseException):
            raise ending
        if isinstance(ending, dict):
            return ending
        return {"outcome": ending, "reason": "" if ending == "ok" else "because", "seconds": 1.0, "step_ns": 5.0}

    @property
    def order(self):
        return [(request.round, request.case) for request in self.requests]


class Heard:
    """An observer that notes what it is told."""

    def __init__(self):
        self.events = []

    def case_started(self, round_number, case):
        self.events.append(("started", round_number, case))

    def phase_started(self, phase):
        self.events.append(("phase", phase))

    def case_finished(self, round_number, case, record):
        self.events.append(("finished", round_number, case, record["outcome"]))

    def case_skipped(self, round_number, case):
        self.events.append(("skipped", round_number, case))

    def of(self, kind):
        return [event[1:] for event in self.events if event[0] == kind]


@pytest.fixture
def journal(tmp_path):
    journal = Journal.create(tmp_path, {**HEADER, "sweep": SWEEP.to_json()})
    yield journal
    journal.close()


@pytest.fixture
def run(tmp_path, journal):
    """Executes the sweep with a fake launcher and returns launcher, observer and the journal's records."""

    def run(endings=(), progress=None, sweep=SWEEP, after_round=lambda: None):
        launcher, heard = FakeLauncher(tmp_path, endings), Heard()
        try:
            execute(sweep, progress or Progress(), run.chosen(launcher), journal, heard, placed, after_round)
        finally:
            run.launcher, run.heard = launcher, heard
        return launcher, heard, kept(tmp_path)

    run.chosen = lambda launcher: lambda _case: launcher
    return run


def test_every_case_is_measured_once_a_round_in_the_order_of_the_schedule(run):
    launcher, _, _ = run()
    assert launcher.order == list(SWEEP.schedule())
    assert [number for number, _ in launcher.order] == [0] * 4 + [1] * 4 + [2] * 4


def test_each_record_is_in_the_journal_before_the_next_case_starts(run):
    launcher, _, _ = run()
    assert launcher.kept_before == list(range(12))


def test_a_record_in_the_journal_says_which_case_and_round_it_is(run):
    launcher, _, records = run()
    assert [(record["round"], record["case_id"]) for record in records] == [
        (number, case.case_id) for number, case in launcher.order
    ]
    assert {record["kind"] for record in records} == {"record"}
    assert {record["seconds"] for record in records} == {1.0}


def test_convergence_is_measured_in_the_first_round_only(run):
    launcher, _, _ = run()
    assert {(request.round, request.seeds) for request in launcher.requests} == {(0, 7), (1, 0), (2, 0)}


@pytest.mark.parametrize("outcome", ["crashed", "timeout", "wrong_gradient", "unsupported", "out_of_memory"])
def test_a_case_that_ends_without_a_time_is_a_record_and_the_run_goes_on_without_it(run, outcome):
    bad = CASES[1]
    launcher, heard, records = run({bad: outcome})
    assert [number for number, case in launcher.order if case == bad] == [0]
    assert all(
        [number for number, case in launcher.order if case == good] == [0, 1, 2] for good in CASES if good != bad
    )
    assert [(record["outcome"], record["reason"]) for record in records if record["case_id"] == bad.case_id] == [
        (outcome, "because")
    ]
    assert heard.of("skipped") == [(1, bad), (2, bad)]


def test_a_case_that_fails_in_a_later_round_is_not_tried_again_either(run):
    launcher, _, _ = run({(CASES[0], 1): "crashed"})
    assert [number for number, case in launcher.order if case == CASES[0]] == [0, 1]


def test_what_was_measured_before_is_skipped(run):
    done = [(0, CASES[0]), (0, CASES[2]), (1, CASES[0])]
    progress = Progress.of(done_before(case, number) for number, case in reversed(done))
    launcher, heard, records = run(progress=progress)
    assert sorted(launcher.order + done) == sorted(SWEEP.schedule())
    assert sorted(heard.of("skipped")) == sorted(done)
    assert len(records) == 9


def test_a_case_without_a_time_before_is_not_tried_again_after(run):
    progress = Progress.of([done_before(CASES[3], 0, "timeout")])
    launcher, _, _ = run(progress=progress)
    assert CASES[3] not in [case for _, case in launcher.order]


def test_a_finished_run_measures_nothing(run):
    progress = Progress.of(done_before(case, number) for number, case in SWEEP.schedule())
    launcher, heard, _ = run(progress=progress)
    assert launcher.order == []
    assert len(heard.of("skipped")) == 12


def test_after_each_round_all_of_its_records_are_there(run, tmp_path):
    counts = []
    run(after_round=lambda: counts.append(len(kept(tmp_path))))
    assert counts == [4, 8, 12]


def test_an_interrupt_is_raised_on_and_leaves_every_record_before_it(run, tmp_path):
    third = list(SWEEP.schedule())[2]
    rounds = []
    with pytest.raises(KeyboardInterrupt):
        run({(third[1], third[0]): KeyboardInterrupt()}, after_round=lambda: rounds.append(1))
    assert len(kept(tmp_path)) == 2
    assert len(kept(tmp_path, "attempt")) == 3
    assert len(run.launcher.order) == 3
    assert rounds == []


def test_the_observer_hears_start_phases_and_end_of_each_case(run):
    case = CASES[0]
    _, heard, _ = run(sweep=Sweep((case,), rounds=1))
    assert heard.events == [
        ("started", 0, case),
        ("phase", "import"),
        ("phase", "timing"),
        ("finished", 0, case, "ok"),
    ]


def test_the_observer_hears_of_an_end_only_once_the_record_is_kept(run, tmp_path, monkeypatch):
    counts = []
    monkeypatch.setattr(Heard, "case_finished", lambda *_: counts.append(len(kept(tmp_path))))
    run(sweep=Sweep(CASES, rounds=1))
    assert counts == [1, 2, 3, 4]


def test_each_process_is_told_how_long_to_time_and_where_to_run(run):
    launcher, _, _ = run()
    for request in launcher.requests:
        assert (request.sampling, request.cpus, request.threads) == (SAMPLING, (request.case.batch_size,), 3)


def test_each_process_is_told_how_fast_the_core_was_in_those_before_it(run):
    took = iter([9000.0, None, 8000.0, 12000.0])
    endings = {case: {"outcome": "ok", "reason": "", "step_ns": 5.0, "core_ns": next(took)} for case in CASES}
    before = {**done_before(CASES[0], 0), "core_ns": 11000.0}
    launcher, _, _ = run(endings, progress=Progress.of([before]))
    fastest = 11000.0
    for request in launcher.requests:
        assert request.fast_core_ns == fastest
        fastest = min(fastest, endings[request.case]["core_ns"] or fastest)
    assert fastest == 8000.0


LONG = replace(SWEEP, sampling=Sampling(budget_ns=1_500_000_000))
WHY = {"slow core": 290}


def process(quiet, step_ns=80.0, blocks=300, **others):
    """A process of which so many blocks were not disturbed."""
    disturbed = {"blocks": blocks, "blocks_disturbed": blocks - quiet, "disturbances": WHY if quiet < blocks else {}}
    return {"outcome": "ok", "reason": "", "seconds": 5.0, "step_ns": step_ns, **disturbed, **others}


def in_turn(*processes):
    """What a case's processes of its first round find, one after the other; the last goes on."""
    left = list(processes)
    return lambda: left.pop(0) if len(left) > 1 else left[0]


def records_of(records, case, number=0):
    return [each for each in records if (each["case_id"], each["round"]) == (case.case_id, number)]


def test_a_process_that_was_disturbed_throughout_is_measured_again_before_the_next(run, tmp_path):
    bad = CASES[1]
    launcher, heard, records = run({(bad, 0): in_turn(process(3), process(250, step_ns=48.0))}, sweep=LONG)
    assert [number for number, case in launcher.order if case == bad] == [0, 0, 1, 2]
    at = launcher.order.index((0, bad))
    assert launcher.order[at + 1] == (0, bad)
    [record] = records_of(records, bad)
    assert (record["step_ns"], record["blocks_disturbed"], record["attempts"]) == (48.0, 50, 2)
    assert record["seconds"] == 10.0
    assert heard.of("started").count((0, bad)) == 2
    assert len(heard.of("finished")) == 12
    assert [entry["case_id"] for entry in kept(tmp_path, "attempt")].count(bad.case_id) == 4
    assert [each["step_ns"] for each in record["processes"]] == [80.0, 48.0]
    assert record["processes"][0]["disturbances"] == WHY
    assert not [each for each in records if "processes" in each and each is not record]


def test_what_only_the_first_of_both_found_stays(run):
    told = {"convergence": [SEED], "convergence_targets": TARGETS, "first_call_cold_ns": 7}
    first = process(0, phases_ns={"import": 1, "timing": 20}, **told)
    second = process(300, step_ns=48.0, first_call_warm_ns=3, phases_ns={"import": 2, "timing": 10})
    launcher, _, records = run({(CASES[0], 0): in_turn(first, second)}, sweep=LONG)
    [record] = records_of(records, CASES[0])
    assert (record["first_call_cold_ns"], record["first_call_warm_ns"], record["convergence"]) == (7, 3, [SEED])
    assert record["phases_ns"] == {"import": 3, "timing": 30}
    assert record["step_ns"] == 48.0
    asked = [request.seeds for request in launcher.requests if (request.case, request.round) == (CASES[0], 0)]
    assert asked == [7, 0]  # once is enough


@pytest.mark.parametrize(
    ("quiet", "kept_ns"),
    [((0, 2, 1, 1), 2.0), ((5, 5, 0, 0), 2.0), ((4, 1, 1, 4), 4.0), ((0, 0, 0, 0), 4.0)],
)
def test_of_processes_that_all_are_the_one_disturbed_least_counts_and_never_the_fastest(run, quiet, kept_ns):
    found = [process(blocks, step_ns=number) for number, blocks in enumerate(quiet, start=1)]
    launcher, _, records = run({(CASES[2], 0): in_turn(*found)}, sweep=LONG)
    assert [number for number, case in launcher.order if case == CASES[2]] == [0, 0, 0, 0, 1, 2]
    [record] = records_of(records, CASES[2])
    assert (record["step_ns"], record["attempts"]) == (kept_ns, 4)
    assert [each["step_ns"] for each in record["processes"]] == [1, 2, 3, 4]  # nothing is hidden


@pytest.mark.parametrize(
    "found",
    [
        process(300),
        process(31),  # the rest is enough to tell
        process(8, blocks=30),
        process(0, blocks=0),
        process(0, disturbances={"fewer cores than ranks": 300}),  # and so will the next be
        process(0, disturbances={"throttled": 300}),
        process(0, disturbances={"waited": 200, "slow core": 100}),
        {**process(0), "outcome": "wrong_gradient", "reason": "because"},
    ],
)
def test_a_process_that_no_other_would_be_better_than_is_measured_once(run, found):
    launcher, _, records = run({(CASES[0], 0): lambda: found}, sweep=LONG)
    assert launcher.order.count((0, CASES[0])) == 1
    assert records_of(records, CASES[0])[0]["attempts"] == 1


def test_a_sweep_that_times_for_a_moment_only_measures_nothing_again(run):
    launcher, _, _ = run({case: lambda: process(0) for case in CASES})
    assert launcher.order == list(SWEEP.schedule())


def test_where_all_are_disturbed_it_gives_up_soon(run):
    launcher, _, records = run({case: lambda: process(0) for case in CASES}, sweep=LONG)
    assert len(launcher.order) == 12 + 6
    assert len(records) == 12


def test_where_others_are_not_it_goes_on_for_longer(run):
    bad = CASES[0]
    launcher, _, _ = run({bad: lambda: process(0), **{case: lambda: process(300) for case in CASES[1:]}}, sweep=LONG)
    assert [number for number, case in launcher.order if case == bad] == [0] * 4 + [1] * 4 + [2] * 4


def test_a_core_that_is_slow_from_some_time_on_is_not_measured_again_for_ever(run):
    found = iter([process(300)] * 6 + [process(0)] * 99)
    launcher, _, records = run({case: lambda: next(found) for case in CASES}, sweep=LONG)
    assert len(launcher.order) == 12 + 6
    assert sum(record["attempts"] - 1 for record in records) == 6


def test_once_a_process_is_not_disturbed_any_more_others_are_measured_again_once_more(run):
    found = iter([process(0)] * 8 + [process(300)] + [process(0), process(300)] * 99)
    _, _, records = run({case: lambda: next(found) for case in CASES}, sweep=LONG)
    assert [record["attempts"] for record in records][:4] == [4, 4, 1, 2]


@pytest.mark.parametrize("outcome", ["timeout", "out_of_memory"])
def test_an_ending_that_is_no_word_against_it_leaves_what_was_measured_before(run, outcome):
    later = {"outcome": outcome, "reason": "because", "seconds": 1.0}
    _, _, records = run({(CASES[0], 0): in_turn(process(2), later)}, sweep=LONG)
    [record] = records_of(records, CASES[0])
    assert (record["outcome"], record["step_ns"]) == ("ok", 80.0)
    assert [each["outcome"] for each in record["processes"]] == ["ok", *[outcome] * 3]
    assert record["seconds"] == 5.0 + 3 * 1.0


@pytest.mark.parametrize("outcome", ["crashed", "rejected", "wrong_gradient"])
def test_one_that_ends_without_a_time_when_measured_again_has_none(run, outcome):
    crash = {"outcome": outcome, "reason": "because", "seconds": 1.0}
    launcher, _, records = run({(CASES[0], 0): in_turn(process(0), crash)}, sweep=LONG)
    [record] = records_of(records, CASES[0])
    assert (record["outcome"], record["attempts"], record["seconds"]) == (outcome, 2, 6.0)
    assert "step_ns" not in record
    assert [number for number, case in launcher.order if case == CASES[0]] == [0, 0]


def test_an_interrupt_while_one_is_measured_again_leaves_it_to_be_measured(run, tmp_path):
    with pytest.raises(KeyboardInterrupt):
        run({(CASES[0], 0): in_turn(process(0), KeyboardInterrupt())}, sweep=LONG)
    progress = Progress.of(read_journal(tmp_path)[1])
    assert progress.needs(CASES[0], 0)
    assert progress.attempts[CASES[0].case_id, 0] == 2


def test_each_case_has_the_launcher_that_is_chosen_for_it(run, tmp_path):
    asked, others = [], FakeLauncher(tmp_path)

    def chosen(launcher):
        return lambda case: (asked.append(case), launcher if case.engine == "manual" else others)[1]

    run.chosen = chosen
    launcher, _, _ = run()
    assert asked == [case for _, case in SWEEP.schedule()]
    assert {request.case.engine for request in launcher.requests} == {"manual"}
    assert {request.case.engine for request in others.requests} == {"autograd"}


def test_a_case_whose_machine_is_lost_is_needed_again_and_was_begun_as_often_as_it_was():
    one, other = CASES[0], CASES[1]
    begun = [{"kind": "attempt", "case_id": case.case_id, "round": 0} for case in (one, other)]
    progress = Progress.of([*begun, done_before(one, 0), done_before(one, 1, "crashed"), done_before(other, 0)])
    part = progress.of_cases({one.case_id})
    progress.forget({one.case_id})
    assert progress.needs(one, 0)
    assert progress.needs(one, 2)
    assert not progress.needs(other, 0)
    assert progress.attempts[one.case_id, 0] == 1
    assert part == Progress.of([begun[0], done_before(one, 0), done_before(one, 1, "crashed")])


def test_an_attempt_is_in_the_journal_before_its_process_starts(run, tmp_path, monkeypatch):
    seen = []
    measure = FakeLauncher.measure

    def noting(self, request, on_phase):
        seen.append(read_journal(tmp_path)[1][-1])
        return measure(self, request, on_phase)

    monkeypatch.setattr(FakeLauncher, "measure", noting)
    launcher, _, _ = run()
    assert seen == [{"kind": "attempt", "case_id": case.case_id, "round": number} for number, case in launcher.order]


def test_a_case_that_is_begun_again_says_how_often_it_was(run, tmp_path):
    third = list(SWEEP.schedule())[2]
    for times in (1, 2):
        progress = Progress.of(read_journal(tmp_path)[1])
        with pytest.raises(KeyboardInterrupt):
            run({(third[1], third[0]): KeyboardInterrupt()}, progress=progress)
        assert len(kept(tmp_path, "attempt")) == 2 + times
    _, _, records = run(progress=Progress.of(read_journal(tmp_path)[1]))
    attempts = {(record["round"], record["case_id"]): record["attempts"] for record in records}
    assert attempts.pop((third[0], third[1].case_id)) == 3
    assert set(attempts.values()) == {1}
    assert len(attempts) == 11


@pytest.mark.parametrize(
    "record",
    [
        {"outcome": "ok", "reason": ""},
        {"outcome": "ok", "reason": "", "step_ns": -1.0},
        {"outcome": "ok", "reason": "", "step_ns": "fast"},
        {"outcome": "ok", "reason": "", "step_ns": 5.0, "threads": 0.5},
        {"outcome": "crashed", "reason": "", "convergence": 7},
    ],
)
def test_a_record_that_nobody_could_read_again_is_a_crash_of_its_case_alone(run, record):
    bad = CASES[1]
    _, _, records = run({bad: record})
    assert [each["outcome"] for each in records if each["case_id"] == bad.case_id] == ["crashed"]
    [told] = [each for each in records if each["case_id"] == bad.case_id]
    assert told["reason"].startswith("the worker's record makes no sense: ")
    assert len([each for each in records if each["outcome"] == "ok"]) == 9


@pytest.mark.parametrize("name", ["kind", "case_id", "round", "attempts"])
def test_what_a_record_is_of_is_said_by_the_program_and_not_by_the_worker(run, name):
    launcher, _, records = run({CASES[1]: {"outcome": "ok", "reason": "", "step_ns": 5.0, name: "another"}})
    assert [(record["round"], record["case_id"]) for record in records] == [
        (number, case.case_id) for number, case in launcher.order
    ]
    assert {record["attempts"] for record in records} == {1}
