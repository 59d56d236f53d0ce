"""What a busy neighbour does to a number: `autograd` at batch 100 on a quiet core, and on one that works in bursts.

    python tests/benchmarks/disturbance.py [PAIRS]

Fresh processes in turn. Prints each pair, what the row says of it, and the median ratio, disturbed over quiet. Exits 1
when that moves by 3 % or more, or a disturbed row does not say so.
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
from harness.running.launcher import Launcher, worker_environment  # noqa: E402

LIMIT = 0.03
# Works for 5 to 50 ms, sleeps for 10 to 100 ms.
BURSTS = """
import random, time
while True:
    end = time.perf_counter() + random.uniform(0.005, 0.05)
    while time.perf_counter() < end:
        pass
    time.sleep(random.uniform(0.01, 0.1))
"""


def measured(where: Placement, launcher: Launcher) -> dict[str, Any]:
    """Return the record of one worker process."""
    case = Case("line", "autograd", "cpu", "float32", 100)
    record = launcher.measure(Request(case, 0, 0, cpus=where.worker, threads=where.threads))
    assert record["outcome"] == "ok", record
    return record


def disturbed(where: Placement, launcher: Launcher) -> dict[str, Any]:
    """Return the record of one worker process whose core another process works on in bursts."""
    neighbour = subprocess.Popen([sys.executable, "-c", BURSTS])
    os.sched_setaffinity(neighbour.pid, where.worker)
    try:
        return measured(where, launcher)
    finally:
        neighbour.kill()
        neighbour.wait()


def main() -> None:
    """Measure the pairs, each in the other order than the one before."""
    ratios, silent = [], 0
    with TemporaryDirectory() as cache, away_from_workers() as allowed:
        where, launcher = place("cpu", 1, allowed), Launcher(worker_environment(Path(cache)))
        for pair in range(int(sys.argv[1]) if len(sys.argv) > 1 else 10):
            quiet = measured(where, launcher) if pair % 2 else None
            loud = disturbed(where, launcher)
            quiet = quiet or measured(where, launcher)
            ratios.append(loud["step_ns"] / quiet["step_ns"])
            silent += not loud["blocks_disturbed"]
            print(
                f"pair {pair + 1}: quiet {quiet['step_ns'] / 1e3:.1f} µs ({quiet['blocks_disturbed']} of "
                f"{quiet['blocks']} blocks disturbed), with a busy neighbour {loud['step_ns'] / 1e3:.1f} µs "
                f"({loud['blocks_disturbed']} of {loud['blocks']}: {loud['disturbances']}, {loud['stop_rule']}), "
                f"median of its blocks {loud['step_median_ns'] / quiet['step_median_ns']:.3f}, ratio {ratios[-1]:.4f}",
                flush=True,
            )
    median = statistics.median(ratios)
    print(f"median ratio {median:.4f}, from {min(ratios):.4f} to {max(ratios):.4f}; {silent} rows say nothing of it")
    sys.exit(abs(median - 1) >= LIMIT or silent > 0)


if __name__ == "__main__":
    main()
