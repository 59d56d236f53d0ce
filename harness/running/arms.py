"""The two arms of an A/B run: what code and which interpreter each one's workers are started with.

Of the program, only what measures is the arm's – whatever a worker imports; plan, launcher, clock and tables are those
of the program that was called, for both. So before anything is measured each interpreter is asked, in a process of its
own and with the arm's import path, what it would run.
"""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from harness.measuring.machine import COMPARABLE
from harness.measuring.protocol import PROTOCOL
from harness.plan.case import Case
from harness.plan.errors import NotComparable, PlanError
from harness.plan.sweep import Sweep
from harness.plan.text import printable, shown
from harness.running.checkout import WORKTREE, Repository
from harness.running.folder import Revision, revision
from harness.running.import_path import import_path, not_installed
from harness.running.launcher import WORKER
from harness.running.session import own_files

WORKER_FILE = Path("harness/measuring/worker.py")
_ASK_S = 120.0

# What an interpreter is asked; its last line answers. It must be understood by any Python 3, and by any revision.
_QUESTION = """
import sys
if sys.version_info < (3, 11):
    sys.exit("it is Python %d.%d, and 3.11 is needed" % sys.version_info[:2])
import hashlib, json, pathlib
path = [*sys.path, *(str(pathlib.Path(place).parent) for finder in sys.meta_path
                     for place in getattr(sys.modules.get(getattr(finder, "__module__", "")), "MAPPING", {}).values())]
if sys.argv[1] == "path":
    print(json.dumps(path))
    sys.exit()
from harness.measuring import machine, protocol
from harness.plan.catalogue import CATALOGUES, installed
folder = pathlib.Path(machine.__file__).parent
print(json.dumps({
    "protocol": protocol.PROTOCOL,
    "package": str(folder.parents[1].resolve()),
    "measuring": {file.relative_to(folder).as_posix(): hashlib.sha256(file.read_bytes()).hexdigest()
                  for file in folder.rglob("*.py")},
    "known": {kind: [*names, *installed(kind)] for kind, names in CATALOGUES.items()},
    "facts": machine.describe_machine(sys.argv[1]),
}))
"""


@dataclass(frozen=True)
class Arm:
    """What one side of an A/B run is started with.

    name: as the user called it. at: which code it is. python: the interpreter of its workers. first: folders that go
    before the caller's on their import path. root, tree: the repository, and where this arm has its files; None where
    both arms have the files that the user sees. package: the folder that its `harness` must come from, where known.
    """

    name: str
    at: Revision
    python: str
    first: tuple[Path, ...]
    root: Path | None = None
    tree: Path | None = None
    package: Path | None = None

    @property
    def called(self) -> str:
        """What it is called where its interpreter is to blame."""
        return shown(self.name) if self.root is None else f"{shown(self.name)}: {self.python}"

    @property
    def command(self) -> tuple[str, ...]:
        """What starts a worker."""
        return (self.python, *WORKER[1:])

    def located(self, file: Path) -> Path:
        """Return where this arm has a file of the user's: one that is in the repository goes with the revision."""
        if self.root is None or self.tree is None or not file.is_relative_to(self.root):
            return file
        return self.tree / file.relative_to(self.root)

    def sent(self, case: Case) -> Case:
        """Return a case as its worker gets it: by the name that both arms share, of this arm's files."""
        return replace(case, workload=self._reference(case.workload), engine=self._reference(case.engine))

    def _reference(self, reference: str) -> str:
        path, colon, attribute = reference.rpartition(":")
        return f"{self.located(Path(path))}:{attribute}" if colon else reference


@dataclass(frozen=True)
class Answer:
    """What an arm's interpreter says of itself.

    measuring: digest of each file of `harness/measuring/` that it runs, by its path there. known: names of engines and
    workloads by kind. facts: of its machine.
    """

    measuring: Mapping[str, str]
    known: Mapping[str, Sequence[str]]
    facts: Mapping[str, Any]


def revision_arms(names: Sequence[str], ats: Sequence[Revision], repository: Repository, folder: Path) -> list[Arm]:
    """Lay out two revisions in a folder and return their arms.

    A repository that holds this program's package is measured with the package of each revision; in any other, both
    arms run this one, and whatever this Python imports from the repository is that of the revision. Raises PlanError,
    or NotComparable where only one revision has the package.
    """
    # Names of one length: how long a path is moves what a process has in memory, and that can be measured.
    trees = [folder / name for name in "ab"]
    for name, at, tree in zip(names, ats, trees, strict=True):
        repository.lay_out(name, at, tree)
    have = [(tree / WORKER_FILE).is_file() for tree in trees]
    if any(have) and not all(have):
        lacking, having = (names[have.index(there)] for there in (False, True))
        raise NotComparable(f"{lacking} has no {WORKER_FILE}, which {having} has: there is nothing to start in it")
    inside = _imported_from(repository.root)
    arms = []
    for name, at, tree in zip(names, ats, trees, strict=True):
        package = (tree,) if have[0] else not_installed()
        first = dict.fromkeys([*package, *(tree / path for path in inside if (tree / path).is_dir())])
        arms.append(Arm(name, at, sys.executable, tuple(first), repository.root, tree, tree if have[0] else None))
    return arms


def interpreter_arms(names: Sequence[str]) -> list[Arm]:
    """Return the arms of two interpreters, each a path or a program's name; raises PlanError for one that is none."""
    arms = []
    for name in names:
        found = shutil.which(name)
        if found is None:
            raise PlanError(f"--python {shown(name)}: there is no such program; name an interpreter: ENV/bin/python")
        # A virtual environment's interpreter is a link, and is known by where the link is.
        arms.append(Arm(name, revision(Path.cwd()), str(Path(found).absolute()), not_installed()))
    return arms


def check_files(arms: Iterable[Arm], sweep: Sweep) -> None:
    """Raise PlanError unless each arm has every file of the user's own engines and workloads, and runs some of its own.

    An arm of which nothing is imported, nor a file named, would run what the other one runs.
    """
    files = own_files(sweep)
    for arm in arms:
        for file in files:
            if arm.root is not None and arm.located(file) != file and not arm.located(file).is_file():
                why = "git ignores it: add it" if arm.name == WORKTREE else "commit it"
                name = printable(str(file.relative_to(arm.root)))
                raise PlanError(
                    f"{shown(arm.name)} has no file {name}: {why}, or keep it outside the repository for both to share"
                )
        runs = (*arm.first, *map(arm.located, files))
        if arm.tree is not None and not any(path.is_relative_to(arm.tree) for path in runs):
            raise PlanError(
                f"nothing of {shown(arm.name)} would be run, as this Python imports nothing from it: "
                "`pip install -e .` or set PYTHONPATH, or name a file in the repository, --engine FILE.py:Name"
            )


def ask(arm: Arm, device: str) -> Answer:
    """Ask an arm's interpreter what it would run.

    Raises PlanError where it is no Python, or has no torch or no package; NotComparable where it speaks another
    protocol than this program, or its package is not the revision's.
    """
    answer = _answer(arm.python, device, arm.first, arm.called)
    try:
        protocol, package, facts = (answer[key] for key in ("protocol", "package", "facts"))
        found = Answer(answer["measuring"], answer["known"], facts)
    except (TypeError, KeyError) as error:
        raise PlanError(f"{arm.called} does not answer as a Python does") from error
    if protocol != PROTOCOL:
        raise NotComparable(
            f"{shown(arm.name)} speaks protocol {shown(protocol)} and this program {PROTOCOL}, which cannot start it"
        )
    if arm.package is not None and Path(package) != arm.package.resolve():
        raise NotComparable(f"{shown(arm.name)} would run {printable(package)} and not its own revision")
    if "torch" not in facts:
        raise PlanError(f"{arm.called} has no torch: install the one that fits, or name another")
    return found


def known_to_both(sweep: Sweep, arms: Sequence[Arm], answers: Sequence[Answer]) -> tuple[Sweep, list[str]]:
    """Return a sweep without the cases of an engine or workload that an arm does not have yet, or any more, and which.

    Raises PlanError where no case is left.
    """
    cases, lacking = list(sweep.cases), dict[str, None]()
    for arm, answer in zip(arms, answers, strict=True):
        for case in sweep.cases:
            for kind, name in (("engine", case.engine), ("workload", case.workload)):
                if ":" not in name and name not in answer.known[kind]:
                    lacking[f"{shown(arm.name)} has no {kind} {name}"] = None
                    cases = [each for each in cases if each != case]
    if not cases:
        raise PlanError(f"{'; '.join(lacking)}: nothing is left to be measured in both")
    return replace(sweep, cases=tuple(cases)), list(lacking)


def measured_otherwise(answers: Sequence[Answer]) -> list[str]:
    """Return the files of `harness/measuring/` that two arms do not have alike."""
    one, other = (answer.measuring for answer in answers)
    return sorted(name for name in one.keys() | other.keys() if one.get(name) != other.get(name))


def varied(answers: Sequence[Answer]) -> tuple[str, ...]:
    """Return which of the facts that make two runs comparable are not the same in two arms."""
    one, other = (answer.facts for answer in answers)
    return tuple(key for key in COMPARABLE if one.get(key) != other.get(key))


def told_apart(arms: Sequence[Arm], answers: Sequence[Answer]) -> list[Arm]:
    """Return the arms of two interpreters by the name of what they differ in: torch, or else Python."""
    for key, word in (("torch", "torch"), ("python", "Python")):
        versions = [answer.facts.get(key) for answer in answers]
        if len(set(versions)) > 1:
            return [replace(arm, name=f"{word} {version}") for arm, version in zip(arms, versions, strict=True)]
    return list(arms)


def _imported_from(root: Path) -> list[Path]:
    """Return the folders in a repository that this Python imports from, by PYTHONPATH or as editable installs."""
    found = _answer(sys.executable, "path", not_installed(), sys.executable)
    places = [Path(place).resolve() for place in found if place]
    return list(dict.fromkeys(place.relative_to(root) for place in places if place.is_relative_to(root)))


def _answer(python: str, question: str, first: Iterable[Path], called: str) -> Any:
    """Return what an interpreter answers; raises PlanError."""
    # Not -P, as for a worker: a Python that is too old does not know it, and is to say that it is.
    environment = {**os.environ, "PYTHONPATH": import_path(first), "PYTHONSAFEPATH": "1"}
    try:
        done = subprocess.run(
            [python, "-c", _QUESTION, question],
            env=environment,
            capture_output=True,
            timeout=_ASK_S,
            stdin=subprocess.DEVNULL,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        why = f"takes longer than {_ASK_S:g} s" if isinstance(error, subprocess.TimeoutExpired) else error.strerror
        raise PlanError(f"{called} cannot be asked: {why}") from error
    said = done.stdout.decode(errors="replace").strip().splitlines()
    if done.returncode:
        told = done.stderr.decode(errors="replace").strip().splitlines() or [f"it exits {done.returncode}"]
        raise PlanError(f"{called} cannot run this program: {printable(told[-1], 300)}")
    try:
        return json.loads(said[-1])
    except (IndexError, ValueError) as error:
        raise PlanError(f"{called} is no Python interpreter") from error
