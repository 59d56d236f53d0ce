"""docker/deploy/skypilot.yaml: read by SkyPilot itself where it is installed, and its script by who reads scripts."""

import copy
import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from harness.cli.common import Exit
from tests.deploy.commands import ROOT, RUN_MD, commands, container_run, shell_commands
from tests.deploy.program import complaint
from tests.deploy.test_slurm import shellcheck

yaml = pytest.importorskip("yaml", reason="nox -s tests_deploy installs it")

FILE = ROOT / "docker/deploy/skypilot.yaml"
TASK: dict[str, Any] = yaml.safe_load(FILE.read_text("utf-8"))
FREE = ("envs", "secrets")  # maps whose keys are the user's
PYTHON = Path(os.environ.get("HARNESS_SKYPILOT_PYTHON", ROOT / ".nox/skypilot/bin/python"))


def keys(value: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """Yield the path to every key that SkyPilot knows."""
    if isinstance(value, dict) and (not path or path[-1] not in FREE):
        for key, item in value.items():
            yield (*path, key)
            yield from keys(item, (*path, key))


def renamed(path: tuple[str, ...]) -> dict[str, Any]:
    task = copy.deepcopy(TASK)
    holder = task
    for part in path[:-1]:
        holder = holder[part]
    holder[f"{path[-1]}x"] = holder.pop(path[-1])
    return task


@pytest.fixture(scope="module")
def sky(tmp_path_factory):
    """Run a program with SkyPilot's Python, offline, in a home of its own."""
    if not PYTHON.exists():
        pytest.skip("SkyPilot is not installed: `nox -s skypilot` does it (half a gigabyte, one to two minutes)")
    home = tmp_path_factory.mktemp("home")
    environment = {"PATH": os.environ["PATH"], "HOME": str(home), "SKYPILOT_DISABLE_USAGE_COLLECTION": "1"}

    def call(*arguments: object) -> str:
        command = [PYTHON, *map(str, arguments)]
        ended = subprocess.run(command, env=environment, cwd=home, capture_output=True, text=True, timeout=120)
        assert ended.returncode == 0, ended.stderr
        return ended.stdout

    return call


@pytest.fixture(scope="module")
def answers(sky, tmp_path_factory) -> dict[tuple[str, ...], dict[str, Any]]:
    """What SkyPilot says of the file, under (), and with a typo in each of its keys, under the key's path."""
    folder = tmp_path_factory.mktemp("tasks")
    files = {(): FILE, **{path: folder / f"{'.'.join(path)}.yaml" for path in keys(TASK)}}
    for path, file in files.items():
        if path:
            file.write_text(yaml.safe_dump(renamed(path)), "utf-8")
    lines = sky(Path(__file__).with_name("skypilot_check.py"), *files.values()).splitlines()
    return dict(zip(files, map(json.loads, lines), strict=True))


def test_skypilot_reads_the_file(answers) -> None:
    read = answers[()]["read"]
    assert read["use_spot"] is True
    assert read["accelerators"] == {"L4": 1}
    assert read["envs"] == TASK["envs"]
    assert read["run"] == TASK["run"]
    assert read["job_recovery"]["recover_on_exit_codes"] == [Exit.INTERRUPTED]
    assert read["job_recovery"]["max_restarts_on_errors"] == 0


@pytest.mark.parametrize("path", list(keys(TASK)), ids=".".join)
def test_skypilot_catches_a_typo_in_any_key(answers, path) -> None:
    assert f"{path[-1]}x" in answers[path].get("wrong", "")


def test_skypilot_has_every_flag_of_the_document(sky) -> None:
    [launch] = [command for command in commands(RUN_MD.read_text("utf-8")) if "sky" in command.words]
    flags = {word for word in launch.words if word.startswith("--")}
    told = sky(PYTHON.with_name("sky"), "jobs", "launch", "--help")
    assert flags
    assert [flag for flag in flags if f"{flag} " not in told.replace(",", " ").replace("\n", " ")] == []


def test_the_document_sets_what_the_file_has() -> None:
    [launch] = [command for command in commands(RUN_MD.read_text("utf-8")) if "sky" in command.words]
    following = list(zip(launch.words, launch.words[1:], strict=False))
    assert {value.split("=")[0] for flag, value in following if flag == "--env"} <= set(TASK["envs"])
    assert {value for flag, value in following if flag == "--secret"} == set(TASK["secrets"])


def test_the_script_is_the_run_of_the_document(tmp_path) -> None:
    assert shellcheck(f"IMAGE=a SHARD=b PUBLISH=c\n{TASK['run']}") == ""
    [command] = shell_commands(TASK["run"])
    run = container_run(command.words)
    assert run is not None
    told = [container_run(command.words) for command in commands(RUN_MD.read_text("utf-8"))]
    [publishing] = [other for other in told if other is not None and "--publish" in other.arguments]
    own = {"--name", "--env-file", "--env", "-v"}
    assert [flag for flag in run.flags if flag[0] not in own] == [f for f in publishing.flags if f[0] not in own]
    assert {value for name, value in run.flags if name == "--env"} == set(TASK["secrets"])
    arguments = [TASK["envs"].get(word.removeprefix("$"), word) for word in run.arguments]
    assert complaint(arguments, tmp_path) == ""
    assert "--devicex" in complaint([f"{word}x" if word == "--device" else word for word in arguments], tmp_path)
