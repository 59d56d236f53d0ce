"""Holds the program's number for eager autograd against `plain_loop.py`, in fresh processes, in turn.

    python tests/benchmarks/independent_loop.py [PAIRS]

Prints each pair and the median ratio, program over plain loop. Exits 1 when that is off by more than 3 %.
"""

import json
import statistics
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent.parent
sys.path.insert(0, str(ROOT))

from harness.measuring.protocol import Request  # noqa: E402
from harness.plan.case import Case  # noqa: E402

LIMIT = 0.03


def program_ns() -> float:
    """Return the program's own step time: one worker process, as `harness run` starts it."""
    request = Request(Case("line", "autograd", "cpu", "float32", 100), round=0, seeds=0)
    done = subprocess.run(
        [sys.executable, "-m", "harness.measuring.worker"],
        input=request.to_line(),
        capture_output=True,
        text=True,
        check=True,
        cwd=ROOT,
    )
    record = json.loads(done.stdout.splitlines()[-1])["record"]
    return float(record["step_ns"])


def plain_ns() -> float:
    """Return the plain loop's step time."""
    script = Path(__file__).with_name("plain_loop.py")
    return float(subprocess.run([sys.executable, script], capture_output=True, text=True, check=True).stdout)


def main() -> None:
    """Measure the pairs, each in the other order than the one before."""
    ratios = []
    for pair in range(int(sys.argv[1]) if len(sys.argv) > 1 else 10):
        if pair % 2:
            program = program_ns()
            plain = plain_ns()
        else:
            plain = plain_ns()
            program = program_ns()
        ratios.append(program / plain)
        print(f"pair {pair + 1}: program {program / 1e3:.1f} µs, plain loop {plain / 1e3:.1f} µs, {ratios[-1]:.3f}")
    median = statistics.median(ratios)
    print(f"median ratio {median:.3f}, from {min(ratios):.3f} to {max(ratios):.3f}")
    sys.exit(abs(median - 1) > LIMIT)


if __name__ == "__main__":
    main()
