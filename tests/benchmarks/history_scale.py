"""How long `harness history` takes, by runs and cases: 200 runs of 200 cases, and up to ten times as many of either.

    python tests/benchmarks/history_scale.py

Makes the folders, runs the program on each three times, and prints the fastest, the least CPU time, and what that is
a row of a summary, without what it takes to start: about the same everywhere where the time grows linearly. Exits 1
when 200 runs of 200 cases take more than 5 s.
"""

import os
import subprocess
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

ROOT = Path(__file__).parent.parent.parent
sys.path.insert(0, str(ROOT))

from tests.stored_sessions import write_run  # noqa: E402

LIMIT_S = 5.0
SIZES = (
    (1, 1),
    (20, 200),
    (200, 20),
    (200, 200),
    (500, 200),
    (1000, 200),
    (2000, 200),
    (200, 500),
    (200, 1000),
    (200, 2000),
)
# Python keeps what it compiled, as it does for a user who has started it before.
ENVIRONMENT = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
ENGINES = ("manual", "autograd", "compile", "compile_step", "frozen")


def make(machine: Path, runs: int, cases: int) -> None:
    """Store so many runs, of step times that spread by 1 %."""
    names = [f"line/{ENGINES[case % len(ENGINES)]}/cpu/float32/b{case}" for case in range(1, cases + 1)]
    noise = np.random.default_rng(0).normal(0, 0.01, (runs, cases))
    for number, row in enumerate(noise):
        steps = 1e5 * np.exp(row)
        write_run(machine, number, dict(zip(names, steps.tolist(), strict=True)), environment="torch=2.13.0; cpus=2")


def seconds(machine: Path) -> tuple[float, float]:
    """Return how long the program takes, wall and CPU, the fastest of three."""
    taken = []
    for _ in range(3):
        begun, used = time.perf_counter(), os.times()
        done = subprocess.run(
            [sys.executable, "-m", "harness", "history", str(machine)],
            cwd=ROOT,
            env=ENVIRONMENT,
            capture_output=True,
            check=False,
        )
        now = os.times()
        cpu = now.children_user + now.children_system - used.children_user - used.children_system
        taken.append((time.perf_counter() - begun, cpu))
        assert done.returncode in (0, 1), done.stderr
    return min(wall for wall, _ in taken), min(cpu for _, cpu in taken)


def main() -> None:
    """Print the table."""
    slow, start = False, 0.0
    print(f"{'runs':>5} {'cases':>5} {'MB':>6} {'s':>6} {'CPU s':>6} {'µs a row':>8}")
    for runs, cases in SIZES:
        with TemporaryDirectory() as folder:
            machine = Path(folder) / "machine"
            make(machine, runs, cases)
            size = sum(file.stat().st_size for file in machine.rglob("*.csv"))
            wall, cpu = seconds(machine)
        start = start or cpu
        slow |= (runs, cases) == (200, 200) and wall > LIMIT_S
        row = (cpu - start) / runs / cases * 1e6
        print(f"{runs:5} {cases:5} {size / 1e6:6.1f} {wall:6.2f} {cpu:6.2f} {row:8.1f}", flush=True)
    sys.exit(slow)


if __name__ == "__main__":
    main()
