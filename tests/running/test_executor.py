import pytest

from harness.plan.case import Case
from harness.plan.sweep import Sweep
from harness.running.executor import Progress, execute
from harness.running.journal import Journal, read_journal

CASES = tuple(Case("line", engine, "cpu", "float32", size) for engine in ("manual", "autograd") for size in (10, 100))
SWEEP = Sweep(CASES, rounds=3, seeds=7)


class FakeLauncher:
    """Notes each request and what the journal holds at that moment; ends as it is told, else with a time."""

    def __init__(self, folder, endings=()):
        self.folder = folder
        self.endings = dict(endings)
        self.requests = []
        self.kept_before = []

    def measure(self, request, on_phase):
        self.requests.append(request)
        self.kept_before.append(len(read_journal(self.folder)[1]))
        on_phase("import")
        on_phase("timing")
        ending = self.endings.get((request.case, request.round), self.endings.get(request.case, "ok"))
        if isinstance(ending, BaseException):
            raise ending
        return {"outcome": ending, "reason": "" if ending == "ok" else "because", "seconds": 1.0}

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
    journal = Journal.create(tmp_path, {})
    yield journal
    journal.close()


@pytest.fixture
def run(tmp_path, journal):
    """Executes the sweep with a fake launcher and returns launcher, observer and the journal's records."""

    def run(endings=(), progress=None, sweep=SWEEP, after_round=lambda: None):
        launcher, heard = FakeLauncher(tmp_path, endings), Heard()
        try:
            execute(sweep, progress or Progress(), launcher, journal, heard, after_round)
        finally:
            run.launcher, run.heard = launcher, heard
        return launcher, heard, read_journal(tmp_path)[1]

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
    progress = Progress.of(
        {"case_id": case.case_id, "round": number, "outcome": "ok"} for number, case in reversed(done)
    )
    launcher, heard, records = run(progress=progress)
    assert sorted(launcher.order + done) == sorted(SWEEP.schedule())
    assert sorted(heard.of("skipped")) == sorted(done)
    assert len(records) == 9


def test_a_case_without_a_time_before_is_not_tried_again_after(run):
    progress = Progress.of([{"case_id": CASES[3].case_id, "round": 0, "outcome": "timeout"}])
    launcher, _, _ = run(progress=progress)
    assert CASES[3] not in [case for _, case in launcher.order]


def test_a_finished_run_measures_nothing(run):
    progress = Progress.of(
        {"case_id": case.case_id, "round": number, "outcome": "ok"} for number, case in SWEEP.schedule()
    )
    launcher, heard, _ = run(progress=progress)
    assert launcher.order == []
    assert len(heard.of("skipped")) == 12


def test_after_each_round_all_of_its_records_are_there(run, tmp_path):
    kept = []
    run(after_round=lambda: kept.append(len(read_journal(tmp_path)[1])))
    assert kept == [4, 8, 12]


def test_an_interrupt_is_raised_on_and_leaves_every_record_before_it(run, tmp_path):
    third = list(SWEEP.schedule())[2]
    rounds = []
    with pytest.raises(KeyboardInterrupt):
        run({(third[1], third[0]): KeyboardInterrupt()}, after_round=lambda: rounds.append(1))
    assert len(read_journal(tmp_path)[1]) == 2
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
    kept = []
    monkeypatch.setattr(Heard, "case_finished", lambda *_: kept.append(len(read_journal(tmp_path)[1])))
    run(sweep=Sweep(CASES, rounds=1))
    assert kept == [1, 2, 3, 4]
