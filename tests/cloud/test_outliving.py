"""The real program and a real S3 protocol: jobs that are killed, stopped, and start again on another machine.

Where many lives are needed the worker is `tests/faults/worker.py`, which measures nothing; else it is the real one.
"""

import csv
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from contextlib import contextmanager, suppress
from importlib.util import find_spec
from pathlib import Path

import pytest

from harness.measuring.protocol import PROTOCOL
from harness.running.journal import FILE
from tests.cloud.server import BUCKET
from tests.faults.runs import ROOT, records, running
from tests.faults.test_nox import INSTEAD

pytestmark = pytest.mark.skipif(find_spec("torch") is None, reason="a run wants a Python that has torch")

WORKER_S = 0.03
GRACE_S = 15.0  # between the warning and the end of a machine that is taken away
CASES = [f"line/{engine}/cpu/float32/b10" for engine in ("manual", "autograd")]
PLAN = ("--workload", "line", "--engine", "manual", "--engine", "autograd", "--batch-size", 10, "--seeds", 2)


class Job:
    """One job, which is always started by the same command, though on another disk."""

    def __init__(self, folder: Path, server, name: str, *, program="harness", plan=PLAN, fake=True):
        self.folder, self.server, self.name, self.program, self.plan = folder, server, name, program, plan
        self.url = f"s3://{BUCKET}/{name}"
        outer = {key: value for key, value in os.environ.items() if not key.startswith(("HARNESS_", "GIT_"))}
        here = {
            "HARNESS_REVISION": "c" * 40,
            "GIT_CEILING_DIRECTORIES": "/",
            "NO_COLOR": "1",
            "OPENBLAS_NUM_THREADS": "1",
        }
        paths = [str(ROOT), *filter(None, [outer.get("PYTHONPATH")])]
        (folder / "workers").mkdir(parents=True)
        (folder / "here").mkdir()
        if fake:
            (folder / "instead").mkdir()
            (folder / "instead/sitecustomize.py").write_text(INSTEAD)
            paths = [str(folder / "instead"), *paths]
            here["FAKE_WORKER"] = str(ROOT / "tests/faults/worker.py")
            here["FAKE_ARGUMENTS"] = f"{folder / 'workers'}|{PROTOCOL}|{WORKER_S}"
        self.environment = {**outer, **here, "PYTHONPATH": os.pathsep.join(paths)}

    @contextmanager
    def started(self, *arguments):
        """Start the program; whatever happens, nothing of it is left."""
        with subprocess.Popen(
            [sys.executable, "-m", self.program, *map(str, arguments)],
            cwd=self.folder / "here",
            env=self.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        ) as process:
            try:
                yield process
            finally:
                with suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)

    def life(self, disk: str):
        return self.started("run", *self.plan, "--publish", self.url, "--out", self.folder / disk)

    def ended(self, *arguments) -> tuple[int, str]:
        with self.started(*arguments) as process:
            said, _ = process.communicate(timeout=120)
            return process.returncode, said

    def to_the_end(self, disk: str) -> tuple[int, str]:
        return self.ended("run", *self.plan, "--publish", self.url, "--out", self.folder / disk)

    def published(self) -> int:
        return sum("/records/" in put.key and put.status == 200 for put in self.server.under(self.name))

    def begun(self) -> int:
        return sum("/records/" in put.key for put in self.server.under(self.name))

    def wait_for(self, count: int, process) -> None:
        """Wait until so many records were begun to be put."""
        deadline = time.monotonic() + 60
        while self.begun() < count and process.poll() is None:
            assert time.monotonic() < deadline, "in vain waited for a record"
            time.sleep(0.002)

    def collected(self) -> list[tuple[str, int]]:
        """Collect the run and return case and round of each row of its table."""
        out = self.folder / "collected"
        code, said = self.ended("collect", self.url, "--out", out)
        assert code == 0, said
        [table] = out.glob("*/*/measurements.csv")
        with table.open(newline="") as file:
            return [(row["case_id"], int(row["round"])) for row in csv.DictReader(file)]

    def orphans(self) -> list[int]:
        deadline = time.monotonic() + 5
        while alive := [int(file.name) for file in (self.folder / "workers").iterdir() if running(int(file.name))]:
            if time.monotonic() > deadline:
                break
            time.sleep(0.01)
        return alive


def wanted(rounds: int, cases=CASES) -> list[tuple[str, int]]:
    return sorted((case, number) for case in cases for number in range(rounds))


def of_disk(folder: Path) -> list[tuple[str, int]]:
    return [record for journal in folder.glob(f"*/*/{FILE}") for record in records(journal.read_bytes())]


def test_a_job_killed_at_any_moment_has_each_row_of_its_plan_once_and_each_was_put_once(
    server, tmp_path, figures, request
):
    kills = request.config.getoption("--kills")
    rounds = 2 * kills
    job = Job(tmp_path, server, "killed", plan=(*PLAN, "--rounds", rounds))
    rng = random.Random(20261128)
    between = in_a_put = 0
    disk = 0
    for number in range(kills):
        disk += number % 3 != 2  # every third life finds the disk of the one before
        with job.life(f"disk{disk}") as process:
            # The first dies at any time of its start, the others when they have got on by up to three rows.
            job.wait_for(job.begun() + (rng.randint(1, 3) if number else 0), process)
            time.sleep(rng.uniform(0, 0.05 if number else 2.0))
            open_puts = [put for put in server.under(job.name) if not put.answered]
            os.killpg(process.pid, signal.SIGKILL)
            assert process.wait() == -signal.SIGKILL
        time.sleep(0.2)  # what was sent is done by the server, as that of a cloud does it
        between += 0 < job.published() < 2 * rounds
        in_a_put += bool(open_puts)
    assert job.orphans() == []
    code, said = job.to_the_end("last")
    assert code == 0, said
    puts, collected = server.under(job.name), job.collected()
    figures.append(
        f"{kills} kills, {between} between the first and the last publish, {in_a_put} inside a put: "
        f"{len(collected)} of {2 * rounds} rows collected, {len(puts)} puts"
    )
    assert between >= kills - 1  # all but the first, which may come before the first publish
    assert sorted(collected) == wanted(rounds)
    assert Counter(put.status for put in puts) == {200: 2 * rounds + 2}
    assert set(Counter(put.key for put in puts).values()) == {1}
    assert all(put.only_new for put in puts)
    assert sorted(of_disk(tmp_path / "last")) == wanted(rounds)


def test_a_job_that_is_told_to_end_while_it_publishes_does_so_within_the_grace_and_ends_with_130(
    server, tmp_path, monkeypatch
):
    job = Job(tmp_path, server, "told", plan=(*PLAN, "--rounds", 4))
    with job.life("disk") as process:
        job.wait_for(3, process)
        monkeypatch.setattr(server, "late_s", 2.0)
        job.wait_for(4, process)
        process.send_signal(signal.SIGTERM)
        started = time.monotonic()
        said, _ = process.communicate(timeout=60)
        took_s = time.monotonic() - started
    assert (process.returncode, "Traceback" in said) == (130, False), said
    assert took_s < GRACE_S
    assert said.splitlines()[-1] == "harness: interrupted; go on with: the same command"
    assert job.published() == len(of_disk(tmp_path / "disk")) >= 4
    assert job.orphans() == []
    monkeypatch.setattr(server, "late_s", 0.01)
    assert job.to_the_end("another")[0] == 0
    assert sorted(job.collected()) == wanted(4)
    assert Counter(put.status for put in server.under(job.name)) == {200: 8 + 2}


def test_a_store_that_does_not_answer_does_not_keep_a_job_from_ending_in_time(server, tmp_path, monkeypatch):
    job = Job(tmp_path, server, "silent", plan=(*PLAN, "--rounds", 2))
    with job.life("disk") as process:
        monkeypatch.setattr(server, "late_s", 40.0)
        job.wait_for(1, process)
        time.sleep(0.5)
        process.send_signal(signal.SIGTERM)
        started = time.monotonic()
        said, _ = process.communicate(timeout=60)
        took_s = time.monotonic() - started
    assert (process.returncode, "Traceback" in said) == (130, False), said
    assert took_s < GRACE_S
    assert f"{job.url} does not answer" in said
    assert len(of_disk(tmp_path / "disk")) == 1


def test_a_store_that_fails_for_good_ends_the_job_in_one_line_and_what_is_finished_is_kept(
    server, tmp_path, monkeypatch
):
    job = Job(tmp_path, server, "broken", plan=(*PLAN, "--rounds", 4))
    with job.life("disk") as process:
        job.wait_for(2, process)
        monkeypatch.setattr(server, "forbids", True)
        said, _ = process.communicate(timeout=90)
    assert (process.returncode, "Traceback" in said) == (2, False), said
    [line] = [line for line in said.splitlines() if line.startswith("harness: ")]
    assert said.splitlines()[-1] == line
    assert line.startswith(f"harness: {job.url}: ")
    assert "what was finished is kept in" in line
    assert len(of_disk(tmp_path / "disk")) == job.published() + 1
    monkeypatch.setattr(server, "forbids", False)
    assert job.to_the_end("disk")[0] == 0
    assert sorted(job.collected()) == wanted(4)


@pytest.mark.parametrize("url", ["s3://no-such-bucket/x", "gs://no-gcs-here/x"])
def test_a_place_that_is_not_there_is_told_in_one_line_before_anything_is_measured(server, tmp_path, url):
    job = Job(tmp_path, server, "nowhere")
    for arguments in (
        ("run", *PLAN, "--rounds", 1, "--publish", url, "--out", "out"),
        ("collect", url, "--out", "out"),
    ):
        code, said = job.ended(*arguments)
        assert code == 2, said
        [line] = said.splitlines()
        assert line.startswith(f"harness: {url}: ")
    assert list((tmp_path / "workers").iterdir()) == []
    assert not list((tmp_path / "here/out").glob("*/*"))


def test_shards_of_a_store_that_is_busy_at_first_are_published_once_and_collected_as_one_run(
    server, tmp_path, monkeypatch
):
    monkeypatch.setattr(server, "busy", 2)
    sizes = ("--batch-size", 100, "--rounds", 2)
    cases = [*CASES, *(case.replace("b10", "b100") for case in CASES)]
    job = Job(tmp_path, server, "shards", plan=(*PLAN, *sizes))
    for index in range(2):
        code, said = job.ended(
            "run", *job.plan, "--shard", f"{index}/2", "--publish", job.url, "--out", tmp_path / "out"
        )
        assert code == 0, said
    assert Counter(put.status for put in server.under(job.name)) == {503: 2, 200: 8 + 2 * 2}
    assert sorted(job.collected()) == wanted(2, cases)


def test_a_real_job_stopped_while_it_measures_goes_on_elsewhere_and_measures_each_row_once(server, tmp_path):
    plan = ("--workload", "line", "--engine", "manual", "--batch-size", 10, "--rounds", 3, "--seeds", 1)
    job = Job(tmp_path, server, "real", program="tests.short", plan=plan, fake=False)
    with job.life("disk") as process:
        job.wait_for(1, process)
        time.sleep(0.5)
        process.send_signal(signal.SIGTERM)
        started = time.monotonic()
        said, _ = process.communicate(timeout=60)
    assert process.returncode == 130, said
    assert time.monotonic() - started < GRACE_S
    code, said = job.to_the_end("another")
    assert code in (0, 1), said  # one seed may or may not converge
    assert "records are published at" in said
    assert sorted(job.collected()) == wanted(3, CASES[:1])
    assert Counter(put.status for put in server.under(job.name)) == {200: 3 + 2}
    [journal] = (tmp_path / "another").glob(f"*/*/{FILE}")
    entries = [json.loads(line) for line in journal.read_text().splitlines()]
    assert {entry["outcome"] for entry in entries if entry["kind"] == "record"} == {"ok"}
