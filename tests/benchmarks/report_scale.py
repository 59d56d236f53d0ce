"""How long `harness report` takes for a site of 200 runs of 200 cases, and how large its pages are.

    python tests/benchmarks/report_scale.py [--runs 200]

Stores the runs with all their tables, builds the site in a process of its own, then the page of one run alone. Exits 1
when the site takes more than 30 s, or a page has more than 5 MB.
"""

import argparse
import json
import resource
import subprocess
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

ROOT = Path(__file__).parent.parent.parent
sys.path.insert(0, str(ROOT))

from harness.tables.cells import as_written  # noqa: E402
from harness.tables.columns import TABLES  # noqa: E402
from tests.report_content import FACTS, stored_tables  # noqa: E402
from tests.stored_sessions import run_id  # noqa: E402

LIMIT_S, LIMIT_BYTES = 30.0, 5_000_000
BATCHES = tuple(range(1, 40))  # of five engines, and these once more at one batch size: 200 cases


def make(machine: Path, runs: int) -> int:
    """Store so many runs, of step times that spread by 1 %; return how many cases each has."""
    tables = stored_tables(BATCHES, rounds=5, seeds=64)
    rng = np.random.default_rng(0)
    for number in range(runs):
        name = run_id(number)
        folder = machine / name
        folder.mkdir(parents=True)
        (folder / "machine.json").write_text(json.dumps(FACTS))
        for part in ("summary", "measurements", "convergence", "epochs"):
            table = getattr(tables, part).assign(run_id=name, commit=f"{number:010x}" * 4)
            if "session" in table:
                table["session"] = name
            if "step_ns" in table:
                table["step_ns"] = table["step_ns"] * np.exp(rng.normal(0, 0.01, len(table)))
            as_written(table, TABLES[part]).to_csv(folder / f"{part}.csv", index=False, float_format="%.9g")
    return len(tables.summary)


def seconds(*arguments: str) -> float:
    """Return how long the program takes."""
    begun = time.perf_counter()
    subprocess.run([sys.executable, "-m", "harness", "report", *arguments], cwd=ROOT, check=True)
    return time.perf_counter() - begun


def main() -> None:
    """Print the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=200)
    parser.add_argument("--keep", type=Path, help="Leave the site there, to be opened.")
    options = parser.parse_args()
    with TemporaryDirectory() as folder:
        machine = Path(folder) / "results/amd-epyc-2c"
        cases = make(machine, options.runs)
        site = options.keep or Path(folder) / "site"
        took = seconds(str(machine.parent), "--output", str(site))
        alone = seconds(str(machine / run_id(0)))
        sizes = sorted(file.stat().st_size for file in site.rglob("*.html"))
        sizes.append((machine / run_id(0) / "report.html").stat().st_size)
        total = sum(file.stat().st_size for file in site.rglob("*") if file.is_file())
    memory = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024
    print(
        f"site of {options.runs} runs of {cases} cases: {took:.1f} s, {total / 1e6:.1f} MB, {memory:.0f} MiB of memory"
    )
    print(
        f"pages: {sizes[0] / 1e3:.0f} to {sizes[-2] / 1e3:.0f} kB; one alone: {alone:.1f} s, {sizes[-1] / 1e6:.2f} MB"
    )
    sys.exit(took > LIMIT_S or max(sizes) > LIMIT_BYTES)


if __name__ == "__main__":
    main()
