from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from harness.plan.case import Case
from harness.training import cpp_library
from harness.training.contract import Problem, Updates
from harness.training.engines.fused import Fused
from harness.training.engines.fused_cpu import MOST_WEIGHTS
from harness.training.fused_source import lanes_of, source
from harness.training.gate import check_updates
from harness.training.loading import load_workload
from harness.training.trial import Trial, begin, problem_of

CPU = torch.device("cpu")


def made(workload: str, batch_size: int, dtype: torch.dtype = torch.float32) -> tuple[Problem, Trial, Updates]:
    loaded = load_workload(workload)
    problem, trial = problem_of(loaded, batch_size, CPU, dtype), begin(loaded, batch_size, 3, CPU, dtype)
    updates = Fused().prepare(problem, 20)
    updates.load(trial.parameters)
    return problem, trial, updates


def case(dtype: str = "float32") -> Case:
    return Case("line", "fused", "cpu", dtype, 100)


# One point, half a vector, an odd number of vectors, a last one that overlaps, many chunks; both ways of summing them.
@pytest.mark.parametrize(
    ("workload", "batch_size", "dtype"),
    [
        ("line", 1, torch.float32),
        ("line", 10, torch.float32),
        ("line", 37, torch.float32),
        ("line", 100, torch.float32),
        ("line", 1000, torch.float32),
        ("line", 10, torch.float64),
        ("line_deep", 1, torch.float64),
        ("line_deep", 100, torch.float32),
    ],
)
def test_it_passes_the_gate_at_every_kind_of_batch(workload: str, batch_size: int, dtype: torch.dtype) -> None:
    problem, trial, updates = made(workload, batch_size, dtype)
    assert 0 < check_updates(problem, updates, *trial.batches(20)) <= 0.5


def test_float32_sums_over_a_large_batch_stay_far_within_the_bound() -> None:
    problem, trial, updates = made("line", 262_144)
    # 0.01 with sixteen lanes, 0.07 with four; autograd's are at 0.06.
    assert check_updates(problem, updates, *trial.batches(3)) < 0.15


def chained(*layers: nn.Module, loss: nn.Module, batch_size: int) -> tuple[Problem, Tensor, Tensor]:
    """Return a problem on layers of random weights, and twenty random batches for it."""
    torch.manual_seed(0)
    problem = Problem(nn.Sequential(*layers), loss, 0.1, batch_size)
    inputs = torch.randn(20, batch_size, 3)
    with torch.no_grad():
        outputs = problem.template(inputs)
    if isinstance(loss, nn.CrossEntropyLoss):
        return problem, inputs, torch.randint(outputs.shape[-1], outputs.shape[:-1])
    return problem, inputs, torch.randn(outputs.shape)


TANH = (nn.Linear(3, 7), nn.Tanh(), nn.Linear(7, 5, bias=False), nn.Tanh(), nn.Linear(5, 2))
CLASSES = (nn.Linear(3, 6, bias=False), nn.Sequential(nn.Sigmoid(), nn.Identity(), nn.Linear(6, 4)))


@pytest.mark.parametrize(
    ("layers", "loss", "batch_size"),
    [(TANH, nn.MSELoss(), 37), (CLASSES, nn.CrossEntropyLoss(), 10), ((nn.Linear(3, 1),), nn.MSELoss(), 130)],
    ids=["tanh", "classes", "linear"],
)
def test_it_passes_the_gate_on_chains_of_several_features(layers: Any, loss: nn.Module, batch_size: int) -> None:
    problem, inputs, targets = chained(*layers, loss=loss, batch_size=batch_size)
    assert Fused().unsupported(problem, case()) is None
    updates = Fused().prepare(problem, 20)
    assert 0 < check_updates(problem, updates, inputs, targets) <= 1


def test_batches_are_read_where_they_lie_expanded_strided_or_transposed() -> None:
    problem, inputs, targets = chained(*TANH, loss=nn.MSELoss(), batch_size=37)
    updates = Fused().prepare(problem, 20)
    first = {name: value.clone() for name, value in updates.parameters().items()}
    ways = {
        "expanded": (inputs[:1].expand(4, -1, -1), targets[:1].expand(4, -1, -1)),
        "strided": (inputs[::5], targets[::5]),
        "transposed": (inputs[:4].mT.contiguous().mT, targets[:4].mT.contiguous().mT),
        "expanded and transposed": (inputs[:1].mT.contiguous().mT.expand(4, -1, -1), targets[:4]),
    }
    for way, batches in ways.items():
        updates.load(first)
        losses = updates(*batches)
        updates.load(first)
        plain = [batch.clone(memory_format=torch.contiguous_format) for batch in batches]
        assert torch.equal(losses, updates(*plain)), way


@pytest.mark.parametrize(
    ("inputs", "targets"),
    [
        (torch.zeros(2, 36, 3), torch.zeros(2, 37, 2)),
        (torch.zeros(2, 37, 3), torch.zeros(2, 37)),
        (torch.zeros(2, 37, 3, dtype=torch.float64), torch.zeros(2, 37, 2)),
        (torch.zeros(2, 37, 3), torch.zeros(3, 37, 2)),
    ],
)
def test_batches_of_another_shape_or_type_are_not_read(inputs: Tensor, targets: Tensor) -> None:
    problem, _, _ = chained(*TANH, loss=nn.MSELoss(), batch_size=37)
    updates = Fused().prepare(problem, 20)
    with pytest.raises(ValueError, match="batches"):
        updates(inputs, targets)


def test_no_step_reads_beyond_its_batch() -> None:
    _, trial, updates = made("line", 37)
    inputs, targets = trial.batches(1)
    # What lies before and after the batch would make every sum no number.
    around = torch.full((3, 37, 1), torch.nan)
    around[1] = inputs[0]
    assert updates(around[1:2], targets).isfinite().all()
    assert all(value.isfinite().all() for value in updates.parameters().values())


def test_training_that_leaves_the_numbers_ends_in_no_number() -> None:
    _, trial, updates = made("line", 100)
    inputs, targets = trial.batches(50)
    assert not updates(inputs * 1e10, targets)[-1].isfinite()


def test_a_second_preparation_takes_the_library_from_the_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path))
    made("line", 10)
    (library,) = tmp_path.glob("cpp_library/*")  # and nothing else is left there
    before = library.stat().st_mtime_ns, library.stat().st_ino
    made("line", 10)
    assert [*tmp_path.glob("cpp_library/*")] == [library]
    assert (library.stat().st_mtime_ns, library.stat().st_ino) == before


def test_the_library_knows_no_function_that_takes_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path))
    made("line", 10)
    (library,) = tmp_path.glob("cpp_library/*")
    names = library.read_bytes()
    assert b"make_updates" in names
    assert not [name for name in (b"malloc", b"calloc", b"aligned_alloc", b"_Znw", b"_Zna") if name in names]


def test_what_does_not_compile_leaves_nothing_in_the_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path))
    with pytest.raises(Exception, match="C\\+\\+ compile"):
        cpp_library.compiled("this is no C++;")
    assert not [*tmp_path.glob("cpp_library/*")]


def test_a_library_leaves_the_process_its_small_numbers() -> None:
    made("line", 10)
    tiny = torch.tensor([1e-40])
    assert (tiny * 0.5).item() > 0  # with -ffast-math, gcc before 13 makes it 0 for the whole process


def test_a_vector_has_as_many_numbers_as_fit_and_no_more_than_the_batch_needs() -> None:
    assert lanes_of(1, 4) == lanes_of(1, 8) == 1
    assert lanes_of(2, 4) == 4
    assert lanes_of(2, 8) == 2
    assert lanes_of(10_000, 4) == 2 * lanes_of(10_000, 8) >= 4


def test_the_source_names_the_very_network() -> None:
    problem, _, _ = chained(*TANH, loss=nn.MSELoss(), batch_size=37)
    text = source(problem)
    assert "BATCH = 37" in text
    assert "linear<false>(w + 28, a1, a2);\n    tanh(a2);" in text
    assert "back(w + 0" not in text  # nobody asks for the gradient by the data


SHARED = nn.Linear(2, 2)


@pytest.mark.parametrize(
    ("model", "loss", "told"),
    [
        (nn.Sequential(nn.Linear(2, 2), nn.GELU()), nn.MSELoss(), "layer 1, GELU(approximate='none')"),
        (nn.LayerNorm(2), nn.MSELoss(), "layer model, LayerNorm"),
        (nn.Sequential(nn.Linear(2, 2), nn.Tanh(), nn.ReLU()), nn.MSELoss(), "right after another: layer 2, ReLU()"),
        (nn.Sequential(nn.Linear(2, 2), nn.Flatten()), nn.MSELoss(), "layer 1, Flatten"),
        (nn.Sequential(SHARED, nn.ReLU(), SHARED), nn.MSELoss(), "weights that are used twice"),
        (nn.Sequential(nn.Linear(2, 2)), nn.L1Loss(), "the loss L1Loss()"),
        (nn.Sequential(nn.Linear(2, 2)), nn.MSELoss(reduction="sum"), "the loss MSELoss()"),
        (nn.Sequential(nn.Linear(2, 2)), nn.CrossEntropyLoss(label_smoothing=0.1), "the loss CrossEntropyLoss()"),
        (nn.Linear(64, 64), nn.MSELoss(), f"{MOST_WEIGHTS:,} weights on the CPU and the model has 4,160"),
    ],
    ids=["GELU", "LayerNorm", "two activations", "Flatten", "twice", "L1", "sum", "smoothed", "large"],
)
def test_what_it_has_no_code_for_is_said_in_one_line(model: nn.Module, loss: nn.Module, told: str) -> None:
    reason = Fused().unsupported(Problem(model, loss, 0.1, 4), case())
    assert reason is not None
    assert reason.startswith("fused has")
    assert told in reason
    assert "\n" not in reason


def test_other_precisions_and_a_missing_compiler_are_said_in_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    problem = problem_of(load_workload("line"), 100, CPU, torch.float32)
    assert Fused().unsupported(problem, case("bfloat16")) == (
        "fused trains in float32 and float64 on the CPU, not in bfloat16"
    )
    assert Fused().unsupported(problem, case()) is None
    monkeypatch.setenv("CXX", "no-such-compiler")
    reason = Fused().unsupported(problem, case())
    assert reason is not None
    assert reason.startswith("fused needs a C++ compiler and found none")


def test_more_threads_are_no_reason_against_it() -> None:
    problem = problem_of(load_workload("line"), 100, CPU, torch.float32)
    assert Fused().unsupported(problem, Case("line", "fused", "cpu", "float32", 100, threads=2)) is None
