"""Every command of docker/run.md is run, or checked by the real parser of its program, or says here why not."""

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from harness.cli.common import Exit
from tests.deploy.commands import ENGINES, IMAGE, ROOT, RUN_MD, Command, commands, container_run, program_arguments
from tests.deploy.program import complaint

TEXT = RUN_MD.read_text("utf-8")
TOLD = commands(TEXT)
RUNS = [(command, run) for command in TOLD if (run := container_run(command.words))]
FOR_THE_PROGRAM = [(command, arguments) for command in TOLD if (arguments := program_arguments(command.words))]
RUN_HERE = ("install", "mkdir")
NOT_RUN = {
    "kubectl": "needs a cluster: test_kubernetes.py holds the file against the schema and the rules of the API server",
    "sky": "needs a cloud: test_skypilot.py has SkyPilot read the file and know the flags",
    "sbatch": "needs Slurm: test_slurm.py runs the script with stand-ins for apptainer and scontrol",
}


def named(told: list) -> dict:
    return {"argvalues": told, "ids": [f"line {command.line}" for command, _ in told]}


def reasons(command: Command) -> list[str]:
    return [program for program in NOT_RUN if program in command.words]


def test_every_command_is_run_or_checked_or_has_a_reason() -> None:
    for command in TOLD:
        ways = [command.words[0] in RUN_HERE, program_arguments(command.words) is not None, *reasons(command)]
        assert sum(map(bool, ways)) == 1, command


def test_no_reason_is_left_over() -> None:
    assert {reason for command in TOLD for reason in reasons(command)} == set(NOT_RUN)


@pytest.mark.parametrize(("command", "arguments"), **named(FOR_THE_PROGRAM))
def test_the_program_takes_the_arguments(command, arguments, tmp_path) -> None:
    assert complaint(arguments, tmp_path) == ""


@pytest.mark.parametrize(("command", "arguments"), **named(FOR_THE_PROGRAM))
def test_a_typo_in_a_flag_is_caught(command, arguments, tmp_path) -> None:
    flags = [word for word in arguments if word.startswith("--")]
    for flag in flags:
        planted = [f"{word}x" if word == flag else word for word in arguments]
        assert f"{flag}x" in complaint(planted, tmp_path)


def test_a_device_that_is_none_and_a_command_that_is_none_are_caught(tmp_path) -> None:
    assert "cudda" in complaint(["run", "--device", "cudda"], tmp_path)
    assert "runn" in complaint(["runn", "--device", "cuda"], tmp_path)


def flags_of(engine: str) -> set[str]:
    """Every flag that the engine's own client has for `run`; asks no daemon."""
    if shutil.which(engine) is None:
        pytest.skip(f"{engine} is not installed: its flags are read by tests/deploy/commands.py alone")
    answer = subprocess.run([engine, "run", "--help"], capture_output=True, text=True, timeout=60, check=True)
    return set(re.findall(r"(?<![\w-])--?[a-z][\w-]*", answer.stdout))


@pytest.mark.parametrize("engine", ENGINES)
def test_the_engine_has_every_flag(engine) -> None:
    known = flags_of(engine)
    used = {name for _, run in RUNS if run.engine == engine for name, _ in run.flags}
    assert used
    assert used <= known
    assert "--shmsize" not in known


def test_a_typo_in_a_flag_of_an_engine_is_caught() -> None:
    for command, run in RUNS:
        for name, _ in run.flags:
            planted = tuple(f"{word}x" if word == name else word for word in command.words)
            with pytest.raises(ValueError, match=f"{name}x is not known"):
                container_run(planted)


@pytest.mark.parametrize(("command", "run"), **named(RUNS))
def test_the_program_is_locked_in(command, run) -> None:
    given = set(run.flags)
    assert run.image == IMAGE
    assert {
        ("--rm", ""),
        ("--read-only", ""),
        ("--cap-drop", "all"),
        ("--security-opt", "no-new-privileges"),
        ("--tmpfs", "/tmp:rw,exec"),  # noqa: S108
    } <= given
    assert given & {("--user", "10001:10001"), ("--userns", "keep-id:uid=10001,gid=10001")}
    assert (("--network", "none") in given) is ("--publish" not in run.arguments)
    assert given & {("--gpus", "all"), ("--device", "nvidia.com/gpu=all")}
    if run.arguments[0] == "run":
        assert {("--shm-size", "1g"), ("--stop-timeout", "60")} <= given
        assert any(name == "-v" and value.startswith("$PWD/results:/results") for name, value in given)


@pytest.mark.parametrize("command", [command for command in TOLD if command.words[0] in RUN_HERE], ids=lambda c: c.text)
def test_the_folder_for_results_is_made(command, tmp_path) -> None:
    given_away = command.words[0] == "install"
    if given_away and os.getuid() != 0:
        pytest.skip("only root may give a folder away")
    subprocess.run(["bash", "-euc", command.text], cwd=tmp_path, check=True, timeout=30)
    owner = (tmp_path / "results").stat()
    assert (owner.st_uid, owner.st_gid) == ((10001, 10001) if given_away else (os.getuid(), os.getgid()))


def test_every_exit_code_stands_in_the_table() -> None:
    told = {int(code) for row in re.findall(r"^\| ([\d, ]+) \|", TEXT, re.MULTILINE) for code in row.split(",")}
    assert {int(code) for code in Exit} < told


def test_the_files_that_are_named_exist_and_the_document_is_linked() -> None:
    names = set(re.findall(r"docker/deploy/[\w.]+", TEXT))
    assert names == {str(file.relative_to(ROOT)) for file in (ROOT / "docker/deploy").iterdir()}
    assert "](run.md)" in (ROOT / "docker/README.md").read_text("utf-8")
    assert "](docker/run.md)" in (ROOT / "README.md").read_text("utf-8")


@pytest.mark.parametrize(
    ("block", "says"),
    [("```\nls\n```\n", "line 1: a block of no language"), ("```sh\nls \\\n```\n", "line 2: ends with a backslash")],
)
def test_a_block_that_would_be_overlooked_is_an_error(block, says) -> None:
    with pytest.raises(ValueError, match=says):
        commands(block)


def test_the_image_has_one_name_everywhere() -> None:
    for file in [RUN_MD, *sorted((ROOT / "docker/deploy").iterdir())]:
        names = set(re.findall(r"[\w./]*gradient-harness:[\w.]+", Path(file).read_text("utf-8")))
        assert {name.removeprefix("//") for name in names} == {IMAGE}, file
