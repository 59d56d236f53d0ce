import pytest
import torch
from torch import Tensor, nn

from harness.plan.case import Case
from harness.plan.catalogue import DTYPES, ENGINES
from harness.training import precision
from harness.training.contract import Problem
from harness.training.engines.autograd import Autograd
from harness.training.loading import load_engine, load_workload
from harness.training.trial import problem_of

CPU = torch.device("cpu")


@pytest.mark.parametrize(
    ("dtype", "wanted"),
    [
        ("float32", (torch.float32, "")),
        ("float64", (torch.float64, "")),
        ("tf32", (torch.float32, "tf32")),
        ("bfloat16", (torch.float32, "bfloat16")),
    ],
)
def test_parameters_are_of_the_dtype_or_of_float32_where_only_products_are(dtype: str, wanted: object) -> None:
    assert precision.of(dtype) == wanted
    problem = problem_of(load_workload("line"), 10, CPU, *precision.of(dtype))
    assert problem.precision == dtype
    assert problem.dtype is next(problem.template.parameters()).dtype


def test_the_loss_in_bfloat16_is_that_of_products_in_bfloat16() -> None:
    seen = {}

    class Watching(nn.Linear):
        def forward(self, inputs: Tensor) -> Tensor:
            seen["outputs"] = super().forward(inputs)
            return seen["outputs"]

    torch.manual_seed(0)
    model = nn.Sequential(Watching(3, 4))
    inputs, targets = torch.randn(8, 3), torch.randn(8, 4)
    plain = Problem(model, nn.MSELoss(), 0.1, 8).forward_loss(model)(inputs, targets)
    assert seen["outputs"].dtype is torch.float32
    loss = Problem(model, nn.MSELoss(), 0.1, 8, "bfloat16").forward_loss(model)(inputs, targets)
    assert seen["outputs"].dtype is torch.bfloat16
    assert loss.dtype is torch.float32
    assert loss.item() == (seen["outputs"].float() - targets).square().mean().item()
    assert 0 < abs(loss.item() - plain.item()) < 0.05 * plain.item()
    (gradient,) = torch.autograd.grad(loss, [model[0].weight])
    assert gradient.dtype is torch.float32
    assert torch.equal(gradient, gradient.bfloat16().float())


@pytest.mark.parametrize("dtype", ["tf32", "bfloat16"])
@pytest.mark.parametrize(("capability", "has"), [((7, 5), False), ((8, 0), True), ((9, 0), True)])
def test_a_gpu_before_ampere_has_neither_and_says_so(
    monkeypatch: pytest.MonkeyPatch, dtype: str, capability: tuple[int, int], has: bool
) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _device: capability)
    reason = precision.missing(Case("line", "autograd", "cuda", dtype, 10), Autograd(), torch.device("cuda"))
    assert reason == (
        None if has else f"this GPU, of compute capability 7.5, does not multiply in {dtype}; 8.0 and newer do"
    )


def test_an_engine_that_says_nothing_of_dtypes_takes_the_plain_ones() -> None:
    class Users:
        pass

    for dtype in DTYPES:
        case = Case("line", "/a/own.py:Users", "cpu", dtype, 10)
        reason = precision.missing(case, Users(), CPU)
        assert (reason is None) == (dtype in ("float32", "float64"))
    assert reason == "engine own.py:Users is not written for bfloat16; autograd, compile and compile_step are"


def test_who_is_named_for_the_other_dtypes_has_them() -> None:
    for name in ("autograd", "compile", "compile_step"):
        assert name in ENGINES
        assert load_engine(name).dtypes == DTYPES  # type: ignore[attr-defined]
