"""Ctrl-C and SIGTERM through nox: the whole chain as a user starts it, with a worker that measures nothing."""

import itertools
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import pytest

from harness.measuring.protocol import PROTOCOL
from harness.running.journal import FILE
from tests.faults.runs import CASES, PLAN, ROOT, SIGNALS, TABLES, Place, Program, records, rows, torn_tables

ROUNDS = 4
WORKER_S = 0.15
# In every Python started from here: a worker is `worker.py` instead.
INSTEAD = """
import os, runpy, sys
if "harness.measuring.worker" in sys.orig_argv:
    sys.argv = [os.environ["FAKE_WORKER"], *os.environ["FAKE_ARGUMENTS"].split("|")]
    runpy.run_path(sys.argv[0], run_name="__main__")
    os._exit(0)
"""


@dataclass
class Checkout:
    """A folder with the noxfile and the program; `nox` is started there."""

    place: Place

    def nox(self, *arguments: object) -> subprocess.Popen[str]:
        folder = self.place.folder
        outer = {name: value for name, value in os.environ.items() if not name.startswith(("NOX", "HARNESS_", "GIT_"))}
        environment = {
            **outer,
            "PYTHONPATH": str(folder / "instead"),
            "FAKE_WORKER": str(Path(__file__).with_name("worker.py")),
            "FAKE_ARGUMENTS": f"{folder / 'workers'}|{PROTOCOL}|{WORKER_S}",
            "HARNESS_REVISION": "c" * 40,
            "GIT_CEILING_DIRECTORIES": str(folder.parent),
            "NO_COLOR": "1",
        }
        return subprocess.Popen(
            (sys.executable, "-m", "nox", "--no-venv", "-s", "bench_cpu", "--", *map(str, arguments)),
            cwd=folder,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
            # Whoever runs these tests in the background has SIGINT ignored, and that is inherited.
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
        )


def checkout(place: Place) -> Checkout:
    (place.folder / "harness").symlink_to(ROOT / "harness")
    for name in ("noxfile.py", "pyproject.toml"):
        shutil.copy(ROOT / name, place.folder)
    (place.folder / "instead").mkdir()
    (place.folder / "instead/sitecustomize.py").write_text(INSTEAD)
    return Checkout(place)


@pytest.mark.skipif(find_spec("torch") is None, reason="the nox session wants a Python that has torch")
def test_a_run_interrupted_through_nox_keeps_what_it_had(each, figures, request):
    def interrupt(_program: Program, place: Place, item: tuple[int, signal.Signals, bool]) -> None:
        workers, number, whole_group = item  # the group: as from a terminal
        here = checkout(place)
        with here.nox(*PLAN, "--rounds", ROUNDS, "--seeds", 2, "--out", "out") as process:
            deadline = time.monotonic() + 60
            while len(list((place.folder / "workers").iterdir())) < workers and time.monotonic() < deadline:
                time.sleep(0.01)
            time.sleep(WORKER_S * workers / 12)
            (os.killpg if whole_group else os.kill)(process.pid, number)
            said, _ = process.communicate(timeout=60)

        assert process.returncode == 130, said
        assert "Traceback" not in said
        relative = place.run.relative_to(place.folder)
        assert f"harness: interrupted; go on with: nox -s bench_cpu -- --resume {relative}" in said.splitlines()
        assert place.orphans() == []
        journal = (place.run / FILE).read_bytes()
        assert journal.endswith(b"\n")
        told = sum(" ok (" in line for line in said.splitlines())
        lost, torn = max(0, told - len(records(journal))), torn_tables(place)
        figures.add(interrupts=1, rows_acknowledged=told, lost=lost, torn_tables=len(torn))
        assert workers - 1 <= told
        assert lost == 0
        assert torn == []
        assert all((place.run / f"{name}.csv").exists() for name in TABLES)
        assert sorted(rows(place.run, "measurements")) == sorted(records(journal))

        with here.nox("--resume", relative) as process:
            said, _ = process.communicate(timeout=60)
        assert process.returncode == 0, said
        wanted = sorted((case, at) for case in CASES for at in range(ROUNDS))
        assert (place.run / FILE).read_bytes().startswith(journal)
        assert sorted(records((place.run / FILE).read_bytes())) == wanted
        assert sorted(rows(place.run, "measurements")) == wanted

    ways = ((1, 4, 7), SIGNALS, (False, True))
    # With --quarter half of them: each of one meets each of another.
    half = [at for at in itertools.product(*map(range, map(len, ways))) if sum(at) % 2 == 0]
    some = [tuple(way[index] for way, index in zip(ways, at, strict=True)) for at in half]
    each(interrupt, some if request.config.getoption("--quarter") else list(itertools.product(*ways)))
