"""Does `harness ab` cry wolf, and does it see one? Real repositories, real processes, the real command line.

    python tests/benchmarks/ab.py null [TIMES] [--rounds N]      a commit against itself, beside bursts of load
    python tests/benchmarks/ab.py planted [TIMES] [--rounds N]   +5 % in one of two engines (`planted_engine.py`)

--keep FOLDER leaves the runs there, to be compared again. Prints each comparison. Exits 1 when `null` has any verdict
of a change, or `planted` is found in fewer than 19 of 20 or another case is flagged. Nothing else may run beside
`planted`.
"""

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

ROOT = Path(__file__).parent.parent.parent
HERE = Path(__file__).parent
SHARE = 0.05
FOUND = 0.95
# On every core: works for 0.1 to 2 s, sleeps for 0.1 to 4 s.
BURSTS = """
import random, time
while True:
    end = time.perf_counter() + random.uniform(0.1, 2)
    while time.perf_counter() < end:
        pass
    time.sleep(random.uniform(0.1, 4))
"""


def commit(folder: Path, burnt: float) -> None:
    """Commit the engine with this share."""
    source = (HERE / "planted_engine.py").read_text("utf-8")
    (folder / "planted.py").write_text(source.replace("BURNT = 0.0", f"BURNT = {burnt}"), "utf-8")
    identity = ("-c", "user.name=harness", "-c", "user.email=harness@localhost")
    git(folder, "add", "planted.py")
    git(folder, *identity, "commit", "--quiet", "--message", f"burns {burnt}")


def git(folder: Path, *arguments: str) -> None:
    """Run git in a folder."""
    subprocess.run(["git", "-C", str(folder), *arguments], check=True)


def compared(folder: Path, base: str, rounds: int) -> dict[str, Any]:
    """Return what one `harness ab` says, as JSON."""
    engines = ("--engine", "planted.py:Planted", "--engine", "manual", "--batch-size", "100")
    command = [sys.executable, "-m", "harness", "ab", base, "HEAD", *engines, "--rounds", str(rounds)]
    done = subprocess.run(
        [*command, "--workload", "line", "--seeds", "8", "--quiet", "--format", "json"],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        text=True,
        check=False,
    )
    assert done.returncode in (0, 1), done.returncode
    return dict(json.loads(done.stdout))


@contextmanager
def bursts() -> Iterator[None]:
    """Load every core in bursts."""
    neighbours = [subprocess.Popen([sys.executable, "-c", BURSTS]) for _ in range(os.cpu_count() or 1)]
    try:
        yield
    finally:
        for neighbour in neighbours:
            neighbour.kill()
            neighbour.wait()


def main() -> None:
    """Compare as often as was asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["null", "planted"])
    parser.add_argument("times", type=int, nargs="?", default=20)
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--keep", type=Path)
    options = parser.parse_args()
    what, times, rounds = options.what, options.times, options.rounds
    found = false = 0
    began = time.monotonic()
    with TemporaryDirectory() as place:
        folder = options.keep or Path(place)
        folder.mkdir(parents=True, exist_ok=True)
        git(folder, "init", "--quiet")
        commit(folder, 0.0)
        if what == "planted":
            commit(folder, SHARE)
        for number in range(times):
            if what == "planted":
                told = compared(folder, "HEAD~1", rounds)
            else:
                with bursts():
                    told = compared(folder, "HEAD", rounds)
            statuses = {case["case_id"]: case["status"] for case in told["cases"]}
            changed = {name for name, status in statuses.items() if status not in ("same", "undecided")}
            found += what == "planted" and statuses["line/planted.py:Planted/cpu/float32/b100"] == "regressed"
            false += bool(changed - ({"line/planted.py:Planted/cpu/float32/b100"} if what == "planted" else set()))
            parts = ", ".join(
                f"{case['case_id'].split('/')[1]} {case['change']:+.2%} "
                f"[{case['change_low']:+.2%}, {case['change_high']:+.2%}] {case['status']}"
                if case["change"] is not None
                else f"{case['case_id'].split('/')[1]} {case['status']}: {case['reason']}"
                for case in told["cases"]
            )
            print(f"{number + 1}: {parts} ({(time.monotonic() - began) / 60:.1f} min)", flush=True)
    minutes = (time.monotonic() - began) / 60
    print(
        f"{what}: {times} comparisons of {rounds} rounds in {minutes:.0f} min: {found} found, {false} with a false one"
    )
    sys.exit(bool(false) or (what == "planted" and found < FOUND * times))


if __name__ == "__main__":
    main()
