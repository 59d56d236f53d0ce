"""JAX beside autograd, for real: in the gate at small and large batches, and measured in processes of their own."""

import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
import torch

from harness.training.engines.jax_scan import JaxScan
from harness.training.gate import check_updates
from harness.training.loading import load_workload
from harness.training.trial import begin, problem_of

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize(("name", "batch_size"), [("line", 100), ("line", 10_000), ("line_deep", 10)])
def test_it_passes_the_gate_at_small_and_large_batches(name: str, batch_size: int) -> None:
    pytest.importorskip("jax")
    workload, device = load_workload(name), torch.device("cpu")
    problem = problem_of(workload, batch_size, device, torch.float32)
    trial, updates = begin(workload, batch_size, 0, device, torch.float32), JaxScan().prepare(problem, 20)
    updates.load(trial.parameters)
    assert check_updates(problem, updates, *trial.batches(20)) <= 1


def test_a_run_beside_autograd_times_both_and_ends_with_the_same_losses(tmp_path: Path) -> None:
    """Real batches of ten; the worker looks at cores, seals, blocks and single updates."""
    pytest.importorskip("jax")
    chosen = ["--workload", "line", "--engine", "jax_scan", "--engine", "autograd", "--batch-size", "10"]
    command = ["run", *chosen, "--rounds", "1", "--seeds", "8", "--out", str(tmp_path)]
    result = subprocess.run(
        [sys.executable, "-m", "tests.short", *command], cwd=ROOT, capture_output=True, text=True, check=False
    )
    [folder] = tmp_path.glob("*/*")
    jax, autograd = (
        pd.read_csv(folder / "summary.csv").set_index("engine").loc[name] for name in ("jax_scan", "autograd")
    )
    assert (jax["outcome"], autograd["outcome"]) == ("ok", "ok"), result.stdout
    assert jax["step_ns"] > 0
    assert jax["loss_p50"] == pytest.approx(autograd["loss_p50"], rel=1e-3)
