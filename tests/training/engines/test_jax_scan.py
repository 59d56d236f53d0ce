"""The engine jax_scan; each process of JAX is of one precision, so what is of another runs in a process of its own."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from harness.plan.case import Case
from harness.training.contract import Problem
from harness.training.engines import jax_scan
from harness.training.engines.jax_scan import LENGTHS, JaxScan
from harness.training.gate import check_updates
from harness.training.loading import load_workload
from harness.training.trial import Trial, begin, problem_of

CPU = torch.device("cpu")
ROOT = Path(__file__).parents[3]


def case_of(problem: Problem) -> Case:
    return Case("w", "jax_scan", problem.device.type, str(problem.dtype).removeprefix("torch."), problem.batch_size)


def prepared(problem: Problem) -> Any:
    reason = JaxScan().unsupported(problem, case_of(problem))
    if reason is not None:
        pytest.skip(reason)
    return JaxScan().prepare(problem, 20)


def line(batch_size: int, workload: str = "line") -> tuple[Problem, Trial, Any]:
    made = load_workload(workload)
    problem = problem_of(made, batch_size, CPU, torch.float32)
    return problem, begin(made, batch_size, 0, CPU, torch.float32), prepared(problem)


def problem_with(*layers: nn.Module, loss: nn.Module | None = None) -> Problem:
    return Problem(nn.Sequential(*layers), loss or nn.MSELoss(), 0.1, 16)


# Right gradients


@pytest.mark.parametrize("workload", ["line", "line_deep"])
@pytest.mark.parametrize("batch_size", [10, 100, 1000, 10_000])
def test_it_passes_the_gate(workload: str, batch_size: int) -> None:
    problem, trial, updates = line(batch_size, workload)
    updates.load(trial.parameters)
    assert check_updates(problem, updates, *trial.batches(20)) <= 1


@pytest.mark.parametrize(
    "layers",
    [
        (nn.Linear(3, 8), nn.Tanh(), nn.Linear(8, 4)),
        (nn.Linear(3, 8), nn.Sigmoid(), nn.Linear(8, 4, bias=False)),
        (nn.Linear(3, 8), nn.Sequential(nn.GELU(), nn.Identity()), nn.Linear(8, 4)),
        (nn.Linear(3, 4),),
    ],
    ids=lambda layers: type(layers[-2]).__name__ if len(layers) > 1 else "Linear",
)
@pytest.mark.parametrize("loss", [nn.MSELoss(), nn.CrossEntropyLoss()], ids=lambda loss: type(loss).__name__)
def test_every_layer_and_loss_passes_the_gate(layers: tuple[nn.Module, ...], loss: nn.Module) -> None:
    torch.manual_seed(0)
    problem = problem_with(*layers, loss=loss)
    updates = prepared(problem)
    inputs = torch.randn(20, 16, 3)
    targets = torch.randn(20, 16, 4) if isinstance(loss, nn.MSELoss) else torch.randint(4, (20, 16))
    assert check_updates(problem, updates, inputs, targets) <= 1


FLOAT64 = """
import torch
from harness.plan.case import Case
from harness.training.gate import check_updates
from harness.training.loading import load_engine, load_workload
from harness.training.trial import begin, problem_of

workload, device = load_workload("line_deep"), torch.device("cpu")
problem = problem_of(workload, 100, device, torch.float64)
engine = load_engine("jax_scan")
assert engine.unsupported(problem, Case("line_deep", "jax_scan", "cpu", "float64", 100)) is None
updates, trial = engine.prepare(problem, 20), begin(workload, 100, 0, device, torch.float64)
updates.load(trial.parameters)
assert check_updates(problem, updates, *trial.batches(20)) <= 1
assert updates(*trial.batches(3)).dtype == torch.float64
"""


def in_a_process_of_its_own(program: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-W", "error", "-c", program],
        cwd=ROOT,
        env=os.environ | environment,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def test_float64_is_float64() -> None:
    pytest.importorskip("jax")
    result = in_a_process_of_its_own(FLOAT64)
    assert result.returncode == 0, result.stderr


# Any number of updates


def test_a_call_is_cut_into_lengths_that_are_compiled() -> None:
    for steps in (1, 4, 21, 1023, 1024, 5000):
        parts = [part.stop - part.start for part in jax_scan._parts(steps)]
        assert sum(parts) == steps
        assert set(parts) <= set(LENGTHS)
    assert [(part.start, part.stop) for part in jax_scan._parts(21)] == [(0, 16), (16, 20), (20, 21)]


@pytest.mark.parametrize("batch_size", [10, 100])
def test_many_updates_at_once_are_the_same_one_by_one(batch_size: int) -> None:
    """Real batches, whose parts have to come in order, and a full batch that is expanded over steps."""
    _, trial, updates = line(batch_size)
    inputs, targets = trial.batches(90)
    updates.load(trial.parameters)
    at_once, after = updates(inputs, targets), updates.parameters()
    updates.load(trial.parameters)
    singly = torch.cat([updates(inputs[step : step + 1], targets[step : step + 1]) for step in range(90)])
    torch.testing.assert_close(at_once, singly, rtol=1e-4, atol=0)
    torch.testing.assert_close(after, updates.parameters(), rtol=1e-3, atol=1e-5)


def test_nothing_is_compiled_after_the_first_call() -> None:
    jax = pytest.importorskip("jax")
    _, trial, updates = line(10)
    updates(*trial.batches(1))
    compiled = []
    jax.monitoring.register_event_duration_secs_listener(lambda event, *_, **__: compiled.append(event))
    for steps in (1, 2, 90, 1500):
        updates(*trial.batches(steps))
        inputs, targets = trial.batches(1)
        updates(inputs.expand(steps, -1, -1), targets.expand(steps, -1, -1))
    assert [event for event in compiled if "compile" in event] == []


# Memory


def test_what_it_returned_stays_as_it_was_and_may_be_written_to() -> None:
    _, trial, updates = line(100)
    updates.load(trial.parameters)
    losses, weights = updates(*trial.batches(5)), updates.parameters()
    kept = {name: value.clone() for name, value in weights.items()}
    kept_losses = losses.clone()
    updates(*trial.batches(5))
    assert all(torch.equal(weights[name], value) for name, value in kept.items())
    assert torch.equal(losses, kept_losses)
    now = {name: value.clone() for name, value in updates.parameters().items()}
    for value in (*updates.parameters().values(), losses):
        value.zero_()
    assert all(torch.equal(updates.parameters()[name], value) for name, value in now.items())


def test_inputs_that_change_in_place_between_calls_are_seen() -> None:
    """The timed blocks write their inputs where the last block's were."""
    _, trial, updates = line(100)
    inputs, targets = (batches.clone() for batches in trial.batches(1))
    updates.load(trial.parameters)
    first = updates(inputs, targets)
    targets += 1
    updates.load(trial.parameters)
    assert updates(inputs, targets) != first


# What a process is measured by


def test_importing_jax_breaks_no_seal() -> None:
    pytest.importorskip("jax")
    program = """
import torch
from harness.training import gate, loading, trial
sealed = seal.take()
workload = loading.load_workload("line")
problem = trial.problem_of(workload, 10, torch.device("cpu"), torch.float32)
updates = loading.load_engine("jax_scan").prepare(problem, 20)
updates(*trial.begin(workload, 10, 0, problem.device, problem.dtype).batches(20))
print(seal.broken(sealed))
"""
    result = in_a_process_of_its_own(program)
    assert (result.stdout, result.stderr) == ("None\n", "")


def test_with_one_thread_it_keeps_one_core_busy() -> None:
    pytest.importorskip("jax")
    program = """
import time, torch
torch.set_num_threads(1)
from harness.measuring.busy import Busy
from harness.training import loading, trial
for batch_size in (10, 10_000):
    workload = loading.load_workload("line")
    problem = trial.problem_of(workload, batch_size, torch.device("cpu"), torch.float32)
    updates = loading.load_engine("jax_scan").prepare(problem, 20)
    batches = trial.begin(workload, batch_size, 0, problem.device, problem.dtype).batches(1000)
    updates(*batches)
    busy, end = Busy(), time.monotonic() + 0.5
    while time.monotonic() < end:
        updates(*batches)
    busy.check(1)
"""
    result = in_a_process_of_its_own(program)
    assert result.returncode == 0, result.stderr


def test_the_users_own_settings_of_jax_are_kept_out() -> None:
    pytest.importorskip("jax")
    program = """
import torch
from harness.training import loading, trial
problem = trial.problem_of(loading.load_workload("line"), 10, torch.device("cpu"), torch.float32)
loading.load_engine("jax_scan").prepare(problem, 20)
import jax
print(jax.config.jax_enable_compilation_cache, jax.default_backend())
"""
    result = in_a_process_of_its_own(program, JAX_ENABLE_COMPILATION_CACHE="true", JAX_PLATFORMS="tpu")
    assert result.stdout == "False cpu\n", result.stderr


# What it does not do


@pytest.mark.parametrize(
    ("problem", "named"),
    [
        (problem_with(nn.Linear(2, 2), nn.LayerNorm(2)), "layer 1, LayerNorm"),
        (problem_with(nn.Linear(2, 2), nn.GELU("tanh")), "GELU(approximate='tanh')"),
        (problem_with(nn.Linear(2, 2), loss=nn.L1Loss()), "the loss L1Loss()"),
        (problem_with(nn.Linear(2, 2), loss=nn.MSELoss(reduction="sum")), "the loss MSELoss()"),
    ],
)
def test_it_names_what_is_not_written_in_jax(problem: Problem, named: str) -> None:
    reason = JaxScan().unsupported(problem, case_of(problem))
    assert reason is not None
    assert named in reason


def test_without_jax_it_says_in_one_line_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    problem = problem_with(nn.Linear(2, 2))
    reason = JaxScan().unsupported(problem, case_of(problem))
    assert reason == "JAX is not installed: pip install 'gradient-harness[jax]'"


def test_listing_and_planning_import_no_jax() -> None:
    for command in (["list", "engines"], ["run", "--engine", "jax_scan", "--dry-run"]):
        program = f"""
import sys
from harness.__main__ import main
sys.argv = ["harness", *{command}]
try:
    main()
except SystemExit as ended:
    assert not ended.code, ended.code
assert not {{"jax", "torch"}} & set(sys.modules)
"""
        result = in_a_process_of_its_own(program)
        assert result.returncode == 0, result.stderr
        assert "jax_scan" in result.stdout


@pytest.mark.cuda
def test_on_a_gpu_it_passes_the_gate() -> None:
    result = in_a_process_of_its_own(FLOAT64.replace('"cpu"', '"cuda"').replace("float64", "float32"))
    if "JAX finds no" in result.stderr:
        pytest.skip(result.stderr.splitlines()[-1])
    assert result.returncode == 0, result.stderr
