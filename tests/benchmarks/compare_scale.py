"""How long `harness compare` takes, by rows: two CSV files of 100 to 100,000 rows each, the latter 1,000 cases × 100.

    python tests/benchmarks/compare_scale.py [ROWS …]

Makes files with every column that a run has, runs the program on each pair three times, and prints the fastest, the
least CPU time, and what that is a row without what it takes to start. Exits 1 when 100,000 rows take more than 2 s.
Files of more than 64 MiB are refused, which is some 100,000 rows.
"""

import csv
import os
import subprocess
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

ROOT = Path(__file__).parent.parent.parent
sys.path.insert(0, str(ROOT))

from harness.tables.columns import MEASUREMENTS  # noqa: E402

LIMIT_S = 2.0
SIZES = (100, 1_000, 10_000, 30_000, 100_000)
REAL = ROOT / "tests/tables/data/schema1/measurements.csv"
ENVIRONMENT = "cpu_model=AMD EPYC; cpus=2; machine_arch=x86_64; torch=2.13.0+cpu; python_minor=3.11"


def make(path: Path, rows: int, seed: int) -> None:
    """Write a run of so many rows: step times spread by 1 %, and one case in a hundred is slower by 5 % in odd runs."""
    rounds = max(2, min(100, rows // 10))
    cases = rows // rounds
    with REAL.open(newline="", encoding="utf-8") as file:
        row = next(csv.DictReader(file))
    row |= {"session": "monday", "workload_digest": "0123456789ab", "environment": ENVIRONMENT}
    row["run_id"] = f"20261124T11483{seed}Z-9d137a38a0"
    steps = 1e5 * np.exp(np.random.default_rng(seed).normal(0, 0.01, (cases, rounds)))
    steps[::100] *= 1 + 0.05 * (seed % 2)
    names = [column.name for column in MEASUREMENTS]
    before, varied = names[: names.index("step_ns")], names[names.index("step_ns") + 1 :]
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(names)
        for case in range(cases):
            row |= {"batch_size": str(case + 1), "case_id": f"line/manual/cpu/float32/b{case + 1}"}
            for number in range(rounds):
                row["round"] = str(number)
                row["disturbances"] = "preempted 7, stolen 1" if number % 2 else ""  # the one cell with quotes
                writer.writerow(
                    [row.get(name, "") for name in before]
                    + [f"{steps[case, number]:.9g}"]
                    + [row.get(name, "") for name in varied]
                )


def seconds(base: Path, new: Path) -> tuple[float, float]:
    """Return how long the program takes, wall and CPU, the fastest of three."""
    taken = []
    command = [sys.executable, "-m", "harness", "compare", str(base), str(new), "--format", "json"]
    for _ in range(3):
        begun, used = time.perf_counter(), os.times()
        done = subprocess.run(command, cwd=ROOT, capture_output=True, check=False)
        now = os.times()
        cpu = now.children_user + now.children_system - used.children_user - used.children_system
        taken.append((time.perf_counter() - begun, cpu))
        assert done.returncode in (0, 1), done.stderr
    return min(wall for wall, _ in taken), min(cpu for _, cpu in taken)


def main() -> int:
    sizes = tuple(map(int, sys.argv[1:])) or SIZES
    print(f"{'rows':>8}{'MiB':>7}{'wall s':>9}{'CPU s':>8}{'CPU µs a row':>14}")
    least, slow = 0.0, False
    with TemporaryDirectory() as folder:
        for rows in sizes:
            base, new = (Path(folder) / name / "measurements.csv" for name in ("base", "new"))
            for seed, path in enumerate((base, new)):
                path.parent.mkdir(exist_ok=True)
                make(path, rows, seed)
            wall, cpu = seconds(base, new)
            least = least or cpu
            each = f"{(cpu - least) / rows / 2 * 1e6:.1f}" if cpu > least else ""
            print(f"{rows:>8}{base.stat().st_size / 2**20:>7.1f}{wall:>9.2f}{cpu:>8.2f}{each:>14}", flush=True)
            slow |= rows <= 100_000 and wall > LIMIT_S
    if slow:
        print(f"slower than {LIMIT_S} s")
    return int(slow)


if __name__ == "__main__":
    sys.exit(main())
