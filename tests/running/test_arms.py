import os
import re
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

import harness
from harness.measuring.machine import describe_machine
from harness.measuring.protocol import PROTOCOL
from harness.plan.case import Case
from harness.plan.catalogue import ENGINES
from harness.plan.errors import NotComparable, PlanError
from harness.plan.sweep import Sweep
from harness.running import arms as arms_module
from harness.running.arms import (
    Answer,
    Arm,
    ask,
    check_files,
    interpreter_arms,
    known_to_both,
    measured_otherwise,
    revision_arms,
    told_apart,
    varied,
)
from harness.running.checkout import Repository
from harness.running.folder import Revision
from harness.running.import_path import not_installed

PACKAGE = Path(harness.__file__).parent
CLEAN = Revision("c" * 40, dirty=False)


@pytest.fixture(autouse=True)
def no_other_repository(tmp_path, monkeypatch):
    for name in [name for name in os.environ if name.startswith("GIT_")] + ["HARNESS_REVISION", "PYTHONPATH"]:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path))
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", os.devnull)
    monkeypatch.setenv("GIT_CONFIG_NOSYSTEM", "1")


def committed(folder: Path, message: str) -> str:
    who = ("-c", "user.name=a", "-c", "user.email=a@b.c", "-c", "commit.gpgsign=false")
    for command in (("init", "-q"), ("add", "--all"), (*who, "commit", "-q", "-m", message)):
        subprocess.run(["git", "-C", folder, *command], check=True)
    return subprocess.check_output(["git", "-C", folder, "rev-parse", "HEAD"], text=True).strip()


def arms_of(repository: Path, folder: Path, *names: str) -> list[Arm]:
    found = Repository.around(repository)
    folder.mkdir()
    return revision_arms(names, [found.resolve(name) for name in names], found, folder)


def imports(arm: Arm, expression: str) -> str:
    """What an expression is in a process that is started as the arm's workers are."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(map(str, arm.first))}
    command = [arm.python, "-P", "-c", f"import sys; print({expression})"]
    return subprocess.check_output(command, env=environment, text=True).strip()


# Revisions of this program


@pytest.fixture
def program(tmp_path) -> Path:
    """A repository of this program, with one commit."""
    folder = tmp_path / "program"
    shutil.copytree(PACKAGE, folder / "harness", ignore=shutil.ignore_patterns("__pycache__"))
    committed(folder, "one")
    return folder


def change(program: Path, file: str, old: str, new: str) -> None:
    text = (program / file).read_text()
    assert old in text
    (program / file).write_text(text.replace(old, new))
    committed(program, "two")


def test_each_arm_runs_the_package_of_its_revision_under_a_path_of_the_same_length(program, tmp_path):
    (program / "harness/measuring/clocks.py").write_text("NEW = True\n")
    (program / "harness/measuring/gpu").mkdir()
    (program / "harness/measuring/gpu/mps.py").touch()
    (program / "harness/plan/outcome.py").write_text("# outside of what measures\n")
    committed(program, "two")
    base, new = arms_of(program, tmp_path / "arms", "HEAD~1", "HEAD")
    assert len(str(base.tree)) == len(str(new.tree))
    for arm in (base, new):
        found = imports(arm, "__import__('harness.measuring.clocks').__file__")
        assert Path(found).resolve() == arm.tree.resolve() / "harness/__init__.py"
    answers = [ask(arm, "cpu") for arm in (base, new)]
    assert measured_otherwise(answers) == ["clocks.py", "gpu/mps.py"]
    assert varied(answers) == ()
    assert answers[0].facts == describe_machine("cpu")


def test_a_revision_that_speaks_another_protocol_cannot_be_compared(program, tmp_path):
    change(program, "harness/measuring/protocol.py", f"PROTOCOL = {PROTOCOL}", f"PROTOCOL = {PROTOCOL + 1}")
    _, new = arms_of(program, tmp_path / "arms", "HEAD~1", "HEAD")
    with pytest.raises(NotComparable, match=f"'HEAD' speaks protocol {PROTOCOL + 1} and this program {PROTOCOL}"):
        ask(new, "cpu")


def test_a_revision_before_there_was_a_worker_cannot_be_compared_with_one_that_has_it(program, tmp_path):
    (program / "harness/measuring/worker.py").unlink()
    committed(program, "two")
    with pytest.raises(NotComparable, match=r"HEAD has no harness/measuring/worker\.py, which HEAD~1 has"):
        arms_of(program, tmp_path / "arms", "HEAD~1", "HEAD")


def test_a_revision_that_is_broken_says_how(program, tmp_path):
    change(program, "harness/measuring/machine.py", "def describe_machine", "def describe_machine(:\ndef old")
    _, new = arms_of(program, tmp_path / "arms", "HEAD~1", "HEAD")
    with pytest.raises(PlanError, match=r"'HEAD': .* cannot run this program: SyntaxError: invalid syntax"):
        ask(new, "cpu")


def test_an_arm_that_would_run_other_code_than_its_own_is_found_out(program, tmp_path):
    base, _ = arms_of(program, tmp_path / "arms", "HEAD", "HEAD")
    with pytest.raises(NotComparable, match=f"'HEAD' would run {re.escape(str(PACKAGE.parent))} and not its own"):
        ask(replace(base, first=(PACKAGE.parent,)), "cpu")


# Revisions of the user's own repository


@pytest.fixture
def own(tmp_path) -> Path:
    """A user's repository: `src/mine.py` and `bench/work.py` differ between its two commits."""
    folder = tmp_path / "own"
    for number in (1, 2):
        for name in ("src/mine.py", "bench/work.py"):
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_text(f"NUMBER = {number}\n")
        committed(folder, f"{number}")
    (tmp_path / "shared.py").touch()
    return folder


def test_both_arms_of_the_users_own_repository_run_this_program(own, tmp_path):
    (own / "harness").mkdir()
    (own / "harness/__init__.py").write_text("raise SystemExit('the wrong one')")
    committed(own, "something else that is called so")
    for arm in arms_of(own, tmp_path / "arms", "HEAD~1", "HEAD"):
        assert arm.first == not_installed()
        assert set(ask(arm, "cpu").measuring) >= {"worker.py", "doctor/__init__.py"}
        assert Path(imports(arm, "__import__('harness').__file__")).parent == PACKAGE


def test_what_this_python_imports_from_the_repository_is_that_of_the_revision(own, tmp_path, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(own / "src"))
    base, new = arms_of(own, tmp_path / "arms", "HEAD~1", "HEAD")
    assert [imports(arm, "__import__('mine').NUMBER") for arm in (base, new)] == ["1", "2"]


FINDER = """
import sys
MAPPING = {{"mine": "{folder}/src/mine"}}
class Finder:
    @classmethod
    def find_spec(cls, name, path=None, target=None):
        return None
sys.modules["the_finder"] = sys.modules[__name__]
Finder.__module__ = "the_finder"
sys.meta_path.append(Finder)
"""


def test_so_is_what_an_editable_install_finds_there(own, tmp_path, monkeypatch):
    # As setuptools installs: a finder whose module maps packages to folders.
    (tmp_path / "site").mkdir()
    (tmp_path / "site/sitecustomize.py").write_text(FINDER.format(folder=own))
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "site"))
    base, new = arms_of(own, tmp_path / "arms", "HEAD~1", "HEAD")
    assert [arm.first[-1] for arm in (base, new)] == [base.tree / "src", new.tree / "src"]


def case(workload: str = "line", engine: str = "manual") -> Case:
    return Case(workload, engine, "cpu", "float32", 100)


def test_a_file_of_the_users_own_goes_with_the_revision_and_the_case_keeps_its_name(own, tmp_path):
    mine, shared = case(f"{own}/bench/work.py:Work"), case(f"{tmp_path}/shared.py:Work", f"{own}/bench/work.py:Fast")
    arms = arms_of(own, tmp_path / "arms", "HEAD~1", "HEAD")
    check_files(arms, Sweep((mine, shared, case())))
    for number, arm in enumerate(arms, start=1):
        file, _, name = arm.sent(mine).workload.rpartition(":")
        assert (Path(file).read_text(), name) == (f"NUMBER = {number}\n", "Work")
        assert arm.sent(shared).workload == shared.workload
        assert arm.sent(shared).engine == f"{arm.tree}/bench/work.py:Fast"
        assert arm.sent(case()) == case()
        assert [arm.sent(each).case_id for each in (mine, shared)] == [mine.case_id, shared.case_id]


@pytest.mark.parametrize(
    ("ignored", "names", "told"),
    [
        ("", ("HEAD~1", "worktree"), "'HEAD~1' has no file bench/other.py: commit it, or keep it outside"),
        ("", ("HEAD", "HEAD"), "'HEAD' has no file bench/other.py: commit it"),
        ("other.py\n", ("worktree", "HEAD"), "'worktree' has no file bench/other.py: git ignores it: add it"),
    ],
)
def test_a_revision_that_lacks_the_users_file_is_named(own, tmp_path, ignored, names, told):
    (own / ".gitignore").write_text(ignored)
    (own / "bench/other.py").touch()
    arms = arms_of(own, tmp_path / "arms", *names)
    with pytest.raises(PlanError, match=told):
        check_files(arms, Sweep((case(engine=f"{own}/bench/other.py:Fast"),)))


def test_a_repository_of_which_nothing_would_be_run_is_refused_and_a_null_test_is_not(own, tmp_path, monkeypatch):
    shared = Sweep((case(f"{tmp_path}/shared.py:Work"), case()))
    arms = arms_of(own, tmp_path / "arms", "HEAD~1", "HEAD")
    with pytest.raises(PlanError, match=r"nothing of 'HEAD~1' would be run, .*: `pip install -e \.` or"):
        check_files(arms, shared)
    check_files(arms, Sweep((case(), case(f"{own}/bench/work.py:Work"))))
    (own / "new").mkdir()
    (own / "new/mine.py").touch()
    committed(own, "a folder that only one has")
    monkeypatch.setenv("PYTHONPATH", str(own / "new"))
    check_files(arms_of(own, tmp_path / "null", "HEAD", "HEAD"), shared)
    with pytest.raises(PlanError, match="nothing of 'HEAD~1' would be run"):
        check_files(arms_of(own, tmp_path / "other", "HEAD", "HEAD~1"), shared)


# Interpreters


def script(folder: Path, body: str) -> str:
    """An executable that stands for an interpreter."""
    path = folder / "python"
    path.write_text(f"#!/bin/sh\n{body}\n")
    path.chmod(0o755)
    return str(path)


def test_an_interpreter_is_found_by_its_name_and_keeps_its_environment(tmp_path, monkeypatch):
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin/python-of-mine").symlink_to(sys.executable)
    (tmp_path / "pyvenv.cfg").write_text(f"home = {Path(sys.base_exec_prefix) / 'bin'}\n")
    monkeypatch.setenv("PATH", str(tmp_path / "bin"), prepend=os.pathsep)
    monkeypatch.chdir(tmp_path)
    for arm in interpreter_arms(["python-of-mine", "bin/python-of-mine"]):
        assert arm.python == arm.command[0] == str(tmp_path / "bin/python-of-mine")
        assert imports(arm, "sys.prefix") == str(tmp_path)


def test_this_interpreter_says_of_itself_what_this_program_is_and_runs_on():
    [arm] = interpreter_arms([sys.executable])
    found = ask(arm, "cpu")
    assert found.facts == describe_machine("cpu")
    assert set(found.measuring) >= {"worker.py", "doctor/__init__.py"}
    assert found.known["engine"][: len(ENGINES)] == list(ENGINES)


def test_a_program_that_is_not_there_is_refused_by_its_flag(tmp_path):
    for name in ("no-such-python", str(tmp_path), str(tmp_path / "python")):
        with pytest.raises(PlanError, match=f"--python '{name}': there is no such program"):
            interpreter_arms([name])


@pytest.mark.parametrize(
    ("body", "told"),
    [
        (":", "is no Python interpreter"),
        ("echo hello", "is no Python interpreter"),
        ("echo 17", "does not answer as a Python does"),
        ("echo one; echo two >&2; exit 3", "cannot run this program: two"),
        ("exit 3", "cannot run this program: it exits 3"),
        ("exec sleep 20", "cannot be asked: takes longer than 1 s"),
        (f'exec {sys.executable} -S "$@"', "has no torch: install the one that fits"),
        (
            f'exec {sys.executable} -S -E "$@"',
            "cannot run this program: ModuleNotFoundError: No module named 'harness'",
        ),
        (
            f"exec {sys.executable} -c 'import sys; sys.version_info = (3, 9, 1); exec(sys.argv[2])' \"$@\"",
            "cannot run this program: it is Python 3.9, and 3.11 is needed",
        ),
    ],
)
def test_an_interpreter_that_cannot_run_workers_is_refused_in_one_line(tmp_path, monkeypatch, body, told):
    if "sleep" in body:
        monkeypatch.setattr(arms_module, "_ASK_S", 1)
    monkeypatch.chdir(tmp_path)
    python = script(tmp_path, body)
    [arm] = interpreter_arms([python])
    with pytest.raises(PlanError, match=re.escape(told)) as refused:
        ask(arm, "cpu")
    assert str(refused.value).startswith(f"'{python}' ")
    assert len(str(refused.value).splitlines()) == 1


def test_what_is_no_program_at_all_is_refused_too(tmp_path):
    (tmp_path / "python").write_bytes(b"\x7fELF nonsense")
    (tmp_path / "python").chmod(0o755)
    [arm] = interpreter_arms([str(tmp_path / "python")])
    with pytest.raises(PlanError, match="cannot be asked: Exec format error"):
        ask(arm, "cpu")


# What two arms say


def answers(**second: object) -> list[Answer]:
    known = {"engine": ["manual", "autograd"], "workload": ["line"]}
    facts = {"torch": "2.13.0+cpu", "cpus": 2, "numpy": "2.4.1"}
    one = Answer({"worker.py": "1"}, known, facts)
    return [one, replace(one, **second)]


def test_only_facts_that_make_runs_comparable_are_declared_to_differ():
    told = answers(facts={"torch": "2.12.0+cpu", "cpus": 2, "numpy": "2.4.2", "python_minor": "3.12"})
    assert varied(told) == ("torch", "python_minor")


def test_interpreters_are_called_by_what_they_differ_in():
    both = [Arm(name, CLEAN, name, ()) for name in ("/a/python", "/b/python")]
    facts = {"torch": "2.13.0+cpu", "python": "3.12.1"}
    for second, names in (
        ({**facts, "torch": "2.12.0+cpu"}, ["torch 2.13.0+cpu", "torch 2.12.0+cpu"]),
        ({**facts, "python": "3.11.7"}, ["Python 3.12.1", "Python 3.11.7"]),
        (facts, ["/a/python", "/b/python"]),
    ):
        told = told_apart(both, [Answer({}, {}, facts), Answer({}, {}, second)])
        assert [arm.name for arm in told] == names
        assert [arm.python for arm in told] == ["/a/python", "/b/python"]


ARMS = [Arm(name, CLEAN, sys.executable, ()) for name in ("HEAD~1", "HEAD")]


def test_what_an_arm_does_not_know_is_left_out_in_both_and_told():
    engines = ("manual", "autograd", "/x/file.py:Mine")
    sweep = Sweep(tuple(case(engine=engine) for engine in engines))
    left, told = known_to_both(sweep, ARMS, answers(known={"engine": ["manual"], "workload": ["line"]}))
    assert [each.engine for each in left.cases] == ["manual", "/x/file.py:Mine"]
    assert told == ["'HEAD' has no engine autograd"]
    assert known_to_both(sweep, ARMS, answers()) == (sweep, [])


def test_where_nothing_is_left_it_is_refused():
    told = answers(known={"engine": ["manual"], "workload": []})
    with pytest.raises(PlanError, match="'HEAD' has no workload line: nothing is left to be measured in both"):
        known_to_both(Sweep((case(),)), ARMS, told)
