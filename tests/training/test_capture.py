"""Captured updates, by a stand-in for CUDA graphs; with a GPU by the real ones, which test_contract.py gates too."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from harness.measuring.device import profile_cuda
from harness.plan.case import Case
from harness.training import trial
from harness.training.capture import CapturedUpdates, needs_cuda
from harness.training.contract import Problem
from harness.training.engines.manual import Manual
from harness.training.gate import copied
from harness.training.loading import load_engine, load_workload
from harness.training.steps import StepUpdates, autograd_step
from harness.training.trial import begin, problem_of
from tests.training.recording import recorded

STEPS = 3
LENGTHS = (1, 2, 3, 4, 6, 7, 20)


def classes() -> Problem:
    return Problem(nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 3)), nn.CrossEntropyLoss(), 0.1, 6)


def numbers() -> Problem:
    return Problem(nn.Sequential(nn.Linear(4, 5), nn.ReLU(), nn.Linear(5, 3)), nn.MSELoss(), 0.1, 6)


def batches_for(problem: Problem, steps: int, seed: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    inputs = torch.randn(steps, 6, 4, generator=generator)
    if isinstance(problem.loss, nn.CrossEntropyLoss):
        return inputs, torch.randint(3, (steps, 6), generator=generator)
    return inputs, torch.randn(steps, 6, 3, generator=generator)


def by_hand(problem: Problem) -> Any:
    return Manual().prepare(problem, STEPS)


def by_autograd(problem: Problem) -> Any:
    model = problem.model()
    return StepUpdates(model, autograd_step(problem, model))


@pytest.mark.parametrize("engine", [by_hand, by_autograd])
@pytest.mark.parametrize("make", [numbers, classes])
@pytest.mark.parametrize("expanded", ["", "inputs", "targets", "both"])
def test_calls_of_any_length_are_the_updates_of_the_captured_engine(make: Any, engine: Any, expanded: str) -> None:
    """Bit for bit, call after call, each with memory of its own: full chunks, the rest, one batch for all steps."""
    problem = make()
    captured, plain = CapturedUpdates(engine(problem), STEPS, recorded), engine(problem)
    for seed, steps in enumerate(LENGTHS):
        inputs, targets = batches_for(problem, steps, seed)
        if expanded in ("inputs", "both"):
            inputs = inputs[0].expand(inputs.shape)
        if expanded in ("targets", "both"):
            targets = targets[0].expand(targets.shape)
        assert torch.equal(captured(inputs, targets), plain(inputs, targets))
        for name, value in plain.parameters().items():
            assert torch.equal(captured.parameters()[name], value)


def test_the_first_call_leaves_no_trace_of_warming_up() -> None:
    problem = numbers()
    captured, plain = CapturedUpdates(by_hand(problem), STEPS, recorded), by_hand(problem)
    inputs, targets = batches_for(problem, 1, 0)
    assert torch.equal(captured(inputs, targets), plain(inputs, targets))
    torch.testing.assert_close(captured.parameters(), plain.parameters(), rtol=0, atol=0)


def test_weights_are_loaded_into_the_captured_memory() -> None:
    problem = numbers()
    captured = CapturedUpdates(by_hand(problem), STEPS, recorded)
    start = copied(captured.parameters())
    inputs, targets = batches_for(problem, 7, 0)
    first = captured(inputs, targets)
    captured.load(start)
    assert torch.equal(captured(inputs, targets), first)
    assert captured(inputs, targets)[0] != first[0]


def test_inputs_that_change_where_they_are_are_seen() -> None:
    """As the timed blocks' do; a batch that is expanded over steps is copied once a call, but in every call."""
    problem = numbers()
    captured = CapturedUpdates(by_hand(problem), STEPS, recorded)
    start = copied(captured.parameters())
    inputs, targets = (values[0].expand(7, *values.shape[1:]) for values in batches_for(problem, 1, 0))
    first = captured(inputs, targets)
    inputs[0].mul_(1.01)
    captured.load(start)
    assert captured(inputs, targets)[0] != first[0]


class Copies(TorchDispatchMode):
    """Counts copies, each a launch on a GPU."""

    count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.count += func is torch.ops.aten.copy_.default
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("expanded", [True, False])
@pytest.mark.parametrize(("steps", "replays"), [(12, 4), (13, 4 + 1), (2, 2)])
def test_one_batch_for_all_steps_is_copied_once_a_call_and_real_batches_once_a_replay(
    steps: int, replays: int, expanded: bool
) -> None:
    """Inputs and targets are copied in, and the losses of each replay out."""
    problem = numbers()
    captured = CapturedUpdates(by_hand(problem), STEPS, lambda _run: lambda: None)
    inputs, targets = batches_for(problem, steps, 0)
    if expanded:
        inputs, targets = inputs[0].expand(inputs.shape), targets[0].expand(targets.shape)
    captured(inputs[:1], targets[:1])
    with Copies() as counted:
        captured(inputs, targets)
    assert counted.count == (2 + replays if expanded else 3 * replays)


def test_large_batches_get_fewer_slots(monkeypatch: pytest.MonkeyPatch) -> None:
    problem = numbers()
    inputs, targets = batches_for(problem, 5, 0)
    captures: list[Any] = []

    def counted(run: Any) -> Any:
        captures.append(run)
        return recorded(run)

    monkeypatch.setattr(trial, "MAX_CHUNK_BYTES", 1)
    plain, captured = by_hand(problem), CapturedUpdates(by_hand(problem), STEPS, counted)
    assert torch.equal(captured(inputs, targets), plain(inputs, targets))
    assert len(captures) == 1


@pytest.mark.parametrize(("device", "wanted"), [("cpu", True), ("cuda", False), ("cuda:1", False)])
def test_only_a_gpu_can_be_captured_on(device: str, wanted: bool) -> None:
    assert bool(needs_cuda(Case("line", "cuda_graph_manual", device, "float32", 10))) is wanted


CAPTURED = ("cuda_graph_manual", "cuda_graph_autograd", "cuda_graph_compile", "compile_reduce_overhead")


@pytest.mark.cuda
@pytest.mark.parametrize("name", CAPTURED)
def test_on_a_gpu_updates_are_launched_as_graphs(name: str) -> None:
    torch.compiler.reset()
    device = torch.device("cuda")
    problem = problem_of(load_workload("line"), 10, device, torch.float32)
    start = begin(load_workload("line"), 10, 0, device, torch.float32)
    updates = load_engine(name).prepare(problem, STEPS)
    updates.load(start.parameters)
    inputs, targets = start.batches(2 * STEPS)
    updates(inputs, targets)
    torch.cuda.synchronize()
    activities = profile_cuda(lambda: updates(inputs, targets))
    launched = sum(activity.name.startswith("cudaGraphLaunch") for activity in activities)
    assert launched == (2 * STEPS if name.startswith("compile") else 2)


@pytest.mark.cuda
@pytest.mark.parametrize("name", CAPTURED[:3])
@pytest.mark.parametrize("steps", [1, STEPS, 2 * STEPS + 1])
def test_on_a_gpu_a_graph_makes_the_updates_of_the_engine_that_it_captured(name: str, steps: int) -> None:
    torch.compiler.reset()
    device = torch.device("cuda")
    problem = problem_of(load_workload("line_deep"), 10, device, torch.float32)
    start = begin(load_workload("line_deep"), 10, 0, device, torch.float32)
    inputs, targets = start.batches(steps)
    found = []
    for updates in (load_engine(name).prepare(problem, STEPS), load_engine("autograd").prepare(problem, STEPS)):
        for _ in range(2):
            updates.load(start.parameters)
            losses = updates(inputs, targets).clone()
        found.append((losses, copied(updates.parameters())))
    torch.testing.assert_close(*found, rtol=1e-4, atol=1e-6)
