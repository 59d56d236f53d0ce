import os
import subprocess
from pathlib import Path

import pytest

from harness.plan.errors import PlanError
from harness.running.folder import make_run_folder, revision
from harness.tables.find import Place, find_pair, find_run

MACHINE = "amd-epyc-2c"


@pytest.fixture(autouse=True)
def _no_settings_of_ours(monkeypatch, tmp_path):
    for name in [name for name in os.environ if name.startswith("GIT_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", os.devnull)
    monkeypatch.setenv("GIT_CONFIG_NOSYSTEM", "1")
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path))
    for who in ("AUTHOR", "COMMITTER"):
        monkeypatch.setenv(f"GIT_{who}_NAME", "nobody")
        monkeypatch.setenv(f"GIT_{who}_EMAIL", "nobody@example.org")


def git(*arguments: str) -> str:
    return subprocess.run(["git", *arguments], capture_output=True, text=True, check=True).stdout.strip()


def commit(text: str) -> str:
    Path("code.py").write_text(text)
    git("add", "code.py")
    git("commit", "-q", "-m", text)
    return git("rev-parse", "HEAD")


@pytest.fixture
def repository(tmp_path, monkeypatch) -> Path:
    """Stand in a repository of two commits, `old` and `new` by tags, on branch main."""
    where = tmp_path / "repository"
    where.mkdir()
    monkeypatch.chdir(where)
    git("init", "-q", "-b", "main")
    commit("old")
    git("tag", "-a", "-m", "annotated", "old")
    commit("new")
    git("tag", "new")
    return where


def stored(at: str, time: str = "20261124T090511Z", *, machine: str = MACHINE, end: str = "") -> Path:
    """Make the folder of a run of a revision in ./results."""
    folder = Path("results", machine, f"{time}-{git('rev-parse', f'{at}^0')[:10]}{end}")
    folder.mkdir(parents=True)
    (folder / "measurements.csv").touch()
    return folder


def find(named: str, like: Path | None = None) -> Place:
    return find_run(named, Path("results")) if like is None else find_pair(named, str(like), Path("results"))[0]


def refusal(named: str, like: Path | None = None) -> str:
    with pytest.raises(PlanError) as refused:
        find(named, like)
    said = str(refused.value)
    assert said.isprintable()
    assert len(said) < 600
    return said


# By path


def test_a_folder_is_taken_as_it_is_named(tmp_path):
    (tmp_path / "measurements.csv").touch()
    assert find_run(str(tmp_path), Path("results")) == Place(tmp_path)
    assert Place(tmp_path).folder == tmp_path


def test_a_folder_whose_tables_are_not_written_yet_is_one_of_a_run(tmp_path):
    (tmp_path / "journal.jsonl").touch()
    assert find_run(str(tmp_path), Path("results")).path == tmp_path


@pytest.mark.parametrize("named", [".", "", "sub\x1b[31m"])
def test_a_folder_without_tables_is_refused(named, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / named).mkdir(exist_ok=True)
    assert "is no folder of a run: it has no measurements.csv" in refusal(named)


def test_a_file_is_taken_as_it_is_named_whatever_its_name(tmp_path):
    for name in ("a.csv", "table", "HEAD"):
        (tmp_path / name).touch()
        found = find_run(str(tmp_path / name), Path("results"))
        assert found == Place(tmp_path / name)
        assert found.folder == tmp_path


def test_a_file_that_is_not_there_is_left_to_its_reader_to_refuse(repository):
    for named in ("none.csv", "results/none.csv"):
        assert find(named) == Place(Path(named))


@pytest.mark.parametrize("named", ["results/none", "./none", "none/", "/none/at/all", "../none"])
def test_a_path_of_nothing_is_refused_as_nothing_at_all(named, repository):
    Path("results").mkdir()
    assert f"{named} is no run, no CSV file and no revision of this repository" in refusal(named)


def test_a_file_or_folder_here_is_meant_rather_than_a_revision_of_the_same_name(repository):
    stored("old")
    Path("old").mkdir()
    Path("old/measurements.csv").touch()
    assert find("old").commit == ""


# By revision


@pytest.mark.parametrize(
    "named", ["new", "main", "HEAD", "@", "main@{0}", "old", "HEAD~1", "HEAD^", "new~", "main^{/old}"]
)
def test_a_revision_is_whatever_git_takes_for_one(named, repository):
    folders = {name: stored(name) for name in ("old", "new")}
    found = find(named)
    assert found.commit == git("rev-parse", f"{named}^{{commit}}")
    assert found.path == folders["old" if found.commit == git("rev-parse", "old^0") else "new"]


def test_a_commit_is_found_by_its_digits(repository):
    folder = stored("old")
    digits = git("rev-parse", "old^0")
    for length in (4, 7, 10, 12, 40):
        assert find(digits[:length]).path == folder


def test_a_revision_is_found_from_a_folder_below_and_with_a_detached_head(repository, monkeypatch):
    folder = stored("old").resolve()
    git("checkout", "-q", "--detach", "old")
    assert find("HEAD").path.resolve() == folder
    below = repository / "below"
    below.mkdir()
    monkeypatch.chdir(below)
    assert find_run("HEAD", Path("../results")).path.resolve() == folder


def test_the_folder_that_a_run_is_stored_in_is_one_that_is_found(repository):
    for _ in range(2):
        made = make_run_folder(Path("results"), MACHINE, revision(Path.cwd()))
        (made / "measurements.csv").touch()
    assert find("HEAD").path.parent == made.parent


def test_the_newest_run_of_a_revision_is_taken(repository):
    stored("old", "20261120T090511Z")
    newest = stored("old", "20261124T090511Z", end="-2")
    stored("old", "20261122T090511Z")
    stored("old", "20261124T090511Z")
    assert find("old").path == newest


def test_a_run_with_uncommitted_changes_is_none_of_the_commit(repository):
    clean = stored("old", "20261120T090511Z")
    stored("old", "20261124T090511Z", end="-dirty")
    stored("old", "20261125T090511Z", end="-dirty-2")
    assert find("old").path == clean


def test_a_revision_of_which_only_dirty_runs_are_stored_has_none_and_names_their_newest_folder(repository):
    stored("old", "20261120T090511Z", end="-dirty")
    dirty, clean = stored("old", end="-dirty-2"), stored("new")
    said = refusal("old")
    assert f"only measured with uncommitted changes: {dirty} is no base; measure it there, or both at once" in said
    with pytest.raises(PlanError, match=f"uncommitted changes: name its folder, {dirty}, or measure it there"):
        find_pair(str(clean), "old", Path("results"))


def test_what_is_not_committed_is_no_revision_and_the_command_that_measures_it_is_named(repository):
    assert (
        refusal("worktree") == "worktree is measured by: harness ab BASE worktree; a run of it is named by its folder"
    )
    git("branch", "worktree", "old")
    folder = stored("old")
    assert find("worktree").path == folder


def test_a_folder_of_the_commit_that_holds_no_tables_or_has_another_name_is_none(repository):
    for folder in (stored("old"), stored("old", end="0")):
        (folder / "measurements.csv").unlink()
    stored("old", "yesterday")
    stored("old", end="-copy")
    assert "has no run of it" in refusal("old")


def test_where_no_results_are_at_all_a_revision_has_no_run(repository):
    said = refusal("HEAD")
    for text in (f"HEAD is commit {git('rev-parse', 'HEAD')[:10]}", "results has no run of it"):
        assert text in said
    Path("results").write_text("a file")
    assert "has no run of it" in refusal("HEAD")


def test_a_revision_measured_on_two_machines_is_ambiguous_unless_the_other_side_says_which(repository):
    here, there = stored("old"), stored("old", machine="nvidia-h200")
    assert refusal("old") == "old was measured on amd-epyc-2c, nvidia-h200: name one run's folder"
    assert find("old", like=stored("new")).path == here
    assert find("old", like=stored("new", machine="nvidia-h200")).path == there


def test_a_revision_that_was_not_measured_where_the_other_side_was_is_taken_from_where_it_was(repository):
    elsewhere = stored("old", machine="nvidia-h200")
    assert find("old", like=stored("new")).path == elsewhere


def test_two_runs_of_one_commit_can_be_compared_with_each_other(repository):
    first, second = stored("old", "20261120T090511Z"), stored("old", "20261124T090511Z")
    assert find("old").path == second
    assert find("old", like=second).path == first


@pytest.mark.parametrize(
    "named",
    [
        *("-x", "--help", "-", "--", "--all", "--git-dir=x"),
        *("none", "old..new", "old new", ":/nothing", "HEAD:code.py", "HEAD~100", "a\x00b", "a\nb", "\x1b[31m"),
        *("x" * 200, "é" * 90, "*", "${HOME}", "$(touch x)", "@{u}", "refs/heads", "0" * 40, "ffff"),
    ],
    ids=ascii,
)
def test_what_is_neither_a_path_nor_a_revision_is_refused_in_one_line(named, repository):
    assert "is no run, no CSV file and no revision of this repository" in refusal(named)
    assert sorted(path.name for path in repository.iterdir()) == [".git", "code.py"]


def test_what_git_leaves_out_is_no_revision(repository):
    assert "no revision of this repository" in refusal("^old")


def test_a_branch_is_found_although_a_folder_has_the_name_of_its_first_part(repository):
    folder = stored("old")
    git("branch", "docs/fix", "old")
    Path("docs").mkdir()
    assert find("docs/fix").path == folder


def test_a_name_that_is_too_long_for_a_file_is_refused_like_any_other(repository):
    assert "is no run" in refusal("x" * 300)


def test_outside_of_a_repository_a_revision_is_refused_as_such(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert "git says of no revision here: this is no repository" in refusal("HEAD")


def test_without_git_a_revision_is_refused(repository, monkeypatch):
    monkeypatch.setenv("PATH", "")
    assert "HEAD is no run and no CSV file" in refusal("HEAD")


def test_a_repository_without_a_commit_has_no_revision(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    git("init", "-q")
    assert "no revision of this repository" in refusal("HEAD")


def test_a_shallow_clone_says_how_to_get_the_commits_that_it_lacks(repository, tmp_path, monkeypatch):
    old = git("rev-parse", "old^0")
    git("clone", "-q", "--depth", "1", f"file://{repository}", str(tmp_path / "shallow"))
    monkeypatch.chdir(tmp_path / "shallow")
    stored("HEAD")
    assert find("HEAD").path.is_dir()
    for named in ("HEAD~1", old, "main~1"):
        assert refusal(named).endswith("; this clone is shallow: git fetch --unshallow")
    assert "shallow" in refusal("none")
