"""The commands that docker/run.md tells, and what in each of them is an engine's and what is the program's.

Read by the tests beside this file, and by whoever has a container engine and an image to run them in.
"""

import os
import re
import shlex
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
RUN_MD = ROOT / "docker/run.md"
IMAGE = "REGISTRY/OWNER/gradient-harness:TAG"
ENGINES = ("docker", "podman")

# The flags of `docker run` and `podman run` that these files use: those with a value, and those without.
_WITH_VALUE = frozenset(
    [
        "--cap-drop",
        "--device",
        "--env",
        "--env-file",
        "--gpus",
        "--name",
        "--network",
        "--security-opt",
        "--shm-size",
        "--stop-timeout",
        "--tmpfs",
        "--ulimit",
        "--user",
        "--userns",
        "-v",
    ]
)
_WITHOUT = frozenset({"--rm", "--read-only"})


@dataclass(frozen=True)
class Command:
    """One command of a shell block.

    line: where it begins. text: as it stands, its lines joined. words: as a shell splits it, nothing expanded.
    """

    line: int
    text: str
    words: tuple[str, ...]

    def starts(self, *words: str) -> bool:
        """Say whether these are its first words."""
        return self.words[: len(words)] == words


@dataclass(frozen=True)
class ContainerRun:
    """A `docker run` or `podman run`: flags as (name, value), "" where it takes none; arguments: of the program."""

    engine: str
    flags: tuple[tuple[str, str], ...]
    image: str
    arguments: tuple[str, ...]


def commands(markdown: str) -> list[Command]:
    """Return the commands of all fenced blocks of shell; raise ValueError for a block of another or no language."""
    found: list[Command] = []
    for block in re.finditer(r"^```([^\n]*)\n(.*?)^```$", markdown, re.MULTILINE | re.DOTALL):
        first = markdown.count("\n", 0, block.start(2)) + 1
        if block[1] != "sh":
            raise ValueError(f"line {first - 1}: a block of {block[1] or 'no language'}, not sh")
        found.extend(shell_commands(block[2], first))
    return found


def shell_commands(script: str, first: int = 1) -> list[Command]:
    """Return the commands of a script of plain commands, one a line, or on several joined by a backslash."""
    found: list[Command] = []
    begun, begins = "", first
    for number, line in enumerate(script.splitlines(), first):
        begins = begins if begun else number
        begun += line.strip().removesuffix("\\")
        if line.endswith("\\"):
            continue
        if words := tuple(shlex.split(begun, comments=True)):
            found.append(Command(begins, begun, words))
        begun = ""
    if begun:
        raise ValueError(f"line {begins}: ends with a backslash")
    return found


def container_run(words: tuple[str, ...]) -> ContainerRun | None:
    """Return the parts of `docker run` or `podman run`, or None for another command; raise ValueError for a typo."""
    if not words or words[0] not in ENGINES or words[1:2] != ("run",):
        return None
    flags: list[tuple[str, str]] = []
    left = list(words[2:])
    while left and left[0].startswith("-"):
        name, equals, value = left.pop(0).partition("=")
        if name in _WITHOUT and not equals:
            flags.append((name, ""))
        elif name in _WITH_VALUE and (equals or left):
            flags.append((name, value if equals else left.pop(0)))
        else:
            raise ValueError(f"{words[0]} run: {name} is not known here")
    if not left:
        raise ValueError(f"{words[0]} run: no image")
    return ContainerRun(words[0], tuple(flags), left[0], tuple(left[1:]))


def program_arguments(words: tuple[str, ...]) -> tuple[str, ...] | None:
    """Return what the command gives to `harness`, in a container or not; None if it starts something else."""
    if words[:1] == ("harness",):
        return words[1:]
    run = container_run(words)
    return None if run is None else run.arguments


def here(run: ContainerRun, engine: str, image: str, folder: Path) -> list[str]:
    """Return the same run without a GPU, on the CPU, by an engine and with an image that are here, in a folder.

    Left out besides: the name, which another container may have; `--env-file`, as there are no keys; `--userns` where
    root runs podman, which refuses it then; limits where podman stands in for docker, as it may not raise them.
    """
    left_out = {"--gpus", "--device", "--name", "--env-file"}
    left_out |= {"--userns"} if os.getuid() == 0 else set()
    left_out |= {"--ulimit"} if engine != run.engine else set()
    flags = (word for name, value in run.flags if name not in left_out for word in (name, value) if word)
    arguments = ("cpu" if word == "cuda" else word for word in run.arguments)
    return [engine, "run", *(flag.replace("$PWD", str(folder)) for flag in flags), image, *arguments]
