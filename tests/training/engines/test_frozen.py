import ast
import hashlib
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from harness.plan.case import Case
from harness.training.contract import Problem
from harness.training.engines import frozen
from harness.training.gate import check_updates
from harness.training.loading import load_workload
from harness.training.trial import begin, problem_of

FILE = Path(frozen.__file__)
SHA256 = "6816341fc46cca0cf87eebf15d70c4ca04fd07a09c43cb0a73f05fb73e474d92"
CASE = Case("line", "frozen", "cpu", "float32", 100)


def test_the_file_is_what_it_always_was():
    assert hashlib.sha256(FILE.read_bytes()).hexdigest() == SHA256, (
        "engines/frozen.py was changed. Never change it, and not this digest either: its only use is that it stays, so "
        "that its times tell a slower machine from a slower commit. Take the change back, or make an engine frozen2."
    )


def test_it_imports_nothing_that_a_commit_may_change():
    imported = {
        name.partition(".")[0]
        for node in ast.walk(ast.parse(FILE.read_text("utf-8")))
        if isinstance(node, ast.Import | ast.ImportFrom)
        for name in ([node.module or "."] if isinstance(node, ast.ImportFrom) else [alias.name for alias in node.names])
    }
    assert imported - set(sys.stdlib_module_names) == {"torch"}


@pytest.mark.parametrize("workload", ["line", "line_deep"])
@pytest.mark.parametrize("batch_size", [100, 1000])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_it_passes_the_gate_on_both_networks(workload, batch_size, dtype):
    made, device = load_workload(workload), torch.device("cpu")
    problem, trial = problem_of(made, batch_size, device, dtype), begin(made, batch_size, 3, device, dtype)
    engine = frozen.Frozen()
    assert engine.unsupported(problem, CASE) is None
    updates = engine.prepare(problem, 20)
    updates.load(trial.parameters)
    assert check_updates(problem, updates, *trial.batches(20)) <= 1


@pytest.mark.parametrize(
    ("model", "loss", "told"),
    [
        (nn.Linear(2, 2), nn.MSELoss(), "begins with nn.Linear"),
        (nn.Sequential(), nn.MSELoss(), "begins with nn.Linear"),
        (nn.Sequential(nn.ReLU(), nn.Linear(2, 2)), nn.MSELoss(), "begins with nn.Linear"),
        (nn.Sequential(nn.Linear(2, 2), nn.Tanh()), nn.MSELoss(), "not Tanh (1)"),
        (nn.Sequential(nn.Linear(2, 2), nn.Sequential(nn.ReLU())), nn.MSELoss(), "not Sequential (1)"),
        (nn.Sequential(nn.Linear(2, 2, bias=False)), nn.MSELoss(), "not Linear (0)"),
        (nn.Sequential(nn.Linear(2, 2)), nn.MSELoss(reduction="sum"), "nn.MSELoss"),
        (nn.Sequential(nn.Linear(2, 2)), nn.L1Loss(), "nn.MSELoss"),
    ],
    ids=lambda value: str(value).replace("\n", "") if isinstance(value, nn.Module) else "",
)
def test_it_says_what_it_was_not_written_for(model, loss, told):
    reason = frozen.Frozen().unsupported(Problem(model, loss, 0.1, 4), CASE)
    assert told in reason
    assert "\n" not in reason
