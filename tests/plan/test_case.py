import json
from dataclasses import fields, replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.plan.case import MAX_BATCH_SIZE, MAX_THREADS, Case, checked
from harness.plan.catalogue import DTYPES
from harness.plan.errors import PlanError

CASE = Case("line", "autograd", "cpu", "float32", 100)


def of_ranks(case, ranks):
    return replace(case, ranks=1 if case.batch_size % ranks or ":" in case.device else ranks)


single = st.builds(
    Case,
    workload=st.sampled_from(["line", "line_deep", "/home/me/own.py:Mine"]),
    engine=st.sampled_from(["manual", "autograd", "/home/me/own.py:Fast", "/srv/fast.py:Fast"]),
    device=st.sampled_from(["cpu", "cuda", "cuda:0", "cuda:1"]),
    dtype=st.sampled_from(DTYPES),
    batch_size=st.integers(1, MAX_BATCH_SIZE),
    threads=st.none() | st.integers(1, MAX_THREADS),
)
cases = st.builds(of_ranks, single, st.integers(1, 4))


@pytest.mark.parametrize(
    ("case", "case_id"),
    [
        (CASE, "line/autograd/cpu/float32/b100"),
        (Case("line", "autograd", "cpu", "float32", 100, 1), "line/autograd/cpu/float32/b100/t1"),
        (Case("line", "ddp", "cpu", "float32", 100, ranks=2), "line/ddp/cpu/float32/b100/r2"),
        (Case("line", "ddp", "cpu", "float32", 100, 1, 4), "line/ddp/cpu/float32/b100/t1/r4"),
        (Case("line_deep", "compile", "cuda:1", "float64", 10_000), "line_deep/compile/cuda:1/float64/b10000"),
        (Case("/a/own.py:Mine", "/b/c/fast.py:Fast", "cpu", "float32", 1), "own.py:Mine/fast.py:Fast/cpu/float32/b1"),
    ],
)
def test_a_case_id_is_readable_and_does_not_change_between_commits(case, case_id):
    assert case.case_id == case_id


@given(cases, cases, st.sampled_from([axis.name for axis in fields(Case)]))
def test_cases_that_differ_in_one_axis_have_different_ids(one, another, axis):
    other = replace(one, **{axis: getattr(another, axis)})
    assert (one.case_id == other.case_id) == (one == other)


@given(cases)
def test_a_case_id_does_not_tell_in_which_folder_a_file_of_the_users_lies(case):
    assert "home" not in case.case_id
    assert "srv" not in case.case_id


@given(cases)
def test_a_case_comes_back_from_json_as_it_was(case):
    assert Case.from_json(json.loads(json.dumps(case.to_json()))) == case


@pytest.mark.parametrize("fields", [{}, {**CASE.to_json(), "colour": "red"}])
def test_json_with_unknown_or_missing_fields_is_no_case(fields):
    with pytest.raises(TypeError):
        Case.from_json(fields)


def test_a_case_of_one_rank_is_written_as_before_there_were_several():
    assert "ranks" not in CASE.to_json()
    assert replace(CASE, ranks=2).to_json() == CASE.to_json() | {"ranks": 2}


def test_a_group_holds_the_cases_that_differ_in_engine_and_ranks_alone():
    assert CASE.group == Case("line", "ddp", "cpu", "float32", 100, ranks=2).group
    assert CASE.group == Case("line", "manual", "cpu", "float32", 100).group
    assert CASE.group != Case("line", "autograd", "cpu", "float32", 10).group
    assert CASE.group != Case("line", "autograd", "cpu", "float32", 100, 1).group


@pytest.mark.parametrize("device", ["cpu", "cuda", "cuda:0", "cuda:12"])
@pytest.mark.parametrize("dtype", ["float32", "float64", "tf32", "bfloat16"])
def test_what_can_be_measured_passes_the_check_unchanged(device, dtype):
    case = Case("line", "manual", device, dtype, MAX_BATCH_SIZE, MAX_THREADS)
    assert checked(case) == case


@pytest.mark.parametrize(
    ("field", "value", "texts"),
    [
        ("device", "mps", ["'mps'", "Apple", "cpu"]),
        ("device", "rocm", ["'rocm'", "ROCm", "cpu"]),
        ("device", "hip:0", ["'hip:0'", "ROCm"]),
        ("device", "gpu", ["'gpu'", "cpu, cuda or cuda:N"]),
        ("device", "cuda:", ["'cuda:'", "cuda:N"]),
        ("device", "cuda:-1", ["'cuda:-1'", "cuda:N"]),
        ("device", "cpu\n", ["cuda:N"]),
        ("device", "", ["''", "cuda:N"]),
        ("dtype", "float16", ["'float16'", "use bfloat16"]),
        ("dtype", "half", ["'half'", "use bfloat16"]),
        ("dtype", "bf16", ["'bf16'", "did you mean 'bfloat16'?"]),
        ("dtype", "FP32", ["'FP32'", "did you mean 'float32'?"]),
        ("dtype", "tf3", ["did you mean 'tf32'?"]),
        ("dtype", "int8", ["'int8'", "use float32, float64, tf32 or bfloat16"]),
        ("batch_size", 0, ["batch size 0", "from 1 to 268435456"]),
        ("batch_size", -1, ["batch size -1", "from 1 to 268435456"]),
        ("batch_size", 10**12, ["batch size 1000000000000", "from 1 to 268435456"]),
        ("batch_size", 10.0, ["batch size 10.0", "whole number"]),
        ("batch_size", True, ["batch size True", "whole number"]),
        ("batch_size", "ten", ["batch size 'ten'", "whole number"]),
        ("threads", 0, ["threads 0", "from 1 to 4096"]),
        ("threads", 4097, ["threads 4097", "from 1 to 4096"]),
        ("ranks", 0, ["ranks 0", "from 1 to 1024"]),
        ("ranks", "2", ["ranks '2'", "whole number"]),
        ("ranks", 3, ["batch size 100: 3 ranks cannot share it equally"]),
        ("workload", "lime", ["unknown workload 'lime'", "did you mean 'line'?"]),
        ("engine", "autograt", ["unknown engine 'autograt'", "did you mean 'autograd'?"]),
    ],
)
def test_what_cannot_be_measured_is_refused_with_the_value_and_what_to_do(field, value, texts):
    with pytest.raises(PlanError) as refused:
        checked(Case(**{**CASE.to_json(), field: value}))
    for text in texts:
        assert text in str(refused.value)


def test_several_ranks_take_a_gpu_each_and_none_by_number():
    assert checked(Case("line", "ddp", "cuda", "float32", 100, ranks=2)).ranks == 2
    with pytest.raises(PlanError, match="2 ranks take a GPU each; use cuda"):
        checked(Case("line", "ddp", "cuda:1", "float32", 100, ranks=2))


def test_a_checked_case_holds_the_absolute_path_of_the_users_file(tmp_path, monkeypatch):
    (tmp_path / "own.py").touch()
    monkeypatch.chdir(tmp_path)
    case = checked(Case("line", "own.py:Mine", "cpu", "float32", 1))
    assert case.engine == f"{tmp_path.resolve()}/own.py:Mine"
    assert case.case_id == "line/own.py:Mine/cpu/float32/b1"


@pytest.mark.parametrize(
    ("field", "value", "text"),
    [
        ("engine", "=cmd", "is no name"),
        ("engine", "own.py:Mine", "must have an absolute path"),
        ("engine", "/a/../own.py:Mine", "must have an absolute path"),
        ("engine", "/a/=own.py:Mine", "rename the file"),
        ("workload", 7, "workload 7: must be a text"),
        ("device", ["cpu"], "cuda:N"),
        ("device", "cuda:٣", "cuda:N"),
        ("device", "cuda:" + "9" * 5000, "cuda:N"),
        ("dtype", None, "float32, float64, tf32 or bfloat16"),
        ("batch_size", 2**400_000, "a whole number of 400001 bits"),
        ("threads", 1.5, "threads 1.5"),
    ],
    ids=range(11),
)
def test_a_stored_case_that_could_not_have_been_planned_is_refused(field, value, text):
    with pytest.raises(PlanError, match=text) as refused:
        Case.from_json({**CASE.to_json(), field: value})
    assert len(str(refused.value)) < 400


def test_a_stored_case_of_a_file_that_was_deleted_since_is_still_a_case():
    stored = {**CASE.to_json(), "engine": "/deleted/since/own.py:Mine"}
    assert Case.from_json(stored).case_id == "line/own.py:Mine/cpu/float32/b100"
