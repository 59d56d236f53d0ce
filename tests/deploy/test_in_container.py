"""The runs of docker/run.md, for real, on the CPU, in the image that HARNESS_TEST_IMAGE names.

For instance localhost/harness:cpu, which `nox -s docker_build -- cpu` makes; some twenty seconds for each run.
"""

import os
import shutil
import subprocess

import pytest

from tests.deploy.commands import ENGINES, RUN_MD, commands, container_run, here

IMAGE = os.environ.get("HARNESS_TEST_IMAGE", "")
UID = 10001
BRIEF = ["--workload", "line", "--engine", "manual", "--batch-size", "100", "--rounds", "1", "--seeds", "4"]
RUNS = [(command, run) for command in commands(RUN_MD.read_text("utf-8")) if (run := container_run(command.words))]


@pytest.fixture(scope="module")
def engines() -> list[str]:
    """The engines that work here and have the image."""
    if not IMAGE:
        pytest.skip("HARNESS_TEST_IMAGE names no image: the flags alone are checked, in test_run_md.py")
    found = []
    for engine in filter(shutil.which, ENGINES):
        asked = subprocess.run([engine, "image", "inspect", IMAGE], capture_output=True, timeout=60, check=False)
        if asked.returncode == 0:
            found.append(engine)
    if not found:
        pytest.fail(f"no container engine works here and has {IMAGE}")
    return found


@pytest.mark.parametrize(("command", "run"), RUNS, ids=[f"line {command.line}" for command, _ in RUNS])
def test_a_run_of_the_document_ends_with_tables(command, run, engines, tmp_path) -> None:
    engine = run.engine if run.engine in engines else engines[0]  # podman knows the flags of docker as well
    results = tmp_path / "results"
    results.mkdir()
    if os.getuid() == 0:
        os.chown(results, UID, UID)
    measures = run.arguments[0] == "run"
    words = here(run, engine, IMAGE, tmp_path) + (BRIEF if measures else [])
    words = ["/results/published" if "://" in word else word for word in words]
    ended = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True, timeout=300, check=False)
    assert ended.returncode in (0, 1), ended.stderr
    if measures:
        [table] = results.glob("*/*/summary.csv")
        assert table.stat().st_uid == (UID if os.getuid() == 0 else os.getuid())
        assert (results / "published").exists() is ("--publish" in run.arguments)
