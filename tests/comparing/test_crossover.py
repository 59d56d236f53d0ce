import itertools
import json
import math
from collections.abc import Callable

import pandas as pd
import pytest
from rich.console import Console

from harness.comparing.crossover import Crossing, Group, crossovers
from harness.reporting.crossover import as_json, show_crossovers, told

ROUNDS = 5
# What disturbs a round disturbs all of its cases.
DRIFT = (1.0, 1.3, 0.8, 1.1, 0.9)
JITTER = (1.001, 0.999, 1.0, 1.0005, 0.9995)

Model = Callable[[int], float]


def table(engines: dict[str, Model], sizes=(10, 100, 1000, 10_000), rounds=ROUNDS, **other) -> pd.DataFrame:
    """Measurements of engines whose step time in ns is a function of the batch size."""
    rows = []
    for (number, (engine, model)), size, turn in itertools.product(enumerate(engines.items()), sizes, range(rounds)):
        rows.append(
            {
                "case_id": f"line/{engine}/cpu/float32/b{size}",
                "workload": "line",
                "engine": engine,
                "device": "cpu",
                "dtype": "float32",
                "batch_size": size,
                "threads": 1,
                "ranks": 1,
                "round": turn,
                "outcome": "ok",
                "step_ns": model(size) * DRIFT[turn] * JITTER[(turn + number) % ROUNDS],
                "setup_ns": 1e6,
                "first_call_cold_ns": math.nan,
                "first_call_warm_ns": 1e6,
                "machine": "box",
            }
            | other
        )
    return pd.DataFrame(rows)


def group(*arguments, **options) -> Group:
    (found,) = crossovers(table(*arguments, **options))
    return found


CROSS = {"small": lambda size: 100.0 + size, "large": lambda size: 1100.0 + size / 2}  # cross at 2000


def test_the_fastest_comes_first_and_the_others_with_how_far_they_are_behind():
    found = group({"autograd": lambda _: 300.0, "manual": lambda _: 100.0})
    assert [size.batch_size for size in found.sizes] == [10, 100, 1000, 10_000]
    for size in found.sizes:
        first, second = size.standings
        assert (first.engine, second.engine) == ("manual", "autograd")
        assert second.behind == pytest.approx(3, rel=1e-3)
        assert second.low < second.behind < second.high < 3.02
        assert not second.level


def test_pairs_of_a_round_are_told_apart_where_the_means_drift_by_a_third():
    found = group({"a": lambda _: 100.0, "b": lambda _: 102.0})
    assert not found.sizes[0].standings[1].level


def test_engines_that_differ_by_less_than_the_rounds_tell_are_level():
    assert group({"a": lambda _: 100.0, "b": lambda _: 100.01}).sizes[0].standings[1].level


def test_one_round_tells_nothing_apart():
    found = group({"a": lambda _: 100.0, "b": lambda _: 500.0}, rounds=1)
    assert found.rounds == 1
    assert found.sizes[0].standings[1].level
    assert math.isnan(found.sizes[0].standings[1].low)


def test_where_engines_cross_is_between_the_sizes_and_within_its_interval():
    (crossing,) = group(CROSS, sizes=(10, 100, 1000, 1900, 2100, 10_000)).crossings
    assert (crossing.below, crossing.above) == ("small", "large")
    assert crossing.batch_size == pytest.approx(2000, rel=0.01)
    assert 1900 < crossing.low < crossing.batch_size < crossing.high < 2100


def test_an_uncertain_ratio_makes_an_uncertain_crossing():
    """Around 2,000 the two are so close that only sizes far from it tell which is faster."""
    noisy = table(CROSS, sizes=(500, 1900, 2100, 8000))
    for turn, factor in enumerate((1.1, 1 / 1.1, 1.1, 1 / 1.1, 1)):
        noisy.loc[(noisy["round"] == turn) & (noisy["engine"] == "small"), "step_ns"] *= factor
    (found,) = crossovers(noisy)
    (crossing,) = found.crossings
    assert crossing.low < 1900
    assert crossing.high > 2100


def test_a_crossing_that_is_never_certain_has_no_end():
    noisy = table(CROSS, sizes=(1900, 2100))
    noisy.loc[(noisy["round"] % 2 == 0) & (noisy["engine"] == "small"), "step_ns"] *= 1.5
    noisy.loc[(noisy["round"] % 2 == 1) & (noisy["engine"] == "small"), "step_ns"] /= 1.5
    for crossing in crossovers(noisy)[0].crossings:
        assert math.isnan(crossing.low)
        assert math.isnan(crossing.high)


def test_engines_of_other_threads_devices_and_machines_are_not_compared():
    both = pd.concat([table({"a": lambda _: 1.0}), table({"b": lambda _: 2.0}, threads=2)])
    assert crossovers(both) == []


def test_a_case_that_failed_once_has_no_place():
    rows = table({"autograd": lambda _: 300.0, "manual": lambda _: 100.0, "broken": lambda _: 1.0})
    rows.loc[(rows["engine"] == "broken") & (rows["round"] == 3), ["outcome", "step_ns"]] = ["wrong_gradient", math.nan]
    for size in crossovers(rows)[0].sizes:
        assert [standing.engine for standing in size.standings] == ["manual", "autograd"]


def test_several_ranks_have_no_place():
    rows = pd.concat([table({"a": lambda _: 2.0, "b": lambda _: 3.0}), table({"c": lambda _: 1.0}, ranks=2)])
    assert crossovers(rows)[0].sizes[0].fastest.engine == "a"


# Break-even


def compiled(cold_s: float, warm_s: float, step_ns: float) -> Group:
    rows = table({"autograd": lambda _: 200_000.0, "compile_step": lambda _: step_ns}, sizes=(100,))
    mine = rows["engine"] == "compile_step"
    rows.loc[mine & (rows["round"] == 0), ["first_call_cold_ns", "first_call_warm_ns"]] = [cold_s * 1e9, math.nan]
    rows.loc[mine & (rows["round"] > 0), "first_call_warm_ns"] = warm_s * 1e9
    return crossovers(rows)[0]


def test_a_compile_has_paid_once_the_time_saved_per_update_makes_up_for_it():
    (found,) = compiled(10.0, 1.0, 100_000.0).break_evens
    saved = 100_000 * sum(DRIFT) / ROUNDS
    assert found.cold == pytest.approx((10e9 - 1e6) / saved, rel=1e-3)
    assert found.warm == pytest.approx((1e9 - 1e6) / saved, rel=1e-3)
    assert found.cold_low < found.cold < found.cold_high


def test_an_engine_that_is_not_faster_never_pays():
    (found,) = compiled(10.0, 1.0, 300_000.0).break_evens
    assert found.cold == found.warm == math.inf


def test_an_engine_that_is_prepared_as_soon_pays_at_once():
    rows = table({"autograd": lambda _: 200.0, "manual": lambda _: 100.0}, sizes=(100,))
    rows.loc[rows["engine"] == "manual", "setup_ns"] = 0
    (found,) = crossovers(rows)[0].break_evens
    assert found.warm == 0
    assert math.isnan(found.cold)


# What is shown


def shown(groups: list[Group]) -> str:
    console = Console(width=160, record=True, file=None, quiet=False)
    with console.capture() as capture:
        show_crossovers(console, groups)
    return capture.get()


def test_the_tables_say_who_overtakes_whom_and_who_never_pays():
    text = shown([group(CROSS), compiled(10.0, 1.0, 300_000.0)])
    assert "large overtakes small at a batch size of about" in text
    assert "never" in text
    assert "fastest engine: line, cpu, float32, 1 thread " in text


def test_an_end_that_is_not_known_is_said_in_words():
    assert "95 %: below what was measured to 3,000" in told(Crossing("a", "b", 1999.6, math.nan, 3000.0))
    assert "95 %: 1,000 to beyond what was measured" in told(Crossing("a", "b", 1999.6, 1000.0, math.nan))


def test_one_round_is_told_as_such():
    assert "One round has no interval" in shown([group(CROSS, rounds=1)])
    assert "One round has no interval" not in shown([group(CROSS)])


def test_json_has_no_nan():
    text = json.dumps(as_json([compiled(10.0, 1.0, 300_000.0), group(CROSS, rounds=1)]), allow_nan=False)
    assert json.loads(text)["groups"][0]["break_evens"][0]["cold"] is None
