"""The example workflow: its shell scripts run under the shell that GitHub uses, with stand-ins for nox, git and gh."""

import os
import re
import subprocess
import sys
import textwrap
from dataclasses import dataclass
from pathlib import Path

import pytest

from harness.cli.ab import command as ab

ROOT = Path(sys.modules["harness"].__file__).parents[1]
WORKFLOW = (ROOT / "docs/examples/pull-request.yml").read_text("utf-8")
TABLE = "### no regression\n"


@dataclass(frozen=True)
class Ended:
    code: int
    out: str
    called: list[list[str]]


def step(name: str) -> str:
    """The text of one step."""
    found = re.search(rf"^      - name: {name}\n((?:        .*\n|\n)*)", WORKFLOW, re.MULTILINE)
    assert found, name
    return found[1]


def script(name: str) -> str:
    """The shell script of one step: a literal block of YAML."""
    found = re.search(r"^        run: \|\n((?:          .*\n|\n)*)", step(name), re.MULTILINE)
    assert found, name
    return textwrap.dedent(found[1])


@pytest.fixture
def shell(tmp_path):
    """Run the script of a step as GitHub does, with the programs given as scripts on PATH."""

    def call(name: str, programs: dict[str, str], **environment: str) -> Ended:
        programs_at, work = tmp_path / "bin", tmp_path / "work"
        programs_at.mkdir(exist_ok=True)
        work.mkdir(exist_ok=True)
        for program, body in programs.items():
            file = programs_at / program
            file.write_text(f"#!/bin/bash\nprintf '%s\\0' \"$@\" '' >> '{tmp_path}/called'\n{body}\n", "utf-8")
            file.chmod(0o755)
        (tmp_path / "script.sh").write_text(script(name), "utf-8")
        ended = subprocess.run(
            ["bash", "--noprofile", "--norc", "-eo", "pipefail", tmp_path / "script.sh"],
            cwd=work,
            env={"PATH": f"{programs_at}:{os.environ['PATH']}", "HOME": str(tmp_path), **environment},
            capture_output=True,
            text=True,
            timeout=30,
            check=False,
        )
        calls = (tmp_path / "called").read_text("utf-8") if (tmp_path / "called").exists() else ""
        return Ended(ended.returncode, ended.stdout, [call.split("\0") for call in calls.split("\0\0") if call])

    return call


def compare(shell, code: int, does: str = f"printf '{TABLE.strip()}\\n' > comparison.md", limit: str = "1m") -> Ended:
    nox = f"echo 'what nox says'; {does}; exit {code}"
    return shell("Compare", {"nox": nox}, BASE_SHA="a" * 40, HEAD_SHA="b" * 40, ROUNDS="10", LIMIT=limit)


@pytest.mark.parametrize(
    ("code", "job", "warning"),
    [
        (0, 0, None),
        (1, 1, None),
        (2, 0, "not compared"),
        (3, 0, "not compared"),
        (4, 0, "undecided"),
        (130, 0, "not compared"),
        (137, 0, "not compared"),
    ],
)
def test_the_job_fails_on_a_regression_alone_and_says_what_else_there_was(shell, code, job, warning) -> None:
    ended = compare(shell, code)
    assert ended.code == job
    assert "what nox says" in ended.out
    commands = [line for line in ended.out.splitlines() if line.startswith("::")]
    assert [re.fullmatch(r"::warning title=([^:,]+)::[^:].*", line)[1] for line in commands] == (
        [warning] if warning else []
    )


def test_one_without_a_table_and_a_comparison_that_takes_too_long_do_not_fail_the_job(shell) -> None:
    for ended in (compare(shell, 1, does=":"), compare(shell, 0, does="exec sleep 20", limit="0.3")):
        assert ended.code == 0
        assert ended.out.count("::warning title=not compared::") == 1
    assert "not done after 0.3" in ended.out


@pytest.mark.parametrize(
    ("name", "programs", "code"),
    [
        ("Install", {"pipx": "exit 0", "nox": "exit 0"}, 0),
        ("Install", {"pipx": "exit 1", "nox": "exit 0"}, 1),
        ("Install", {"pipx": "exit 0", "nox": "exit 2"}, 2),
        ("Find the base", {"git": "exit 1"}, 1),
    ],
)
def test_what_fails_before_the_comparison_ends_its_step_and_only_warns(shell, tmp_path, name, programs, code) -> None:
    file = tmp_path / "env"
    ended = shell(name, programs, TARGET_SHA="target", HEAD_SHA="head", GITHUB_ENV=str(file))
    assert ended.code == code
    assert not file.exists()
    assert shell("Warn", {}).out.startswith("::warning title=not compared::")


def test_no_step_but_the_comparison_fails_the_job_and_it_needs_those_before_it() -> None:
    steps = re.split(r"^      - ", WORKFLOW.partition("    steps:\n")[2], flags=re.MULTILINE)[1:]
    names = [re.match(r"(?:name: |uses: )(.*)", text)[1] for text in steps]
    failing = [name for name, text in zip(names, steps, strict=True) if "continue-on-error: true" not in text]
    assert failing == ["Warn", "Compare"]
    for name, key in (("Install", "install"), ("Find the base", "base")):
        assert f"\n        id: {key}\n" in f"\n{step(name)}"
    assert "if: ${{ steps.install.outcome == 'success' && steps.base.outcome == 'success' }}" in step("Compare")
    assert "if: ${{ steps.install.outcome != 'success' || steps.base.outcome != 'success' }}" in step("Warn")


def test_every_code_is_told_in_its_own_words(shell) -> None:
    texts = {compare(shell, code).out for code in (2, 3, 4, 124, 130, 137)}
    assert len(texts) == 6
    assert any("137" in text for text in texts)


def test_what_is_called_are_arguments_that_the_command_line_takes(shell) -> None:
    (call,) = compare(shell, 0).called
    assert call[:3] == ["-s", "ab", "--"]
    context = ab.make_context("ab", call[3:])
    assert context.params["revisions"] == ("a" * 40, "b" * 40)
    assert context.params["margin"] is None  # the default goes by how noisy the runner is
    assert context.params["rounds"] == 10
    assert context.params["strict"]
    assert context.params["form"] == "github"
    assert [str(file) for file in context.params["output"]] == ["comparison.md"]


def test_the_base_is_where_the_branch_left(shell, tmp_path) -> None:
    git = 'test "$*" = "merge-base target head" && echo fork'
    file = tmp_path / "env"
    ended = shell("Find the base", {"git": git}, TARGET_SHA="target", HEAD_SHA="head", GITHUB_ENV=str(file))
    assert ended.code == 0
    assert file.read_text("utf-8").splitlines() == ["BASE_SHA=fork", "HEAD_SHA=head"]


GH_FIRST = 'test "$4" != --edit-last'  # there is no comment yet
GH_READ_ONLY = "exit 1"


@pytest.mark.parametrize(
    ("gh", "calls", "said"),
    [("exit 0", 1, ""), (GH_FIRST, 2, ""), (GH_READ_ONLY, 2, "::warning title=no comment::")],
    ids=["again", "first", "read-only"],
)
def test_the_table_is_commented_once_and_where_that_is_not_allowed_nothing_fails(shell, gh, calls, said) -> None:
    compare(shell, 1)
    ended = shell("Comment", {"gh": gh}, PR="https://example.org/pull/1")
    commented = [call for call in ended.called if call[0] == "pr"]
    assert ended.code == 0
    assert len(commented) == calls
    assert all(call[:3] == ["pr", "comment", "https://example.org/pull/1"] for call in commented)
    assert all(call[-2:] == ["--body-file", "comparison.md"] for call in commented)
    assert ended.out.startswith(said)
    assert bool(said) == bool(ended.out)


def test_without_a_table_there_is_no_comment(shell) -> None:
    ended = shell("Comment", {"gh": "exit 0"}, PR="https://example.org/pull/1")
    assert (ended.code, ended.called) == (0, [])


def test_a_fork_is_not_commented_on_and_strangers_code_gets_no_token() -> None:
    assert "github.event.pull_request.head.repo.full_name == github.repository" in step("Comment")
    assert "persist-credentials: false" in WORKFLOW
    assert re.search(r"^on: pull_request$", WORKFLOW, re.MULTILINE)
    for name in ("Install", "Find the base", "Compare"):
        assert "token" not in step(name).lower()


def test_every_action_is_pinned_and_no_script_holds_what_github_would_paste_into_it() -> None:
    actions = re.findall(r"uses: (.*)", WORKFLOW)
    assert len(actions) >= 3
    for action in actions:
        assert re.fullmatch(r"actions/[a-z-]+@v\d+", action), action
    for name in ("Install", "Find the base", "Compare", "Comment"):
        assert "${{" not in script(name)
    assert re.search(r"^permissions:\n  contents: read\n  pull-requests: write\b", WORKFLOW, re.MULTILINE)


def test_the_document_names_the_file_and_every_exit_code() -> None:
    document = (ROOT / "docs/compare-in-ci.md").read_text("utf-8")
    assert "docs/examples/pull-request.yml" in document
    for code in (0, 1, 2, 3, 4, 130):
        assert re.search(rf"[| ]{code} \w", document), code
