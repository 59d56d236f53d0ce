import json
import os

import pytest

from harness.plan.errors import PlanError
from harness.running.journal import FILE, Journal, read_journal

HEADER = {"run_id": "20260101T000000Z-abc", "sweep": {"rounds": 3}}
RECORDS = [
    {"kind": "record", "case_id": "line/manual/cpu/float32/b100", "round": 0, "outcome": "ok", "step_ns": 1.5},
    {
        "kind": "record",
        "case_id": "line/µ.py:Mine/cpu/float32/b100",
        "round": 0,
        "outcome": "crashed",
        "stderr": "a\nb",
    },
]


@pytest.fixture
def journal(tmp_path):
    journal = Journal.create(tmp_path, HEADER)
    yield journal
    journal.close()


def written(folder, records):
    journal = Journal.create(folder, HEADER)
    for record in records:
        journal.append(record)
    journal.close()


def test_what_was_appended_is_read_in_order(tmp_path):
    written(tmp_path, RECORDS)
    header, records = read_journal(tmp_path)
    assert header == {"kind": "run", **HEADER}
    assert records == RECORDS


def test_a_run_without_a_record_is_a_run(tmp_path):
    written(tmp_path, [])
    assert read_journal(tmp_path) == ({"kind": "run", **HEADER}, [])


def test_every_line_is_on_the_disk_before_append_returns(tmp_path, monkeypatch):
    fsync, synced = os.fsync, []

    def watched(descriptor):
        synced.append((os.fstat(descriptor).st_ino, (tmp_path / FILE).read_bytes().count(b"\n")))
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", watched)
    written(tmp_path, RECORDS)
    inode = (tmp_path / FILE).stat().st_ino
    # Each time all of the line had been handed to the system: header, then both records.
    assert synced == [(inode, 1), (inode, 2), (inode, 3)]


def test_each_entry_is_one_line_whatever_text_it_holds(journal, tmp_path):
    journal.append({"kind": "record", "reason": "one\ntwo\r\u2028three\x85\x00"})
    assert (tmp_path / FILE).read_bytes().count(b"\n") == 2
    assert read_journal(tmp_path)[1][0]["reason"] == "one\ntwo\r\u2028three\x85\x00"


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_a_number_that_json_has_not_costs_nobody_the_run(journal, tmp_path, value):
    journal.append({"kind": "record", "loss": value})
    journal.append({"kind": "record", "loss": 1.0})
    first, second = read_journal(tmp_path)[1]
    assert first["loss"] == pytest.approx(value, nan_ok=True)
    assert second["loss"] == 1.0


def test_the_journal_of_another_run_is_never_overwritten(tmp_path):
    written(tmp_path, RECORDS)
    with pytest.raises(FileExistsError):
        Journal.create(tmp_path, HEADER)
    assert read_journal(tmp_path)[1] == RECORDS


def test_wherever_the_last_line_is_torn_the_lines_before_it_are_read(tmp_path):
    written(tmp_path, RECORDS)
    whole = (tmp_path / FILE).read_bytes()
    start_of_last = whole[:-1].rfind(b"\n") + 1
    for end in range(start_of_last, len(whole)):
        (tmp_path / FILE).write_bytes(whole[:end])
        assert read_journal(tmp_path)[1] == RECORDS[:1]


@pytest.mark.parametrize(
    "torn", [b"", b"{", b'{"kind": "record", "case_id": "li', b'{"kind": "record"}', b"\x00" * 512]
)
def test_a_torn_last_line_is_cut_off_when_the_journal_is_gone_on_with(tmp_path, torn):
    written(tmp_path, RECORDS[:1])
    with (tmp_path / FILE).open("ab") as file:
        file.write(torn)
    journal = Journal.reopen(tmp_path)
    journal.append(RECORDS[1])
    journal.close()
    assert read_journal(tmp_path)[1] == RECORDS
    assert torn == b"" or torn not in (tmp_path / FILE).read_bytes().splitlines()


def test_going_on_with_a_journal_keeps_every_byte_of_it(tmp_path):
    written(tmp_path, RECORDS)
    before = (tmp_path / FILE).read_bytes()
    Journal.reopen(tmp_path).close()
    assert (tmp_path / FILE).read_bytes() == before


RUN = json.dumps({"kind": "run", **HEADER})
RECORD = json.dumps(RECORDS[0])
DAMAGED = {
    "empty": "",
    "only a torn line": RUN,
    "no JSON": f"{RUN}\nwhat?\n{RECORD}\n",
    "a line torn in the middle": f"{RUN}\n{RECORD[:20]}\n{RECORD}\n",
    "an empty line": f"{RUN}\n\n{RECORD}\n",
    "a list": f"{RUN}\n[1]\n",
    "null": f"{RUN}\nnull\n",
    "a record without a run": f"{RECORD}\n",
    "two runs": f"{RUN}\n{RUN}\n",
    "no kind": f"{RUN}\n{{}}\n",
    "another kind": f'{RUN}\n{{"kind": "weather"}}\n',
}


@pytest.mark.parametrize("text", DAMAGED.values(), ids=DAMAGED)
def test_a_damaged_journal_is_refused_by_its_name(tmp_path, text):
    (tmp_path / FILE).write_text(text)
    with pytest.raises(PlanError, match=rf"{FILE} is damaged"):
        read_journal(tmp_path)


def test_a_folder_without_a_journal_is_refused(tmp_path):
    with pytest.raises(PlanError, match="no results folder"):
        read_journal(tmp_path)
    with pytest.raises(PlanError, match="no results folder"):
        read_journal(tmp_path / "not-there")


def test_a_file_that_is_no_text_is_refused(tmp_path):
    (tmp_path / FILE).write_bytes(b"\x89PNG\xff\n")
    with pytest.raises(PlanError, match=FILE):
        read_journal(tmp_path)
