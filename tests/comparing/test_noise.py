import math
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from harness.comparing.clock import without_clock
from harness.comparing.compare import compare_runs
from harness.comparing.judge import judge
from harness.comparing.noise import false_alarms, measure_noise
from harness.comparing.rounds import rounds_for
from harness.comparing.rule import spread
from harness.comparing.run import Run
from harness.plan.errors import PlanError
from harness.plan.presets import LEAST_ROUNDS
from harness.tables.columns import NOISE, SCHEMA
from harness.tables.noise_file import read_noise, spread_by_case, write_noise

IDENTITY = {
    "schema": SCHEMA,
    "run_id": "20260101T000000Z-ab",
    "commit": "123456789012",
    "dirty": False,
    "machine": "amd-epyc-2c",
    "fingerprint": "000000000012",
}


def measurements(logs: dict[str, Any], **columns: Any) -> pd.DataFrame:
    """Return the table of a run from the log step times of each case, one a round; a NaN is a round that crashed."""
    rows = [
        {
            "workload": "line",
            "engine": case_id,
            "device": "cpu",
            "dtype": "float32",
            "batch_size": 100,
            "threads": 2,
            "round": number,
            "outcome": "crashed" if math.isnan(log) else "ok",
            "reason": "",
            "step_ns": 50_000 * math.exp(log),
            "blocks": 30,
            "blocks_disturbed": number % 2,
            "case_id": case_id,
            **IDENTITY,
            **columns,
        }
        for case_id, own in logs.items()
        for number, log in enumerate(own)
    ]
    return pd.DataFrame(rows)


def normal(*spreads: float, rounds: int = 20, seed: int = 0) -> dict[str, Any]:
    draws = np.random.default_rng(seed)
    return {f"case{number}": draws.normal(0, each, rounds) for number, each in enumerate(spreads)}


def noise_of(logs: dict[str, Any], **columns: Any) -> dict[str, Any]:
    return measure_noise(measurements(logs, **columns)).iloc[0].to_dict()


def clocked(spread_left: float, clock: float, cases: int = 4, rounds: int = 20, seed: int = 0) -> pd.DataFrame:
    """Return the table of a run whose core's clock spreads so much, which a fixed piece of work tells."""
    draws = np.random.default_rng(seed)
    speeds = draws.normal(0, clock, (cases, rounds))
    own = speeds + draws.normal(0, spread_left, (cases, rounds))
    table = measurements({f"case{number}": each for number, each in enumerate(own)}, core_work="the same")
    return table.assign(core_ns=1e5 * np.exp(speeds.ravel()))


# Of each case


def test_the_table_has_its_columns_in_order_and_a_row_per_case_in_the_runs_order():
    noise = measure_noise(measurements(normal(0.02, 0.01)))
    assert list(noise.columns) == [column.name for column in NOISE]
    assert noise["case_id"].tolist() == ["case0", "case1"]
    for name, value in IDENTITY.items():
        assert noise[name].tolist() == [value, value]


def test_the_spread_is_that_of_the_rounds_and_the_rounds_suggested_follow_from_it():
    logs = normal(0.01)
    row = noise_of(logs)
    assert row["spread"] == pytest.approx(float(spread(logs["case0"])))
    assert 0.005 < row["spread"] < 0.016
    assert row["rounds"] == 20
    assert row["rounds_for_5"] == rounds_for(row["spread"], 0.05)
    assert row["rounds_for_2"] >= row["rounds_for_3"] >= row["rounds_for_5"] >= row["rounds_for_10"]
    assert rounds_for(1e-4, 0.10) == LEAST_ROUNDS
    assert row["least_with_3_rounds"] > 0.1


def test_a_larger_table_needs_more_rounds():
    table = measurements(normal(0.01))
    one, many = (measure_noise(table, table_cases=cases).iloc[0]["rounds_for_3"] for cases in (1, 200))
    assert many > one


def test_more_rounds_than_anybody_makes_are_an_empty_cell():
    row = noise_of(normal(0.2))
    assert pd.isna(row["rounds_for_2"])
    assert row["least_with_3_rounds"] > 1


def test_where_the_cores_clock_explains_the_spread_fewer_rounds_are_needed():
    known = measure_noise(clocked(0.01, 0.04))
    assert known["spread"].between(0.02, 0.07).all()
    assert known["clock_left"].between(0.1, 0.6).all()
    table = clocked(0.01, 0.04)
    sides = [
        np.log(table.loc[table["round"] % 2 == odd, name].to_numpy()).reshape(4, 10)
        for name in ("step_ns", "core_ns")
        for odd in (0, 1)
    ]
    own = without_clock(*sides).left
    # Ten pairs tell it badly: no case is promised more than all of them together.
    assert known["clock_left"].tolist() == pytest.approx(np.maximum(own, np.sqrt(np.mean(own**2))).tolist())
    row = known.iloc[0]
    assert row["rounds_for_5"] == rounds_for(row["spread"], 0.05, left=row["clock_left"])
    unknown = measure_noise(clocked(0.01, 0.04).drop(columns="core_ns"))
    assert (unknown["clock_left"] == 1).all()
    assert (2 * known["rounds_for_5"] <= unknown["rounds_for_5"]).all()
    assert known["spread"].tolist() == unknown["spread"].tolist()


@pytest.mark.parametrize(
    "change",
    [
        {"core_work": lambda table: np.where(table["round"] < 9, "one", "another")},
        {"core_work": ""},
        {"core_ns": 0.0},
        {"core_ns": math.nan},
        {"core_ns": lambda table: table["core_ns"].sample(frac=1, random_state=0).to_numpy()},
    ],
    ids=["two works", "no work", "no time", "no number", "of other rounds"],
)
def test_a_clock_that_is_not_known_or_explains_nothing_is_left_alone(change):
    noise = measure_noise(clocked(0.01, 0.04).assign(**change))
    assert (noise["clock_left"] == 1).all()


def test_a_drift_is_told_with_its_interval_in_spite_of_bursts():
    logs = normal(0.002)["case0"] + np.linspace(0, math.log(1.03), 20)
    logs[[3, 11]] += 0.5
    row = noise_of({"case": logs})
    assert row["drift"] == pytest.approx(0.03, abs=0.006)
    assert 0 < row["drift_low"] < row["drift"] < row["drift_high"]


def test_without_a_drift_the_interval_holds_zero():
    row = noise_of(normal(0.01))
    assert row["drift_low"] < 0 < row["drift_high"]


def test_rounds_that_alternate_have_a_negative_autocorrelation_and_those_that_wander_a_positive_one():
    assert noise_of({"case": np.resize([0.0, 0.01], 20)})["autocorrelation"] == pytest.approx(-0.95)
    assert noise_of({"case": np.cumsum(normal(0.01, rounds=40)["case0"])})["autocorrelation"] > 0.4


def test_disturbed_blocks_are_a_share_of_all_timed_ones():
    assert noise_of(normal(0.01))["disturbed_share"] == pytest.approx(10 / 600)
    assert math.isnan(noise_of(normal(0.01), blocks=0, blocks_disturbed=0)["disturbed_share"])


# False alarms


def shares(logs: dict[str, Any]) -> dict[str, float]:
    row = noise_of(logs)
    return {name.removesuffix("_table_share"): row[name] for name in row if name.endswith("_table_share")}


def test_on_a_quiet_machine_only_welch_without_a_correction_cries_wolf():
    found = shares(normal(*[0.005] * 20))
    assert found["welch"] > 0.4
    assert found["ratio_2"] == found["rule"] == found["paired_rule"] == found["baseline"] == 0


def test_on_a_noisy_machine_ratios_of_means_cry_wolf_and_the_rule_does_not():
    found = shares(normal(*[0.04] * 10))
    assert found["ratio_2"] > 0.7
    assert 0.02 < found["ratio_5"] < found["ratio_2"]
    assert found["rule"] <= 0.01
    assert found["paired_rule"] <= 0.01


def test_the_rates_of_welch_are_those_of_its_level():
    row = noise_of(normal(0.01, seed=3))
    assert row["welch_alarm_share"] == pytest.approx(0.05, abs=0.03)
    assert row["welch_table_share"] == row["welch_alarm_share"]  # a table of one case


def test_the_table_has_at_least_the_alarms_of_its_worst_case():
    noise = measure_noise(measurements(normal(0.01, 0.03, 0.002)))
    for rule in ("ratio_2", "welch"):
        whole = noise[f"{rule}_table_share"]
        assert whole.nunique() == 1
        assert noise[f"{rule}_alarm_share"].max() <= whole[0] <= noise[f"{rule}_alarm_share"].sum()


def test_two_modes_that_ratios_call_different_are_known_to_the_rule_by_the_spread():
    logs = np.resize([0.0, 0.3], (1, 20)) + np.random.default_rng(0).normal(0, 1e-4, (1, 20))
    found = false_alarms(logs, spread(logs))
    assert found["ratio_5"].mean() > 0.5
    assert found["rule"].mean() <= 0.002
    assert found["paired_rule"].mean() <= 0.002
    blind = false_alarms(logs, np.array([1e-4]))
    assert blind["rule"].mean() > 0.1
    assert blind["paired_rule"].mean() > 0.1


def test_the_halves_share_no_round_and_pairs_are_of_neighbours():
    apart = np.arange(20.0)[None]  # every round differs from each other one by its number
    seen: list[tuple[np.ndarray, np.ndarray]] = []
    works: list[tuple[np.ndarray, ...]] = []

    def spied(judging):
        def spy(base, new, *rest, **others):
            seen.append((base, new))
            works.extend([rest] if rest else [])
            return judging(base, new, *rest, **others)

        return spy

    with pytest.MonkeyPatch.context() as patch:
        for judging in (without_clock, judge):
            patch.setattr(f"harness.comparing.noise.{judging.__name__}", spied(judging))
        false_alarms(apart, np.array([1.0]), apart, splits=50)
    (first, second), (one, other) = seen
    [(first_work, second_work)] = works
    assert (first_work == first).all()
    assert (second_work == second).all()
    for a, b in zip(one[:, 0], other[:, 0], strict=True):
        assert sorted([*a, *b]) == apart[0].tolist()
    assert (np.abs(first - second) == 1).all()
    assert ((first // 2) == (second // 2)).all()
    assert 0.4 < (first < second).mean() < 0.6


def test_the_same_run_has_the_same_rates_and_another_seed_others():
    table = measurements(normal(0.02, 0.03))
    pd.testing.assert_frame_equal(measure_noise(table), measure_noise(table))
    one, other = (measure_noise(table, seed=seed)["ratio_2_table_share"][0] for seed in (0, 1))
    assert one != other
    assert one == pytest.approx(other, abs=0.1)


# Little to go by


def test_a_case_that_failed_in_a_round_keeps_its_row_and_has_no_noise():
    logs = normal(0.01, 0.01)
    logs["case1"][7] = math.nan
    noise = measure_noise(measurements(logs))
    good, bad = noise.to_dict("records")
    assert not math.isnan(good["spread"])
    assert bad["rounds"] == 19
    assert math.isnan(bad["spread"])
    assert math.isnan(bad["welch_alarm_share"])
    assert pd.isna(bad["rounds_for_5"])
    assert bad["welch_table_share"] == good["welch_table_share"]


def test_a_time_beside_another_outcome_is_none():
    table = measurements(normal(0.01, 0.01))
    table.loc[25, "outcome"] = "wrong_gradient"
    assert measure_noise(table)["spread"].isna().tolist() == [False, True]


def test_a_case_that_lacks_the_last_round_of_an_interrupted_run_has_noise():
    logs = normal(0.01, 0.01, rounds=15)
    logs["case1"] = logs["case1"][:14]
    noise = measure_noise(measurements(logs))
    assert noise["rounds"].tolist() == [15, 14]
    assert noise["spread"][1] == pytest.approx(float(spread(logs["case1"])))


def test_fewer_than_ten_rounds_are_refused_with_how_many_there_were():
    with pytest.raises(PlanError, match=r"10 rounds .* at most 9"):
        measure_noise(measurements(normal(0.01, rounds=9)))
    measure_noise(measurements(normal(0.01, rounds=10)))


def test_a_run_that_measured_nothing_and_two_runs_at_once_are_refused():
    with pytest.raises(PlanError, match="holds 0"):
        measure_noise(measurements({"case": []}).reindex(columns=["run_id", "round", "case_id"]))
    with pytest.raises(PlanError, match="holds 2"):
        measure_noise(pd.concat([measurements(normal(0.01)), measurements(normal(0.01), run_id="other")]))


def test_equal_step_times_have_no_spread_and_raise_no_alarm():
    row = noise_of({"case": np.zeros(12)})
    assert row["spread"] == 0
    assert row["drift"] == 0
    assert math.isnan(row["autocorrelation"])
    assert row["rule_table_share"] == row["paired_rule_table_share"] == row["welch_table_share"] == 0


# Kept beside the results


@pytest.fixture
def kept(tmp_path) -> Path:
    write_noise(tmp_path, measure_noise(measurements(normal(0.01, 0.2))))
    return tmp_path


def edit(folder: Path, **columns: Any) -> None:
    table = pd.read_csv(folder / "noise.csv", dtype={"commit": str, "fingerprint": str})
    table.assign(**columns).to_csv(folder / "noise.csv", index=False)


def test_the_noise_comes_back_to_nine_digits_and_nothing_else_is_left(kept):
    written = measure_noise(measurements(normal(0.01, 0.2)))
    read = read_noise(kept, IDENTITY["fingerprint"])
    written = written.astype(dict.fromkeys(written.select_dtypes("Int64"), float))
    pd.testing.assert_frame_equal(read, written, check_dtype=False, check_exact=False, rtol=1e-8)
    assert [path.name for path in kept.iterdir()] == ["noise.csv"]
    assert spread_by_case(read) == pytest.approx(spread_by_case(written))


def test_no_file_or_one_of_another_fingerprint_is_no_noise(kept, tmp_path):
    assert read_noise(tmp_path / "none", IDENTITY["fingerprint"]) is None
    assert read_noise(kept, "12") is None
    assert spread_by_case(None) == {}


def test_a_write_that_fails_halfway_leaves_the_old_noise_whole(kept, monkeypatch):
    before = (kept / "noise.csv").read_bytes()

    def disk_full(_frame: pd.DataFrame, path: Path, **_: Any) -> None:
        path.write_text("workload,eng")
        raise OSError(28, "No space left on device")

    noise = measure_noise(measurements(normal(0.03)))
    monkeypatch.setattr(pd.DataFrame, "to_csv", disk_full)
    with pytest.raises(OSError, match="No space left"):
        write_noise(kept, noise)
    assert (kept / "noise.csv").read_bytes() == before
    assert [path.name for path in kept.iterdir()] == ["noise.csv"]


@pytest.mark.parametrize(
    ("columns", "text"),
    [
        ({"schema": SCHEMA + 1}, f"has schema {SCHEMA + 1}"),
        ({"spread": "wide"}, "spread 'wide'.* must be a number"),
        ({"spread": -0.01}, "spread that is below 0"),
        ({"spread": math.inf}, "below 0 or infinite"),
        ({"spread": math.nan}, "no spread of any case"),
        ({"rounds_for_5": "many"}, "rounds_for_5 'many'.* must be a"),
        ({"case_id": "case0"}, "two rows for one case"),
    ],
)
def test_what_is_no_noise_is_refused_with_its_path(columns, text, kept):
    edit(kept, **columns)
    with pytest.raises(PlanError, match=text) as refused:
        read_noise(kept, IDENTITY["fingerprint"])
    assert str(kept / "noise.csv") in str(refused.value)


@pytest.mark.parametrize("content", [b"", b"a,b\n1,2\n", b"\x80\x81\xff\n", b"schema,case_id\n1,a\n"])
def test_another_file_of_that_name_is_refused(content, tmp_path):
    (tmp_path / "noise.csv").write_bytes(content)
    with pytest.raises(PlanError, match=r"noise\.csv: is no"):
        read_noise(tmp_path, IDENTITY["fingerprint"])


# As the margin between two sessions


@pytest.mark.parametrize(
    ("own", "margin"),
    [(None, 3 * math.sqrt(2) * 0.02), (0.01, 3 * math.sqrt(2) * 0.02), (0.05, 3 * math.sqrt(2) * 0.05)],
)
def test_a_case_that_spreads_more_than_is_assumed_of_sessions_has_a_wider_margin(own, margin):
    base, new = (measurements(normal(0.002, seed=seed)) for seed in (0, 1))
    slower = new.assign(step_ns=new["step_ns"] * 1.15, run_id="20260102T000000Z-ab")
    noise = None if own is None else {"case0": own, "another": 0.5}
    (case,) = compare_runs(Run("base", base), Run("new", slower), spreads=noise).cases
    assert math.log1p(case.margin) == pytest.approx(margin)
    assert case.spread_from == ("assumed" if own is None else "noise")
    assert case.status == ("slower" if margin < 0.1 else "undecided")
