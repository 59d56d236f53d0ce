"""Ten thousand broken and malicious files, or a quarter: each refused in one line, or read whole and the same again."""

import json
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
RESULTS = ROOT / "results/amd-epyc-2c/20261124T114830Z-9d137a38a0"  # as in batch.py
# How many files of each reader; a batch of them is one process.
FILES = {"journal": 1000, "summary": 1000, "measurements": 1000, "sweep": 3500, "machine": 3500}
BATCH = 250
MEMORY_MB = 500
ACCEPTED = (0.3, 0.7)


def read_batch(reader: str, first: int, count: int) -> dict[str, Any]:
    # Each thread of these libraries reserves memory, which is limited here.
    single = dict.fromkeys(("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS"), "1")
    command = [sys.executable, HERE / "batch.py", reader, RESULTS, str(first), str(count)]
    done = subprocess.run(
        command,
        env={**os.environ, **single, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    if done.returncode:
        what = f"{reader} from seed {first} on: ended with {done.returncode}\n{done.stderr[-3000:]}"
        return {"accepted": 0, "refused": 0, "slowest_s": 0, "peak_mb": 0, "faults": [what]}
    return json.loads(done.stdout)


@pytest.fixture(scope="module")
def files(request) -> dict[str, int]:
    """How many of each reader are wanted, in whole batches."""
    share = 4 if request.config.getoption("--quarter") else 1
    return {reader: max(1, count // share // BATCH) * BATCH for reader, count in FILES.items()}


@pytest.fixture(scope="module")
def found(files):
    """What became of all files, by reader."""
    jobs = [(reader, first) for reader, count in files.items() for first in range(0, count, BATCH)]
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        batches = list(pool.map(lambda job: (job[0], read_batch(*job, BATCH)), jobs))
    return {reader: [batch for name, batch in batches if name == reader] for reader in FILES}


@pytest.fixture(scope="module", autouse=True)
def report(found, request):
    """Print the counts at the end."""
    yield
    lines = [f"{'reader':14}{'files':>7}{'accepted':>10}{'refused':>9}{'slowest s':>11}{'peak MB':>9}"]
    for reader, batches in found.items():
        accepted, refused = (sum(batch[name] for batch in batches) for name in ("accepted", "refused"))
        slowest, peak = (max(batch[name] for batch in batches) for name in ("slowest_s", "peak_mb"))
        lines.append(f"{reader:14}{accepted + refused:>7}{accepted:>10}{refused:>9}{slowest:>11.3f}{peak:>9.0f}")
    with request.config.pluginmanager.getplugin("capturemanager").global_and_fixture_disabled():
        print("", *lines, sep="\n")  # noqa: T201


@pytest.mark.parametrize("reader", FILES)
def test_every_file_is_read_or_refused_in_one_line_and_what_is_read_comes_back_as_it_was(reader, found, files):
    faults = [fault for batch in found[reader] for fault in batch["faults"]]
    assert not faults, f"{len(faults)} files, the first of which: {faults[0]}"
    assert sum(batch["accepted"] + batch["refused"] for batch in found[reader]) == files[reader]


@pytest.mark.parametrize("reader", FILES)
def test_about_half_of_the_files_are_still_good_so_that_both_answers_are_tested(reader, found, files):
    accepted = sum(batch["accepted"] for batch in found[reader]) / files[reader]
    assert ACCEPTED[0] <= accepted <= ACCEPTED[1]


@pytest.mark.parametrize("reader", FILES)
def test_reading_takes_little_memory(reader, found):
    assert max(batch["peak_mb"] for batch in found[reader]) < MEMORY_MB
