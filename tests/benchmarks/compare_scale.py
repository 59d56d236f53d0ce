"""How long `harness compare` takes, by rows: two CSV files of 1,000 to 1,000,000 rows each, in rounds of 1,000 cases.

    python tests/benchmarks/compare_scale.py [ROWS …]

Measures one real case in one round, makes files of such rows, and runs the program on each pair three times: as of two
sessions, and as `ab` writes them, of which more columns are read. Prints the fastest wall time and CPU time, what the
latter is a row without what it takes to start – about the same everywhere where it grows linearly –, and the most
memory. Exits 1 when 100,000 rows take more than 2 s.
"""

import csv
import io
import os
import subprocess
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

ROOT = Path(__file__).parent.parent.parent
LIMIT_S = 2.0
SIZES = (1_000, 10_000, 30_000, 100_000, 300_000, 1_000_000)
TINY = ("--workload", "line", "--engine", "manual", "--batch-size", "100", "--rounds", "1", "--seeds", "1", "--quiet")
# Python keeps what it compiled, as it does for a user who has started it before.
ENVIRONMENT = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
VARIED = ("batch_size", "case_id", "round", "step_ns", "core_ns", "disturbances")


def harness(*arguments: object) -> tuple[float, float, float]:
    """Run the program; return its wall and CPU time in s, and its memory in MiB."""
    command = [sys.executable, "-m", "harness", *map(str, arguments)]
    begun = time.perf_counter()
    process = subprocess.Popen(command, cwd=ROOT, env=ENVIRONMENT, stdout=subprocess.DEVNULL)
    _, status, used = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    assert process.returncode in (0, 1)
    return time.perf_counter() - begun, used.ru_utime + used.ru_stime, used.ru_maxrss / 1024


def real_row(folder: Path) -> dict[str, str]:
    """Return the row of a real process, as its run wrote it."""
    harness("run", *TINY, "--out", folder)
    (measurements,) = folder.glob("*/*/measurements.csv")
    with measurements.open(newline="", encoding="utf-8") as file:
        return next(csv.DictReader(file))


def make(path: Path, real: dict[str, str], rows: int, *, side: int, session: str) -> None:
    """Write a run of so many rows: step times spread by 1 %, and one case in a hundred is slower by 5 % in the new."""
    cases = min(1000, rows // 10)
    row = real | {"run_id": f"20261124T11483{side}Z-9d137a38a0", "session": session, "dirty": "False"}
    line = io.StringIO()
    csv.writer(line, lineterminator="\n").writerows(
        [row, [f"{{{name}}}" if name in VARIED else cell for name, cell in row.items()]]
    )
    header, form = line.getvalue().splitlines(keepends=True)
    logs = np.random.default_rng(side).normal(0, 0.01, (2, rows // cases, cases))
    logs[0, :, ::100] += 0.05 * side
    path.parent.mkdir(exist_ok=True)
    with path.open("w", encoding="utf-8", newline="") as file:
        file.write(header)
        for number in range(rows // cases):
            steps, cores = (base * np.exp(each[number]) for base, each in zip((1e5, 1e4), logs, strict=True))
            file.writelines(
                form.format(
                    batch_size=case + 1,
                    case_id=f"line/manual/cpu/float32/b{case + 1}",
                    round=number,
                    step_ns=f"{steps[case]:.9g}",
                    core_ns=f"{cores[case]:.9g}",
                    disturbances=f'"slow core {case % 50 + 1}, preempted {number % 7 + 1}"',  # has quotes, as most have
                )
                for case in range(cases)
            )


def main() -> int:
    sizes = tuple(map(int, sys.argv[1:])) or SIZES
    print(f"{'rows':>9}{'MiB':>6}{'sessions':>10}{'wall s':>8}{'CPU s':>8}{'CPU µs a row':>14}{'memory MiB':>12}")
    least, slow = 0.0, False
    with TemporaryDirectory() as name:
        folder = Path(name)
        real = real_row(folder / "real")
        base, new = (folder / side / "measurements.csv" for side in ("base", "new"))
        for rows in sizes:
            for sessions in (2, 1):
                for side, path in enumerate((base, new)):
                    make(path, real, rows, side=side, session=f"session-{side if sessions == 2 else 'ab'}")
                runs = [harness("compare", base, new, "--format", "json") for _ in range(3)]
                wall, cpu, memory = (min(each) for each in zip(*runs, strict=True))
                least = least or cpu
                each = f"{(cpu - least) / rows / 2 * 1e6:.1f}" if rows > sizes[0] else ""
                size = base.stat().st_size / 2**20
                print(
                    f"{rows:>9}{size:>6.0f}{sessions:>10}{wall:>8.2f}{cpu:>8.2f}{each:>14}{memory:>12.0f}", flush=True
                )
                slow |= rows <= 100_000 and wall > LIMIT_S
    if slow:
        print(f"slower than {LIMIT_S} s")
    return int(slow)


if __name__ == "__main__":
    sys.exit(main())
