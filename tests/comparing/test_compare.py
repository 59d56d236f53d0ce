import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from scipy import stats

from harness.comparing.comparable import check_comparable
from harness.comparing.compare import compare_runs
from harness.comparing.compared import CaseResult, Compared, Status
from harness.comparing.judge import ASSUMED_SPREAD, judge
from harness.comparing.run import MEASURED, SUMMARISED, Run
from harness.comparing.sessions import SessionSpread
from harness.measuring.machine import COMPARABLE
from harness.plan.errors import NotComparable, PlanError
from harness.tables.cells import environment_cell
from harness.tables.columns import TABLES

CASE = "line/manual/cpu/float32/b100"
OTHER = "line/autograd/cpu/float32/b100"
# Ten rounds of a quiet machine, spread about 0.3 %, with nothing to clip.
QUIET = tuple(1000 * (1 + 0.001 * part) for part in (0, 3, -2, 1, -3, 2, -1, 4, -4, 0.5))
ALSO = tuple(1000 * (1 + 0.001 * part) for part in (2, -1, 3, -4, 1, 0, -2, -3, 4, 0.7))
FACTS = {"cpu_model": "AMD EPYC", "cpus": 2, "torch": "2.13.0+cpu", "python_minor": "3.11", "machine_arch": "x86_64"}


def rows(case_id: str, steps_ns: Sequence[float], **columns: Any) -> list[dict[str, Any]]:
    """Return one row a round; a NaN step time is a round that crashed."""
    return [
        {
            "case_id": case_id,
            "round": number,
            "outcome": "crashed" if math.isnan(step_ns) else "ok",
            "reason": "killed" if math.isnan(step_ns) else "",
            "step_ns": step_ns,
            "core_ns": 9000.0,
            "core_work": "0a1b2c3d4e5f",
            "sm_clock_mhz": math.nan,
            "threads": 2,
            "commit": "c0ffee" * 6 + "c0de",
            "dirty": False,
            "machine": "amd-epyc-2c",
            "fingerprint": "00aa11bb22cc",
            "workload_digest": "d1",
            "environment": environment_cell(FACTS),
            **columns,
        }
        for number, step_ns in enumerate(steps_ns)
    ]


def run(
    name: str, cases: Mapping[str, Sequence[float]] | Sequence[float], *, session: str = "one session", **columns: Any
) -> Run:
    """Return a run, by default of the session that all are of; one case where only step times are given."""
    if not isinstance(cases, Mapping):
        cases = {CASE: cases}
    given = [row for case_id, steps_ns in cases.items() for row in rows(case_id, steps_ns)]
    return Run(name, pd.DataFrame([{**row, "run_id": name, "session": session, **columns} for row in given]))


def summary(*case_ids: str, **columns: Any) -> pd.DataFrame:
    row = {"outcome": "ok", "reason": "", "threads": 2, "workload_digest": "d1"}
    row |= {"converged_share": 0.9, "converged_low": 0.8, "converged_high": 0.95}
    return pd.DataFrame([{"case_id": case_id, **row} for case_id in case_ids or (CASE,)]).assign(**columns)


def slower(factor: float, steps_ns: Sequence[float] = ALSO) -> tuple[float, ...]:
    return tuple(step_ns * factor for step_ns in steps_ns)


def only(compared: Compared) -> CaseResult:
    (case,) = compared.cases
    return case


def firm(base: Sequence[float], new: Sequence[float], **options: Any) -> CaseResult:
    """Compare one case of one session."""
    return only(compare_runs(run("base", base), run("new", new), **options))


def advisory(base: Sequence[float], new: Sequence[float], **options: Any) -> CaseResult:
    """Compare one case of two sessions."""
    return only(compare_runs(run("base", base, session="monday"), run("new", new, session="friday"), **options))


def refusal(base: Run, new: Run, vary: Sequence[str] = ()) -> str:
    with pytest.raises(NotComparable) as refused:
        check_comparable(base, new, vary)
    with pytest.raises(NotComparable, match=r".") as later:
        compare_runs(base, new, vary=vary)
    assert str(later.value) == str(refused.value)
    assert str(refused.value).isprintable()
    return str(refused.value)


def values(case: CaseResult) -> dict[str, Any]:
    """Return all of a result to twelve digits; None where it is NaN, which equals nothing."""
    return {name: _rounded(value) if isinstance(value, float) else value for name, value in asdict(case).items()}


def _rounded(value: float) -> float | None:
    return None if math.isnan(value) else float(f"{value:.12g}")


def statuses(compared: Compared) -> dict[str, str]:
    return {case.case_id: case.status.value for case in compared.cases}


# May they be compared?


# The core's clock


def clocked(name: str, factor: float, seed: int, **columns: Any) -> Run:
    """A run of 30 rounds, spread 0.5 %, whose core was up to 10 % faster or slower from one process to the next."""
    draws = np.random.default_rng(seed)
    speed = draws.uniform(0.9, 1.1, 30)
    found = run(name, tuple(1000 * factor * speed * np.exp(draws.normal(0, 0.005, 30))))
    return replace(found, measurements=found.measurements.assign(**{"core_ns": 9000.0 * speed, **columns}))


def test_what_the_core_was_slower_in_one_side_is_taken_out_of_rounds_of_one_session() -> None:
    compared = compare_runs(clocked("base", 1.0, 1), clocked("new", 1.05, 2))
    case = only(compared)
    assert (case.status, case.change) == (Status.REGRESSED, pytest.approx(0.05, abs=0.01))
    assert compared.clocked < 0.4
    blind = compare_runs(clocked("base", 1.0, 1, core_ns=math.nan), clocked("new", 1.05, 2, core_ns=math.nan))
    assert (only(blind).status, blind.clocked) == (Status.UNDECIDED, 1.0)


@pytest.mark.parametrize("work", ["another", ""])
def test_another_work_tells_nothing_of_this_clock(work: str) -> None:
    compared = compare_runs(clocked("base", 1.0, 1), clocked("new", 1.05, 2, core_work=work))
    assert compared.clocked == 1


def test_times_and_their_mean_are_those_that_were_measured() -> None:
    base, new = clocked("base", 1.0, 1), clocked("new", 1.05, 2)
    compared, blind = (compare_runs(base, side) for side in (new, clocked("new", 1.05, 2, core_work="another")))
    assert compared.aggregate == blind.aggregate
    with_clock, without = only(compared), only(blind)
    assert math.sqrt(with_clock.base_ns * with_clock.new_ns) == pytest.approx(
        math.sqrt(without.base_ns * without.new_ns)
    )


def test_a_spread_from_elsewhere_is_less_by_what_the_clock_had_of_it() -> None:
    compared = compare_runs(clocked("base", 1.0, 1), clocked("new", 1.05, 2), spreads={CASE: 0.05})
    assert only(compared).spread == pytest.approx(0.05 * compared.clocked)
    assert only(compare_runs(clocked("base", 1.0, 1), clocked("new", 1.05, 2), spreads={CASE: 0.001})).spread > 0.003


def test_of_two_sessions_nothing_is_taken_out() -> None:
    new = clocked("new", 1.05, 2, session="friday")
    assert compare_runs(clocked("base", 1.0, 1), new).clocked == 1


def test_runs_of_the_same_machine_and_fingerprint_are_comparable_and_nothing_varies():
    assert check_comparable(run("base", QUIET), run("new", QUIET)) == ()


def test_an_unknown_key_to_vary_is_refused_with_those_there_are():
    with pytest.raises(PlanError) as refused:
        check_comparable(run("base", QUIET), run("new", QUIET), ["torhc\x1b"])
    for text in ("--vary torhc\\x1b", *COMPARABLE, "threads", "workload"):
        assert text in str(refused.value)


@pytest.mark.parametrize("key", COMPARABLE)
def test_what_differs_between_the_machines_is_named_with_both_values_and_the_flag_that_allows_it(key):
    before, after = {**FACTS, key: "this"}, {**FACTS, key: "that"}
    base = run("base", QUIET, environment=environment_cell(before))
    new = run("new", QUIET, fingerprint="ffff", environment=environment_cell(after))
    assert refusal(base, new) == f"{key}: this and that; if that is meant, add --vary {key}"
    compared = compare_runs(base, new, vary=[key])
    assert compared.varied == (f"{key}: this and that",)
    assert only(compared).status == "same"


def test_everything_that_differs_and_is_not_declared_is_named():
    after = {**FACTS, "torch": "2.12.0", "cpus": 4, "gpu": "NVIDIA\x1b[31m"}
    base = run("base", QUIET)
    new = run("new", QUIET, fingerprint="ffff", environment=environment_cell(after))
    said = refusal(base, new, ["torch"])
    for text in ("cpus: 2 and 4", "gpu: none and NVIDIA\\x1b[31m", "--vary cpus", "--vary gpu"):
        assert text in said
    assert "torch" not in said
    assert "python" not in said


def test_without_an_environment_in_the_table_the_facts_of_the_machine_tell_what_differs():
    old = replace(run("base", QUIET, environment=""), facts=FACTS)
    new = run("new", QUIET, fingerprint="ffff", environment=environment_cell({**FACTS, "torch": "2.14.0"}))
    assert "torch: 2.13.0+cpu and 2.14.0" in refusal(old, new)
    without = Run("new", new.measurements.drop(columns="environment"), facts={**FACTS, "torch": "2.14.0"})
    assert "torch: 2.13.0+cpu and 2.14.0" in refusal(old, without)


@pytest.mark.parametrize("silent", ["base", "new"])
def test_a_run_that_does_not_say_what_its_fingerprint_is_made_of_is_named_and_nothing_can_be_varied(silent):
    base = run("base", QUIET, environment="" if silent == "base" else environment_cell(FACTS))
    new = run("new", QUIET, fingerprint="ffff", environment="" if silent == "new" else environment_cell(FACTS))
    said = refusal(base, new, list(COMPARABLE))
    for text in ("fingerprint: 00aa11bb22cc and ffff", f"{silent} does not say what it is made of"):
        assert text in said


def test_equal_fingerprints_are_comparable_whatever_is_not_said():
    old = run("base", QUIET, environment="")
    assert check_comparable(old, run("new", QUIET)) == ()


def test_equal_fingerprints_on_differing_machines_are_not_comparable():
    assert "machine: amd-epyc-2c and nvidia-h200" in refusal(
        run("base", QUIET), run("new", QUIET, machine="nvidia-h200")
    )


@pytest.mark.parametrize("column", ["run_id", "session", "fingerprint", "machine"])
@pytest.mark.parametrize("side", [0, 1])
def test_a_table_glued_together_from_two_runs_is_no_side(column, side):
    runs = [run("base", QUIET), run("new", QUIET)]
    one = runs[side].measurements
    glued = pd.concat([one, one.assign(**{column: "another", "round": one["round"] + 10})], ignore_index=True)
    runs[side] = Run(runs[side].name, glued)
    if column == "fingerprint":
        runs[1 - side] = run("other", QUIET, fingerprint="ffff")
    said = refusal(*runs)
    assert said == f"{runs[side].name} holds rows of 2 different {column}: compare takes one run a side"


def test_a_run_without_measurements_is_no_side():
    empty = Run("empty", run("base", QUIET).measurements.iloc[:0])
    assert refusal(empty, run("new", QUIET)) == "empty holds no measurements"
    assert refusal(run("base", QUIET), empty) == "empty holds no measurements"


def test_a_base_of_uncommitted_code_is_refused_unless_it_was_measured_in_turn_with_the_new_code():
    dirty = run("base", QUIET, session="monday", dirty=True)
    assert "base was measured with uncommitted changes" in refusal(dirty, run("new", QUIET))
    one_row = dirty.measurements.assign(dirty=[True] + [False] * 9)
    assert "uncommitted changes" in refusal(Run("base", one_row), run("new", QUIET))
    compared = compare_runs(run("base", QUIET, dirty=True), run("new", QUIET))
    assert compared.warnings == ("base was measured with uncommitted changes",)


def test_new_code_that_is_not_committed_may_be_compared_and_is_said_to_be():
    compared = compare_runs(run("base", QUIET), run("new", QUIET, dirty=True))
    assert compared.warnings == ("new was measured with uncommitted changes",)


def test_runs_without_a_case_in_common_are_not_comparable():
    with pytest.raises(
        NotComparable, match=r"^no case is both in base \(run base\) and in new \(run new\): name runs of"
    ):
        compare_runs(run("base", QUIET), run("new", {OTHER: QUIET}))


@pytest.mark.parametrize(
    ("column", "there", "key", "told"),
    [
        ("threads", 16, "threads", "threads: 2 and 16"),
        ("workload_digest", "d2", "workload", "workload: d1 and d2"),
    ],
)
def test_what_is_another_thing_under_the_same_name_has_no_verdict_unless_that_is_declared(column, there, key, told):
    base = run("base", {CASE: QUIET, OTHER: QUIET})
    changed = [{**row, column: there} for row in rows(CASE, slower(2))]
    new = run("new", {OTHER: QUIET})
    new = Run("new", pd.concat([new.measurements, pd.DataFrame(changed).assign(run_id="new", session=new.session)]))
    compared = compare_runs(base, new)
    assert statuses(compared) == {CASE: "changed", OTHER: "same"}
    assert compared.cases[0].reason == told
    assert math.isnan(compared.cases[0].change)
    assert statuses(compare_runs(base, new, vary=[key])) == {CASE: "regressed", OTHER: "same"}


def test_runs_whose_cases_are_all_other_things_are_not_comparable_and_the_first_says_why():
    with pytest.raises(
        NotComparable, match=r"^no case is both in .*: threads: 2 and 16; if that is meant, --vary threads$"
    ):
        compare_runs(run("base", QUIET), run("new", QUIET, threads=16))


@pytest.mark.parametrize("column", ["threads", "workload_digest"])
def test_what_an_older_table_does_not_say_is_taken_to_be_the_same(column):
    old = run("base", QUIET)
    silent = Run("base", old.measurements.assign(**{column: math.nan if column == "threads" else ""}))
    without = Run("base", old.measurements.drop(columns=column))
    for base in (silent, without):
        assert only(compare_runs(base, run("new", QUIET))).status == "same"


# Outcomes before times


@pytest.mark.parametrize(
    "outcome", ["crashed", "wrong_gradient", "rejected", "timeout", "out_of_memory", "unsupported"]
)
def test_a_case_that_was_right_and_is_not_any_more_is_lost_and_says_why(outcome):
    new = run("new", {CASE: slower(0.5), OTHER: QUIET})
    table = new.measurements
    table.loc[3, ["outcome", "reason", "step_ns"]] = [outcome, "the reason", math.nan]
    compared = compare_runs(run("base", {CASE: QUIET, OTHER: QUIET}), new)
    assert statuses(compared) == {CASE: "lost", OTHER: "same"}
    lost = compared.cases[0]
    assert lost.failed
    assert compared.lost
    assert lost.reason == f"{outcome}: the reason"
    assert all(math.isnan(value) for value in (lost.change, lost.p, lost.base_ns, lost.new_ns))


def test_one_bad_round_in_ten_is_enough_to_be_lost_and_one_in_the_base_to_have_been_failing():
    broken = (*QUIET[:9], math.nan)
    assert firm(QUIET, broken).status == "lost"
    assert firm(broken, QUIET).status == "fixed"
    assert firm(broken, broken).status == "failing"


def test_a_case_that_is_right_only_now_is_fixed_and_says_what_it_was():
    found = firm((*QUIET[:9], math.nan), QUIET)
    assert (found.status, found.reason, found.failed) == ("fixed", "was crashed: killed", False)


def test_a_round_that_failed_counts_also_where_the_summary_says_otherwise():
    base = replace(run("base", QUIET), summary=summary())
    new = replace(run("new", (*QUIET[:9], math.nan)), summary=summary())
    found = only(compare_runs(base, new))
    assert (found.status, found.reason) == ("lost", "crashed: killed")


def test_what_the_summary_alone_knows_counts_as_well():
    base = replace(run("base", QUIET), summary=summary())
    diverges = summary(outcome="not_converged", reason="missed: loss_p50 <= 0.05: 0.4")
    new = replace(run("new", QUIET), summary=diverges)
    found = only(compare_runs(base, new))
    assert (found.status, found.reason) == ("lost", "not_converged: missed: loss_p50 <= 0.05: 0.4")
    assert only(compare_runs(new, base)).status == "fixed"


def test_a_case_that_an_interrupted_run_did_not_reach_is_missing_from_it():
    reached = replace(
        run("new", {OTHER: QUIET}),
        summary=pd.concat([summary(OTHER), summary(outcome="interrupted", reason="not measured")]),
    )
    compared = compare_runs(run("base", {CASE: QUIET, OTHER: QUIET}), reached)
    assert statuses(compared) == {CASE: "missing", OTHER: "same"}


def test_a_case_that_converges_in_fewer_seeds_fails_however_fast_it_became():
    base = replace(run("base", QUIET), summary=summary())
    fewer = summary(converged_share=0.5, converged_low=0.38, converged_high=0.62)
    new = replace(run("new", slower(0.5)), summary=fewer)
    compared = compare_runs(base, new)
    assert only(compared).status == "converges_less"
    assert only(compared).failed
    assert compared.lost
    assert only(compared).reason == "converges in 50% of the seeds, before in 90%"


def test_shares_of_seeds_whose_intervals_overlap_are_no_difference_nor_is_one_that_grew():
    base = replace(run("base", QUIET), summary=summary())
    for low, high in ((0.6, 0.8), (0.97, 1.0)):
        new = replace(run("new", QUIET), summary=summary(converged_low=low, converged_high=high))
        assert only(compare_runs(base, new)).status == "same"


def test_a_share_that_is_not_known_on_a_side_is_no_difference():
    known = replace(run("base", QUIET), summary=summary())
    unknown = dict.fromkeys(("converged_share", "converged_low", "converged_high"), math.nan)
    for other in (None, summary(**unknown)):
        new = replace(run("new", QUIET), summary=other)
        assert only(compare_runs(known, new)).status == "same"
        assert only(compare_runs(new, known)).status == "same"


def test_cases_on_one_side_only_are_named_and_fail_nothing():
    compared = compare_runs(run("base", {CASE: QUIET, "both": QUIET}), run("new", {"both": QUIET, OTHER: QUIET}))
    assert statuses(compared) == {CASE: "missing", "both": "same", OTHER: "new"}
    assert compared.failed == ()


def test_every_case_of_either_side_gets_one_status_in_the_order_of_the_base():
    names = ["d", "a", "c", "b"]
    compared = compare_runs(run("base", dict.fromkeys(names, QUIET)), run("new", dict.fromkeys(names[::-1], QUIET)))
    assert [case.case_id for case in compared.cases] == names
    assert compared.of(Status.SAME) == compared.cases


def test_a_run_in_which_nothing_has_a_time_still_says_what_was_lost():
    compared = compare_runs(run("base", QUIET), run("new", [math.nan] * 3))
    assert only(compared).status == "lost"
    assert compared.aggregate is None


# One session


@pytest.mark.parametrize(
    ("factor", "status"),
    [(1.5, "regressed"), (1.05, "regressed"), (1.0, "same"), (1.01, "same"), (0.95, "improved"), (0.1, "improved")],
)
def test_rounds_of_one_session_carry_a_firm_verdict(factor, status):
    compared = compare_runs(run("base", QUIET), run("new", slower(factor)))
    found = only(compared)
    assert compared.firm
    assert compared.paired
    assert found.status == status
    assert found.failed is (status == "regressed")
    assert found.change == pytest.approx(factor - 1, abs=0.002)
    assert found.low < found.change < found.high
    assert (found.rounds_base, found.rounds_new) == (10, 10)
    assert (found.base_ns, found.new_ns) == pytest.approx((1000, 1000 * factor), rel=0.002)


def test_the_session_of_an_older_table_is_its_run():
    old = run("base", QUIET)
    for table in (old.measurements.assign(session=""), old.measurements.drop(columns="session")):
        assert Run("base", table).session == "base"
    assert not compare_runs(run("base", QUIET, session=""), run("new", QUIET, session="")).firm


def test_the_interval_and_p_of_shared_rounds_are_the_paired_t_tests():
    base, new = slower(1, QUIET), slower(1.1)
    known = stats.ttest_rel(np.log(new), np.log(base))
    found = firm(base, new, spreads={CASE: 1e-9})
    interval = known.confidence_interval(0.95)
    assert found.p == pytest.approx(known.pvalue)
    assert (found.low, found.high) == pytest.approx((math.expm1(interval.low), math.expm1(interval.high)))


def test_a_drift_that_both_sides_share_costs_nothing():
    drift = [1 + 0.02 * number for number in range(10)]
    base = [step_ns * times for step_ns, times in zip(QUIET, drift, strict=True)]
    new = [step_ns * times * 1.05 for step_ns, times in zip(ALSO, drift, strict=True)]
    assert firm(base, new).status == "regressed"


def test_rounds_that_the_sides_do_not_share_are_compared_unpaired():
    base, new = run("base", QUIET), run("new", slower(1.1, ALSO[:4]))
    later = Run("new", new.measurements.assign(round=new.measurements["round"] + 10))
    compared = compare_runs(base, later)
    assert compared.firm
    assert not compared.paired
    found = only(compared)
    assert (found.rounds_base, found.rounds_new) == (10, 4)
    known = stats.ttest_ind(np.log(slower(1.1, ALSO[:4])), np.log(QUIET), equal_var=False)
    assert found.change == pytest.approx(math.expm1(np.log(slower(1.1, ALSO[:4])).mean() - np.log(QUIET).mean()))
    assert only(compare_runs(base, later, spreads={CASE: 1e-9})).p == pytest.approx(known.pvalue)


def test_only_shared_rounds_count_and_a_gap_takes_its_pair_out():
    base = run("base", QUIET)
    new = run("new", slower(1.1, (*ALSO, 5000.0, 5000.0)))
    gap = Run("new", new.measurements.drop(index=4))
    found = only(compare_runs(base, gap))
    assert (found.rounds_base, found.rounds_new) == (9, 9)
    kept = [number for number in range(10) if number != 4]
    logs = [math.log(ALSO[number] * 1.1 / QUIET[number]) for number in kept]
    assert found.change == pytest.approx(math.expm1(sum(logs) / 9))


def test_the_order_of_rows_pairs_nothing_wrongly():
    base, new = run("base", {CASE: QUIET, OTHER: ALSO}), run("new", {CASE: slower(1.05), OTHER: QUIET})
    mixed = Run("new", new.measurements.sample(frac=1, random_state=3).reset_index(drop=True))
    expected, found = compare_runs(base, new), compare_runs(base, mixed)
    assert [values(case) for case in found.cases] == [values(case) for case in expected.cases]
    assert found.aggregate == expected.aggregate


def test_the_margin_is_two_percent_on_a_quiet_machine_and_grows_with_what_its_processes_spread_by():
    quiet, loud = firm(QUIET, ALSO), firm(QUIET, ALSO, spreads={CASE: 0.03})
    assert quiet.margin == pytest.approx(0.02)
    assert (quiet.spread, quiet.spread_from) == (ASSUMED_SPREAD, "assumed")
    assert loud.margin == pytest.approx(math.expm1(3 * 0.03 * math.sqrt(2 / 10)))
    assert (loud.spread, loud.spread_from) == (0.03, "noise")


def test_rounds_that_spread_more_than_is_assumed_count_where_the_machines_noise_is_not_known():
    loud = [1000 * (1 + 0.04 * (-1) ** number * (1 + number % 3)) for number in range(10)]
    found = firm(loud, loud[::-1])
    assert found.spread_from == "rounds"
    assert found.spread > ASSUMED_SPREAD
    assert found.margin > 0.02


def test_the_noise_of_other_cases_counts_for_none():
    found = firm(QUIET, ALSO, spreads={OTHER: 0.5, CASE: math.nan})
    assert (found.spread, found.spread_from) == (ASSUMED_SPREAD, "assumed")


def test_a_margin_that_is_asked_for_takes_the_place_of_the_rules():
    assert firm(QUIET, slower(1.05), least=0.1).status == "same"
    assert firm(QUIET, slower(1.2), least=0.1).status == "regressed"
    assert firm(QUIET, slower(1.2), least=0.1).margin == pytest.approx(0.1)


def test_a_margin_smaller_than_the_noise_makes_no_change_of_noise():
    found = firm(QUIET, slower(1.004), least=0.001)
    assert found.margin == pytest.approx(0.001)
    assert found.status == "undecided"


def test_few_rounds_are_undecided_and_say_how_many_would_decide():
    found = firm(QUIET[:3], slower(1.05, ALSO[:3]))
    assert found.status == "undecided"
    assert found.rounds_needed > 3
    assert math.isnan(firm(QUIET, ALSO).rounds_needed)  # is decided


@pytest.mark.parametrize(("factor", "status"), [(0.5, "improved"), (1, "same"), (2, "regressed")])
def test_fewer_than_five_rounds_or_pairs_of_a_case_are_undecided_however_clear(factor, status):
    quiet = [1000.0, 1000.3, 999.8, 1000.1, 1000.2]
    new = [factor * step_ns for step_ns in reversed(quiet)]
    four = firm(quiet, new[:4])
    assert (four.status, four.rounds_needed) == ("undecided", 5)
    assert firm(quiet, new).status == status
    sides = [np.log([side]) for side in (quiet * 2, new)]
    for count, found in ((4, "undecided"), (5, status)):
        assert judge(sides[0], sides[1][:, :count], paired=False).status == [found]


def test_one_round_has_a_change_and_decides_nothing():
    found = firm(QUIET[:1], [2000.0])
    assert found.status == "undecided"
    assert found.change == pytest.approx(1.0)
    for unknown in (found.low, found.high, found.p):
        assert math.isnan(unknown)


def test_the_same_step_times_on_both_sides_are_the_same():
    found = firm(QUIET, QUIET)
    assert (found.status, found.change) == ("same", 0.0)


@pytest.mark.parametrize("scale", [1e-3, 1.0, 1e9, 1e17])
def test_the_shortest_and_the_longest_times_have_finite_changes(scale):
    found = firm([scale * each / 1000 for each in QUIET], [scale * each / 900 for each in ALSO])
    assert found.change == pytest.approx(1 / 0.9 - 1, abs=0.002)
    apart = firm([1e-3] * 5, [1e18] * 5)
    assert apart.change == pytest.approx(1e21)
    assert apart.status == "regressed"


def test_the_cases_of_one_table_are_judged_together():
    """What is certain alone is not among nineteen."""
    alone = firm(QUIET[:5], slower(1.03, ALSO[:5]), spreads={CASE: 0.004})
    names = {f"c{number}": QUIET[:5] for number in range(18)}
    among = compare_runs(
        run("base", {CASE: QUIET[:5], **names}),
        run("new", {CASE: slower(1.03, ALSO[:5]), **names}),
        spreads=dict.fromkeys((CASE, *names), 0.004),
    )
    assert alone.status == "regressed"
    assert among.cases[0].status == "undecided"
    assert among.cases[0].p == pytest.approx(19 * alone.p)


def test_a_large_table_of_shared_rounds_is_paired_whatever_is_compared():
    """What its rounds share is taken out; that both sides were measured in them stays true."""
    draws = np.random.default_rng(5)
    drift = draws.normal(0, 0.05, 10)
    names = [f"c{number}" for number in range(20)]
    base, new = (
        {name: np.exp(12 + drift + draws.normal(0, 0.005, 10)) * factor for name in names} for factor in (1, 1.05)
    )
    new["c0"] = new["c0"] * 1.05
    compared = compare_runs(run("base", base), run("new", new))
    assert compared.paired
    assert statuses(compared) == dict.fromkeys(names, "regressed")
    assert compared.cases[0].change == pytest.approx(1.05**2 - 1, abs=0.01)
    assert compared.cases[0].new_ns / compared.cases[0].base_ns == pytest.approx(1 + compared.cases[0].change)
    assert compared.aggregate is not None
    assert compared.aggregate.low < 1.05 * 1.05 ** (1 / 20) - 1 < compared.aggregate.high
    assert compared.aggregate.high - compared.aggregate.low < 0.01


def test_a_round_that_is_left_out_was_measured():
    """Of five rounds one is not used: five are what there are, and enough not to be warned of."""
    found = compare_runs(run("base", QUIET[:5]), run("new", (*slower(1.01, ALSO[:4]), 9000), session="other"))
    assert (found.cases[0].rounds_base, found.cases[0].rounds_new) == (5, 5)
    assert not any("too few" in warning for warning in found.warnings)


# Two sessions


@pytest.mark.parametrize(
    ("factor", "status"), [(1.2, "slower"), (1.05, "within"), (1.0, "within"), (0.95, "within"), (0.8, "faster")]
)
def test_two_sessions_are_called_slower_or_faster_only_beyond_what_sessions_differ_by(factor, status):
    compared = compare_runs(run("base", QUIET, session="monday"), run("new", slower(factor), session="friday"))
    found = only(compared)
    assert not compared.firm
    assert not compared.paired
    assert found.status == status
    assert found.failed is (status == "slower")
    assert found.margin == pytest.approx(math.expm1(3 * math.sqrt(2) * 0.02))
    assert math.isnan(found.rounds_needed)


@pytest.mark.parametrize("factor", [1.5, 0.5, 1.0])
def test_two_sessions_never_say_regressed_improved_or_same(factor):
    assert advisory(QUIET, slower(factor)).status not in (Status.REGRESSED, Status.IMPROVED, Status.SAME)


def test_a_case_that_crashes_is_lost_between_sessions_as_well():
    compared = compare_runs(run("base", QUIET, session="monday"), run("new", [math.nan], session="friday"))
    assert compared.lost


def test_a_difference_of_two_sessions_about_as_large_as_the_margin_is_undecided():
    compared = compare_runs(
        run("base", QUIET, session="monday"), run("new", slower(math.exp(3 * math.sqrt(2) * 0.02)), session="friday")
    )
    assert only(compared).status == "undecided"
    assert compared.undecided


def test_rounds_are_never_paired_across_sessions():
    drift = [1 + 0.05 * number for number in range(10)]
    base = [step_ns * times for step_ns, times in zip(QUIET, drift, strict=True)]
    new = [step_ns * times * 1.15 for step_ns, times in zip(ALSO, drift, strict=True)]
    paired, unpaired = firm(base, new), advisory(base, new)
    assert paired.high - paired.low < 0.03
    assert unpaired.high - unpaired.low > 0.2


def test_sessions_that_were_measured_take_the_place_of_what_is_assumed():
    quiet = SessionSpread(sessions=20, common=0.004, own=0.001, cases=10)
    assert advisory(QUIET, slower(1.06)).status == "within"
    found = advisory(QUIET, slower(1.06), sessions=quiet)
    assert found.status == "slower"
    assert 0.02 < found.margin < 0.04
    loud = SessionSpread(sessions=20, common=0.2, own=0.01, cases=10)
    assert advisory(QUIET, slower(1.2), sessions=loud).status == "within"


def test_sessions_say_nothing_about_rounds_of_one_session():
    loud = SessionSpread(sessions=20, common=0.2, own=0.01, cases=10)
    compared = compare_runs(run("base", QUIET), run("new", slower(1.05)), sessions=loud)
    assert only(compared).status == "regressed"
    assert compared.sessions is None


def test_a_margin_that_is_asked_for_only_widens_that_of_sessions():
    assert advisory(QUIET, slower(1.05), least=0.01).margin == pytest.approx(math.expm1(3 * math.sqrt(2) * 0.02))
    assert advisory(QUIET, slower(1.2), least=0.5).status == "within"
    assert advisory(QUIET, slower(1.2), least=0.5).margin == pytest.approx(0.5)


def test_a_machine_whose_processes_spread_more_than_sessions_are_assumed_to_has_a_wider_margin():
    found = advisory(QUIET, slower(1.2), spreads={CASE: 0.06})
    assert found.margin == pytest.approx(math.expm1(3 * math.sqrt(2) * 0.06))
    assert found.status == "undecided"  # noise excuses, and proves nothing


def test_one_round_a_side_decides_nothing_between_sessions_either():
    assert advisory(QUIET[:1], [9000.0]).status == "undecided"


# The aggregate


def test_the_aggregate_is_the_geometric_mean_over_cases_that_are_right_on_both_sides():
    base = run("base", {"a": QUIET, "b": QUIET, "c": QUIET, "lost": QUIET, "missing": QUIET})
    lost = [math.nan] * 10
    new = run("new", {"a": slower(1.2), "b": slower(1.2), "c": slower(0.5), "lost": lost, "new": QUIET})
    found = compare_runs(base, new).aggregate
    assert found is not None
    assert found.cases == 3
    assert found.change == pytest.approx((1.2 * 1.2 * 0.5) ** (1 / 3) - 1, abs=0.002)
    assert found.low < found.change < found.high


def test_between_sessions_the_aggregate_is_as_uncertain_as_they_are():
    close = compare_runs(run("base", QUIET), run("new", ALSO)).aggregate
    apart = compare_runs(run("base", QUIET, session="monday"), run("new", ALSO)).aggregate
    assert close is not None
    assert apart is not None
    assert close.high < 0.01
    assert apart.high > math.expm1(3 * math.sqrt(2) * 0.02)


def test_a_case_without_one_of_the_rounds_does_not_shift_the_aggregate():
    """Its other rounds stand for it: a slow case that is absent in a round makes that round no faster."""
    base, new = (
        run("base", {"slow": slower(100, QUIET), "fast": QUIET}),
        run("new", {"slow": slower(100), "fast": ALSO}),
    )
    gap = Run("new", new.measurements.drop(index=[0, 5]))
    for compared in (compare_runs(base, gap), compare_runs(gap, base)):
        assert compared.aggregate is not None
        assert abs(compared.aggregate.change) < 0.01


# What is warned of


def test_few_rounds_are_warned_of():
    assert compare_runs(run("base", QUIET), run("new", ALSO)).warnings == ()
    (warning,) = compare_runs(run("base", QUIET[:3]), run("new", ALSO[:3])).warnings
    assert warning == "3 rounds a side are too few to see a slowdown of 5 %: use 10"


def test_facts_that_make_two_runs_less_alike_are_named_with_both_values():
    base = replace(run("base", QUIET), facts={**FACTS, "gpu_driver": "570.1", "numpy": "2.4"})
    new = replace(
        run("new", QUIET), facts={**FACTS, "gpu_driver": "580.2\x1b[0m", "system": "Linux 6.1", "numpy": "2.4"}
    )
    assert compare_runs(base, new).warnings == (
        "gpu_driver differs: 570.1 and 580.2\\x1b[0m",
        "system differs: none and Linux 6.1",
    )


def test_facts_of_one_side_alone_say_nothing():
    new = replace(run("new", QUIET), facts={"gpu_driver": "570.1"})
    assert compare_runs(run("base", QUIET), new).warnings == ()


# What is read of a run


@pytest.mark.parametrize(
    ("clock", "told"), [(1700.0, ()), (1500.0, ("sm_clock_mhz differs: 1755 and 1500, after timing",)), (math.nan, ())]
)
def test_clocks_of_gpus_are_warned_of_where_they_differ_by_more_than_they_wander(clock, told):
    base, new = run("base", QUIET, sm_clock_mhz=1755.0), run("new", ALSO, sm_clock_mhz=clock)
    assert compare_runs(base, new).warnings == told


def test_clocks_that_were_held_down_are_warned_of_by_side():
    held = summary(CASE, OTHER, disturbances=["software thermal slowdown 9, preempted 1", "preempted 3"])
    sides = [replace(run(name, {CASE: QUIET, OTHER: QUIET}), summary=held) for name in ("base", "new")]
    quiet = replace(sides[0], summary=held.assign(disturbances="preempted 2"))
    told = "new: the GPU's clocks were held down in 1 of 2 cases: software thermal slowdown"
    assert compare_runs(quiet, sides[1]).warnings == (told,)


def test_every_column_that_is_read_is_one_of_its_table():
    assert set(MEASURED) <= {column.name for column in TABLES["measurements"]}
    assert set(SUMMARISED) <= {column.name for column in TABLES["summary"]}


def test_nothing_but_the_columns_that_are_read_is_needed():
    full = compare_runs(run("base", QUIET), run("new", slower(1.1)))
    table = run("new", slower(1.1)).measurements
    part = compare_runs(run("base", QUIET), Run("new", table[table.columns.intersection(MEASURED)]))
    assert values(only(part)) == values(only(full))


# Invariances

step = st.floats(0.97, 1.03)
sides = st.integers(2, 6).flatmap(
    lambda rounds: st.tuples(*[st.lists(step, min_size=rounds, max_size=rounds) for _ in range(2)])
)
factors = st.sampled_from([0.3, 0.9, 0.96, 0.99, 1.0, 1.01, 1.04, 1.1, 3.0])
session = st.sampled_from(["one session", "friday"])
MIRRORED = {
    "regressed": "improved",
    "slower": "faster",
    "lost": "fixed",
    "new": "missing",
    **{each: each for each in ("same", "undecided", "within", "failing", "changed")},
}
MIRRORED |= {there: here for here, there in MIRRORED.items()}

outcomes = st.sampled_from(["ok", "ok", "ok", "lost", "fixed", "failing", "new", "missing"])
table_of_cases = st.lists(st.tuples(sides, factors, outcomes), min_size=1, max_size=4)


def both(cases: Sequence[tuple[Any, float, str]], there: str) -> tuple[Run, Run]:
    """Return the two runs that these cases are of."""
    before, after = {}, {}
    for number, ((base, new), factor, kind) in enumerate(cases):
        broken = [math.nan]
        if kind != "new":
            before[f"c{number}"] = broken if kind in ("fixed", "failing") else slower(1000, base)
        if kind != "missing":
            after[f"c{number}"] = broken if kind in ("lost", "failing") else slower(1000 * factor, new)
    assume(set(before) & set(after))
    return run("base", before), run("new", after, session=there)


@settings(max_examples=60)
@given(table_of_cases, session)
def test_a_comparison_the_other_way_round_has_the_negated_effects_and_the_mirrored_statuses(cases, there):
    base, new = both(cases, there)
    forth, back = compare_runs(base, new), compare_runs(new, base)
    other = {case.case_id: case for case in back.cases}
    for case in forth.cases:
        mirror = other[case.case_id]
        assert mirror.status == MIRRORED[case.status]
        if not math.isnan(case.change):
            assert math.log1p(mirror.change) == pytest.approx(-math.log1p(case.change), abs=1e-9)
            assert mirror.p == pytest.approx(case.p, nan_ok=True)
            assert math.log1p(mirror.low) == pytest.approx(-math.log1p(case.high), abs=1e-9, nan_ok=True)
            assert (mirror.base_ns, mirror.new_ns) == pytest.approx((case.new_ns, case.base_ns))
    assert (forth.aggregate is None) == (back.aggregate is None)
    if forth.aggregate and back.aggregate and not math.isnan(forth.aggregate.change):
        assert math.log1p(back.aggregate.change) == pytest.approx(-math.log1p(forth.aggregate.change), abs=1e-9)


@settings(max_examples=40)
@given(table_of_cases, session, st.floats(1e-3, 1e6))
def test_a_machine_that_is_faster_for_both_sides_changes_nothing(cases, there, scale):
    base, new = both(cases, there)
    scaled = [
        Run(each.name, each.measurements.assign(step_ns=lambda table: table["step_ns"] * scale)) for each in (base, new)
    ]
    for mine, theirs in zip(compare_runs(base, new).cases, compare_runs(*scaled).cases, strict=True):
        assert theirs.status == mine.status
        for name in ("change", "low", "high", "p", "margin", "spread", "rounds_needed"):
            assert getattr(theirs, name) == pytest.approx(getattr(mine, name), rel=1e-6, abs=1e-9, nan_ok=True)
        assert theirs.new_ns == pytest.approx(mine.new_ns * scale, nan_ok=True)


@settings(max_examples=40)
@given(table_of_cases, session, st.randoms(use_true_random=False))
def test_the_order_of_the_rows_changes_nothing_but_the_order_of_the_cases(cases, there, random):
    base, new = both(cases, there)
    mixed = []
    for each in (base, new):
        order = list(range(len(each.measurements)))
        random.shuffle(order)
        mixed.append(Run(each.name, each.measurements.iloc[order].reset_index(drop=True)))
    expected, found = compare_runs(base, new), compare_runs(*mixed)
    theirs = {case.case_id: case for case in found.cases}
    assert theirs.keys() == {case.case_id for case in expected.cases}
    for case in expected.cases:
        assert values(theirs[case.case_id]) == values(case)


RANK = {"improved": 0, "faster": 0, "same": 1, "within": 1, "undecided": 1, "slower": 2, "regressed": 2}


@settings(max_examples=60)
@given(sides, factors, st.floats(1, 3), session)
def test_a_case_that_gets_slower_in_every_round_is_never_called_faster_for_it(steps, factor, more, there):
    base, new = run("base", slower(1000, steps[0])), slower(1000 * factor, steps[1])
    before = only(compare_runs(base, run("new", new, session=there)))
    after = only(compare_runs(base, run("new", slower(more, new), session=there)))
    assert RANK[after.status] >= RANK[before.status]
    assert after.change >= before.change


@settings(max_examples=40)
@given(sides, factors, session)
def test_a_further_case_that_is_the_same_makes_nothing_significant(steps, factor, there):
    base, new = {CASE: slower(1000, steps[0])}, {CASE: slower(1000 * factor, steps[1])}
    same = dict.fromkeys(("x", "y"), QUIET[: len(steps[0])])
    alone = compare_runs(run("base", base), run("new", new, session=there)).cases[0]
    among = compare_runs(run("base", base | same), run("new", new | same, session=there)).cases[0]
    assert not among.p < alone.p
    assert among.status in (alone.status, "undecided", "same")
    assert among.change == pytest.approx(alone.change)
