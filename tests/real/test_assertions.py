"""The program's promises, broken one by one in real runs: each ends with exit code 1 and is named."""

import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest

ROOT = Path(__file__).parents[2]
MISTAKES = ("ReluMaskForgotten", "FactorTwoLost", "StaleActivations")  # all of them: tests/training/test_gate.py

OWN = """
import time
from harness.training.engines.manual import Manual
from harness.training.workloads.line import Line

class WorseLearningRate(Line):
    learning_rate = 0.001

class TooFewEpochs(Line):
    epochs = 2

class Slower(Manual):
    def prepare(self, problem, steps):
        updates = super().prepare(problem, steps)
        return Sleepy(updates)

class Sleepy:
    def __init__(self, inner):
        self.inner, self.load, self.parameters = inner, inner.load, inner.parameters

    def __call__(self, inputs, targets):
        time.sleep(0.003 * len(inputs))  # ten times as slow, so that a busy machine leaves no doubt
        return self.inner(inputs, targets)
"""

SWEEP = """
rounds = 3
seeds = 16

[[grid]]
workload = "line"
engine = ["manual", "autograd", "{own}:Slower"]
batch_size = 100

[[grid]]
workload = ["{own}:WorseLearningRate", "{own}:TooFewEpochs"]
engine = "manual"
batch_size = 100

[[target]]
engine = "own.py:Slower"
min_ratio_to_autograd = 1.0

[[target]]
engine = "manual"
workload = "line"
min_ratio_to_autograd = 1000.0
"""


def harness(*arguments: str | Path, cwd: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "tests.short", "run", *arguments, "--out", str(cwd / "out")],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
        cwd=ROOT,
    )


def table(folder: Path, name: str) -> pd.DataFrame:
    (run,) = (folder / "out").glob("*/*")
    return pd.read_csv(run / f"{name}.csv").set_index("case_id")


@pytest.fixture(scope="module")
def broken(tmp_path_factory: pytest.TempPathFactory) -> tuple[subprocess.CompletedProcess[str], Path]:
    folder = tmp_path_factory.mktemp("broken")
    (folder / "own.py").write_text(OWN)
    (folder / "sweep.toml").write_text(SWEEP.format(own=folder / "own.py"))
    return harness("--sweep", folder / "sweep.toml", cwd=folder), folder


Broken = tuple[subprocess.CompletedProcess[str], Path]


@pytest.mark.parametrize(
    ("what", "named"),
    [
        ("a slower engine", "MISSED line/own.py:Slower/cpu/float32/b100: ratio_to_autograd >= 1: 0."),
        ("a raised threshold", "MISSED line/manual/cpu/float32/b100: ratio_to_autograd >= 1000: "),
        (
            "a worse learning rate",
            "MISSED own.py:WorseLearningRate/manual/cpu/float32/b100: converged_share >= 0.75: 0.000",
        ),
        ("too few epochs", "MISSED own.py:TooFewEpochs/manual/cpu/float32/b100: loss_p50 <= 0.05: "),
    ],
)
def test_a_broken_target_ends_with_1_and_is_named(broken: Broken, what: str, named: str) -> None:
    done, _ = broken
    assert done.returncode == 1, done.stderr
    assert named in done.stdout


def test_what_does_not_converge_gets_no_time_and_the_honest_neighbour_keeps_its_own(broken: Broken) -> None:
    _, folder = broken
    summary = table(folder, "summary")
    for workload in ("WorseLearningRate", "TooFewEpochs"):
        row = summary.loc[f"own.py:{workload}/manual/cpu/float32/b100"]
        assert row["outcome"] == "not_converged"
        assert pd.isna(row["step_ns"])
        assert pd.isna(row["samples_per_s"])
    assert summary.loc["line/autograd/cpu/float32/b100", "outcome"] == "ok"
    assert summary.loc["line/autograd/cpu/float32/b100", "step_ns"] > 0


def test_no_engine_is_below_the_floor_and_what_bounds_it_is_said(broken: Broken) -> None:
    timed = table(broken[1], "summary").query("outcome == 'ok'").set_index("engine")
    assert set(timed.index) == {"manual", "autograd", "own.py:Slower"}
    assert timed["floor_ns"].nunique() == 1
    assert (timed["above_floor"] >= 1).all()
    assert set(timed["bound_by"].dropna()) <= {"python"}
    measured = table(broken[1], "measurements").query("outcome == 'ok' and round == 0")
    assert (measured["flops_per_step"] == 10_000).all()
    assert (measured["calls_per_step"] > 10).all()


def test_planted_mistakes_end_as_wrong_gradient_with_the_tensor_and_without_a_time_and_the_run_goes_on(
    tmp_path: Path,
) -> None:
    engines = [flag for name in MISTAKES for flag in ("--engine", f"tests/mistakes.py:{name}")]
    few = ("--workload", "line", "--batch-size", "100", "--rounds", "1", "--seeds", "4")
    done = harness(*engines, "--engine", "manual", *few, cwd=tmp_path)
    assert done.returncode == 1, done.stderr
    summary, measurements = table(tmp_path, "summary"), table(tmp_path, "measurements")
    for name in MISTAKES:
        case_id = f"line/mistakes.py:{name}/cpu/float32/b100"
        assert summary.loc[case_id, "outcome"] == "wrong_gradient"
        assert "off by" in summary.loc[case_id, "reason"]
        assert pd.isna(summary.loc[case_id, "step_ns"])
        assert pd.isna(measurements.loc[case_id, "step_ns"])
        assert f"wrong_gradient {case_id}: update " in done.stdout
    assert summary.loc["line/manual/cpu/float32/b100", "outcome"] == "ok"
