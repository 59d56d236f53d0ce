"""The package of docs/examples/own-model, really installed and run: fifteen seconds, so not among the quick tests."""

import os
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest

ROOT = Path(__file__).parents[2]
EXAMPLE = ROOT / "docs/examples/own-model"


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """What a Python is started with that has the package installed, beside the program."""
    folder = tmp_path_factory.mktemp("own_model")
    shutil.copytree(EXAMPLE, folder / "source")  # setuptools builds in the folder of the source
    offline = ("--no-index", "--no-deps", "--no-build-isolation", "--quiet")
    command = [sys.executable, "-m", "pip", "install", *offline, "--target", folder / "site", folder / "source"]
    subprocess.run(command, check=True, timeout=120)
    return {**os.environ, "PYTHONPATH": os.pathsep.join((str(ROOT), str(folder / "site")))}


def program(*arguments: str | Path, environment: dict[str, str], module: str = "harness") -> str:
    command = [sys.executable, "-P", "-m", module, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False, env=environment)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.parametrize(
    ("what", "line"),
    [("workloads", "rings  from own_model:Rings"), ("engines", "plain_grad  from own_model:PlainGrad")],
)
def test_what_a_package_offers_is_listed_by_its_name(environment: dict[str, str], what: str, line: str) -> None:
    listed = program("list", what, environment=environment).splitlines()
    assert line.split() in [row.split() for row in listed]


def test_the_run_of_its_readme_trains_its_model_by_its_engine(environment: dict[str, str], tmp_path: Path) -> None:
    (line,) = [
        line for line in (EXAMPLE / "README.md").read_text("utf-8").splitlines() if line.startswith("harness run")
    ]
    arguments = (*shlex.split(line)[1:], "--rounds", "1", "--seeds", "4", "--out", tmp_path)
    program(*arguments, environment=environment, module="tests.short")
    (run,) = tmp_path.glob("*/*")
    rows = pd.read_csv(run / "summary.csv").set_index("engine")
    assert sorted(rows.index) == ["autograd", "plain_grad"]
    assert set(rows["workload"]) == {"rings"}
    assert set(rows["outcome"]) == {"ok"}
    assert (rows["step_ns"] > 0).all()
    assert (rows["converged_share"] == 1).all()
