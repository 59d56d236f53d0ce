import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from harness.plan.errors import PlanError
from harness.tables import stored
from harness.tables.columns import SCHEMA
from harness.tables.stored import machine_folder, side_by_side, stored_runs, stored_sessions
from tests.stored_sessions import AUTOGRAD, FINGERPRINT, MACHINE, MANUAL, run_id, write_run, write_sessions


@pytest.fixture
def machine(tmp_path) -> Path:
    return tmp_path / "results" / MACHINE


def refused(call: Callable[[], object], *texts: str) -> None:
    with pytest.raises(PlanError) as error:
        call()
    assert "\n" not in str(error.value)
    for text in texts:
        assert text in str(error.value)


# Reading a folder


def test_runs_come_oldest_first_with_what_their_tables_say(machine):
    for number in (11, 2, 100):
        write_run(machine, number, {MANUAL: 1000.0 + number}, session=f"s{number}", environment="torch=2.13; cpus=2")
    runs = stored_runs(machine)
    assert [run.run_id for run in runs] == [run_id(number) for number in (2, 11, 100)]
    first = runs[0]
    assert (first.session, first.machine, first.fingerprint) == ("s2", MACHINE, FINGERPRINT)
    assert (first.commit, first.dirty, first.environment) == ("0000000002" * 4, False, "torch=2.13; cpus=2")
    assert first.cases.loc[MANUAL, "step_ns"] == 1002.0


def test_runs_are_in_the_order_of_their_ids_whatever_their_folders_are_called(machine):
    write_run(machine, 1, {MANUAL: 1.5}).rename(machine / "z")
    write_run(machine, 2, {MANUAL: 1.5}).rename(machine / "a")
    assert [run.folder.name for run in stored_runs(machine)] == ["z", "a"]


def test_of_runs_begun_in_one_second_the_one_that_names_the_session_is_the_first(machine):
    base = write_run(machine, 1, {MANUAL: 1.0}, commit="f" * 40, session=f"{run_id(1, 'f' * 10)}-ab")
    new = write_run(machine, 1, {MANUAL: 2.0}, commit="a" * 40, session=f"{run_id(1, 'f' * 10)}-ab")
    assert [run.folder for run in stored_runs(machine)] == [base, new]
    assert np.exp(stored_sessions(machine, FINGERPRINT)).tolist() == [[[1.0]]]


def test_a_run_of_an_old_table_is_a_session_of_its_own(machine):
    write_run(machine, 1, {MANUAL: 1.5}, session="")
    assert stored_runs(machine)[0].session == run_id(1)


def test_broken_runs_are_told_of_and_left_out_and_folders_without_a_summary_are_none(machine):
    write_run(machine, 1, {MANUAL: 1000.0})
    for number, content in enumerate(["", "no table", "schema\n99\n"]):
        (machine / f"broken{number}").mkdir()
        (machine / f"broken{number}" / "summary.csv").write_text(content, "utf-8")
    (machine / "broken3" / "summary.csv").mkdir(parents=True)
    write_run(machine, 4, {}).rename(machine / "broken4")
    (machine / "not finished").mkdir()
    (machine / "noise.csv").write_text("", "utf-8")
    told: list[PlanError] = []
    assert [run.run_id for run in stored_runs(machine, told.append)] == [run_id(1)]
    assert len(told) == 5
    for number, error in enumerate(told):
        assert f"broken{number}/summary.csv" in str(error)
        assert "\n" not in str(error)


@pytest.mark.parametrize("column", ["run_id", "commit", "fingerprint", "session"])
def test_a_table_glued_together_from_two_runs_is_no_run(machine, column):
    folder = write_run(machine, 1, {MANUAL: 1000.0, AUTOGRAD: 2000.0}, **{column: "one"})
    table = folder / "summary.csv"
    lines = table.read_text("utf-8").splitlines(keepends=True)
    table.write_text("".join([*lines[:2], lines[2].replace(",one", ",two")]), "utf-8")
    told: list[PlanError] = []
    assert stored_runs(machine, told.append) == []
    assert f"rows of 2 different {column}" in str(told[0])


def test_a_folder_that_is_not_there_is_refused_in_one_line(tmp_path):
    refused(lambda: stored_runs(tmp_path / "none"), "none", "No such file")


# Which folder is meant


def test_the_only_machine_of_a_results_folder_is_meant(machine):
    write_run(machine, 1, {MANUAL: 1000.0})
    (machine.parent / "empty").mkdir()
    (machine.parent / "README.md").write_text("", "utf-8")
    assert machine_folder(machine.parent) == machine
    assert machine_folder(machine) == machine


def test_several_machines_are_named_with_what_to_say(machine):
    for name in ("b", "a", "c"):
        write_run(machine.parent / name, 1, {MANUAL: 1000.0})
    results = machine.parent
    refused(lambda: machine_folder(results), "holds 3 machines: a, b, c", f"harness history {results}/a")


def test_of_very_many_machines_some_are_named(machine):
    for number in range(30):
        write_run(machine.parent / f"m{number:02}", 1, {MANUAL: 1000.0})
    refused(lambda: machine_folder(machine.parent), "holds 30 machines", "m19, …")


def test_a_run_is_no_machine_and_its_machine_is_named(machine, monkeypatch):
    run = write_run(machine, 1, {MANUAL: 1000.0})
    refused(lambda: machine_folder(run), "is one run", f"harness history {machine}")
    monkeypatch.chdir(run)
    refused(lambda: machine_folder(Path()), "is one run", f"harness history {machine}")


def test_what_holds_no_runs_is_refused(tmp_path):
    (tmp_path / "file").write_text("", "utf-8")
    refused(lambda: machine_folder(tmp_path), "has no stored runs", "harness run")
    refused(lambda: machine_folder(tmp_path / "none"), "there is no such folder", "harness run")
    refused(lambda: machine_folder(tmp_path / "file"), "is no folder")


# Step times side by side


def logs(*rows: list[float]) -> np.ndarray:
    return np.log(np.array(rows))


def test_step_times_stand_side_by_side_in_the_order_of_the_last_run(machine):
    write_run(machine, 0, {"line/old/cpu/float32/b1": 1.0, MANUAL: 2.0})
    write_run(machine, 1, {AUTOGRAD: "crashed", MANUAL: 4.0})
    write_run(machine, 2, {AUTOGRAD: 8.0, MANUAL: 5.0})
    steps = side_by_side(stored_runs(machine))
    assert steps.cases == (AUTOGRAD, MANUAL, "line/old/cpu/float32/b1")
    nan = math.nan
    np.testing.assert_allclose(steps.logs, logs([nan, 2.0, 1.0], [nan, 4.0, nan], [8.0, 5.0, nan]))
    assert steps.alike.all()


@pytest.mark.parametrize(
    ("then", "alike"),
    [({"threads": 2}, False), ({"workload_digest": "other"}, False), ({"workload_digest": ""}, True), ({}, True)],
    ids=str,
)
def test_a_case_is_alike_where_threads_and_what_is_trained_are(machine, then, alike):
    write_run(machine, 0, {MANUAL: 2.0}, **then)
    write_run(machine, 1, {MANUAL: 2.0})
    write_run(machine, 2, {MANUAL: "crashed"}, threads=3)
    assert side_by_side(stored_runs(machine)).alike[:, 0].tolist() == [alike, True, True]


def test_the_last_run_that_says_what_is_trained_is_what_the_others_are_held_to(machine):
    for number, digest in enumerate(("other", "this", "")):
        write_run(machine, number, {MANUAL: 2.0}, workload_digest=digest)
    assert side_by_side(stored_runs(machine)).alike[:, 0].tolist() == [False, True, True]


def test_no_runs_have_no_step_times():
    assert side_by_side([]).logs.shape == (0, 0)


# Sessions


def test_sessions_are_the_newest_clean_ones_of_a_fingerprint_oldest_first(machine):
    write_sessions(machine, {MANUAL: [float(number) for number in range(1, 31)]})
    write_run(machine, 40, {MANUAL: 99.0}, dirty=True)
    write_run(machine, 41, {MANUAL: 98.0}, fingerprint="other")
    np.testing.assert_allclose(np.exp(stored_sessions(machine, FINGERPRINT)[:, 0, 0]), range(11, 31))
    np.testing.assert_allclose(np.exp(stored_sessions(machine, FINGERPRINT, sessions=3)[:, 0, 0]), [28, 29, 30])
    assert stored_sessions(machine, "none").shape == (0, 0, 0)


def test_of_a_session_the_first_clean_run_counts(machine):
    write_run(machine, 0, {MANUAL: 1.0}, session="a")
    for number, dirty in enumerate((True, False, False), start=1):
        write_run(machine, number, {MANUAL: float(number + 1)}, session="b", dirty=dirty)
    write_run(machine, 4, {MANUAL: 9.0}, session="c")
    for wanted, times in ((20, [1, 3, 9]), (2, [3, 9])):
        np.testing.assert_allclose(np.exp(stored_sessions(machine, FINGERPRINT, sessions=wanted)[:, 0, 0]), times)


def test_runs_and_sessions_that_are_not_wanted_are_left_out(machine):
    for number in range(4):
        write_run(machine, number, {MANUAL: number + 1.0}, session=f"s{number}")
    for excluding, times in (({run_id(1)}, [1, 3, 4]), ({"s3", "s0"}, [2, 3])):
        np.testing.assert_allclose(np.exp(stored_sessions(machine, FINGERPRINT, excluding=excluding)[:, 0, 0]), times)


def test_a_session_has_no_time_of_what_was_another_thing_then(machine):
    write_run(machine, 0, {MANUAL: 1.0, AUTOGRAD: 2.0}, threads=2)
    write_run(machine, 1, {MANUAL: 1.0, AUTOGRAD: "crashed"}, threads=1)
    assert np.isfinite(stored_sessions(machine, FINGERPRINT))[..., 0].tolist() == [[False, True], [True, False]]


def wanted(*names: str, threads: float = 1, digest: str = "0123456789ab") -> pd.DataFrame:
    """The cases that are compared."""
    return pd.DataFrame({"threads": threads, "workload_digest": digest}, index=pd.Index(names, name="case_id"))


def test_a_session_of_fewer_than_half_of_the_cases_is_none_and_takes_no_place_of_another(machine):
    write_sessions(machine, {MANUAL: [1.0, 2.0, 3.0], AUTOGRAD: [4.0, "crashed", 6.0]})
    for number in range(10, 40):
        write_run(machine, number, {"line_deep/manual/cpu/float32/b100": 9.0})
    cases = wanted(MANUAL, AUTOGRAD, "line/gone/cpu/float32/b100")
    times = np.exp(stored_sessions(machine, FINGERPRINT, cases=cases, sessions=2)[..., 0])
    assert times == pytest.approx(np.array([[1.0, 4.0], [3.0, 6.0]]))
    assert stored_sessions(machine, FINGERPRINT, cases=wanted(MANUAL)).shape == (3, 1, 1)


@pytest.mark.parametrize(
    ("asked", "sessions"),
    [({}, 1), ({"threads": 2}, 1), ({"digest": "other"}, 1), ({"threads": math.nan, "digest": ""}, 3)],
    ids=str,
)
def test_a_case_that_was_another_thing_than_the_one_compared_is_none_of_these(machine, asked, sessions):
    for number, columns in enumerate(({}, {"threads": 2}, {"workload_digest": "other"})):
        write_run(machine, number, {MANUAL: 1.0}, **columns)
    assert len(stored_sessions(machine, FINGERPRINT, cases=wanted(MANUAL, **asked))) == sessions


def write_rounds(folder: Path, steps: Mapping[str, Sequence[float | str]]) -> None:
    """Put measurements beside the summary of a run: by case a step time in ns of each round, or how it ended."""
    rows = [
        (case_id, number, step if isinstance(step, str) else "ok", "" if isinstance(step, str) else step)
        for case_id, values in steps.items()
        for number, step in enumerate(values)
    ]
    table = pd.DataFrame(rows, columns=["case_id", "round", "outcome", "step_ns"])
    table = table.assign(schema=SCHEMA, run_id=folder.name, reason="", threads=1)
    table.to_csv(folder / "measurements.csv", index=False)


def test_a_session_has_the_step_times_of_all_its_rounds(machine):
    write_rounds(write_run(machine, 0, {MANUAL: 2.0, AUTOGRAD: 5.0}), {MANUAL: [1.0, 2.0, 4.0], AUTOGRAD: [5.0, 6.0]})
    write_rounds(write_run(machine, 1, {MANUAL: 3.0, AUTOGRAD: 7.0}), {MANUAL: ["crashed", 3.0], AUTOGRAD: [7.0]})
    times = np.exp(stored_sessions(machine, FINGERPRINT))
    none = math.nan
    np.testing.assert_allclose(times, [[[1, 2, 4], [5, 6, none]], [[3, none, none], [7, none, none]]])


def test_a_case_that_is_not_ok_by_the_summary_has_none_whatever_its_rounds(machine):
    write_rounds(write_run(machine, 0, {MANUAL: "wrong_gradient", AUTOGRAD: 5.0}), {MANUAL: [1.0], AUTOGRAD: [5.0]})
    times = np.exp(stored_sessions(machine, FINGERPRINT))[0, :, 0]
    assert times == pytest.approx([math.nan, 5.0], nan_ok=True)


def test_where_only_the_summary_was_kept_its_step_time_is_that_of_one_round(machine):
    write_rounds(write_run(machine, 0, {MANUAL: 2.0}), {MANUAL: [1.0, 4.0]})
    write_run(machine, 1, {MANUAL: 3.0})
    np.testing.assert_allclose(np.exp(stored_sessions(machine, FINGERPRINT)), [[[1, 4]], [[3, math.nan]]])


def test_a_run_of_broken_measurements_is_no_session(machine):
    write_sessions(machine, {MANUAL: [1.0] * 3})
    (machine / run_id(1) / "measurements.csv").write_text("broken", "utf-8")
    assert len(stored_sessions(machine, FINGERPRINT)) == 2


def test_only_as_many_runs_are_read_as_are_wanted(machine, monkeypatch):
    write_sessions(machine, {MANUAL: [1.0] * 30})
    read: list[Path] = []
    whole = stored.read_table

    def counted(path: Path, *rest: object) -> object:
        read.append(path)
        return whole(path, *rest)

    monkeypatch.setattr(stored, "read_table", counted)
    assert len(stored_sessions(machine, FINGERPRINT, sessions=5)) == 5
    assert len(read) == 6  # the sixth tells that the fifth session has no earlier run


def test_broken_runs_are_no_sessions(machine):
    write_sessions(machine, {MANUAL: [1.0] * 3})
    (machine / run_id(1) / "summary.csv").write_text("broken", "utf-8")
    assert len(stored_sessions(machine, FINGERPRINT)) == 2
