import json
import os
from typing import Any

import pytest

from harness.plan.case import Case
from harness.plan.errors import PlanError
from harness.plan.sweep import Sweep
from harness.running import records as records_module
from harness.running.journal import FILE
from harness.running.records import MACHINE_FILE, check_entry, read_journal, read_machine

MANUAL, AUTOGRAD = (Case("line", engine, "cpu", "float32", 100) for engine in ("manual", "autograd"))
OTHER = Case("line", "manual", "cpu", "float32", 1000)
SWEEP = Sweep((MANUAL, AUTOGRAD), rounds=3)
EPOCH = {"epoch": 1, "seeds": 3, "loss_p05": 0.1, "loss_p50": 0.2, "loss_p95": None, "accuracy_p50": 0.5}
EPOCH["converged_share"] = 0.25
TARGETS = {
    "max_loss": 0.1,
    "min_accuracy": 0.9,
    "min_converged_share": 0.75,
    "max_median_loss": 0.05,
    "min_median_accuracy": 0.9,
}
SEED = {"seed": 0, "updates": 20, "loss": 0.1, "accuracy": 1.0, "r2": None, "converged": True, "epochs_to_target": None}
HEADER = {
    "kind": "run",
    "format": 1,
    "run_id": "20260101T000000Z-abc",
    "commit": "ab" * 20,
    "dirty": False,
    "machine": "amd-epyc-2c",
    "fingerprint": "00aa11bb22cc",
    "sweep": json.loads(json.dumps(SWEEP.to_json())),
}
RECORD: dict[str, Any] = {
    "kind": "record",
    "case_id": MANUAL.case_id,
    "round": 0,
    "outcome": "ok",
    "reason": "",
    "threads": 2,
    "step_ns": 1.5,
    "blocks": 40,
    "blocks_disturbed": 3,
    "gate_share": 0.1,
    "import_ns": 10**9,
    "stop_rule": "budget",
    "convergence": [SEED],
    "convergence_targets": TARGETS,
}


@pytest.fixture
def folder(tmp_path):
    """Return a function that writes a journal of these lines and returns its folder."""

    def write(*lines: Any):
        texts = [line if isinstance(line, str) else json.dumps(line) for line in lines]
        (tmp_path / FILE).write_text("".join(f"{text}\n" for text in texts), "utf-8", "surrogatepass")
        return tmp_path

    return write


def refusal(folder) -> str:
    with pytest.raises(PlanError) as refused:
        read_journal(folder)
    return str(refused.value)


def test_what_this_version_does_not_know_is_kept(folder):
    header = {**HEADER, "colour": "red"}
    record = {**RECORD, "joules": {"a": [1]}, "watts": "many"}
    attempt = {"kind": "attempt", "case_id": MANUAL.case_id, "round": 0}
    assert read_journal(folder(header, attempt, record)) == (header, [attempt, record])


def test_a_header_says_its_session_and_its_environment_or_is_of_before_it_did(folder):
    environment = {"cpu_model": "AMD EPYC", "cpus": 2, "gpu_mig": False, "torch": "2.13.0+cpu"}
    header = {**HEADER, "session": "20260101T000000Z-abc", "environment": environment}
    assert read_journal(folder(header)) == (header, [])
    assert read_journal(folder(HEADER)) == (HEADER, [])


PLACE = {"machine": "amd-epyc-2c", "fingerprint": "00aa11bb22cc", "node": "0a1b2c3d4e5f"}
ATTEMPT = {"kind": "attempt", "case_id": MANUAL.case_id, "round": 0}


def test_what_a_lost_machine_had_measured_of_a_group_does_not_count_and_is_measured_again(folder):
    header = {**HEADER, "sweep": json.loads(json.dumps(Sweep((MANUAL, AUTOGRAD, OTHER), rounds=3).to_json()))}
    mine, compared, apart = ({**RECORD, **PLACE, "case_id": case.case_id} for case in (MANUAL, AUTOGRAD, OTHER))
    again = {**mine, "node": "ffffffffffff", "fingerprint": "cc22bb11aa00", "attempts": 2}
    lost = {"kind": "lost", "case_id": AUTOGRAD.case_id, "reason": "its power failed"}
    entries = read_journal(folder(header, ATTEMPT, mine, apart, compared, lost, ATTEMPT, again))[1]
    assert entries == [ATTEMPT, apart, ATTEMPT, again]


def test_a_time_of_another_machine_than_those_it_is_compared_with_is_refused(folder):
    compared = {**RECORD, **PLACE, "case_id": AUTOGRAD.case_id}
    for name in PLACE:
        said = refusal(folder(HEADER, {**RECORD, **PLACE, name: "another"}, compared))
        assert "line 3: line/autograd/cpu/float32/b100 has a time of another machine" in said
    failed = {
        **RECORD,
        **PLACE,
        "node": "another",
        "outcome": "crashed",
        "reason": "killed by SIGSEGV",
        "step_ns": None,
    }
    assert read_journal(folder(HEADER, failed, compared))[1] == [failed, compared]  # it has no time


@pytest.mark.parametrize("digest", ["0123456789ab", "", "not known"])
def test_a_record_may_say_what_it_trained(digest, folder):
    record = {**RECORD, "workload_digest": digest}
    assert read_journal(folder(HEADER, record))[1] == [record]


@pytest.mark.parametrize(
    ("lines", "number", "text"),
    [
        (["what?"], 1, "is no JSON"),
        ([""], 1, "is no JSON"),
        (["[1]"], 1, "must be an object"),
        ([RECORD], 1, "kind 'record': must be run"),
        ([{}], 1, "kind None"),
        ([{**HEADER, "format": 2}], 1, "another version of this program: line 1: format 2"),
        ([{**HEADER, "format": True}], 1, "format True"),
        ([{**HEADER, "run_id": "../../x"}], 1, "run_id '../../x'"),
        ([{**HEADER, "machine": "=cmd"}], 1, "machine '=cmd'"),
        ([{**HEADER, "commit": 7}], 1, "commit 7"),
        ([{**HEADER, "dirty": "no"}], 1, "dirty 'no'"),
        ([{**HEADER, "sweep": None}], 1, "sweep None"),
        ([{**HEADER, "session": ""}], 1, "session ''"),
        ([{**HEADER, "session": None}], 1, "session None"),
        ([{**HEADER, "session": "../x"}], 1, "session '../x': must be letters, digits and . _ + -"),
        ([{**HEADER, "session": "=cmd"}], 1, "session '=cmd'"),
        ([{**HEADER, "environment": None}], 1, "environment None: must be an object of texts and numbers"),
        ([{**HEADER, "environment": ["torch"]}], 1, "environment ['torch']"),
        ([{**HEADER, "environment": {"torch": None}}], 1, "'torch' is None"),
        ([{**HEADER, "environment": {"torch": ["2.13"]}}], 1, "'torch' is ['2.13']"),
        ([{**HEADER, "environment": {"cpus": 10**400}}], 1, "'cpus' is "),
        ([{**HEADER, "environment": {str(number): 1 for number in range(101)}}], 1, "environment {"),
        ([HEADER, HEADER], 2, "kind 'run'"),
        ([HEADER, RECORD, {"kind": "weather"}], 3, "kind 'weather'"),
        ([HEADER, "", RECORD], 2, "is no JSON"),
        ([HEADER, json.dumps(RECORD)[:40], RECORD], 2, "is no JSON"),
        ([HEADER, "null"], 2, "None: must be an object"),
        ([HEADER, '{"a": NaN}'], 2, "NaN is no number"),
        ([HEADER, '{"a": -Infinity}'], 2, "-Infinity is no number"),
        ([HEADER, '{"a": ' + "9" * 5000 + "}"], 2, "is no JSON"),
        ([HEADER, '{"a": ' + "[" * 100_000], 2, "nested too deeply"),
        ([HEADER, {"kind": "lost", "case_id": "line/other"}], 2, "case_id 'line/other': is none of the run's cases"),
        ([HEADER, {"kind": "lost"}], 2, "case_id None"),
        ([HEADER, RECORD, RECORD], 3, "a second record of line/manual/cpu/float32/b100 in round 0"),
    ],
    ids=str,
)
def test_a_damaged_journal_is_refused_with_its_name_its_line_and_what_is_wrong(lines, number, text, folder):
    said = refusal(folder(*lines))
    for part in (FILE, "is damaged", f"line {number}: ", text):
        assert part in said
    assert "\n" not in said
    assert len(said) < 600


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"case_id": "line/other/cpu/float32/b100"}, "none of the run's cases"),
        ({"case_id": ["x"]}, "none of the run's cases"),
        ({"round": -1}, "round -1"),
        ({"round": 3}, "round 3: use a whole number from 0 to 2"),
        ({"round": True}, "round True"),
        ({"outcome": "fine"}, "outcome 'fine'"),
        ({"outcome": []}, "outcome []"),
        ({"reason": 7}, "reason 7"),
        ({"step_ns": "fast"}, "step_ns 'fast'"),
        ({"step_ns": 0}, "step_ns 0: must be a number, from 0.001 to 1e+18"),
        ({"step_ns": {"a": 1}}, "step_ns {'a': 1}"),
        ({"step_ns": -5.0}, "step_ns -5.0"),
        ({"step_ns": None}, "ok without step_ns"),
        ({"threads": 1.5}, "threads 1.5"),
        ({"blocks": "40"}, "blocks '40'"),
        ({"blocks": 2}, "blocks_disturbed 3: is more than blocks 2"),
        ({"gate_share": 1.5}, "gate_share 1.5"),
        ({"peak_rss_bytes": -1}, "peak_rss_bytes -1"),
        ({"bytes_per_step": 1.5}, "bytes_per_step 1.5"),
        ({"ceiling_flops_per_s": -1.0}, "ceiling_flops_per_s -1"),
        ({"one_point_ns": "long"}, "one_point_ns"),
        ({"stop_rule": ["a"]}, "stop_rule ['a']"),
        ({"workload_digest": 7}, "workload_digest 7"),
        ({"node": "=cmd"}, "node '=cmd': must be letters, digits and . _ + -"),
        ({"machine": None}, "machine None"),
        ({"fingerprint": ["a"]}, "fingerprint ['a']"),
        ({"environment": [1]}, "environment [1]: must be an object"),
        ({"environment": {"torch": None}}, "'torch' is None"),
        ({"cpus": None}, "cpus None"),
        ({"cpus": ["0"]}, "cpus '0'"),
        ({"phases_ns": {"import": "long"}}, "phases_ns 'import' 'long'"),
        ({"disturbances": [1]}, "disturbances [1]"),
        ({"convergence": {}}, "convergence {}"),
        ({"convergence": [1]}, "must be an object"),
        ({"convergence": [{**SEED, "loss": "low"}]}, "seed 0: loss 'low'"),
        ({"convergence": [{**SEED, "accuracy": 97}]}, "accuracy 97: must be a number, from 0 to 1"),
        ({"convergence": [{**SEED, "converged": 1}]}, "converged 1"),
        ({"convergence": [{**SEED, "seed": -1}]}, "seed -1"),
        ({"convergence": [SEED, SEED]}, "seed 0 is there twice"),
        ({"convergence": [{"seed": 0}]}, "has no loss"),
        ({"epochs": {}}, "epochs {}: must be a list of at most 100"),
        ({"epochs": [EPOCH] * 101}, "must be a list of at most 100"),
        ({"epochs": [1]}, "epochs: 1: must be an object"),
        ({"epochs": [{**EPOCH, "epoch": 0}]}, "epochs: epoch 0"),
        ({"epochs": [EPOCH, EPOCH]}, "epochs: epoch 1: use a whole number from 2"),
        ({"epochs": [{**EPOCH, "seeds": 0.5}]}, "epochs: seeds 0.5"),
        ({"epochs": [{**EPOCH, "loss_p95": "low"}]}, "epochs: loss_p95 'low'"),
        ({"epochs": [{**EPOCH, "converged_share": 1.5}]}, "epochs: converged_share 1.5"),
        ({"epochs": [{**EPOCH, "accuracy_p50": None}]}, "epochs: accuracy_p50 None"),
        ({"convergence_targets": None}, "must be an object with max_loss"),
        ({"convergence_targets": {**TARGETS, "max_loss": "x"}}, "max_loss 'x'"),
    ],
    ids=str,
)
def test_a_record_that_no_table_could_hold_is_refused_with_what_is_wrong(change, text, folder):
    changed = {**RECORD, **change}
    assert text in refusal(folder(HEADER, changed))
    with pytest.raises(PlanError):
        check_entry(changed, [MANUAL.case_id], 3)


@pytest.mark.parametrize("number", ["1e999", "-1e999"])
def test_a_number_too_large_for_one_is_refused_as_well(number, folder):
    line = json.dumps({**RECORD, "watts": 0}).replace('"watts": 0', f'"watts": {number}')
    assert "watts " in refusal(folder(HEADER, line))


@pytest.mark.parametrize("torn", [b"", b"{", b'{"kind": "record", "case_id": "li', b"\0" * 512, b"\0" * 512 + b"\n"])
def test_a_last_line_that_was_being_written_is_left_out(torn, folder):
    path = folder(HEADER, RECORD) / FILE
    path.write_bytes(path.read_bytes() + torn)
    assert read_journal(path.parent)[1] == [RECORD]


@pytest.mark.parametrize("content", [b"", b"{", json.dumps(HEADER).encode(), b"\0" * 100])
def test_a_journal_without_a_whole_line_is_damaged(content, tmp_path):
    (tmp_path / FILE).write_bytes(content)
    assert "is damaged: it has no whole line" in refusal(tmp_path)


def test_a_folder_without_a_journal_is_refused(tmp_path):
    (tmp_path / "loop").symlink_to("loop")
    for folder in (tmp_path, tmp_path / "not-there", tmp_path / "loop", tmp_path / ("long" * 100)):
        assert "no results folder" in refusal(folder)


def test_a_pipe_is_refused_and_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / FILE)
    assert "is no regular file" in refusal(tmp_path)


def test_bytes_that_are_no_text_are_refused(tmp_path):
    (tmp_path / FILE).write_bytes(b"\x89PNG\xff\n")
    assert "line 1: is no UTF-8 text" in refusal(tmp_path)


def test_what_is_too_large_is_refused_before_it_is_read(folder, monkeypatch):
    path = folder(HEADER, {**RECORD, "blocks_ns": [1] * 200})
    monkeypatch.setattr(records_module, "MAX_LINE_VALUES", 200)
    assert "line 2: more than 200 values" in refusal(path)
    folder(HEADER, {**RECORD, "stderr": "x" * 2**20})
    monkeypatch.setattr(records_module, "MAX_LINE_BYTES", 2**20)
    assert "line 2: longer than 1 MiB" in refusal(path)
    monkeypatch.setattr(records_module, "MAX_BYTES", 2**10)
    assert "larger than the 1 KiB" in refusal(path)


# machine.json


def machine(folder, text: str) -> str:
    (folder / MACHINE_FILE).write_text(text, "utf-8")
    with pytest.raises(PlanError) as refused:
        read_machine(folder)
    return str(refused.value)


def test_the_facts_of_a_machine_come_back_and_none_are_no_facts(tmp_path):
    assert read_machine(tmp_path) == {}
    facts = {"cpu_model": "AMD EPYC", "cpus": 2, "load": 0.5, "mig": False}
    (tmp_path / MACHINE_FILE).write_text(json.dumps(facts))
    assert read_machine(tmp_path) == facts


def test_a_fact_cannot_steer_a_terminal(tmp_path):
    (tmp_path / MACHINE_FILE).write_text(json.dumps({"a\x1b[2J": "b\u202ec\n\ud800"}))
    assert read_machine(tmp_path) == {"a\\x1b[2J": "b\\u202ec\\x0a\\ud800"}


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("", "is no JSON"),
        ("[]", "must be an object"),
        ('{"a": null}', "'a' is None"),
        ('{"a": {"b": 1}}', "'a' is {'b': 1}"),
        ('{"a": NaN}', "NaN"),
        ('{"a": 1e999}', "'a' is inf"),
        ('{"a":' * 60_000, "larger than the 64 KiB"),
        ('{"a":' * 10_000, "nested too deeply"),
    ],
    ids=lambda text: text[:9],
)
def test_facts_that_are_none_are_refused_in_one_line(text, what, tmp_path):
    assert what in machine(tmp_path, text)
