import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from harness.comparing.history import history_of
from harness.comparing.prediction import judge, judge_with_machine
from harness.comparing.series import CaseHistory, History, Move, Status
from harness.tables.stored import StoredRun

QUIET = [0.01, -0.01, 0.004, -0.004, 0.0, 0.007, -0.007, 0.002, -0.002, 0.001, -0.001, 0.003]
MANUAL, AUTOGRAD, FROZEN = (f"line/{engine}/cpu/float32/b100" for engine in ("manual", "autograd", "frozen"))
# Enough that their median may stand in for the frozen engine.
SEVEN = [f"line/manual/cpu/float32/b{size}" for size in (1, 2, 5, 10, 20, 50, 100)]


def column(*logs: float) -> np.ndarray:
    return np.array(logs)[:, None]


def judged(*logs: float, **more: Any) -> tuple[int, bool]:
    found = judge(column(*logs), **more)
    return int(found.moved[0]), bool(found.confirmed[0])


# The interval


@given(st.lists(st.floats(-1, 1), min_size=10, max_size=20), st.floats(-3, 3))
def test_the_interval_is_the_one_sided_prediction_interval_of_the_sessions_before(before, newest):
    # What the session before said is not known, or it might confirm and be no part of the reference.
    found = judge(column(*before, newest), column(*[math.nan] * len(before), newest))
    mean, deviation = np.mean(before), np.std(before, ddof=1)
    limit = stats.t.ppf(0.995, len(before) - 1) * deviation * math.sqrt(1 + 1 / len(before))
    assert found.effect[0] == pytest.approx(newest - mean, abs=1e-9)
    assert found.limit[0] == pytest.approx(max(limit, math.log(1.02)), rel=1e-6)
    assert found.sessions[0] == len(before)
    far = abs(newest - mean)
    if abs(far - found.limit[0]) > 1e-6:
        assert found.moved[0] == (np.sign(newest - mean) if far > found.limit[0] else 0)


@pytest.mark.parametrize(
    ("spread", "change", "moved"),
    [(0.1, 0.019, 0), (0.1, 0.021, 1), (0.1, -0.021, -1), (1, 0.03, 1), (3, 0.03, 0), (3, 0.12, 1), (3, -0.12, -1)],
)
def test_slower_is_what_is_beyond_the_interval_and_two_percent(spread, change, moved):
    assert judged(*(spread * each for each in QUIET), math.log1p(change)) == (moved, False)


def test_fewer_than_ten_sessions_decide_nothing():
    assert judged(*QUIET[:9], 1.0) == (0, False)
    assert math.isnan(judge(column(*QUIET[:9], 1.0)).limit[0])
    assert judged(*QUIET[:10], 1.0) == (1, False)


def test_only_the_last_twenty_sessions_count():
    quiet = [*QUIET, *QUIET][:20]
    assert judged(5.0, *quiet, 0.05) == (1, False)
    assert judged(5.0, *quiet[1:], 0.05) == (0, False)


def test_a_session_without_the_case_is_passed_over():
    with_gaps = [value for each in QUIET for value in (math.nan, each, math.inf)]
    for logs in ((0.05,), (0.05, 0.05)):
        gaps, plain = judge(column(*with_gaps, *logs)), judge(column(*QUIET, *logs))
        assert (gaps.effect, gaps.limit, gaps.sessions) == (plain.effect, plain.limit, plain.sessions)
        assert (gaps.moved, gaps.confirmed) == (plain.moved, plain.confirmed)


def test_a_case_that_the_newest_session_does_not_have_has_not_moved():
    assert judged(*QUIET, 0.05, math.nan) == (0, False)


def test_cases_are_judged_each_by_itself():
    table = np.stack([np.array([*QUIET, 0.05]), np.array([*QUIET, 0.0]), np.array([*QUIET, -0.05])], axis=1)
    assert judge(table).moved.tolist() == [1, 0, -1]
    assert judge(table[:, ::-1]).moved.tolist() == [-1, 0, 1]


# Confirmed


@pytest.mark.parametrize(
    ("before", "newest", "expected"),
    [
        (0.05, 0.05, (1, True)),
        (-0.05, -0.05, (-1, True)),
        (0.0, 0.05, (1, False)),
        (-0.05, 0.06, (1, False)),
        (0.05, 0.0, (0, False)),
        (0.05, 0.015, (0, False)),
    ],
)
def test_a_move_is_confirmed_when_the_session_before_moved_the_same_way(before, newest, expected):
    assert judged(*QUIET, before, newest) == expected


def test_a_slowdown_does_not_hide_its_own_confirmation():
    # Among eleven sessions one that is slower by a quarter makes the interval wider than that.
    assert judged(*QUIET[:10], 0.25, 0.25) == (1, True)
    assert judge(column(*QUIET[:10], 0.25, 0.25)).sessions[0] == 10


def test_ten_sessions_and_one_more_judge_but_cannot_confirm():
    assert judged(*QUIET[:9], 0.012, 0.05) == (1, False)
    assert judged(*QUIET[:9], 0.012, 0.05, 0.05) == (1, True)


def test_a_session_is_taken_at_the_word_of_the_run_it_was_judged_by():
    logs = column(*QUIET, 0.0, 0.05)
    said = logs.copy()
    said[-2] = 0.05
    assert judge(logs, said).confirmed.tolist() == [True]
    said[-2] = math.nan
    assert judge(np.where(np.arange(14)[:, None] == 12, 0.05, logs), said).confirmed.tolist() == [False]


@given(st.floats(-10, 10), st.integers(0, 12))
def test_only_differences_count_not_the_unit(shift, place):
    logs = column(*QUIET[:place], 0.02, *QUIET[place:], 0.05, 0.06)
    one, other = judge(logs), judge(logs + shift)
    assert (one.moved == other.moved).all()
    assert (one.confirmed == other.confirmed).all()
    np.testing.assert_allclose(one.limit, other.limit, rtol=1e-6)


# How often it is wrong: the table of the module's docstring, of which a run of this test is a small part.

REPLICATES = 100_000


def rates(sessions: int, change: float, slow: int) -> tuple[float, float]:
    """Return the shares of cases, of a spread of 1 %, that are slower, and confirmed; the last `slow` sessions are."""
    logs = np.random.default_rng(sessions).normal(0, 0.01, (sessions + 1, REPLICATES))
    logs[len(logs) - slow :] += math.log1p(change)
    found = judge(logs)
    return float((found.moved == 1).mean()), float((found.confirmed & (found.moved == 1)).mean())


@pytest.mark.parametrize(("sessions", "once", "twice"), [(11, 0.0044, 0.00011), (15, 0.0047, 0.00008)])
def test_false_alarms_are_as_rare_as_is_said(sessions, once, twice):
    seen, confirmed = rates(sessions, 0, 0)
    assert seen == pytest.approx(once, abs=0.0008)  # four standard errors
    assert confirmed == pytest.approx(twice, abs=0.00014)


@pytest.mark.parametrize(("sessions", "once", "twice"), [(11, 0.90, 0.80), (21, 0.96, 0.92)])
def test_a_slowdown_of_five_percent_is_seen_as_often_as_is_said(sessions, once, twice):
    assert rates(sessions, 0.05, 1)[0] == pytest.approx(once, abs=0.007)
    assert rates(sessions, 0.05, 2)[1] == pytest.approx(twice, abs=0.007)


def test_a_machine_that_became_slower_fails_hardly_any_run_and_hides_half_of_the_slower_cases_at_most():
    frozen = np.arange(21) == 20
    alarms, seen, replicates = 0, 0, 400
    for logs in np.random.default_rng(7).normal(0, 0.01, (replicates, 22, 21)):
        logs[-2:] += math.log1p(0.05)
        logs[-2:, 0] += math.log1p(0.05)
        confirmed = judge_with_machine(logs, logs, frozen)[0].confirmed
        alarms, seen = alarms + confirmed[1:].any(), seen + confirmed[0]
    assert alarms / replicates < 0.03  # 0.013 by the docstring; without the frozen engine it is all of them
    assert seen / replicates == pytest.approx(0.5, abs=0.09)


# Whole runs


def run(number: int, steps: Mapping[str, float | str | None], **more: Any) -> StoredRun:
    """Return run `number`; steps: by case log of its step time over 1 ms, or how it ended, None if it has not."""
    known = {
        "engine": [name.split("/")[1] for name in steps],
        "device": [name.split("/")[2] for name in steps],
        "threads": float(more.pop("threads", 1)),
        "outcome": [step if isinstance(step, str) else "ok" for step in steps.values()],
        "reason": ["because" if isinstance(step, str) else "" for step in steps.values()],
        "step_ns": [math.nan if isinstance(step, str) else 1e6 * math.exp(step) for step in steps.values()],
        "workload_digest": more.pop("digest", "0123456789ab"),
    }
    return StoredRun(
        **{
            "folder": Path(f"r{number:03}"),
            "run_id": f"r{number:03}",
            "session": f"r{number:03}",
            "commit": "c0ffee" * 6 + "c0de",
            "dirty": False,
            "machine": "amd-epyc-2c",
            "fingerprint": "00aa11bb22cc",
            "environment": "torch=2.13; cpus=2",
            "cases": pd.DataFrame(known, index=list(steps)),
            **more,
        }
    )


def runs(steps: Mapping[str, Sequence[float | str | None]], **more: Any) -> list[StoredRun]:
    """Return one run per session; a case that is None there is not in its table."""
    rows = [dict(zip(steps, values, strict=True)) for values in zip(*steps.values(), strict=True)]
    return [
        run(number, {name: step for name, step in row.items() if step is not None}, **more)
        for number, row in enumerate(rows)
    ]


def case(history: History, name: str = MANUAL) -> CaseHistory:
    return next(each for each in history.cases if each.case_id == name)


def status(*newest: float | str | None, before: Sequence[float | str | None] = QUIET) -> Status:
    return case(history_of(runs({MANUAL: [*before, *newest], AUTOGRAD: [0.0] * (len(before) + len(newest))}))).status


@pytest.mark.parametrize(
    ("newest", "expected"),
    [
        ([0.0, 0.05], Status.MAYBE_SLOWER),
        ([0.05, 0.05], Status.SLOWER),
        ([0.0, -0.05], Status.MAYBE_FASTER),
        ([-0.05, -0.05], Status.FASTER),
        ([0.0, 0.01], Status.STEADY),
        ([0.05, 0.0], Status.STEADY),
        ([0.0, "crashed"], Status.LOST),
        ([0.0, "not_converged"], Status.LOST),
        (["crashed", "crashed"], Status.FAILING),
        (["crashed", 0.0], Status.STEADY),
        (["crashed", 0.05], Status.MAYBE_SLOWER),
        ([0.0, None], Status.NOT_RUN),
        ([0.0, "interrupted"], Status.NOT_RUN),
        (["interrupted", "crashed"], Status.LOST),
        ([None, "crashed"], Status.LOST),
        ([None, 0.05], Status.MAYBE_SLOWER),
    ],
    ids=str,
)
def test_every_case_of_the_newest_run_has_one_status(newest, expected):
    assert status(*newest) == expected


def test_a_case_is_new_that_never_had_a_time():
    assert status(0.0, before=[None] * 12) == Status.NEW
    assert status(0.0, before=["unsupported"] * 12) == Status.NEW


def test_too_few_sessions_say_how_many_are_missing():
    history = history_of(runs({MANUAL: [*QUIET[:7], 0.5], AUTOGRAD: [None] * 4 + [0.0] * 4}))
    assert (case(history).status, case(history).reason) == (Status.TOO_FEW, "3 more sessions to judge it by")
    assert case(history, AUTOGRAD).reason == "7 more sessions to judge it by"
    assert not history.failed
    first = history_of([run(0, {MANUAL: 0.0})])
    assert case(first).reason == "10 more sessions to judge it by"


@pytest.mark.parametrize(
    ("newest", "fails", "undecided"),
    [
        ([0.05, 0.05], True, False),
        ([0.0, "crashed"], True, False),
        ([0.0, 0.05], False, True),
        ([0.0, 0.0], False, False),
    ],
)
def test_slower_twice_or_not_ok_any_more_fails_and_slower_once_is_undecided(newest, fails, undecided):
    history = history_of(runs({MANUAL: [*QUIET, *newest]}))
    assert (history.failed, history.undecided) == (fails, undecided)


def test_the_change_and_what_it_may_be_are_those_of_the_sessions_it_is_judged_by():
    before = [3 * log for log in QUIET]
    found = case(history_of(runs({MANUAL: [*before, 0.05]})))
    assert found.change == pytest.approx(math.expm1(0.05 - np.mean(before)))
    limit = stats.t.ppf(0.995, 11) * np.std(before, ddof=1) * math.sqrt(13 / 12)
    assert found.limit == pytest.approx(math.expm1(limit))
    assert found.sessions == 12


@pytest.mark.parametrize(
    ("then", "reason"),
    [
        ({"threads": 2}, "threads: 2 and 1"),
        ({"digest": "fedcba987654"}, "workload: fedcba987654 and 0123456789ab"),
        ({"threads": 2, "digest": "f"}, "threads: 2 and 1; workload: f and 0123456789ab"),
    ],
    ids=str,
)
def test_another_thing_under_the_same_name_is_changed_and_never_slower(then, reason):
    before = runs({MANUAL: QUIET}, **then)
    found = case(history_of([*before, run(12, {MANUAL: 1.0})]))
    assert (found.status, found.reason) == (Status.CHANGED, reason)
    again = case(history_of([*before, run(12, {MANUAL: 1.0}), run(13, {MANUAL: 1.5})]))
    assert (again.status, again.reason) == (Status.TOO_FEW, "9 more sessions to judge it by")


def test_sessions_of_another_thing_are_no_reference_where_there_are_enough_of_this():
    deviant = [run(number, {MANUAL: 3.0}, threads=8) for number in range(100, 103)]
    history = history_of([*runs({MANUAL: QUIET}), *deviant, run(200, {MANUAL: 0.05})])
    assert (case(history).status, case(history).sessions) == (Status.MAYBE_SLOWER, 12)


def test_old_tables_that_do_not_say_what_is_trained_are_a_reference():
    assert case(history_of([*runs({MANUAL: QUIET}, digest=""), run(50, {MANUAL: 0.05})])).status == Status.MAYBE_SLOWER


# Which runs count


def test_runs_of_uncommitted_code_are_shown_and_are_no_reference():
    dirty = [run(number, {MANUAL: 0.6}, dirty=True) for number in range(20, 24)]
    history = history_of([*runs({MANUAL: QUIET}), *dirty, run(30, {MANUAL: 0.05})])
    assert (case(history).status, case(history).sessions, history.sessions) == (Status.MAYBE_SLOWER, 12, 13)
    assert [line.part for line in history.runs] == ["reference"] * 12 + ["dirty"] * 4 + ["newest"]
    assert history.runs[12].change == pytest.approx(math.expm1(0.6 - np.mean(QUIET)))


def test_a_dirty_run_is_judged_but_confirms_nothing():
    before = runs({MANUAL: QUIET})
    dirty = run(20, {MANUAL: 0.05}, dirty=True)
    history = history_of([*before, dirty])
    assert (history.dirty, case(history).status) == (True, Status.MAYBE_SLOWER)
    assert case(history_of([*before, dirty, run(21, {MANUAL: 0.05})])).status == Status.MAYBE_SLOWER


def test_of_a_session_only_the_first_run_is_in_the_reference_and_the_newest_run_is_judged():
    before = [
        each
        for number, log in enumerate(QUIET)
        for each in (
            run(10 * number, {MANUAL: log}, session=f"s{number}"),
            run(10 * number + 1, {MANUAL: -2.0}, session=f"s{number}"),
        )
    ]
    newest = [run(200 + number, {MANUAL: log}, session="now") for number, log in enumerate((0.0, 3.0, 0.05))]
    history = history_of([*before, *newest])
    assert (case(history).change, case(history).sessions) == (pytest.approx(math.expm1(0.05 - np.mean(QUIET))), 12)
    assert [line.part for line in history.runs[-5:]] == [
        "reference",
        "same session",
        "same session",
        "same session",
        "newest",
    ]


def test_two_sessions_that_each_compared_the_same_two_revisions_confirm_each_other():
    pairs = [
        run(100 * session + number, {MANUAL: log}, session=f"ab{session}")
        for session in (1, 2)
        for number, log in enumerate((0.0, 0.05))
    ]
    assert case(history_of([*runs({MANUAL: QUIET}), *pairs])).status == Status.SLOWER


def test_other_fingerprints_are_counted_with_what_differs_and_left_out():
    other = [run(number, {MANUAL: 3.0}, fingerprint="f", environment="torch=2.12; cpus=2") for number in (40, 41)]
    elsewhere = run(42, {MANUAL: 3.0}, machine="m", fingerprint="g", environment="")
    history = history_of([*runs({MANUAL: QUIET}), *other, elsewhere, run(50, {MANUAL: 0.05})])
    assert (case(history).status, history.sessions, len(history.runs)) == (Status.MAYBE_SLOWER, 13, 13)
    assert history.others == {"f": (2, "torch: 2.12, here 2.13"), "m, g": (1, "")}


def test_a_case_that_was_last_run_long_ago_is_not_told_of():
    steps = {MANUAL: [0.0] * 25, AUTOGRAD: [0.0] * 3 + [None] * 22, FROZEN: [0.0] * 5 + [None] * 20}
    assert [each.case_id for each in history_of(runs(steps)).cases] == [MANUAL, FROZEN]


# The machine


def moved(
    move: Sequence[float], frozen: Sequence[float] | None, cases: Sequence[str] = (MANUAL, AUTOGRAD)
) -> tuple[History, list[Status]]:
    """Return the history of cases that all make a move in the last sessions, the frozen engine one of its own."""
    length = len(QUIET) + len(move)
    steps = {name: np.roll(QUIET, 3 + place).tolist() + list(move) for place, name in enumerate(cases)}
    steps |= {} if frozen is None else {FROZEN: [*QUIET, *frozen]}
    assert {len(each) for each in steps.values()} == {length}
    history = history_of(runs(steps))
    return history, [case(history, name).status for name in cases]


def test_cases_that_moved_as_the_frozen_engine_did_moved_with_the_machine():
    history, statuses = moved([0.06, 0.06], [0.06, 0.06])
    assert statuses == [Status.MACHINE, Status.MACHINE]
    assert case(history, FROZEN).status == Status.MACHINE
    assert history.moves == (Move("cpu", pytest.approx(math.expm1(0.06 - np.mean(QUIET))), "frozen"),)
    assert not history.failed


def test_cases_that_moved_alone_are_not_excused():
    history, statuses = moved([0.06, 0.06], [0.0, 0.0])
    assert statuses == [Status.SLOWER, Status.SLOWER]
    assert history.moves == history.untold == ()
    assert moved([0.0, 0.06], None)[0].untold == ()  # nothing is slower yet


def test_what_is_slower_than_the_machine_became_is_slower():
    assert moved([0.14, 0.14], [0.06, 0.06])[1] == [Status.SLOWER, Status.SLOWER]
    assert moved([0.0, 0.14], [0.0, 0.06])[1] == [Status.MAYBE_SLOWER, Status.MAYBE_SLOWER]


def test_a_machine_that_moved_the_other_way_excuses_nothing():
    history, statuses = moved([0.06, 0.06], [-0.06, -0.06])
    assert statuses == [Status.SLOWER, Status.SLOWER]
    assert history.moves[0].change < 0


def test_a_machine_that_moved_by_less_than_two_percent_explains_as_much():
    quiet = [0.3 * each for each in QUIET]
    history = history_of(runs({MANUAL: [*quiet, 0.024, 0.024], FROZEN: [*quiet, 0.015, 0.015]}))
    assert case(history).status == Status.MACHINE
    history = history_of(runs({MANUAL: [*quiet, 0.024, 0.024], FROZEN: [*quiet, 0.0, 0.0]}))
    assert case(history).status == Status.SLOWER


def test_a_faster_machine_makes_no_case_faster():
    assert moved([-0.06, -0.06], [-0.06, -0.06])[1] == [Status.MACHINE, Status.MACHINE]


def test_a_slower_machine_in_one_session_does_not_confirm_a_slower_commit():
    assert moved([0.06, 0.06], [0.06, 0.0])[1] == [Status.MAYBE_SLOWER, Status.MAYBE_SLOWER]
    assert moved([0.14, 0.06], [0.06, 0.0])[1] == [Status.SLOWER, Status.SLOWER]


def test_sessions_that_wander_together_hide_no_slowdown_where_the_frozen_engine_wanders_too():
    # The machine wanders by several percent: only a comparison within the session shows 3 %. It is judged so only where
    # the case is beyond its own interval.
    wander = np.random.default_rng(3).normal(0, 0.03, 22)
    wander[-2:] = 0.2
    noise = np.random.default_rng(4).normal(0, 0.002, 22)
    slow = np.where(np.arange(22) >= 20, 0.03, 0.0)
    history = history_of(
        runs({MANUAL: (wander + noise + slow).tolist(), AUTOGRAD: (wander - noise).tolist(), FROZEN: wander.tolist()})
    )
    assert [each.status for each in history.cases] == [Status.SLOWER, Status.MACHINE, Status.MACHINE]


def test_without_the_frozen_engine_the_median_of_enough_cases_stands_in():
    history, statuses = moved([0.06, 0.06], None, SEVEN)
    assert statuses == [Status.MACHINE] * 7
    assert history.moves[0].by == "median"
    history, statuses = moved([0.06, 0.06], None, SEVEN[:4])
    assert statuses == [Status.SLOWER] * 4
    assert history.moves == ()
    assert history.untold == ("cpu",)


def test_the_median_is_of_deviations_whichever_cases_a_session_has():
    steps: dict[str, list[float | None]] = {
        name: [place + each for each in (*np.roll(QUIET, place).tolist(), 0.06, 0.06)]
        for place, name in enumerate(SEVEN)
    }
    for session in (2, 5):
        for name in SEVEN[:2]:
            steps[name][session] = None
    history = history_of(runs(steps))
    assert [each.status for each in history.cases] == [Status.MACHINE] * 7
    assert history.moves[0].change == pytest.approx(0.06, abs=0.005)


def test_one_case_that_moves_among_many_is_not_the_median():
    steps: dict[str, list[float]] = {
        name: [*np.roll(QUIET, place).tolist(), 0.0, 0.0] for place, name in enumerate(SEVEN)
    }
    steps[SEVEN[3]][-2:] = [0.06, 0.06]
    history = history_of(runs(steps))
    assert [each.status for each in history.cases] == [Status.STEADY] * 3 + [Status.SLOWER] + [Status.STEADY] * 3


def test_a_frozen_engine_that_most_sessions_lack_is_not_asked():
    steps: dict[str, list[float | None]] = {name: [*QUIET, 0.06, 0.06] for name in SEVEN}
    history = history_of(runs({**steps, FROZEN: [None] * 8 + [0.0] * 6}))
    assert history.moves[0].by == "median"


def test_a_case_that_was_measured_without_the_frozen_engine_is_not_excused_by_it():
    quiet = [*QUIET, *QUIET[:8], 0.06, 0.06]
    manual = [*quiet[:12], *[None] * 8, 0.06, 0.06]
    frozen = [*[None] * 8, *quiet[8:]]
    assert case(history_of(runs({MANUAL: manual, FROZEN: frozen}))).status == Status.SLOWER


def test_a_frozen_engine_of_another_device_says_nothing():
    on_gpu = FROZEN.replace("cpu", "cuda")
    history = history_of(runs({MANUAL: [*QUIET, 0.06, 0.06], on_gpu: [*QUIET, 0.06, 0.06]}))
    assert [each.status for each in history.cases] == [Status.SLOWER, Status.MACHINE]
    assert [move.device for move in history.moves] == ["cuda"]


def test_the_same_times_every_session_are_no_move():
    history = history_of(runs({MANUAL: [0.1] * 15, FROZEN: [0.1] * 15}))
    assert [each.status for each in history.cases] == [Status.STEADY] * 2
    assert history.moves == ()


# Trend


def test_the_trend_is_the_slope_per_session_and_its_interval_holds_it_in_95_percent():
    slope = 0.004
    noise = np.random.default_rng(0).normal(0, 0.005, (400, 30))
    steps = {
        f"line/manual/cpu/float32/b{case}": (slope * np.arange(30) + row).tolist() for case, row in enumerate(noise)
    }
    found = history_of(runs(steps)).cases
    assert np.mean([each.trend for each in found]) == pytest.approx(math.expm1(slope), abs=2e-5)
    held = np.mean([each.trend_low < math.expm1(slope) < each.trend_high for each in found])
    assert held == pytest.approx(0.95, abs=0.04)


def test_a_session_without_the_case_stretches_no_slope():
    logs: list[float | None] = [0.01 * number for number in range(30)]
    logs[5] = logs[6] = logs[20] = None
    found = case(history_of(runs({MANUAL: logs, AUTOGRAD: [0.0] * 30})))
    assert found.trend == pytest.approx(math.expm1(0.01))


def test_the_trend_is_of_the_last_two_hundred_sessions_and_first_and_best_are_of_all():
    found = case(history_of(runs({MANUAL: [0.01 * abs(number - 200) - 1 for number in range(401)]})))
    assert found.trend == pytest.approx(math.expm1(0.01))
    assert [found.first_ns, found.best_ns] == pytest.approx([1e6 * math.exp(1), 1e6 * math.exp(-1)])


def test_first_best_and_last_times_are_told_and_all_of_them_kept():
    found = case(history_of(runs({MANUAL: [0.2, -0.1, None, "crashed", 0.1], AUTOGRAD: [0.0] * 5})))
    assert [found.first_ns, found.best_ns, found.last_ns] == pytest.approx(
        [1e6 * math.exp(log) for log in (0.2, -0.1, 0.1)]
    )
    assert [round(each / 1e6, 3) for each in found.times if each == each] == [1.221, 0.905, 1.105]
    assert [each == each for each in found.times] == [True, True, False, False, True]


def test_a_few_sessions_have_no_trend():
    assert math.isnan(case(history_of(runs({MANUAL: [0.0, 0.1, 0.2, 0.3]}))).trend)
    assert case(history_of(runs({MANUAL: [0.0, 0.1, 0.2, 0.3, 0.4]}))).trend == pytest.approx(math.expm1(0.1))
