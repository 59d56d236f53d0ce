"""Revisions of the user's repository, each laid out in a folder of its own.

The repository is only read: each folder is filled through an index of its own, so that neither the user's index nor a
list of worktrees knows of it, and even a program that is killed leaves nothing there.
"""

import os
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

from harness.plan.errors import PlanError
from harness.plan.text import printable, shown
from harness.running.folder import Revision, revision

WORKTREE = "worktree"  # the name of what is not committed yet

_LARGE = 2**24  # nobody writes 16 MiB of Python: such a file is data, and linked


@dataclass(frozen=True)
class Repository:
    """A git repository with a working tree, root, and its `.git`."""

    root: Path
    git: Path

    @classmethod
    def around(cls, where: Path) -> "Repository":
        """Return the repository around a folder; raises PlanError where there is none, or no git."""
        try:
            found = _git(where, "rev-parse", "--show-toplevel", "--absolute-git-dir").splitlines()
        except _GitError as error:
            raise PlanError(f"{where} is in no git repository whose revisions could be compared: {error}") from error
        return cls(*map(Path, found))

    def resolve(self, name: str) -> Revision:
        """Return which commit a revision's name means, or `worktree` for the working tree as it stands.

        Raises PlanError for an unknown one.
        """
        if name == WORKTREE:
            at = revision(self.root)
            if at.commit == "unknown":
                raise PlanError(f"{self.root} has no commit yet: commit first")
            return at
        try:
            return Revision(_git(self.root, "rev-parse", "--verify", f"{name}^{{commit}}"), dirty=False)
        except _GitError as error:
            if _git(self.root, "rev-parse", "--is-shallow-repository") == "true":
                told = f"this shallow clone has no revision {shown(name)}: fetch it with `git fetch --unshallow`"
            else:
                told = f"unknown revision {shown(name)}: use a commit, a tag, a branch, or `{WORKTREE}`"
            raise PlanError(told) from error

    def lay_out(self, name: str, at: Revision, folder: Path) -> None:
        """Fill a new folder with the files of a revision: of its commit, or of the working tree.

        Of the working tree it gets what git does not ignore, so that the user may go on editing. Raises PlanError.
        """
        folder.mkdir()
        # Beside the folder, whatever index a hook's git was given. A split one would lie in the repository in part.
        environment = {"GIT_INDEX_FILE": f"{folder}.index"}
        options = ("-c", "core.splitIndex=false", "-c", "core.fsmonitor=false", "-c", "core.sparseCheckout=false")
        try:
            _git(
                self.root,
                *(*options, f"--git-dir={self.git}", f"--work-tree={folder}"),
                *("read-tree", "--reset", "-u", at.commit),
                **environment,
            )
            if name == WORKTREE:
                self._copy_changes(folder)
        except (_GitError, OSError) as error:
            raise PlanError(f"{shown(name)} cannot be checked out: {error}") from error

    def _copy_changes(self, folder: Path) -> None:
        """Make of a commit's files those of the working tree, new ones too; not results."""
        outside = ("--", ":/", ":(top,exclude)results")
        changed = _git(self.root, "diff-index", "--name-only", "-z", "HEAD", *outside).split("\0")
        new = _git(self.root, "ls-files", "--others", "--exclude-standard", "-z", *outside).split("\0")
        names = [name for name in (*changed, *new) if name]
        for name in names:
            (folder / name).unlink(missing_ok=True)
        for name in names:
            source, copy = self.root / name, folder / name
            copy.parent.mkdir(parents=True, exist_ok=True)
            if source.is_symlink():
                copy.symlink_to(source.readlink())
            elif source.is_file() and source.stat().st_size > _LARGE:
                copy.symlink_to(source)
            elif source.is_file():
                shutil.copy2(source, copy)


class _GitError(Exception):
    """What git says when it refuses, in one line."""


def _git(where: Path, *arguments: str, **environment: str) -> str:
    """Return what git prints, without the line's end; raises _GitError."""
    try:
        done = subprocess.run(
            ["git", "-C", str(where), *arguments],
            env={**os.environ, **environment},
            capture_output=True,
            check=False,
        )
    except OSError as error:
        raise _GitError(f"git cannot be started: {error.strerror}") from error
    if done.returncode:
        said = os.fsdecode(done.stderr).splitlines()
        told = next((line for line in said if line.startswith(("fatal: ", "error: "))), f"git exits {done.returncode}")
        raise _GitError(printable(told.partition(": ")[2] or told, 300))
    return os.fsdecode(done.stdout).removesuffix("\n")
