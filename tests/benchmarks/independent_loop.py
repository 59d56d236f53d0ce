"""Holds the program's numbers against `plain_loop.py`, in fresh processes, in turn, on the same CPU.

    python tests/benchmarks/independent_loop.py [PAIRS]

Two updates at batch 100: `line_deep` by hand, of 60 to 100 µs (`naive_engine.py`), and `line` by autograd. Prints each
pair and the median ratios, program over plain loop. Exits 1 when that of the first is off by more than 1 %.
"""

import os
import statistics
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

ROOT = Path(__file__).parent.parent.parent
sys.path.insert(0, str(ROOT))

from harness.measuring.cpus import Placement, away_from_workers, place  # noqa: E402
from harness.measuring.protocol import Request  # noqa: E402
from harness.plan.case import Case  # noqa: E402
from harness.plan.presets import Sampling  # noqa: E402
from harness.running.launcher import Launcher, worker_environment  # noqa: E402

HERE = Path(__file__).parent
LIMIT = 0.01
LOOPS = {"naive": ("line_deep", f"{HERE / 'naive_engine.py'}:Naive"), "autograd": ("line", "autograd")}


def program(loop: str, where: Placement, launcher: Launcher) -> dict[str, Any]:
    """Return the program's own record: one worker process, as `harness run` starts it, over 1.5 s."""
    case = Case(*LOOPS[loop], "cpu", "float32", 100)
    sampling = Sampling(relative_width=0.0)
    record = launcher.measure(Request(case, 0, 0, sampling, where.worker, where.threads))
    assert record["outcome"] == "ok", record
    return record


def plain_ns(loop: str, steps: int, where: Placement) -> float:
    """Return the plain loop's step time."""
    command = [sys.executable, str(HERE / "plain_loop.py"), loop, str(steps)]
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, where.worker)
    try:
        process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    finally:
        os.sched_setaffinity(0, before)
    return float(process.communicate()[0])


def main() -> None:
    """Measure the pairs, each in the other order than the one before."""
    pairs = int(sys.argv[1]) if len(sys.argv) > 1 else 20
    ratios: dict[str, list[float]] = {loop: [] for loop in LOOPS}
    with TemporaryDirectory() as cache, away_from_workers() as allowed:
        where, launcher = place("cpu", 1, allowed), Launcher(worker_environment(Path(cache)))
        steps = {loop: program(loop, where, launcher)["block_steps"] for loop in LOOPS}
        for pair in range(pairs):
            for loop in LOOPS:
                plain = plain_ns(loop, steps[loop], where) if pair % 2 else 0.0
                record = program(loop, where, launcher)
                plain = plain or plain_ns(loop, steps[loop], where)
                ratios[loop].append(record["step_ns"] / plain)
                print(
                    f"pair {pair + 1}: {loop}: program {record['step_ns'] / 1e3:.2f} µs ({record['block_steps']} to a "
                    f"block), plain loop {plain / 1e3:.2f} µs ({steps[loop]}), {ratios[loop][-1]:.4f}",
                    flush=True,
                )
    for loop, values in ratios.items():
        print(f"{loop}: median ratio {statistics.median(values):.4f}, from {min(values):.4f} to {max(values):.4f}")
    sys.exit(abs(statistics.median(ratios["naive"]) - 1) > LIMIT)


if __name__ == "__main__":
    main()
