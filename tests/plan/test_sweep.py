import json
import math
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from harness.plan.case import Case
from harness.plan.catalogue import ENGINES, Entry
from harness.plan.errors import PlanError
from harness.plan.presets import PRESETS
from harness.plan.sweep import MAX_CASES, Axes, Sweep, plan_sweep
from harness.plan.targets import ThroughputTarget

GRID = '[[grid]]\nworkload = ["line"]\nengine = ["autograd"]\nbatch_size = [10]\n'
TARGET = '[[target]]\nengine = "manual"\n'

cases = st.builds(
    Case,
    workload=st.sampled_from(["line", "/home/me/own.py:Mine"]),
    engine=st.sampled_from(["manual", "autograd"]),
    device=st.sampled_from(["cpu", "cuda:1"]),
    dtype=st.sampled_from(["float32", "float64"]),
    batch_size=st.integers(1, 10**6),
    threads=st.none() | st.integers(1, 64),
)
targets = st.builds(
    ThroughputTarget,
    engine=st.sampled_from(["manual", "/home/me/own.py:Fast"]),
    min_ratio_to_autograd=st.floats(0.01, 1e6),
    device=st.sampled_from(["cpu", "cuda"]),
    workload=st.none() | st.just("line"),
    min_batch_size=st.integers(1, 100),
    max_batch_size=st.integers(1, 10**6),
)
sweeps = st.builds(
    Sweep,
    cases=st.lists(cases, min_size=1, max_size=6, unique=True).map(tuple),
    rounds=st.integers(1, 5),
    seeds=st.integers(1, 1000),
    named_engines=st.lists(st.sampled_from(["manual", "autograd"]), unique=True).map(tuple),
    targets=st.lists(targets, max_size=3).map(tuple),
    order_seed=st.integers(0, 2**63),
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("sweeps")


@pytest.fixture
def sweep_file(tmp_path):
    def write(text: str) -> Path:
        path = tmp_path / "sweep.toml"
        path.write_text(text, "utf-8")
        return path

    return write


# The plan of a sweep


def test_the_standard_sweep_is_the_lesson_at_four_batch_sizes_its_bonus_and_what_never_changes():
    sweep = plan_sweep(None, Axes())
    engines = ("manual", "autograd", "compile", "compile_step", "fused")
    assert sweep.cases == (
        *(
            Case(workload, engine, "cpu", "float32", batch_size)
            for workload, batch_size in (*(("line", size) for size in (10, 100, 1000, 10_000)), ("line_deep", 100))
            for engine in engines
        ),
        Case("line", "frozen", "cpu", "float32", 100),
    )
    assert (sweep.rounds, sweep.seeds, sweep.named_engines) == (3, 64, ())
    on_gpu = {case.engine for case in plan_sweep(None, Axes(device=("cuda",))).cases}
    assert on_gpu == {*engines, "cuda_graph_compile", "frozen"}
    assert {target.engine for target in sweep.targets} == {"manual", "compile", "compile_step", "fused"}
    assert {target.workload for target in sweep.targets} == {"line", "line_deep"}


@pytest.mark.parametrize("axis", [axis.name for axis in fields(Axes)])
def test_a_flag_replaces_its_axis_in_every_grid_and_leaves_the_others(axis):
    values: dict[str, tuple[Any, ...]] = {
        "workload": ("line_deep",),
        "engine": ("manual", "autograd"),
        "device": ("cuda:1", "cpu"),
        "dtype": ("float64",),
        "batch_size": (7, 8),
        "threads": (1, 2),
        "ranks": (1, 2),
    }
    standard, flagged = plan_sweep(None, Axes()), plan_sweep(None, Axes(**{axis: values[axis]}))
    assert {getattr(case, axis) for case in flagged.cases} == set(values[axis])
    # An engine of one kind of device comes and goes with it.
    anywhere = [case for case in flagged.cases if not ENGINES[case.engine].device]
    for other in {each.name for each in fields(Axes)} - {axis}:
        assert {getattr(case, other) for case in anywhere} == {getattr(case, other) for case in standard.cases}


def test_a_case_that_several_grids_or_flags_name_is_measured_once(sweep_file):
    assert len(plan_sweep(sweep_file(GRID + GRID), Axes()).cases) == 1
    assert len(plan_sweep(sweep_file(GRID), Axes(batch_size=(10, 20, 10))).cases) == 2


def test_engines_that_a_flag_or_a_file_names_count_as_named(sweep_file):
    assert plan_sweep(None, Axes()).named_engines == ()
    assert plan_sweep(None, Axes(engine=("manual", "manual"))).named_engines == ("manual",)
    assert plan_sweep(sweep_file(GRID), Axes()).named_engines == ("autograd",)


def test_all_stands_for_every_engine_that_is_for_the_device_and_names_none(monkeypatch):
    monkeypatch.setitem(ENGINES, "only_cuda", Entry("x:Y", "", device="cuda"))
    everywhere = plan_sweep(None, Axes(engine=("all",)))
    assert {case.engine for case in everywhere.cases} == {name for name in ENGINES if ENGINES[name].is_for("cpu")}
    assert everywhere.named_engines == ()
    on_cuda = plan_sweep(None, Axes(engine=("all",), device=("cuda:1",)))
    assert "only_cuda" in {case.engine for case in on_cuda.cases}
    named = plan_sweep(None, Axes(engine=("all", "only_cuda")))
    assert named.named_engines == ("only_cuda",)
    assert "only_cuda" in {case.engine for case in named.cases}


def test_flags_win_over_the_file_and_the_file_over_the_defaults(sweep_file):
    file = sweep_file(f"rounds = 7\nseeds = 9\norder_seed = 11\n{GRID}")
    sweep = plan_sweep(file, Axes())
    assert (sweep.rounds, sweep.seeds, sweep.order_seed) == (7, 9, 11)
    sweep = plan_sweep(file, Axes(), rounds=2, seeds=3)
    assert (sweep.rounds, sweep.seeds, sweep.order_seed) == (2, 3, 11)
    sweep = plan_sweep(sweep_file(GRID), Axes())
    assert (sweep.rounds, sweep.seeds, sweep.order_seed) == (PRESETS["quick"].rounds, 64, 0)


def test_a_single_value_needs_no_brackets(sweep_file):
    bare = sweep_file('[[grid]]\nworkload = "line"\nengine = "manual"\nbatch_size = 10\nthreads = 2\n')
    assert plan_sweep(bare, Axes()).cases == (Case("line", "manual", "cpu", "float32", 10, 2),)


def test_ranks_are_an_axis_whose_default_is_one(sweep_file):
    sweep = plan_sweep(sweep_file(f"{GRID}ranks = [1, 2, 5]\n"), Axes())
    assert [case.ranks for case in sweep.cases] == [1, 2, 5]
    assert {case.ranks for case in plan_sweep(None, Axes()).cases} == {1}


def test_a_target_of_the_file_is_the_sweeps_with_every_bound(sweep_file):
    text = f'{GRID}{TARGET}min_ratio_to_autograd = 2\ndevice = "cuda"\nworkload = "line"\nmax_batch_size = 9\n'
    (target,) = plan_sweep(sweep_file(text), Axes()).targets
    assert target == ThroughputTarget("manual", 2.0, device="cuda", workload="line", max_batch_size=9)
    assert isinstance(target.min_ratio_to_autograd, float)


def test_a_target_of_several_workloads_is_one_of_each(sweep_file):
    text = f'{GRID}{TARGET}min_ratio_to_autograd = 2\nworkload = ["line", "line_deep"]\n'
    assert [target.workload for target in plan_sweep(sweep_file(text), Axes()).targets] == ["line", "line_deep"]
    with pytest.raises(PlanError, match="must name one workload"):
        plan_sweep(sweep_file(text.replace('"line", "line_deep"', "")), Axes())


# The order in which it is measured


@given(sweeps)
def test_every_round_measures_every_case_once(sweep):
    schedule = list(sweep.schedule())
    for number in range(sweep.rounds):
        assert sorted(case.case_id for at, case in schedule if at == number) == sorted(
            case.case_id for case in sweep.cases
        )
    assert [number for number, _ in schedule] == sorted(number for number, _ in schedule)


def test_the_order_is_the_same_each_time_another_each_round_and_for_another_seed():
    sweep = plan_sweep(None, Axes(), rounds=2)
    schedule = list(sweep.schedule())
    first, second = schedule[:21], schedule[21:]
    assert schedule == list(sweep.schedule())
    assert [case for _, case in first] != [case for _, case in second]
    assert [case for _, case in first] != list(sweep.cases)
    assert schedule != list(replace(sweep, order_seed=1).schedule())


# JSON


@given(sweeps)
def test_a_sweep_comes_back_from_json_as_it_was(sweep):
    assert Sweep.from_json(json.loads(json.dumps(sweep.to_json(), allow_nan=False))) == sweep


def test_spare_rounds_are_stored_where_there_are_any():
    sweep = plan_sweep(None, Axes())
    assert "spare" not in sweep.to_json()  # which programs before it refuse
    some = replace(sweep, spare=2)
    assert Sweep.from_json(json.loads(json.dumps(some.to_json()))) == some
    assert {number for number, _ in some.schedule()} == set(range(sweep.rounds + 2))


@pytest.mark.parametrize("break_it", [lambda stored: stored.pop("targets"), lambda stored: stored.update(colour="red")])
def test_json_of_another_program_is_no_sweep(break_it):
    stored = plan_sweep(None, Axes()).to_json()
    break_it(stored)
    with pytest.raises(PlanError):
        Sweep.from_json(stored)


# What is refused


@pytest.mark.parametrize(
    ("text", "texts"),
    [
        ("[[grid]", ["is not valid TOML", "line 1"]),
        ("", ["needs at least one [[grid]]"]),
        ("rounds = 3", ["needs at least one [[grid]]"]),
        ("grid = []", ["needs at least one [[grid]]"]),
        ("grid = 3", ["[[grid]]"]),
        ("grid = [3]", ["write grids as [[grid]]"]),
        ("[grid]\nworkload = ['line']", ["[[grid]]"]),
        (f"colour = 'red'\n{GRID}", ["unknown key 'colour'", "rounds"]),
        (f"{GRID}colour = 'red'", ["[[grid]]", "unknown key 'colour'", "batch_size"]),
        ("[[grid]]\nworkload = ['line']\nbatch_size = [10]", ["has no engine"]),
        ("[[grid]]\nengine = ['manual']\nbatch_size = [10]", ["has no workload"]),
        ("[[grid]]\nworkload = ['line']\nengine = ['manual']", ["has no batch_size"]),
        (GRID.replace("[10]", "[]"), ["batch_size"]),
        (GRID.replace('["autograd"]', "[]"), ["engine"]),
        (f"{GRID}device = []", ["device"]),
        (f"{GRID}threads = []", ["threads"]),
        (GRID.replace("[10]", '["ten"]'), ["batch size 'ten'", "whole number"]),
        (GRID.replace("[10]", "[10.0]"), ["batch size 10.0", "whole number"]),
        (GRID.replace("[10]", "[[10]]"), ["batch size [10]", "whole number"]),
        (GRID.replace("[10]", "[true]"), ["batch size True", "whole number"]),
        (GRID.replace("[10]", "{ a = 1 }"), ["batch size {'a': 1}", "whole number"]),
        (GRID.replace('["autograd"]', "[3]"), ["engine 3", "quotes"]),
        (GRID.replace('["line"]', "[1979-05-27]"), ["workload", "quotes"]),
        (f"{GRID}device = 0", ["device 0", "quotes"]),
        (f"{GRID}dtype = ['float16']", ["'float16'", "use bfloat16"]),
        (f"{GRID}threads = [0]", ["threads 0"]),
        (f"{GRID}ranks = [0]", ["ranks 0"]),
        (f"{GRID}ranks = [1, 3]", ["batch size 10: 3 ranks cannot share it"]),
        (f"rounds = 0\n{GRID}", ["rounds 0", "from 1 to 1000"]),
        (f"rounds = 1001\n{GRID}", ["rounds 1001", "from 1 to 1000"]),
        (f"rounds = 3.0\n{GRID}", ["rounds 3.0", "whole number"]),
        (f"seeds = 0\n{GRID}", ["seeds 0"]),
        (f"seeds = true\n{GRID}", ["seeds True", "whole number"]),
        (f"order_seed = -1\n{GRID}", ["order_seed -1"]),
        (f"target = 3\n{GRID}", ["write targets as [[target]]"]),
        (f"target = [3]\n{GRID}", ["write targets as [[target]]"]),
        (f"{GRID}[[target]]\nmin_ratio_to_autograd = 2", ["engine must name"]),
        (f"{GRID}[[target]]\nmin_ratio_to_autograd = 2\nengine = 3", ["engine must name"]),
        (f"{GRID}{TARGET}", ["min_ratio_to_autograd must be a number above 0"]),
        (f"{GRID}{TARGET}min_ratio_to_autograd = 0", ["min_ratio_to_autograd must be a number above 0"]),
        (f"{GRID}{TARGET}min_ratio_to_autograd = nan", ["min_ratio_to_autograd must be a number above 0"]),
        (f"{GRID}{TARGET}min_ratio_to_autograd = inf", ["min_ratio_to_autograd must be a number above 0"]),
        (f"{GRID}{TARGET}min_ratio_to_autograd = 1{400 * '0'}", ["min_ratio_to_autograd must be a number above 0"]),
        (f"{GRID}{TARGET}min_ratio_to_autograd = true", ["min_ratio_to_autograd must be a number above 0"]),
        (f"{GRID}{TARGET}min_ratio_to_autograd = '2'", ["min_ratio_to_autograd must be a number above 0"]),
        (f"{GRID}{TARGET}min_ratio_to_autograd = 2\ndevice = 'mps'", ["device must be cpu or cuda"]),
        (f"{GRID}{TARGET}min_ratio_to_autograd = 2\nworkload = 3", ["workload"]),
        (f"{GRID}{TARGET}min_ratio_to_autograd = 2\nmin_batch_size = 0", ["min_batch_size 0"]),
        (f"{GRID}{TARGET}min_ratio_to_autograd = 2\nmax_batch_size = 'all'", ["max_batch_size 'all'"]),
        (f"{GRID}{TARGET}min_ratio_to_autograd = 2\ncolour = 'red'", ["[[target]]", "unknown key 'colour'"]),
    ],
    ids=lambda value: value[0] if isinstance(value, list) else "",
)
def test_a_sweep_file_that_cannot_be_followed_is_refused_with_what_is_wrong(text, texts, sweep_file):
    with pytest.raises(PlanError) as refused:
        plan_sweep(sweep_file(text), Axes())
    for each in texts:
        assert each in str(refused.value)


@pytest.mark.parametrize(
    "text", ["[[grid]", "", f"colour = 1\n{GRID}", f"{GRID}colour = 1", f"{GRID}{TARGET}"], ids=range(5)
)
def test_a_refusal_names_the_file(text, sweep_file):
    file = sweep_file(text)
    with pytest.raises(PlanError) as refused:
        plan_sweep(file, Axes())
    assert str(file) in str(refused.value)


def test_a_file_that_cannot_be_read_is_refused_with_the_reason(tmp_path):
    (tmp_path / "latin.toml").write_bytes('[[grid]]\nworkload = "Kübel"'.encode("latin-1"))
    for name, text in (("none.toml", "No such file"), (".", "Is a directory"), ("latin.toml", "is not valid TOML")):
        with pytest.raises(PlanError, match=text):
            plan_sweep(tmp_path / name, Axes())


@pytest.mark.parametrize(("flag", "value"), [("rounds", 0), ("rounds", -3), ("seeds", 0), ("seeds", 10**7)])
def test_a_flag_out_of_range_is_refused_and_not_taken_for_one_not_given(flag, value):
    with pytest.raises(PlanError, match=f"{flag} {value}"):
        plan_sweep(None, Axes(), **{flag: value})


def test_more_cases_than_a_run_may_have_are_refused_before_they_are_made(sweep_file):
    sizes = tuple(range(1, MAX_CASES + 2))
    with pytest.raises(PlanError, match=f"{MAX_CASES + 1} cases are more than the {MAX_CASES}"):
        plan_sweep(sweep_file(GRID), Axes(batch_size=sizes))


def test_two_engines_that_would_have_the_same_case_id_are_refused(tmp_path, sweep_file):
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "own.py").touch()
    engines = (f"{tmp_path}/a/own.py:Mine", f"{tmp_path}/b/own.py:Mine")
    with pytest.raises(PlanError, match=r"two different cases are called line/own\.py:Mine/cpu/float32/b10"):
        plan_sweep(sweep_file(GRID), Axes(engine=engines))


# Whatever a file holds


def toml(value: object) -> str:
    """Write a value as TOML, tables inline."""
    match value:
        case bool():
            return str(value).lower()
        case str():
            return (
                '"'
                + "".join(each if each.isalnum() and each.isascii() else f"\\U{ord(each):08x}" for each in value)
                + '"'
            )
        case list():
            return f"[{', '.join(map(toml, value))}]"
        case dict():
            return "{ " + ", ".join(f"{toml(key)} = {toml(each)}" for key, each in value.items()) + " }"
        case _:
            return repr(value)


anything = st.recursive(
    st.booleans() | st.integers() | st.floats() | st.text(st.characters(exclude_categories=["Cs"]), max_size=9),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["a", "engine"]), inner, max_size=2),
    max_leaves=4,
)


def mostly(values: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return st.one_of(values, values, values, values, anything)


def axis(*values: Any) -> st.SearchStrategy[Any]:
    return mostly(st.lists(mostly(st.sampled_from(values)), max_size=3) | st.sampled_from(values))


grids = st.fixed_dictionaries(
    {
        "workload": axis("line", "line_deep"),
        "engine": axis("manual", "autograd", "compile"),
        "batch_size": axis(1, 10, 10_000, 10**12, -1),
    },
    optional={
        "device": axis("cpu", "cuda:0", "mps"),
        "dtype": axis("float32", "float64"),
        "threads": axis(1, 2),
        "colour": anything,
    },
)
target_tables = st.fixed_dictionaries(
    {"engine": mostly(st.just("manual")), "min_ratio_to_autograd": mostly(st.floats(0.1, 9) | st.integers())},
    optional={
        "device": mostly(st.just("cpu")),
        "workload": mostly(st.just("line")),
        "min_batch_size": mostly(st.integers(1, 100)),
        "colour": anything,
    },
)
documents = st.fixed_dictionaries(
    {"grid": mostly(st.lists(mostly(grids), max_size=2))},
    optional={
        "target": mostly(st.lists(mostly(target_tables), max_size=2)),
        "rounds": mostly(st.integers(0, 9)),
        "seeds": mostly(st.integers(0, 99)),
        "order_seed": mostly(st.integers(0, 99)),
        "colour": anything,
    },
)


def plan_or_refusal(file: Path) -> Sweep | PlanError:
    try:
        return plan_sweep(file, Axes())
    except PlanError as refused:
        return refused


PLAIN = {"workload": "line", "engine": "manual", "batch_size": 10}


@settings(max_examples=150, deadline=None, derandomize=True)
@example({"grid": [{**PLAIN, "engine": "nul\0.py:Mine"}]})
@example({"grid": [PLAIN], "target": [{"engine": "manual", "min_ratio_to_autograd": math.inf}]})
@example({"grid": [PLAIN], "target": [{"engine": "manual", "min_ratio_to_autograd": 10**400}]})
@example({"grid": [{**PLAIN, "batch_size": []}]})
@given(documents)
def test_whatever_a_sweep_file_holds_it_is_refused_or_a_sweep_that_can_be_run_and_kept(folder, document):
    file = folder / "sweep.toml"
    file.write_text("\n".join(f"{name} = {toml(value)}" for name, value in document.items()), "utf-8")
    sweep = plan_or_refusal(file)
    if isinstance(sweep, PlanError):
        assert "not valid TOML" not in str(sweep)  # it is toml() that would be wrong
        return
    assert sweep.cases
    assert Sweep.from_json(json.loads(json.dumps(sweep.to_json(), allow_nan=False))) == sweep
    for target in sweep.targets:
        target.applies_to("line", "manual", "cpu", 10)


@settings(max_examples=100, deadline=None, derandomize=True)
@given(st.binary() | st.text().map(lambda text: text.encode(errors="surrogatepass")))
def test_a_file_of_random_bytes_is_refused(folder, content):
    file = folder / "noise.toml"
    file.write_bytes(content)
    with pytest.raises(PlanError):
        plan_sweep(file, Axes())


def test_a_target_for_an_engine_that_nobody_has_is_refused_with_the_near_match(tmp_path):
    file = tmp_path / "sweep.toml"
    file.write_text(
        '[[grid]]\nworkload = "line"\nengine = "manual"\nbatch_size = 100\n'
        '[[target]]\nengine = "compile_stp"\nmin_ratio_to_autograd = 2.0\n'
    )
    with pytest.raises(PlanError, match="did you mean 'compile_step'"):
        plan_sweep(file, Axes())


# Files of strangers


@pytest.mark.parametrize(
    ("text", "texts"),
    [
        (GRID.replace("[10]", "[0x" + "f" * 100_000 + "]"), ["batch size a whole number of 400000 bits"]),
        ("a = " + "[" * 5000, ["nested too deeply"]),
        ("a" + ".a" * 200_000 + " = 1", ["more than 32 dotted parts"]),
        (GRID * 10_001, ["10001 cases are more than the 10000"]),
        (GRID + f"{TARGET}min_ratio_to_autograd = 2\n" * 101, ["101 targets are more than the 100"]),
        (f"seeds = 100_000\n{GRID.replace('[10]', str(list(range(1, 12))))}", ["1100000 trainings", "1000000"]),
        (f"rounds = 1000\n{GRID.replace('[10]', str(list(range(1, 202))))}", ["201000 processes", "200000"]),
        ("#" * 2**20 + "\n", ["larger than the 1 MiB"]),
    ],
    ids=range(8),
)
def test_a_sweep_file_larger_than_a_run_can_be_is_refused_at_once(text, texts, sweep_file):
    with pytest.raises(PlanError) as refused:
        plan_sweep(sweep_file(text), Axes())
    for each in texts:
        assert each in str(refused.value)
    assert len(str(refused.value)) < 600


@pytest.mark.parametrize(
    "change",
    [
        {"cases": []},
        {"cases": [{}]},
        {"cases": None},
        {"cases": [7]},
        {"rounds": 0},
        {"seeds": "all"},
        {"named_engines": [3]},
        {"targets": [{"engine": "manual"}]},
        {"targets": [{"engine": "=cmd", "min_ratio_to_autograd": 1.0}]},
        {"sampling": 3},
        {"sampling": {"relative_width": -1}},
        {"sampling": {"budget_ns": 1.5}},
        {"cold": "yes"},
        {"order_seed": -1},
        {"spare": -1},
        {"spare": "some"},
    ],
    ids=str,
)
def test_a_stored_sweep_that_could_not_have_been_planned_is_refused(change):
    with pytest.raises(PlanError) as refused:
        Sweep.from_json({**plan_sweep(None, Axes()).to_json(), **change})
    assert str(refused.value).isprintable()
