import errno
import os
import subprocess
from datetime import UTC, datetime
from pathlib import Path

import pytest

from harness.plan.errors import PlanError
from harness.running import folder as folder_module
from harness.running.folder import Revision, make_run_folder, replaced, revision, sync_folder

COMMIT = "0123456789abcdef0123456789abcdef01234567"
NOW = datetime(2026, 7, 1, 12, 30, 5, tzinfo=UTC)


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


@pytest.fixture
def repository(tmp_path):
    """A committed repository with a subfolder, a kept result, and files whose names only look like results."""
    repository = tmp_path / "repository"
    for name in ("model.py", "sub/deep/layer.py", "results/kept/summary.csv", "results.py", "sub/results_of.txt"):
        path = repository / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("one\n")
    git(tmp_path, "init", "--quiet", str(repository))
    git(repository, "add", "--all", "--force")
    git(repository, "commit", "--quiet", "--message=one")
    return repository


PLACES = pytest.mark.parametrize("place", ["", "sub", "sub/deep", "results/kept"])


@PLACES
def test_the_commit_is_that_of_the_repository_in_which_the_user_stands(repository, place):
    assert revision(repository / place) == Revision(git(repository, "rev-parse", "HEAD"), dirty=False)


@PLACES
@pytest.mark.parametrize("name", ["model.py", "sub/deep/layer.py", "results.py", "sub/results_of.txt"])
def test_a_changed_tracked_file_anywhere_is_dirty(repository, place, name):
    (repository / name).write_text("two\n")
    assert revision(repository / place).dirty


@PLACES
def test_results_and_untracked_files_are_not_dirty(repository, place):
    (repository / "results/kept/summary.csv").write_text("two\n")
    (repository / "results/new.csv").write_text("two\n")
    (repository / "results/added.csv").write_text("two\n")
    git(repository, "add", "--force", "results/added.csv")
    (repository / "scratch.py").write_text("two\n")
    (repository / "sub/scratch.py").write_text("two\n")
    assert not revision(repository / place).dirty


def test_a_staged_or_a_deleted_file_is_dirty(repository):
    (repository / "new.py").write_text("two\n")
    git(repository, "add", "new.py")
    assert revision(repository).dirty
    git(repository, "reset", "--quiet", "--hard")
    assert not revision(repository).dirty
    (repository / "model.py").unlink()
    assert revision(repository).dirty


def test_a_new_commit_is_another_revision(repository):
    before = revision(repository)
    git(repository, "commit", "--quiet", "--allow-empty", "--message=two")
    assert revision(repository).commit != before.commit


@pytest.mark.parametrize(("image", "commit"), [(COMMIT, COMMIT), ("", "unknown"), (None, "unknown")])
def test_without_a_repository_it_is_the_images_revision(tmp_path, monkeypatch, image, commit):
    if image is not None:
        monkeypatch.setenv("HARNESS_REVISION", image)
    assert revision(tmp_path) == Revision(commit, dirty=False)


def test_an_image_built_from_changed_files_is_dirty(tmp_path, monkeypatch):
    # As `nox -s docker_build` hands it to the image.
    monkeypatch.setenv("HARNESS_REVISION", f"{COMMIT}-dirty")
    at = revision(tmp_path)
    assert at == Revision(COMMIT, dirty=True)
    assert str(at) == "0123456789-dirty"


def test_a_repository_goes_before_the_images_revision(repository, monkeypatch):
    monkeypatch.setenv("HARNESS_REVISION", COMMIT)
    assert revision(repository).commit == git(repository, "rev-parse", "HEAD")


def test_a_repository_without_a_commit_is_unknown(tmp_path):
    git(tmp_path, "init", "--quiet", str(tmp_path / "fresh"))
    assert revision(tmp_path / "fresh") == Revision("unknown", dirty=False)


def test_without_git_it_is_the_images_revision(repository, monkeypatch):
    monkeypatch.setenv("PATH", str(repository))
    monkeypatch.setenv("HARNESS_REVISION", COMMIT)
    assert revision(repository) == Revision(COMMIT, dirty=False)


@pytest.mark.parametrize(
    ("at", "name"),
    [
        (Revision(COMMIT, dirty=False), "20260701T123005Z-0123456789"),
        (Revision(COMMIT, dirty=True), "20260701T123005Z-0123456789-dirty"),
        (Revision("unknown", dirty=False), "20260701T123005Z-unknown"),
    ],
)
def test_a_run_is_kept_under_machine_time_and_commit(tmp_path, at, name):
    folder = make_run_folder(tmp_path / "out", "nvidia-h200", at, NOW)
    assert folder == tmp_path / "out/nvidia-h200" / name
    assert list(folder.iterdir()) == []


def test_two_runs_in_one_second_have_two_folders(tmp_path):
    at = Revision(COMMIT, dirty=True)
    names = [make_run_folder(tmp_path, "m", at, NOW).name for _ in range(3)]
    first = "20260701T123005Z-0123456789-dirty"
    assert names == [first, f"{first}-2", f"{first}-3"]


def test_the_time_is_utc_now(tmp_path, monkeypatch):
    monkeypatch.setenv("TZ", "Pacific/Kiritimati")
    before = datetime.now(UTC).strftime("%Y%m%dT%H%M%SZ")
    stamp = make_run_folder(tmp_path, "m", Revision("unknown", dirty=False)).name.partition("-")[0]
    assert before <= stamp <= datetime.now(UTC).strftime("%Y%m%dT%H%M%SZ")


@pytest.mark.parametrize("out", ["file", "file/below", "link"])
def test_a_place_that_cannot_be_a_folder_is_refused_by_its_flag(tmp_path, out):
    (tmp_path / "file").touch()
    (tmp_path / "link").symlink_to(tmp_path / "nowhere/at/all")
    with pytest.raises(PlanError, match=rf"--out {tmp_path / out}: cannot be written to"):
        make_run_folder(tmp_path / out, "m", Revision(COMMIT, dirty=False), NOW)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_without_permission_is_refused(tmp_path):
    tmp_path.chmod(0o555)
    with pytest.raises(PlanError, match="Permission denied"):
        make_run_folder(tmp_path, "m", Revision(COMMIT, dirty=False), NOW)


def test_a_folder_that_can_be_made_but_not_filled_is_refused_and_not_left(tmp_path, monkeypatch):
    def full(**_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(folder_module.tempfile, "TemporaryFile", full)
    with pytest.raises(PlanError, match="No space left on device"):
        make_run_folder(tmp_path, "m", Revision(COMMIT, dirty=False), NOW)
    assert list((tmp_path / "m").iterdir()) == []


def test_the_names_of_all_new_folders_are_on_the_disk(tmp_path, monkeypatch):
    fsync, synced = os.fsync, []

    def watched(descriptor):
        synced.append(Path(f"/proc/self/fd/{descriptor}").readlink())
        fsync(descriptor)

    if not Path("/proc/self/fd").exists():
        pytest.skip("what is synced is looked up in /proc")
    monkeypatch.setattr(os, "fsync", watched)
    make_run_folder(tmp_path / "a/b", "m", Revision(COMMIT, dirty=False), NOW)
    assert synced == [tmp_path, tmp_path / "a", tmp_path / "a/b", tmp_path / "a/b/m"]


# Files that are replaced as a whole


def test_a_file_is_replaced_when_all_of_it_is_on_the_disk(tmp_path, monkeypatch):
    path = tmp_path / "table.csv"
    path.write_text("old")
    fsync, seen = os.fsync, []

    def watched(descriptor):
        seen.append((path.read_text(), os.fstat(descriptor).st_ino))
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", watched)
    with replaced(path) as unfinished:
        unfinished.write_text("new")
    # First the file while the old one is in its place, then the folder that names the new one.
    assert seen == [("old", path.stat().st_ino), ("new", tmp_path.stat().st_ino)]
    assert [file.name for file in tmp_path.iterdir()] == ["table.csv"]


@pytest.mark.parametrize("moment", ["write", "fsync", "rename"])
def test_a_file_that_cannot_be_replaced_is_as_it_was_and_the_error_names_it(tmp_path, monkeypatch, moment):
    path = tmp_path / "table.csv"
    path.write_text("old")

    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    if moment == "fsync":
        monkeypatch.setattr(os, "fsync", full)
    if moment == "rename":
        monkeypatch.setattr(Path, "replace", full)

    def replace():
        with replaced(path) as unfinished:
            unfinished.write_text("ne")
            if moment == "write":
                full()

    with pytest.raises(OSError, match="No space left on device") as raised:
        replace()
    assert raised.value.filename == str(path)
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_an_interrupt_leaves_the_old_file_and_nothing_else(tmp_path):
    path = tmp_path / "table.csv"
    path.write_text("old")

    def interrupted():
        with replaced(path) as unfinished:
            unfinished.write_text("ne")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_what_a_killed_run_left_of_a_file_does_not_hinder_the_next(tmp_path):
    (tmp_path / ".table.csv.tmp").write_text("much longer than what comes")
    with replaced(tmp_path / "table.csv") as unfinished:
        unfinished.write_text("new")
    assert (tmp_path / "table.csv").read_text() == "new"
    assert len(list(tmp_path.iterdir())) == 1


@pytest.mark.parametrize("number", [errno.EINVAL, errno.EOPNOTSUPP], ids=errno.errorcode.get)
def test_a_file_system_that_syncs_no_folders_is_no_failure(tmp_path, monkeypatch, number):
    def fsync(_):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "fsync", fsync)
    sync_folder(tmp_path)
    monkeypatch.setattr(os, "fsync", lambda _: (_ for _ in ()).throw(OSError(errno.EIO, "broken")))
    with pytest.raises(OSError, match="broken"):
        sync_folder(tmp_path)


@pytest.mark.parametrize("named", ["../../x", "v1.0", "=cmd", "a" * 65, f"{COMMIT}-dirty/../x", "abc\n"], ids=ascii)
def test_a_revision_that_is_no_commit_never_becomes_part_of_a_folders_name(named, tmp_path, monkeypatch):
    monkeypatch.setenv("HARNESS_REVISION", named)
    with pytest.raises(PlanError, match="HARNESS_REVISION"):
        revision(tmp_path)
