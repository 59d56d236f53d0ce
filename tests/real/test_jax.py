"""JAX beside autograd, for real: measured in processes of their own (a process that has JAX must not be forked)."""

import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest

ROOT = Path(__file__).parents[2]


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
