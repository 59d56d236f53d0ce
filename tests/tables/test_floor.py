from typing import Any

import pytest

from harness.tables.floor import Ceilings, ceilings_of, floor_of, place_of

PLACE = {"machine": "m", "fingerprint": "f", "device": "cpu", "dtype": "float32", "threads": 1}


def record(flops: float = 10_000, moved: float = 1_000, **more: Any) -> dict[str, Any]:
    facts = {"flops_per_step": flops, "bytes_per_step": moved, "ceiling_call_ns": 600.0}
    return {**facts, "ceiling_flops_per_s": 100e9, "ceiling_copy_bytes_per_s": 50e9, **more}


def best(*records: dict[str, Any]) -> Ceilings:
    [found] = ceilings_of([(PLACE, records)]).values()
    return found


def floor(step_ns: float, *records: dict[str, Any], beside: tuple[dict[str, Any], ...] = ()) -> dict[str, Any]:
    return floor_of(step_ns, records, best(*records, *beside))


# The floor


def test_the_floor_is_the_larger_of_arithmetic_and_bandwidth_and_the_time_is_over_it():
    assert floor(40_000.0, record(10_000, 1_000)) == {"floor_ns": 100, "above_floor": 400, "bound_by": ""}
    assert floor(40_000.0, record(10_000, 10_000))["floor_ns"] == 200


def test_later_rounds_do_not_measure_it_again():
    assert floor(40_000.0, record(), {"step_ns": 41_000.0})["above_floor"] == 400


@pytest.mark.parametrize(
    ("missing", "value"),
    [
        *(("flops_per_step", None), ("bytes_per_step", None), ("ceiling_flops_per_s", None)),
        *(("ceiling_copy_bytes_per_s", None), ("ceiling_flops_per_s", 0), ("ceiling_copy_bytes_per_s", 0)),
    ],
)
def test_without_any_of_its_parts_there_is_no_floor(missing, value):
    assert floor(40_000.0, record(**{missing: value})) == {}


def test_an_old_journal_has_no_floor_and_neither_has_no_work():
    assert floor(40_000.0, {"step_ns": 40_000.0}) == {}
    assert floor(40_000.0) == {}
    assert floor(40_000.0, record(0, 0)) == {}


# Ceilings of a run


def test_what_one_process_reached_is_a_ceiling_for_all_at_its_place():
    fast = record(ceiling_flops_per_s=200e9)
    assert floor(40_000.0, record(), beside=(fast,))["floor_ns"] == 50
    cases = [(PLACE, [record()]), ({**PLACE, "dtype": "float64"}, [fast]), ({**PLACE, "machine": "n"}, [fast])]
    found = ceilings_of([*cases, ({**PLACE, "node": "another"}, [fast]), ({**PLACE, "threads": 2}, [fast])])
    assert found[place_of(PLACE)].flops_per_s == 100e9
    assert len(found) == 5


def test_a_copy_is_a_ceiling_for_working_sets_up_to_its_own():
    found = best(
        record(moved=1_000, ceiling_copy_bytes_per_s=90e9),
        record(moved=2_000, ceiling_copy_bytes_per_s=50e9),
        record(moved=2_000, ceiling_copy_bytes_per_s=40e9),
        record(moved=9_000, ceiling_copy_bytes_per_s=60e9),
    )
    assert [found.copy_bytes_per_s(moved) for moved in (1, 1_000, 1_001, 2_000, 9_000)] == [
        90e9,
        90e9,
        60e9,
        60e9,
        60e9,
    ]
    assert found.copy_bytes_per_s(9_001) == 0


# What bounds it


@pytest.mark.parametrize(("step_ns", "word"), [(150.0, "arithmetic"), (200.0, "arithmetic"), (201.0, "")])
def test_arithmetic_bounds_what_it_explains_half_of(step_ns, word):
    assert floor(step_ns, record(10_000, 1_000))["bound_by"] == word


def test_bandwidth_does_where_more_has_to_move():
    assert floor(300.0, record(10_000, 10_000))["bound_by"] == "bandwidth"


@pytest.mark.parametrize(
    ("one_point_ns", "calls", "word"),
    [(20_000.0, 27, "python"), (19_000.0, 27, ""), (20_000.0, 0.4, ""), (20_000.0, None, ""), (None, 27, "")],
    ids=["half", "less", "loops elsewhere", "calls unknown", "one point unknown"],
)
def test_python_does_where_one_point_takes_half_as_long_and_is_called_for_from_python(one_point_ns, calls, word):
    assert floor(40_000.0, record(one_point_ns=one_point_ns, calls_per_step=calls))["bound_by"] == word


@pytest.mark.parametrize(
    ("kernel_ns", "launches", "word"),
    [(20_000.0, 4, "launch"), (20_000.0, 3, "python"), (21_000.0, 40, ""), (0.0, 8, "launch"), (0.0, 0, "python")],
    ids=["launching", "hardly launching", "mostly kernels", "nothing but launches", "no launches"],
)
def test_a_gpu_that_waits_for_half_of_the_time_waits_for_launches_or_for_python(kernel_ns, launches, word):
    facts = {"kernel_ns": kernel_ns, "launches_per_step": launches, "ceiling_launch_ns": 2_500.0}
    assert floor(40_000.0, record(**facts))["bound_by"] == word
