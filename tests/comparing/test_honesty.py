"""What a comparison must not say: each of these would mislead who reads it."""

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from harness.cli import Exit
from harness.cli.compare import exit_code
from harness.comparing.compare import compare_runs
from harness.comparing.run import Run
from harness.comparing.sessions import SessionSpread, session_spread
from harness.plan.errors import NotComparable
from tests.comparing.test_compare import (
    ALSO,
    CASE,
    OTHER,
    QUIET,
    advisory,
    environment_cell,
    firm,
    only,
    refusal,
    rows,
    run,
    slower,
    statuses,
    summary,
)

FACTS = {"cpu_model": "AMD EPYC", "cpus": 2, "torch": "2.13.0+cpu"}


# A regression that nobody hears of


def test_a_run_is_not_compared_with_itself():
    with pytest.raises(NotComparable, match="the same run"):
        compare_runs(run("a", QUIET), run("a", QUIET))
    cut = run("a", QUIET[:5])
    with pytest.raises(NotComparable, match="the same run"):
        compare_runs(cut, run("a", QUIET))


def test_a_case_that_crashes_now_is_lost_with_however_many_threads():
    base = run("base", {CASE: QUIET, OTHER: QUIET})
    crashed = rows(CASE, [math.nan], threads=16)
    table = pd.concat([run("new", {OTHER: QUIET}).measurements, pd.DataFrame(crashed).assign(run_id="new")])
    new = Run("new", table.assign(session="one session"))
    assert statuses(compare_runs(base, new)) == {CASE: "lost", OTHER: "same"}


def test_a_case_that_became_another_thing_does_not_pass_the_strict():
    base = run("base", {CASE: QUIET, OTHER: QUIET})
    other = pd.DataFrame(rows(CASE, slower(3), workload_digest="d2"))
    table = pd.concat([run("new", {OTHER: QUIET}).measurements, other.assign(run_id="new", session="one session")])
    compared = compare_runs(base, Run("new", table))
    assert exit_code(compared, strict=True) is not Exit.MET


def test_a_comparison_in_which_no_case_has_a_time_does_not_pass_the_strict():
    compared = compare_runs(run("base", [math.nan]), run("new", [math.nan]))
    assert compared.aggregate is None
    assert exit_code(compared, strict=True) is not Exit.MET


def test_it_is_said_that_convergence_is_not_known_where_a_side_has_no_summary():
    base = replace(run("base", QUIET), summary=summary())
    compared = compare_runs(base, run("new", QUIET))
    assert any("new" in warning and "converge" in warning for warning in compared.warnings)


def test_a_table_that_lost_rows_is_not_taken_for_the_run(tmp_path):
    """A file cut at the end of a line is a whole file; the summary beside it knows better."""
    base = replace(run("base", QUIET), summary=summary(rounds=10))
    cut = replace(run("new", {CASE: QUIET[:2]}), summary=summary(rounds=10))
    said = " ".join(compare_runs(base, cut).warnings)
    assert "2 of 10 rounds" in said


def test_it_is_said_where_a_side_does_not_say_what_it_trained():
    compared = compare_runs(run("base", QUIET, workload_digest=""), run("new", QUIET))
    assert any("base" in warning and "trained" in warning for warning in compared.warnings)


def test_a_case_whose_rounds_are_not_shared_keeps_its_verdict_beside_one_whose_are():
    base, new = run("base", QUIET), run("new", slower(1.1))
    new = Run("new", new.measurements.assign(round=new.measurements["round"] + 10))
    assert only(compare_runs(base, new)).status == "regressed"
    more = [run(name, {OTHER: (*QUIET, *QUIET)}) for name in ("base", "new")]
    both = [
        Run(one.name, pd.concat([one.measurements, other.measurements]))
        for one, other in zip((base, new), more, strict=True)
    ]
    assert statuses(compare_runs(*both))[CASE] == "regressed"


def test_a_table_cut_between_two_cases_is_not_taken_for_the_run():
    """The last case has lost all of its rows, or some: all ten rounds are there, of another."""
    whole = {CASE: QUIET, OTHER: QUIET}
    told = summary(CASE, OTHER, rounds=10)
    base = replace(run("base", whole), summary=told)
    for left in (10, 14):
        cut = Run("new", run("new", whole).measurements.iloc[:left], told)
        said = " ".join(compare_runs(base, cut).warnings)
        assert "rows of its measurements are missing" in said


# A change that is none, and none that is one


@pytest.mark.parametrize("common", [0.0, 1e-6, 1e-3])
def test_sessions_that_are_all_alike_make_no_change_of_one_percent(common):
    """Five copies of one run are such sessions."""
    alike = SessionSpread(sessions=5, common=common, own=0.0, cases=5)
    assert advisory(QUIET, slower(1.01), sessions=alike).status == "within"
    assert advisory(QUIET, slower(1.01), sessions=alike).margin >= 0.02 - 1e-9


def test_a_change_among_the_stored_sessions_hides_no_other():
    """A commit made all faster by 30 %, between five quiet sessions and five more; then another doubles the time."""
    draws = np.random.default_rng(1)
    logs = draws.normal(0, 0.005, (10, 1)) + draws.normal(0, 0.002, (10, 8))
    logs[5:] -= math.log(1.3)
    spread = session_spread(logs)
    assert math.expm1(spread.common_margin) < 0.5
    assert advisory(QUIET, slower(1.7), sessions=spread).status == "slower"


def test_more_cases_than_were_stored_have_a_wider_margin():
    sessions = SessionSpread(sessions=10, common=0.01, own=0.01, cases=2)
    names = [f"c{number}" for number in range(50)]
    few = compare_runs(run("base", QUIET, session="monday"), run("new", ALSO), sessions=sessions)
    many = compare_runs(
        run("base", dict.fromkeys(names, QUIET), session="monday"),
        run("new", dict.fromkeys(names, ALSO)),
        sessions=sessions,
    )
    assert many.cases[0].margin > few.cases[0].margin


@pytest.mark.parametrize("judge", [firm, advisory])
def test_noise_alone_is_no_proof_that_nothing_changed(judge):
    """Thirteen percent slower, maybe by fifty: that is neither the same nor within."""
    draws = np.random.default_rng(17)
    base, new = np.exp(draws.normal(7, 0.25, (2, 10)))
    case = judge(tuple(base), tuple(new))
    assert case.change > 0.13
    assert case.high > 0.45
    assert case.status == "undecided"


# What is said of it


def test_what_is_said_to_differ_differs():
    silent = run("base", QUIET, environment="")
    assert "00aa11bb22cc" not in refusal(silent, run("new", QUIET, machine="nvidia-h200"))


def test_equal_facts_under_two_fingerprints_are_said_to_be_that():
    base, new = run("base", QUIET), run("new", QUIET, fingerprint="ffff")
    assert "amd-epyc-2c and amd-epyc-2c" not in refusal(base, new)


def test_few_rounds_are_warned_of_beside_a_case_without_any():
    """The summary knows a case of which no row is there."""
    names = {OTHER: QUIET[:3]}
    base, new = (replace(run(name, names), summary=summary(CASE, OTHER)) for name in ("base", "new"))
    table = pd.DataFrame(rows(CASE, QUIET[:1])).assign(run_id="base", session="one session")
    base = replace(base, measurements=pd.concat([table.assign(round=9), base.measurements]))
    assert any("too few" in warning for warning in compare_runs(base, new).warnings)


def test_the_rounds_that_would_decide_would_decide():
    """Five percent are within six only once the interval is: at ten rounds they are not."""
    assert firm(QUIET, slower(1.054), least=0.06).status == "undecided"
    asked = firm(QUIET[:4], slower(1.054, ALSO[:4]), least=0.06)
    assert asked.status == "undecided"
    assert asked.rounds_needed > 10


def test_two_sessions_have_no_p():
    assert math.isnan(advisory(QUIET, slower(1.05)).p)


def test_a_case_that_the_base_did_not_reach_is_not_fixed():
    reached = replace(
        run("base", {OTHER: QUIET}),
        summary=pd.concat([summary(OTHER), summary(outcome="interrupted", reason="not measured")]),
    )
    assert statuses(compare_runs(reached, run("new", {CASE: QUIET, OTHER: QUIET}))) == {CASE: "new", OTHER: "same"}


# Files beside a CSV that are not of its run


def csv_run(path: Path, name: str, steps: tuple[float, ...], **columns: Any) -> Path:
    table = run(name, steps, session=name, **columns).measurements
    table.assign(schema=1, workload="line", engine="manual", device="cpu", dtype="float32", batch_size=100).to_csv(
        path, index=False
    )
    return path


@pytest.mark.parametrize("content", ['{"name": ["a", "list"]}', "no JSON"])
def test_a_file_of_somebody_elses_beside_a_csv_file_spoils_nothing(content, tmp_path):
    from harness.cli.compare import load
    from harness.tables.find import find_run

    (tmp_path / "machine.json").write_text(content)
    table = csv_run(tmp_path / "a.csv", "a", QUIET)
    assert load("a.csv", find_run(str(table), tmp_path)).facts == {}


def test_a_csv_file_does_not_get_the_facts_of_another_run_in_its_folder(tmp_path):
    from harness.cli.compare import load
    from harness.tables.find import find_run

    (tmp_path / "machine.json").write_text(json.dumps({**FACTS, "torch": "2.14.0"}))
    old = csv_run(tmp_path / "old.csv", "old", QUIET, environment="")
    new = csv_run(tmp_path / "new.csv", "new", QUIET, fingerprint="ffff", environment=environment_cell(FACTS))
    base, other = (load(path.name, find_run(str(path), tmp_path)) for path in (old, new))
    assert "old.csv does not say what it is made of" in refusal(base, other, ["torch"])
