"""docker/deploy/slurm.sh: its #SBATCH lines, shellcheck, and how it ends, run with stand-ins for what a cluster has."""

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.deploy.commands import ROOT
from tests.deploy.program import complaint
from tests.deploy.sbatch import options

FILE = ROOT / "docker/deploy/slurm.sh"
SCRIPT = FILE.read_text("utf-8")

# Runs like the program in its container: ends with CODE at once, or waits for SIGTERM and ends with ON_TERM then.
APPTAINER = """#!/bin/bash
printf '%s\\n' "$@" > called
env > environment
[ -z "${CODE:-}" ] || exit "$CODE"
trap 'kill $!; sleep 0.2; echo saved > saved; exit "$ON_TERM"' TERM
touch ready
sleep 60 &
wait $!
"""
SCONTROL = """#!/bin/bash
echo "$@" >> scontrol
"""


@dataclass(frozen=True)
class Job:
    """A task of the array that has begun: its process, and the folder it was submitted from."""

    process: subprocess.Popen[str]
    folder: Path

    def text(self, name: str) -> str:
        """What a stand-in has noted, or nothing."""
        file = self.folder / name
        return file.read_text("utf-8") if file.exists() else ""

    def ends(self) -> int:
        """Wait for its exit code."""
        self.process.communicate(timeout=30)
        return self.process.returncode

    def signalled(self, *numbers: signal.Signals) -> int:
        """Send signals once the program runs, and wait for the exit code."""
        until = time.monotonic() + 30
        while not (self.folder / "ready").exists():
            assert time.monotonic() < until
            assert self.process.poll() is None
            time.sleep(0.01)
        for number in numbers:
            self.process.send_signal(number)
            time.sleep(0.1)  # the program takes twice as long to save
        return self.ends()


@pytest.fixture
def submit(tmp_path) -> Iterator[Callable[..., Job]]:
    """Start the script as task 3 of the array, as slurmd does: in a process group of its own."""
    begun: list[subprocess.Popen[str]] = []
    (tmp_path / "bin").mkdir()
    (tmp_path / "scratch").mkdir()
    for name, body in (("apptainer", APPTAINER), ("scontrol", SCONTROL)):
        (tmp_path / "bin" / name).write_text(body, "utf-8")
        (tmp_path / "bin" / name).chmod(0o755)

    def call(**environment: str) -> Job:
        given = {
            "PATH": f"{tmp_path / 'bin'}:{os.environ['PATH']}",
            "TMPDIR": str(tmp_path / "scratch"),
            "SLURM_ARRAY_JOB_ID": "77",
            "SLURM_ARRAY_TASK_ID": "3",
            "CUDA_VISIBLE_DEVICES": "0",
            "PUBLISH": "s3://BUCKET/gradient-harness/RUN",
            "ON_TERM": "130",
            **environment,
        }
        process = subprocess.Popen(
            # A shell that runs these tests in the background ignores SIGINT, and bash cannot change what it inherits.
            ["env", "--default-signal=INT", "bash", str(FILE)],
            cwd=tmp_path,
            env=given,
            text=True,
            stderr=subprocess.PIPE,
            start_new_session=True,
        )
        begun.append(process)
        return Job(process, tmp_path)

    yield call
    for process in begun:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        process.stderr.close()


def shellcheck(script: str) -> str:
    program = Path(sys.executable).with_name("shellcheck")
    found = str(program) if program.exists() else shutil.which("shellcheck")
    if found is None:
        pytest.skip("nox -s tests_deploy installs shellcheck")
    command = [found, "--shell=bash", "--format=gcc", "-"]
    return subprocess.run(command, input=script, capture_output=True, text=True, timeout=60, check=False).stdout


def test_shellcheck_and_bash_find_nothing() -> None:
    assert shellcheck(SCRIPT) == ""
    subprocess.run(["bash", "-n", str(FILE)], check=True, timeout=30)
    assert os.access(FILE, os.X_OK)


@pytest.mark.parametrize(
    ("right", "typo"),
    [('exit "$code"', "exit $cod"), ('mkdir "$scratch/results"', "mkdir $scratch/results"), ("esac\n", "\n")],
)
def test_shellcheck_catches_a_typo(right, typo) -> None:
    assert SCRIPT.count(right) == 1
    assert shellcheck(SCRIPT.replace(right, typo)) != ""


def test_the_directives_are_what_sbatch_knows_and_the_array_is_as_long_as_the_script_says() -> None:
    given = options(SCRIPT)
    first, last = map(int, given["array"].split("-"))
    assert first == 0
    assert re.findall(r"^shards=(\d+)", SCRIPT, re.MULTILINE) == [str(last + 1)]
    assert given["signal"] == "B:USR1@60"
    assert "requeue" in given
    assert given["open-mode"] == "append"  # a requeued task does not wipe what it said before


@pytest.mark.parametrize("name", list(options(SCRIPT)))
def test_a_typo_in_any_directive_is_caught(name) -> None:
    with pytest.raises(ValueError, match=f"{name}x"):
        options(SCRIPT.replace(f"#SBATCH --{name}", f"#SBATCH --{name}x"))


@pytest.mark.parametrize(
    ("right", "wrong"),
    [
        ("--signal=B:USR1@60", "--signal=B:USR1:60"),
        ("--array=0-7", "--array=0..7"),
        ("--requeue", "--requeue=yes"),
        ("#SBATCH --mem", "# SBATCH --mem"),
        ("set -euo pipefail\n", "set -euo pipefail\n#SBATCH --exclusive\n"),
        ("#SBATCH --ntasks=1\n", "#SBATCH --ntasks=1\n#SBATCH --ntasks=2\n"),
    ],
)
def test_a_directive_that_sbatch_would_refuse_or_overlook_is_caught(right, wrong) -> None:
    with pytest.raises(ValueError, match=r"SBATCH|ill-formed|twice"):
        options(SCRIPT.replace(right, wrong))


def test_the_program_gets_the_shard_of_the_task(submit, tmp_path) -> None:
    job = submit(CODE="0")
    assert job.ends() == 0
    called = job.text("called").splitlines()
    arguments = called[called.index("gradient-harness.sif") + 1 :]
    assert called[:4] == ["run", "--nv", "--containall", "--workdir"]
    assert arguments[arguments.index("--shard") + 1] == "3/8"
    assert complaint(arguments, tmp_path) == ""
    assert "--devicex" in complaint([f"{word}x" if word == "--device" else word for word in arguments], tmp_path)


def test_the_program_gets_the_gpu_and_the_keys(submit) -> None:
    job = submit(CODE="0", AWS_ACCESS_KEY_ID="key")
    job.ends()
    environment = job.text("environment").splitlines()
    assert "APPTAINERENV_CUDA_VISIBLE_DEVICES=0" in environment
    assert "APPTAINERENV_AWS_ACCESS_KEY_ID=key" in environment
    assert not any(line.startswith("APPTAINERENV_AWS_SESSION_TOKEN") for line in environment)


def test_a_shared_folder_is_made_and_is_at_the_same_place_inside(submit, tmp_path) -> None:
    job = submit(CODE="0", PUBLISH="shared/run")
    assert job.ends() == 0
    folder = tmp_path / "shared/run"
    called = job.text("called").splitlines()
    assert folder.is_dir()
    assert called[called.index("--publish") + 1] == str(folder)
    assert f"{folder}:{folder}" in called


@pytest.mark.parametrize("code", [0, 1, 2, 3, 4, 130, 137])
def test_the_exit_code_is_the_programs_and_nothing_is_tried_again_for_it(submit, tmp_path, code) -> None:
    job = submit(CODE=str(code))
    assert job.ends() == code
    assert job.text("scontrol") == ""
    assert list((tmp_path / "scratch").iterdir()) == []


def test_when_time_is_up_the_program_saves_and_the_task_goes_back_into_the_queue(submit) -> None:
    job = submit()
    assert job.signalled(signal.SIGUSR1) == 130
    assert job.text("saved") == "saved\n"
    assert job.text("scontrol") == "requeue 77_3\n"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_cancelled_task_saves_and_stays_out_of_the_queue(submit, number) -> None:
    job = submit()
    assert job.signalled(number) == 130
    assert job.text("saved") == "saved\n"
    assert job.text("scontrol") == ""


def test_a_task_that_ends_by_itself_as_time_is_up_is_not_tried_again(submit) -> None:
    job = submit(ON_TERM="1")
    assert job.signalled(signal.SIGUSR1) == 1
    assert job.text("scontrol") == ""


def test_when_slurm_loses_patience_while_the_program_saves_the_task_goes_back_all_the_same(submit) -> None:
    job = submit()
    assert job.signalled(signal.SIGUSR1, signal.SIGTERM) == 130
    assert job.text("scontrol") == "requeue 77_3\n"


def test_without_a_place_to_publish_nothing_is_started(submit) -> None:
    job = submit(PUBLISH="")
    _, said = job.process.communicate(timeout=30)
    assert job.process.returncode == 2
    assert said.count("\n") == 1
    assert "PUBLISH=" in said
    assert job.text("called") == ""
