import os
import subprocess
from pathlib import Path

import pytest

from harness.plan.errors import PlanError
from harness.running import checkout as checkout_module
from harness.running.checkout import Repository


@pytest.fixture(autouse=True)
def no_other_repository(tmp_path, monkeypatch):
    """What git finds is in tmp_path, even where these tests run in a git hook or an image."""
    for name in [name for name in os.environ if name.startswith("GIT_")] + ["HARNESS_REVISION"]:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path))
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", os.devnull)
    monkeypatch.setenv("GIT_CONFIG_NOSYSTEM", "1")


def git(where: Path, *arguments: str) -> str:
    who = ("-c", "user.name=a", "-c", "user.email=a@b.c", "-c", "commit.gpgsign=false")
    done = subprocess.run(["git", "-C", where, *who, *arguments], check=True, capture_output=True, text=True)
    return done.stdout.strip()


def content(folder: Path) -> dict[str, str]:
    return {
        str(path.relative_to(folder)): path.read_text()
        for path in folder.rglob("*")
        if path.is_file() and ".git" not in path.relative_to(folder).parts
    }


@pytest.fixture
def repository(tmp_path) -> Path:
    """Two commits: `model.py` changes, `gone.py` goes, `sub/new.py` comes; *.log is ignored."""
    folder = tmp_path / "repository"
    git(tmp_path, "init", "--quiet", "--initial-branch=main", str(folder))
    for name, text in {"model.py": "one\n", "gone.py": "gone\n", ".gitignore": "*.log\n"}.items():
        (folder / name).write_text(text)
    git(folder, "add", "--all")
    git(folder, "commit", "--quiet", "--message=one")
    git(folder, "tag", "first")
    (folder / "model.py").write_text("two\n")
    (folder / "gone.py").unlink()
    (folder / "sub").mkdir()
    (folder / "sub/new.py").write_text("new\n")
    git(folder, "add", "--all")
    git(folder, "commit", "--quiet", "--message=two")
    return folder


FIRST = {"model.py": "one\n", "gone.py": "gone\n", ".gitignore": "*.log\n"}
SECOND = {"model.py": "two\n", "sub/new.py": "new\n", ".gitignore": "*.log\n"}


def laid_out(repository: Path, name: str, folder: Path) -> dict[str, str]:
    found = Repository.around(repository)
    found.lay_out(name, found.resolve(name), folder)
    return content(folder)


@pytest.mark.parametrize(
    ("name", "files"), [("first", FIRST), ("HEAD~1", FIRST), ("main", SECOND), ("HEAD", SECOND), ("worktree", SECOND)]
)
def test_a_revision_is_laid_out_as_it_was_committed(repository, tmp_path, name, files):
    assert laid_out(repository, name, tmp_path / "a") == files


def test_it_is_found_from_any_folder_of_the_repository_and_with_a_detached_head(repository, tmp_path):
    git(repository, "checkout", "--quiet", "--detach")
    assert laid_out(repository / "sub", "HEAD~1", tmp_path / "a") == FIRST


def test_worktree_is_what_is_not_committed_new_files_too_but_nothing_that_git_ignores_and_no_results(
    repository, tmp_path
):
    (repository / "model.py").write_text("three\n")
    (repository / ".gitignore").unlink()
    (repository / ".gitignore").write_text("*.log\n# and more\n")
    (repository / "sub/new.py").unlink()
    (repository / "staged.py").write_text("staged\n")
    git(repository, "add", "staged.py")
    (repository / "untracked").mkdir()
    (repository / "untracked/näme with space.py").write_text("untracked\n")
    (repository / "untracked/link.py").symlink_to("../model.py")
    (repository / "big.log").write_text("ignored\n")
    (repository / "results").mkdir()
    (repository / "results/summary.csv").write_text("kept\n")
    assert laid_out(repository, "worktree", tmp_path / "a") == {
        "model.py": "three\n",
        ".gitignore": "*.log\n# and more\n",
        "staged.py": "staged\n",
        "untracked/näme with space.py": "untracked\n",
        "untracked/link.py": "three\n",
    }
    assert (tmp_path / "a/untracked/link.py").readlink() == Path("../model.py")
    at = Repository.around(repository).resolve("worktree")
    assert (at.commit, at.dirty) == (git(repository, "rev-parse", "HEAD"), True)


def test_a_file_that_became_a_folder_is_one(repository, tmp_path):
    (repository / "model.py").unlink()
    (repository / "model.py").mkdir()
    (repository / "model.py/deep.py").write_text("deep\n")
    assert laid_out(repository, "worktree", tmp_path / "a")["model.py/deep.py"] == "deep\n"


def test_what_is_edited_afterwards_does_not_reach_it(repository, tmp_path):
    (repository / "model.py").write_text("three\n")
    laid_out(repository, "worktree", tmp_path / "a")
    (repository / "model.py").write_text("four\n")
    assert content(tmp_path / "a")["model.py"] == "three\n"


def test_a_file_too_large_to_be_code_is_linked(repository, tmp_path, monkeypatch):
    monkeypatch.setattr(checkout_module, "_LARGE", 100)
    (repository / "data.bin").write_text("x" * 101)
    (repository / "code.py").write_text("x" * 100)
    laid_out(repository, "worktree", tmp_path / "a")
    assert (tmp_path / "a/data.bin").readlink() == repository / "data.bin"
    assert not (tmp_path / "a/code.py").is_symlink()


def state(repository: Path) -> dict[str, bytes]:
    """All that git keeps, byte for byte."""
    return {str(path): path.read_bytes() for path in (repository / ".git").rglob("*") if path.is_file()}


def test_the_repository_is_as_it_was_and_no_hook_of_it_runs(repository, tmp_path):
    hook = repository / ".git/hooks/post-checkout"
    hook.parent.mkdir(exist_ok=True)
    hook.write_text(f"#!/bin/sh\n: > {tmp_path}/hooked\n")
    hook.chmod(0o755)
    git(repository, "config", "core.splitIndex", "true")
    (repository / "model.py").write_text("three\n")
    git(repository, "status")  # from here on the index knows it
    before = state(repository)
    for number, name in enumerate(("first", "worktree")):
        laid_out(repository, name, tmp_path / f"{number}")
    assert state(repository) == before
    assert git(repository, "worktree", "list").count("\n") == 0
    assert not (tmp_path / "hooked").exists()


def test_in_a_hook_the_index_of_its_commit_is_not_touched(repository, tmp_path, monkeypatch):
    index = repository / ".git/index"
    before = index.read_bytes()
    monkeypatch.setenv("GIT_INDEX_FILE", str(index))
    assert laid_out(repository, "first", tmp_path / "a") == FIRST
    assert index.read_bytes() == before


def test_in_a_linked_worktree_it_is_that_ones_head(repository, tmp_path):
    git(repository, "worktree", "add", "--quiet", "--detach", str(tmp_path / "linked"), "first")
    assert laid_out(tmp_path / "linked", "HEAD", tmp_path / "a") == FIRST


# Refused in one line


@pytest.mark.parametrize("name", ["nowhere", "f" * 40, "HEAD~2", "HEAD:model.py", "--all", "-h", ""])
def test_an_unknown_revision_is_refused_by_its_name(repository, name):
    with pytest.raises(PlanError, match=f"unknown revision '{name}'"):
        Repository.around(repository).resolve(name)


def test_a_shallow_clone_that_lacks_a_revision_says_how_to_get_it(repository, tmp_path):
    commit = git(repository, "rev-parse", "first")
    git(tmp_path, "clone", "--quiet", "--depth=1", f"file://{repository}", str(tmp_path / "shallow"))
    shallow = Repository.around(tmp_path / "shallow")
    for name in ("HEAD~1", commit):
        with pytest.raises(PlanError, match=f"no revision '{name}': fetch it with `git fetch --unshallow`"):
            shallow.resolve(name)
    assert shallow.resolve("HEAD").commit == git(repository, "rev-parse", "HEAD")


def test_outside_any_repository_git_says_so(tmp_path):
    with pytest.raises(PlanError, match=f"{tmp_path} is in no git repository .*: not a git repository"):
        Repository.around(tmp_path)


def test_without_git_that_is_said(repository, monkeypatch):
    monkeypatch.setenv("PATH", str(repository))
    with pytest.raises(PlanError, match="git cannot be started: No such file or directory"):
        Repository.around(repository)


def test_a_repository_without_a_commit_has_no_worktree_to_compare(tmp_path):
    git(tmp_path, "init", "--quiet", str(tmp_path / "fresh"))
    with pytest.raises(PlanError, match="has no commit yet: commit first"):
        Repository.around(tmp_path / "fresh").resolve("worktree")


def test_a_revision_whose_files_are_not_there_is_refused_with_what_git_says(repository, tmp_path):
    found = Repository.around(repository)
    at = found.resolve("first")
    blob = git(repository, "rev-parse", "first:gone.py")
    (repository / ".git/objects" / blob[:2] / blob[2:]).unlink()
    with pytest.raises(PlanError, match=r"'first' cannot be checked out: .*gone\.py"):
        found.lay_out("first", at, tmp_path / "a")
