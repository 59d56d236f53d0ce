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
from harness.plan.outcome import CaseEnded, Outcome
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


def line(batch_size: int) -> tuple[Problem, Trial, Any]:
    workload = load_workload("line")
    problem = problem_of(workload, batch_size, CPU, torch.float32)
    return problem, begin(workload, batch_size, 0, CPU, torch.float32), prepared(problem)


@pytest.fixture(scope="module")
def ready() -> tuple[Problem, Trial, Any]:
    """Compiled once: that takes a second."""
    return line(10)


def problem_with(*layers: nn.Module, loss: nn.Module | None = None) -> Problem:
    return Problem(nn.Sequential(*layers), loss or nn.MSELoss(), 0.1, 16)


# Right gradients


@pytest.mark.parametrize(
    ("layers", "loss"),
    [
        (
            (nn.Linear(3, 8), nn.Tanh(), nn.Linear(8, 8, bias=False), nn.Sequential(nn.Sigmoid(), nn.Identity())),
            nn.MSELoss(),
        ),
        ((nn.Linear(3, 8), nn.GELU(), nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 4)), nn.CrossEntropyLoss()),
    ],
    ids=["squares", "classes"],
)
def test_every_layer_and_loss_passes_the_gate(
    monkeypatch: pytest.MonkeyPatch, layers: tuple[nn.Module, ...], loss: nn.Module
) -> None:
    # Where a core is free, XLA takes a second thread for one of them: with one thread that is no case of its.
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)
    torch.manual_seed(0)
    problem = problem_with(*layers, loss=loss)
    updates = prepared(problem)
    inputs = torch.randn(20, 16, 3)
    targets = torch.randn(20, 16, 8) if isinstance(loss, nn.MSELoss) else torch.randint(4, (20, 16))
    assert check_updates(problem, updates, inputs, targets) <= 1


# Any number of updates


def test_many_updates_at_once_are_the_same_one_by_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whole scans, in order, and the rest; of real batches and of a full batch that is expanded over steps."""
    monkeypatch.setitem(LENGTHS, "cpu", 16)
    _, trial, updates = line(10)
    real, full = trial.batches(40), tuple(batch.expand(40, -1, -1) for batch in trial.batches(1))
    for all_inputs, all_targets in (real, full):
        for steps in (2, 15, 16, 40):
            inputs, targets = all_inputs[:steps], all_targets[:steps]
            updates.load(trial.parameters)
            at_once, after = updates(inputs, targets), updates.parameters()
            updates.load(trial.parameters)
            singly = torch.cat([updates(inputs[step : step + 1], targets[step : step + 1]) for step in range(steps)])
            torch.testing.assert_close(at_once, singly, rtol=1e-5, atol=0)
            torch.testing.assert_close(after, updates.parameters(), rtol=1e-4, atol=1e-6)


def test_batches_too_large_to_be_filled_up_are_handed_over_one_by_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jax_scan, "MAX_BATCHES_BYTES", 100)
    problem, trial, updates = line(10)
    updates.load(trial.parameters)
    assert updates(*trial.batches(7)).shape == (7,)
    assert updates._programs[False].length == 1
    assert check_updates(problem, updates, *trial.batches(3)) <= 1


def test_nothing_is_compiled_after_the_first_call(ready: Any) -> None:
    _, trial, updates = ready
    updates(*trial.batches(1))
    import jax

    events = []
    jax.monitoring.register_event_duration_secs_listener(lambda event, *_, **__: events.append(event))
    jax.jit(lambda value: value + 1)(1)
    seen = len(events)
    assert any("compile" in event for event in events)
    inputs, targets = trial.batches(1)
    for steps in (1, 2, 90, 1500):
        updates(*trial.batches(steps))
        updates(inputs.expand(steps, -1, -1), targets.expand(steps, -1, -1))
    assert events[seen:] == []


# Memory


def test_what_it_returned_stays_as_it_was_and_may_be_written_to(ready: Any) -> None:
    _, trial, updates = ready
    updates.load(trial.parameters)
    losses, weights = updates(*trial.batches(5)), updates.parameters()
    kept_losses, kept = losses.clone(), {name: value.clone() for name, value in weights.items()}
    updates(*trial.batches(5))
    assert torch.equal(losses, kept_losses)
    assert all(torch.equal(weights[name], value) for name, value in kept.items())
    now = {name: value.clone() for name, value in updates.parameters().items()}
    for value in (*updates.parameters().values(), losses):
        value.zero_()
    assert all(torch.equal(updates.parameters()[name], value) for name, value in now.items())


def test_inputs_that_change_in_place_between_calls_are_seen(ready: Any) -> None:
    """The timed blocks write their inputs where the last block's were."""
    _, trial, updates = ready
    inputs, targets = (batches.clone() for batches in trial.batches(1))
    updates.load(trial.parameters)
    first = updates(inputs, targets)
    targets += 1
    updates.load(trial.parameters)
    assert updates(inputs, targets) != first


# What a process is measured by


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


PROCESS = """
import time, torch
torch.set_num_threads(1)
from harness.measuring import seal
from harness.measuring.busy import Busy
from harness.plan.case import Case
from harness.plan.outcome import CaseEnded, Outcome
from harness.training.gate import check_updates
from harness.training.loading import load_engine, load_workload
from harness.training.trial import begin, problem_of

sealed = seal.take()
workload, device = load_workload("line_deep"), torch.device("cpu")
problem = problem_of(workload, 1000, device, torch.float64)
engine = load_engine("jax_scan")
reason = engine.unsupported(problem, Case("line_deep", "jax_scan", "cpu", "float64", 1000))
assert reason is None, reason
updates, trial = engine.prepare(problem, 20), begin(workload, 1000, 0, device, torch.float64)
updates.load(trial.parameters)
assert check_updates(problem, updates, *trial.batches(20)) <= 1
assert updates(*trial.batches(3)).dtype == torch.float64

busy, end = Busy(), time.monotonic() + 0.3
while time.monotonic() < end:
    updates(*trial.batches(500))
if device.type == "cpu":
    busy.check(1)
assert seal.broken(sealed) is None, seal.broken(sealed)
import jax
assert not jax.config.jax_enable_compilation_cache
"""


def test_a_process_of_float64_keeps_to_one_core_breaks_no_seal_and_takes_no_settings_of_the_users() -> None:
    pytest.importorskip("jax")
    result = in_a_process_of_its_own(PROCESS, JAX_ENABLE_COMPILATION_CACHE="true", JAX_PLATFORMS="tpu")
    assert result.returncode == 0, result.stderr


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


def test_where_xla_takes_two_threads_a_case_of_one_is_unsupported() -> None:
    """What the timed blocks would be rejected for."""
    problem = problem_with(nn.Linear(8, 1024), nn.ReLU(), nn.Linear(1024, 1024), nn.ReLU(), nn.Linear(1024, 1))
    updates = prepared(problem)
    with pytest.raises(CaseEnded, match="on two threads: use --threads 2") as raised:
        updates(torch.randn(1, 256, 8), torch.randn(1, 256, 1))
    assert raised.value.outcome == Outcome.UNSUPPORTED


def test_without_jax_it_says_in_one_line_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    problem = problem_with(nn.Linear(2, 2))
    reason = JaxScan().unsupported(problem, case_of(problem))
    assert reason == "JAX is not installed: pip install -e '.[jax]'"


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
def test_on_a_gpu_it_does_the_same() -> None:
    result = in_a_process_of_its_own(PROCESS.replace('"cpu"', '"cuda"', 1))
    if "JAX finds no" in result.stderr:
        pytest.skip(result.stderr.splitlines()[-1])
    assert result.returncode == 0, result.stderr
