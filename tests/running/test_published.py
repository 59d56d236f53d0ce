import json
import threading
import time

import pytest

from harness.plan.case import Case
from harness.plan.errors import PlanError
from harness.plan.sweep import Sweep
from harness.running import published as published_module
from harness.running.journal import FILE, Journal
from harness.running.published import PublishedJournal, object_name
from harness.running.store import Folder

SWEEP = Sweep((Case("line", "manual", "cpu", "float32", 10),), rounds=2)
RECORD = {
    "kind": "record",
    "case_id": SWEEP.cases[0].case_id,
    "round": 0,
    "outcome": "ok",
    "reason": "",
    "step_ns": 5.0,
}
ATTEMPT = {"kind": "attempt", "case_id": RECORD["case_id"], "round": 0}


class Slow:
    """A store that answers when it is told to; `created` holds what it was asked for."""

    url = "slow"

    def __init__(self):
        self.created = []
        self.answers = threading.Event()

    def create(self, name, content):
        self.created.append((name, content))
        assert self.answers.wait(30)
        return content


@pytest.fixture
def slow():
    store = Slow()
    yield store
    store.answers.set()


@pytest.fixture
def journal(tmp_path):
    return Journal.create(tmp_path, {})


def lines(folder):
    return [json.loads(line) for line in (folder / FILE).read_text().splitlines()][1:]


def interrupted(journal, monkeypatch):
    """Append a record; the signal comes while the store is waited for."""
    with monkeypatch.context() as patch:
        waits = published_module.Future.result

        def signal(future, timeout):
            if timeout is None:
                raise KeyboardInterrupt
            return waits(future, timeout)

        patch.setattr(published_module.Future, "result", signal)
        with pytest.raises(KeyboardInterrupt):
            journal.append(RECORD)


def test_records_are_published_and_attempts_are_not(tmp_path, journal):
    store = Folder(tmp_path / "store")
    published = PublishedJournal(journal, store, SWEEP)
    published.append(ATTEMPT)
    assert store.names() == {}
    published.append(RECORD)
    assert store.read(store.names()) == {object_name(RECORD): json.dumps(RECORD).encode() + b"\n"}
    published.close()
    assert lines(tmp_path) == [ATTEMPT, RECORD]


def test_a_record_that_a_signal_found_on_its_way_arrives_and_is_sent_once(tmp_path, journal, slow, monkeypatch):
    published = PublishedJournal(journal, slow, SWEEP)
    interrupted(published, monkeypatch)
    threading.Timer(0.1, slow.answers.set).start()
    published.close()
    assert [name for name, _ in slow.created] == [object_name(RECORD)]
    assert lines(tmp_path) == [RECORD]


def test_a_store_that_does_not_answer_holds_nobody_up_for_long_and_the_record_is_kept(
    tmp_path, journal, slow, monkeypatch
):
    monkeypatch.setattr(published_module, "_LAST_S", 0.1)
    published = PublishedJournal(journal, slow, SWEEP)
    interrupted(published, monkeypatch)
    started = time.monotonic()
    with pytest.raises(PlanError, match="slow does not answer: its last record is not published"):
        published.close()
    assert time.monotonic() - started < 5
    assert lines(tmp_path) == [RECORD]
    Journal.reopen(tmp_path).close()  # it is not locked any more


def test_the_record_of_another_process_takes_the_place_of_this_ones(tmp_path, journal):
    store = Folder(tmp_path / "store")
    theirs = {**RECORD, "step_ns": 6.0}
    store.create(object_name(RECORD), json.dumps(theirs).encode())
    published = PublishedJournal(journal, store, SWEEP)
    published.append(ATTEMPT)
    published.append(RECORD)
    published.append({**ATTEMPT, "round": 1})
    published.close()
    assert lines(tmp_path) == [ATTEMPT, theirs, {**ATTEMPT, "round": 1}]


def test_what_was_published_there_by_no_such_program_is_not_kept(tmp_path, journal):
    store = Folder(tmp_path / "store")
    store.create(object_name(RECORD), b"[]")
    published = PublishedJournal(journal, store, SWEEP)
    with pytest.raises(PlanError, match=r"json is damaged: \[\]: must be an object"):
        published.append(RECORD)
    published.close()
    assert lines(tmp_path) == [RECORD]
