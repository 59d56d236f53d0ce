"""Every command of the documents is run, is run by another test, or says why not; files in them are read as such.

A command that several documents tell is one.
"""

import os
import shutil
import signal
import subprocess
import sys
import tomllib
from pathlib import Path

import pandas as pd
import pytest

from harness.cli import cli, main
from tests.documents.calls import program_arguments
from tests.documents.fences import (
    DOCUMENTS,
    ROOT,
    STORED,
    TUTORIAL,
    Command,
    blocks,
    commands,
    headings,
    indented,
    links,
)
from tests.documents.ways import WAYS, Elsewhere, NotRun, Run

BLOCKS = [block for document in DOCUMENTS for block in blocks(document)]
TOLD = {command.text: command for document in DOCUMENTS for command in commands(document)}
RUN_HERE = [command for text, command in TOLD.items() if isinstance(WAYS.get(text), Run)]
FOR_THE_PROGRAM = [
    (command, arguments) for command in TOLD.values() if (arguments := program_arguments(command.words)) is not None
]
IDENTITY = {f"GIT_{who}_{what}": "reader@example.org" for who in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")}
# Blocks of what is printed, by how they begin, and what is looked at.
PRINTED = {
    "line  100  manual": "test_rows_that_the_tutorial_shows_are_those_of_the_stored_run",
    "wrong_gradient line/mine.py:Mine": "tests/real/test_tutorial.py, but for the numbers",
    "case                                base": "measured once, on one machine: nobody can get it again",
    "results/<machine>/": "a folder's files, not a command's output",
}


def git(folder: Path, *arguments: str) -> str:
    command = ["git", *arguments]
    ended = subprocess.run(
        command, cwd=folder, env={**os.environ, **IDENTITY}, capture_output=True, text=True, timeout=30, check=True
    )
    return ended.stdout.strip()


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A repository that has what the commands name: two stored runs, one of HEAD, an engine and a sweep."""
    folder = tmp_path_factory.mktemp("checkout")
    (folder / "my").mkdir()
    (folder / "my/engine.py").write_text(next(each.text for each in blocks(TUTORIAL) if each.language == "python"))
    (folder / "mine.toml").write_text(next(each.text for each in BLOCKS if each.language == "toml"), "utf-8")
    git(folder, "init", "--quiet", "--initial-branch", "main")
    git(folder, "add", "--all")
    git(folder, "commit", "--quiet", "--message", "what a reader has")
    shutil.copytree(ROOT / STORED, folder / STORED)
    commit = git(folder, "rev-parse", "HEAD")
    again = (folder / STORED).with_name(f"20261125T114830Z-{commit[:10]}")
    again.mkdir()
    for file in (folder / STORED).glob("*.csv"):
        table = pd.read_csv(file, dtype=str, keep_default_na=False)
        table = table.assign(run_id=again.name, commit=commit)
        table.to_csv(again / file.name, index=False)
    return folder


def ended(arguments: tuple[str, ...], monkeypatch: pytest.MonkeyPatch) -> int:
    """Run the program in this process, and give signals back to pytest afterwards."""
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
    monkeypatch.setattr(sys, "argv", ["harness", *arguments])
    monkeypatch.setenv("COLUMNS", "200")
    try:
        with pytest.raises(SystemExit) as ending:
            main()
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
    return int(ending.value.code or 0)


def test_every_command_is_run_here_or_elsewhere_or_has_a_reason() -> None:
    untold = [f"{command.place}: {text}" for text, command in TOLD.items() if text not in WAYS]
    assert untold == [], "say in tests/documents/ways.py how it is checked"


def test_nothing_is_said_of_a_command_that_no_document_has() -> None:
    assert set(WAYS) - set(TOLD) == set()


@pytest.mark.parametrize("command", RUN_HERE, ids=lambda command: command.place)
def test_a_command_ends_and_prints_as_it_should(command: Command, repository, monkeypatch, capsys) -> None:
    way, arguments = WAYS[command.text], program_arguments(command.words)
    assert isinstance(way, Run)
    assert arguments is not None
    monkeypatch.chdir(repository)
    code = ended((*(way.exchanged.get(word, word) for word in arguments), *way.added), monkeypatch)
    out, err = capsys.readouterr()
    assert code == way.code, err
    assert way.says in out


@pytest.mark.parametrize(("command", "arguments"), FOR_THE_PROGRAM, ids=[each.place for each, _ in FOR_THE_PROGRAM])
def test_the_program_knows_every_flag_of_a_command(command: Command, arguments: tuple[str, ...]) -> None:
    name, *rest = arguments
    cli.commands[name].make_context(name, rest)


@pytest.mark.parametrize("way", dict.fromkeys(way for way in WAYS.values() if isinstance(way, Elsewhere)), ids=str)
def test_what_is_run_elsewhere_is_there(way: Elsewhere) -> None:
    assert way.holds in (ROOT / way.file).read_text("utf-8")


def test_every_reason_is_one() -> None:
    assert all(way.reason for way in WAYS.values() if isinstance(way, NotRun))


def test_every_block_is_of_a_kind_that_is_checked() -> None:
    assert [document.name for document in DOCUMENTS if indented(document)] == ["README.md"]  # of docker/
    assert not indented(ROOT / "README.md")
    assert {block.language for block in BLOCKS} == {"sh", "python", "toml", "diff", "text"}
    assert {block.name for block in BLOCKS if block.language == "diff"} == {"mine.py"}
    begins = [block.text for block in BLOCKS if block.language == "text"]
    assert all(sum(text.startswith(begin) for begin in PRINTED) == 1 for text in begins)
    assert len(begins) == len(PRINTED)


@pytest.mark.parametrize("block", [each for each in BLOCKS if each.language == "python"], ids=lambda each: each.place)
def test_python_is_a_program_that_defines_what_it_shows(block) -> None:
    names: dict[str, object] = {"MineUpdates": object}
    exec(compile(block.text, block.place, "exec"), names)  # noqa: S102 - the project's own documents
    assert {"unsupported", "prepare"} <= set(vars(names["Mine"]))


@pytest.mark.parametrize("block", [each for each in BLOCKS if each.language == "toml"], ids=lambda each: each.place)
def test_a_sweep_is_toml(block) -> None:
    assert tomllib.loads(block.text)["grid"]


def test_rows_that_the_tutorial_shows_are_those_of_the_stored_run(monkeypatch, capsys) -> None:
    shown = next(each.text for each in blocks(TUTORIAL) if each.text.startswith("line  100  manual"))
    assert ended(("show", str(ROOT / STORED)), monkeypatch) == 0
    printed = [row.split() for row in capsys.readouterr().out.splitlines()]
    assert all(row.split() in printed for row in shown.splitlines())


def test_links_lead_to_files_and_headings() -> None:
    for document in DOCUMENTS:
        for target in links(document):
            path, _, heading = target.partition("#")
            file = (document.parent / path) if path else document
            assert file.exists(), f"{document.name}: {target}"
            assert not heading or heading in headings(file), f"{document.name}: {target}"
