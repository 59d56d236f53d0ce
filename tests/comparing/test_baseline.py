import math
from typing import Any

import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from harness.comparing.baseline import MARGIN, BaselineVerdict, against_baseline, check_comparable
from harness.plan.errors import NotComparable

CASE = "line/manual/cpu/float32/b100"
OTHER = "line/autograd/cpu/float32/b100"
QUIET = (1000.0, 1010.0, 990.0, 1005.0, 995.0)


def measurements(*steps_ns: float, case_id: str = CASE, **columns: Any) -> pd.DataFrame:
    """Return a table of one case, one row a round; a NaN step time is a round that crashed."""
    rows = [
        {
            "case_id": case_id,
            "round": number,
            "outcome": "crashed" if math.isnan(step_ns) else "ok",
            "step_ns": step_ns,
            "threads": 2,
            "machine": "amd-epyc-9654-2c",
            "fingerprint": "00aa11bb22cc",
            "dirty": False,
            **columns,
        }
        for number, step_ns in enumerate(steps_ns)
    ]
    return pd.DataFrame(rows)


def slower(factor: float, steps_ns: tuple[float, ...] = QUIET) -> tuple[float, ...]:
    return tuple(step_ns * factor for step_ns in steps_ns)


def compared(base: pd.DataFrame, new: pd.DataFrame, **outcomes: str) -> list[BaselineVerdict]:
    """Compare with a new run that was to measure every case of its table; outcomes: those that are not `ok`."""
    summary = new.groupby("case_id", sort=False)["outcome"].max().reset_index()
    broken = set(new[new["outcome"] != "ok"]["case_id"])
    summary["outcome"] = ["crashed" if case_id in broken else "ok" for case_id in summary["case_id"]]
    return against_baseline(base, new, summary.assign(**outcomes))


def only(base: pd.DataFrame, new: pd.DataFrame) -> BaselineVerdict:
    (verdict,) = compared(base, new)
    return verdict


# May they be compared?


def test_runs_of_the_same_machine_and_fingerprint_at_a_commit_are_comparable():
    check_comparable(measurements(*QUIET), "amd-epyc-9654-2c", "00aa11bb22cc")


@pytest.mark.parametrize(
    ("name", "here"), [("machine", ("nvidia-h200", "00aa11bb22cc")), ("fingerprint", ("amd-epyc-9654-2c", "ffff"))]
)
def test_another_machine_or_fingerprint_is_not_comparable_and_both_values_are_named(name, here):
    theirs = {"machine": "amd-epyc-9654-2c", "fingerprint": "00aa11bb22cc"}[name]
    ours = here[0] if name == "machine" else here[1]
    with pytest.raises(NotComparable) as refused:
        check_comparable(measurements(*QUIET), *here)
    for text in (name, theirs, ours):
        assert text in str(refused.value)


def test_a_table_glued_together_from_two_machines_is_not_comparable_with_either():
    glued = pd.concat([measurements(1000), measurements(1000, machine="nvidia-h200")])
    with pytest.raises(NotComparable, match="amd-epyc-9654-2c, nvidia-h200"):
        check_comparable(glued, "nvidia-h200", "00aa11bb22cc")


def test_a_baseline_of_uncommitted_code_is_not_comparable():
    glued = pd.concat([measurements(1000), measurements(1000, dirty=True)])
    with pytest.raises(NotComparable, match="uncommitted changes"):
        check_comparable(glued, "amd-epyc-9654-2c", "00aa11bb22cc")


def test_a_case_that_ran_with_other_threads_is_not_comparable_and_both_numbers_are_named():
    with pytest.raises(NotComparable) as refused:
        compared(measurements(*QUIET), measurements(*QUIET, threads=16))
    for text in ("threads", CASE, "2", "16"):
        assert text in str(refused.value)


# Is it slower?


@pytest.mark.parametrize(
    ("factor", "status"), [(0.3, "met"), (1.0, "met"), (1.05, "met"), (1.13, "missed"), (3.0, "missed")]
)
def test_a_case_is_missed_when_it_is_slower_by_more_than_the_margin(factor, status):
    verdict = only(measurements(*QUIET), measurements(*slower(factor)))
    assert verdict.status == status
    assert verdict.ratio == pytest.approx(1 / factor)
    assert verdict.low < verdict.ratio < verdict.high


def test_a_difference_about_as_large_as_the_margin_is_undecided():
    verdict = only(measurements(*QUIET), measurements(*slower(1 + MARGIN)))
    assert verdict.status == "undecided"
    assert verdict.low < 1 / (1 + MARGIN) < verdict.high


def test_rounds_that_spread_more_than_the_difference_decide_nothing():
    verdict = only(measurements(*QUIET), measurements(900, 1500, 1100, 2000, 1000))
    assert verdict.status == "undecided"


def test_one_round_on_either_side_has_a_ratio_and_decides_nothing():
    for base, new in (((1000.0,), QUIET), (QUIET, (1000.0,)), ((1000.0,), (1000.0,))):
        verdict = only(measurements(*base), measurements(*new))
        assert verdict.status == "undecided"
        assert verdict.ratio == pytest.approx(1, abs=0.01)
        assert math.isnan(verdict.low)
        assert math.isnan(verdict.high)


def test_the_interval_is_welchs_on_the_logs():
    then, now = (1000.0, 1020.0, 980.0, 1100.0), (1200.0, 1190.0, 1260.0)
    one, other = pd.Series(then).map(math.log), pd.Series(now).map(math.log)
    parts = one.var() / len(one), other.var() / len(other)
    freedom = sum(parts) ** 2 / (parts[0] ** 2 / (len(one) - 1) + parts[1] ** 2 / (len(other) - 1))
    half = stats.t.ppf(0.975, freedom) * math.sqrt(sum(parts))
    centre = one.mean() - other.mean()
    verdict = only(measurements(*then), measurements(*now))
    assert verdict.ratio == pytest.approx(math.exp(centre))
    assert (verdict.low, verdict.high) == pytest.approx((math.exp(centre - half), math.exp(centre + half)))


noise = st.lists(st.floats(0.9, 1.1), min_size=2, max_size=6).filter(lambda values: max(values) - min(values) > 1e-3)


@given(noise, noise, st.floats(0.1, 10))
def test_a_run_compared_the_other_way_round_has_the_reciprocal_ratio(base, new, factor):
    base, new = slower(1000, tuple(base)), slower(1000 * factor, tuple(new))
    there, back = only(measurements(*base), measurements(*new)), only(measurements(*new), measurements(*base))
    assert there.ratio * back.ratio == pytest.approx(1)
    assert there.low * back.high == pytest.approx(1)
    assert there.status != "missed" or back.status == "met"


# Cases that only one run has


def test_a_case_that_only_one_run_has_is_named_and_fails_nothing():
    base = pd.concat([measurements(*QUIET), measurements(*QUIET, case_id="both")])
    new = pd.concat([measurements(*QUIET, case_id="both"), measurements(*QUIET, case_id=OTHER)])
    verdicts = compared(base, new)
    assert [(verdict.case_id, verdict.status) for verdict in verdicts] == [
        (CASE, "not run"),
        ("both", "met"),
        (OTHER, "new"),
    ]
    assert not any(verdict.failed for verdict in verdicts)


def test_runs_without_a_case_in_common_are_not_comparable():
    with pytest.raises(NotComparable, match="no case is both"):
        compared(measurements(*QUIET), measurements(*QUIET, case_id=OTHER))


@pytest.mark.parametrize("outcome", ["crashed", "not_converged", "unsupported", "interrupted"])
def test_a_case_that_had_a_time_and_has_none_any_more_is_lost_and_fails(outcome):
    (verdict,) = compared(measurements(*QUIET), measurements(*QUIET), outcome=outcome)
    assert verdict.status == "lost"
    assert verdict.failed
    assert math.isnan(verdict.ratio)


def test_a_case_without_a_time_in_one_of_its_rounds_counts_as_not_there():
    whole, broken = measurements(*QUIET), measurements(*QUIET, math.nan)
    assert only(whole, broken).status == "lost"
    both = pd.concat([broken, measurements(*QUIET, case_id=OTHER)])
    verdicts = compared(both, pd.concat([whole, measurements(*QUIET, case_id=OTHER)]))
    assert [verdict.status for verdict in verdicts] == ["new", "met"]


def test_every_case_gets_one_verdict_in_the_order_of_the_baseline():
    both = pd.concat([measurements(*QUIET), measurements(*QUIET, case_id=OTHER)])
    verdicts = compared(both, both[::-1])
    assert [(verdict.case_id, verdict.status) for verdict in verdicts] == [(CASE, "met"), (OTHER, "met")]


def test_a_differing_fingerprint_is_explained_by_the_facts_that_differ_where_both_are_known():
    theirs = {"cpu_model": "AMD EPYC", "torch": "2.13.0", "system": "Linux 6.1", "gpu": "a\x1b[31m"}
    ours = {"cpu_model": "AMD EPYC", "torch": "2.12.0", "system": "Linux 6.2"}
    with pytest.raises(NotComparable) as refused:
        check_comparable(measurements(*QUIET), "amd-epyc-9654-2c", "ffff", (theirs, ours))
    for text in ("fingerprint differs", "00aa11bb22cc", "ffff", "torch: 2.13.0 and 2.12.0", "gpu: a\\x1b[31m and none"):
        assert text in str(refused.value)
    for text in ("cpu_model", "system"):
        assert text not in str(refused.value)


@pytest.mark.parametrize("facts", [({}, {"torch": "2.12.0"}), ({"torch": "2.12.0"}, {})])
def test_without_facts_of_both_machines_a_fingerprint_alone_is_said_to_differ(facts):
    with pytest.raises(NotComparable, match=r"this run ffff$"):
        check_comparable(measurements(*QUIET), "amd-epyc-9654-2c", "ffff", facts)
