import errno
import fcntl
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from harness.plan.errors import PlanError
from harness.running import journal as journal_module
from harness.running.journal import FILE, Journal, whole_size

ROOT = Path(__file__).parents[2]
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
TORN = ("the last record was being written when the run ended; it is measured again",)


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


def entries(folder):
    """The lines of a journal, each of which must be whole."""
    *lines, rest = (folder / FILE).read_bytes().split(b"\n")
    assert rest == b""
    return [json.loads(line) for line in lines]


def test_what_was_appended_is_there_in_order_after_the_run_itself(tmp_path):
    written(tmp_path, RECORDS)
    assert entries(tmp_path) == [{"kind": "run", **HEADER}, *RECORDS]


def test_every_line_and_the_files_name_are_on_the_disk_before_the_next_step(tmp_path, monkeypatch):
    fsync, synced = os.fsync, []

    def watched(descriptor):
        synced.append((os.fstat(descriptor).st_ino, (tmp_path / FILE).read_bytes().count(b"\n")))
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", watched)
    written(tmp_path, RECORDS)
    folder, file = tmp_path.stat().st_ino, (tmp_path / FILE).stat().st_ino
    # Each time all of the line had been handed to the system: header, the folder that holds the name, both records.
    assert synced == [(file, 1), (folder, 1), (file, 2), (file, 3)]


def test_each_entry_is_one_line_whatever_text_it_holds(journal, tmp_path):
    journal.append({"kind": "record", "reason": "one\ntwo\r\u2028three\x85\x00"})
    assert entries(tmp_path)[1]["reason"] == "one\ntwo\r\u2028three\x85\x00"
    assert b"\0" not in (tmp_path / FILE).read_bytes()


def test_the_journal_of_another_run_is_never_overwritten(tmp_path):
    written(tmp_path, RECORDS)
    before = (tmp_path / FILE).read_bytes()
    with pytest.raises(FileExistsError):
        Journal.create(tmp_path, HEADER)
    assert (tmp_path / FILE).read_bytes() == before


# A line that was being written when the run ended


@pytest.mark.parametrize(
    "torn",
    [
        b"{",
        b'{"kind": "record", "case_id": "li',
        b'{"kind": "record"}',
        '{"kind": "record", "reason": "µ'.encode()[:-1],
        b"\x00" * 512,
        b'{"kind": "record", "reason": "' + b"\x00" * 4096,
        b'{"kind": "record", "reason": "' + b"\x00" * 4096 + b'"}\n',
        b"\x00" * 4096 + b'"}\n',
    ],
    ids=["a byte", "a half", "all but its end", "half a letter", "zeros", "zeros at the end", "in it", "in front"],
)
def test_a_torn_last_line_is_cut_off_and_reported_when_the_journal_is_gone_on_with(tmp_path, torn):
    written(tmp_path, RECORDS[:1])
    whole = (tmp_path / FILE).read_bytes()
    (tmp_path / FILE).write_bytes(whole + torn)
    journal = Journal.reopen(tmp_path)
    assert (tmp_path / FILE).read_bytes() == whole
    assert journal.notes == TORN
    journal.append(RECORDS[1])
    journal.close()
    assert entries(tmp_path)[1:] == RECORDS


def test_wherever_the_last_line_is_torn_the_lines_before_it_stay(tmp_path):
    written(tmp_path, RECORDS)
    whole = (tmp_path / FILE).read_bytes()
    start_of_last = whole[:-1].rfind(b"\n") + 1
    for end in range(start_of_last, len(whole)):
        assert whole_size(whole[:end]) == start_of_last
    assert whole_size(whole) == len(whole)
    assert whole_size(b"") == 0


def test_zeros_before_the_last_line_are_damage_and_not_cut_off():
    damaged = b'{"a": 1}\n{"b": \0}\n'
    for last in (b'{"c": 3}\n', b'{"c"'):
        assert whole_size(damaged + last) == len(damaged) + (len(last) if last.endswith(b"\n") else 0)


def test_going_on_with_a_journal_keeps_every_byte_of_it_and_has_nothing_to_report(tmp_path):
    written(tmp_path, RECORDS)
    before = (tmp_path / FILE).read_bytes()
    journal = Journal.reopen(tmp_path)
    journal.close()
    assert journal.notes == ()
    assert (tmp_path / FILE).read_bytes() == before


def test_the_last_line_can_give_way_to_another_and_what_follows_comes_after_it(tmp_path):
    journal = Journal.create(tmp_path, HEADER)
    journal.append(RECORDS[0])
    journal.append(RECORDS[0])
    journal.replace_last(RECORDS[1])
    journal.append({})
    journal.close()
    assert entries(tmp_path)[1:] == [RECORDS[0], RECORDS[1], {}]


# A disk that takes no more


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EIO], ids=errno.errorcode.get)
@pytest.mark.parametrize("call", ["write", "fsync"])
def test_a_line_that_the_disk_does_not_take_is_taken_back_and_the_error_names_the_file(
    tmp_path, monkeypatch, number, call
):
    class Failing(journal_module.FileIO):
        fails = False

        def write(self, data):
            if self.fails and call == "write":
                super().write(data[: len(data) // 2])
                raise OSError(number, os.strerror(number))
            return super().write(data)

    def fsync(_):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(journal_module, "FileIO", Failing)
    journal = Journal.create(tmp_path, HEADER)
    journal.append(RECORDS[0])
    before = (tmp_path / FILE).read_bytes()
    with monkeypatch.context() as patch:
        patch.setattr(Failing, "fails", True)
        if call == "fsync":
            patch.setattr(os, "fsync", fsync)
        with pytest.raises(OSError, match=os.strerror(number)) as raised:
            journal.append(RECORDS[1])
    assert (raised.value.errno, raised.value.filename) == (number, str(tmp_path / FILE))
    assert (tmp_path / FILE).read_bytes() == before
    journal.append(RECORDS[1])
    journal.close()
    assert entries(tmp_path)[1:] == RECORDS


def test_a_line_that_cannot_be_taken_back_at_once_is_before_the_next_one(tmp_path, monkeypatch):
    class Broken(journal_module.FileIO):
        broken = False

        def write(self, data):
            if self.broken:
                super().write(data[:20])
                raise OSError(errno.EIO, "broken")
            return super().write(data)

        def truncate(self, size=None):
            if self.broken:
                raise OSError(errno.EIO, "broken")
            return super().truncate(size)

    monkeypatch.setattr(journal_module, "FileIO", Broken)
    journal = Journal.create(tmp_path, HEADER)
    monkeypatch.setattr(Broken, "broken", True)
    with pytest.raises(OSError, match="broken"):
        journal.append(RECORDS[0])
    assert not (tmp_path / FILE).read_bytes().endswith(b"\n")
    monkeypatch.setattr(Broken, "broken", False)
    journal.append({})
    journal.append(RECORDS[1])
    journal.close()
    assert entries(tmp_path) == [{"kind": "run", **HEADER}, {}, RECORDS[1]]


def test_a_write_that_takes_only_a_part_goes_on_with_the_rest(tmp_path, monkeypatch):
    class Short(journal_module.FileIO):
        def write(self, data):
            return super().write(data[:7])

    monkeypatch.setattr(journal_module, "FileIO", Short)
    written(tmp_path, RECORDS)
    assert entries(tmp_path)[1:] == RECORDS


def test_a_journal_that_cannot_be_begun_leaves_none(tmp_path, monkeypatch):
    def full(_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match=FILE):
        Journal.create(tmp_path, HEADER)
    assert list(tmp_path.iterdir()) == []


def test_a_journal_that_cannot_be_written_is_refused_with_the_reason(tmp_path):
    with pytest.raises(PlanError, match=f"{FILE} cannot be written: No such file or directory"):
        Journal.reopen(tmp_path)
    (tmp_path / FILE).mkdir()
    with pytest.raises(PlanError, match=f"{FILE} cannot be written: Is a directory"):
        Journal.reopen(tmp_path)


# Two runs in one folder

OTHER = """
import sys
from pathlib import Path
from harness.running.journal import Journal
journal = Journal.{}
print("open", flush=True)
sys.stdin.read()
"""


@pytest.mark.parametrize("how", ["create(Path('.'), {})", "reopen(Path('.'))"], ids=["new", "gone on with"])
def test_a_journal_that_another_process_writes_to_is_refused_until_that_ends(tmp_path, how):
    if how.startswith("reopen"):
        written(tmp_path, RECORDS)
    with subprocess.Popen(
        (sys.executable, "-P", "-c", OTHER.format(how)),
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as other:
        assert other.stdout.readline() == "open\n"
        with (tmp_path / FILE).open("ab") as file:
            file.write(b'{"kind": "re')  # it is in the middle of a line
        before = (tmp_path / FILE).read_bytes()
        with pytest.raises(PlanError, match="that run has not ended"):
            Journal.reopen(tmp_path)
        assert (tmp_path / FILE).read_bytes() == before
        other.kill()
    Journal.reopen(tmp_path).close()


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.EOPNOTSUPP], ids=errno.errorcode.get)
def test_a_file_system_without_locks_is_gone_on_with_and_reported(tmp_path, monkeypatch, number):
    def flock(*_):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(fcntl, "flock", flock)
    written(tmp_path, RECORDS)
    journal = Journal.reopen(tmp_path)
    journal.append({})
    journal.close()
    [note] = journal.notes
    assert "has no locks" in note
    assert len(entries(tmp_path)) == 4
