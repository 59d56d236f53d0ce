"""`harness compare`: what it takes, what it refuses, and how it ends."""

import functools
import io
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from harness.cli import Exit, main
from harness.plan.case import Case
from harness.plan.sweep import Sweep
from harness.tables.build import build_tables
from harness.tables.columns import MEASUREMENTS, SCHEMA
from harness.tables.files import write_tables

ROOT = Path(sys.modules["harness"].__file__).parents[1]
MANUAL, AUTOGRAD = (Case("line", engine, "cpu", "float32", 100) for engine in ("manual", "autograd"))
QUIET = tuple(1000 * (1 + 0.001 * part) for part in (0, 3, -2, 1, -3, 2, -1, 4, -4, 0.5))
SEED = {"updates": 20, "loss": 0.02, "accuracy": 1.0, "r2": 0.98, "converged": True, "epochs_to_target": 12}
TARGETS = {
    "max_loss": 0.1,
    "min_accuracy": 0.9,
    "min_converged_share": 0.75,
    "max_median_loss": 0.05,
    "min_median_accuracy": 0.9,
}
MACHINE = {"cpu_model": "AMD EPYC", "cpus": 2, "torch": "2.13.0+cpu", "python_minor": "3.11", "machine_arch": "x86_64"}
Steps = Sequence[float | None]  # one a round; None where it crashed


@dataclass(frozen=True)
class Ended:
    code: int
    out: str
    err: str


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch) -> Path:
    """Stand in an empty folder that is no repository."""
    for name in list(os.environ):
        if name.startswith(("GIT_", "GITHUB_")) or name in ("FORCE_COLOR", "NO_COLOR", "TTY_COMPATIBLE"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", os.devnull)
    monkeypatch.setenv("COLUMNS", "200")
    for who in ("AUTHOR", "COMMITTER"):
        monkeypatch.setenv(f"GIT_{who}_NAME", "nobody")
        monkeypatch.setenv(f"GIT_{who}_EMAIL", "nobody@example.org")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def compare(monkeypatch, capsys) -> Callable[..., Ended]:
    """Run `harness compare` in this process."""
    # The command line takes signals for itself, which pytest needs.
    monkeypatch.setattr("harness.cli.interrupt.signal.signal", lambda *_: None)

    def run(*arguments: object) -> Ended:
        monkeypatch.setattr(sys, "argv", ["harness", "compare", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            main()
        return Ended(int(ended.value.code or 0), *capsys.readouterr())

    return run


def program(*arguments: object) -> Ended:
    """Run `harness compare` as it is run."""
    done = subprocess.run(
        [sys.executable, "-m", "harness", "compare", *map(str, arguments)],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    return Ended(done.returncode, done.stdout, done.stderr)


def assert_refused(ended: Ended, *texts: str, code: Exit = Exit.USAGE) -> None:
    """Assert that it ended with this code and one line on stderr that holds these texts."""
    assert ended.code == code, ended
    assert ended.out == ""
    assert ended.err.startswith("harness: ")
    assert ended.err.endswith("\n")
    assert ended.err[:-1].isprintable()
    assert len(ended.err) < 1000
    assert "what was finished before" not in ended.err  # nothing was begun
    for text in texts:
        assert text in ended.err


# Stored runs, made by hand


def slower(factor: float) -> tuple[float, ...]:
    """Return rounds that are as quiet and in no relation to QUIET."""
    return tuple(factor * (2001.5 - step_ns) for step_ns in QUIET)


def record(case: Case, number: int, step_ns: float | None) -> dict[str, Any]:
    found: dict[str, Any] = {"kind": "record", "case_id": case.case_id, "round": number, "threads": 2, "seconds": 5.0}
    if step_ns is None:
        return {**found, "outcome": "crashed", "reason": "killed by SIGSEGV"}
    found |= {"outcome": "ok", "reason": "", "step_ns": step_ns, "blocks": 40, "blocks_disturbed": 0}
    found["workload_digest"] = "0123456789ab"
    if number == 0:
        found["convergence"] = [{"seed": seed, **SEED} for seed in range(4)]
        found["convergence_targets"] = TARGETS
    return found


def stored(name: str, steps: Steps = QUIET, autograd: Steps = QUIET, **header: Any) -> Path:
    """Store a run of two cases in ./results; its manual case took these times."""
    folder = Path("results", "amd-epyc-2c", name)
    folder.mkdir(parents=True)
    for file, content in tables(name, tuple(steps), tuple(autograd), json.dumps(header)).items():
        (folder / file).write_bytes(content)
    return folder


@functools.cache
def tables(name: str, steps: Steps, autograd: Steps, header: str) -> dict[str, bytes]:
    """Return the CSV files of a run by name; writing them takes longer than comparing them."""
    sweep = Sweep((MANUAL, AUTOGRAD), rounds=10)
    records = [
        record(case, number, step_ns)
        for case, times in ((MANUAL, steps), (AUTOGRAD, autograd))
        for number, step_ns in enumerate(times)
    ]
    identity = {"run_id": name, "session": name, "commit": "ab" * 20, "dirty": False}
    identity |= {"machine": "amd-epyc-2c", "fingerprint": "00aa11bb22cc", "environment": MACHINE}
    with tempfile.TemporaryDirectory() as folder:
        write_tables(Path(folder), build_tables({**identity, **json.loads(header), "sweep": sweep.to_json()}, records))
        return {file.name: file.read_bytes() for file in Path(folder).iterdir()}


def whole() -> bytes:
    """Return the measurements of such a run as they stand in their file."""
    return tables("whole", QUIET, QUIET, "{}")["measurements.csv"]


@pytest.fixture
def base() -> Path:
    return stored("base")


def git(*arguments: str) -> str:
    return subprocess.run(["git", *arguments], capture_output=True, text=True, check=True).stdout.strip()


# The exit code

ONE_SESSION = {"session": "base"}


@pytest.mark.parametrize(
    ("steps", "header", "flags", "code", "verdict"),
    [
        (slower(1), {}, [], Exit.MET, "no_regression"),
        (slower(1.3), {}, [], Exit.MISSED, "slower"),
        (slower(1.3), {}, ["--advisory"], Exit.MET, "slower"),
        (slower(1.3), {}, ["--advisory", "--strict"], Exit.MET, "slower"),
        (slower(1.3), {}, ["--margin", "50"], Exit.MET, "no_regression"),
        (slower(0.5), {}, ["--strict"], Exit.MET, "no_regression"),
        (slower(1.0884), {}, [], Exit.MET, "no_regression"),
        (slower(1.0884), {}, ["--strict"], Exit.UNDECIDED, "no_regression"),
        (slower(1.04), ONE_SESSION, [], Exit.MISSED, "regressed"),
        (slower(1.04), ONE_SESSION, ["--advisory"], Exit.MISSED, "regressed"),
        (slower(1.04), ONE_SESSION, ["--margin", "8"], Exit.MET, "no_regression"),
        (slower(1.12), ONE_SESSION, ["--margin", "8"], Exit.MISSED, "regressed"),
        (slower(1), ONE_SESSION, ["--strict"], Exit.MET, "no_regression"),
        (slower(1.015), ONE_SESSION, [], Exit.MET, "no_regression"),
        (slower(1.015), ONE_SESSION, ["--strict"], Exit.UNDECIDED, "no_regression"),
        ([None], {}, [], Exit.MISSED, "regressed"),
        ([None], {}, ["--advisory"], Exit.MISSED, "regressed"),
        ([*QUIET[:9], None], {}, ["--advisory"], Exit.MISSED, "regressed"),
    ],
)
def test_the_exit_code_is_that_of_the_verdict(steps, header, flags, code, verdict, base, compare):
    ended = compare(base, stored("new", steps, **header), "--format", "json", *flags)
    assert ended.code == code
    assert ended.err == ""
    told = json.loads(ended.out)
    assert told["verdict"] == verdict
    assert told["firm"] is bool(header)


def test_a_regression_beside_an_undecided_case_ends_with_1_strictly_or_not(base, compare):
    new = stored("new", slower(1.04), autograd=slower(1.015), **ONE_SESSION)
    for flags in ([], ["--strict"]):
        assert compare(base, new, *flags).code == Exit.MISSED


@pytest.mark.parametrize("form", ["terminal", "markdown", "github", "json"])
def test_every_format_names_the_case_that_became_slower(form, base, compare):
    ended = compare(base, stored("new", slower(1.3)), "--format", form)
    assert (ended.code, ended.err) == (Exit.MISSED, "")
    assert MANUAL.case_id in ended.out
    assert "\x1b" not in ended.out


def test_a_comparison_is_kept_in_files_as_well(base, compare, here):
    new = stored("new", slower(1.3))
    assert compare(base, new, "--output", "a.json", "--output", "b.md").code == Exit.MISSED
    assert json.loads((here / "a.json").read_text())["counts"]["slower"] == 1
    assert MANUAL.case_id in (here / "b.md").read_text()


def test_it_changes_nothing_of_the_runs(base, compare):
    new = stored("new", slower(1.3))
    before = {path: path.read_bytes() for path in Path("results").rglob("*") if path.is_file()}
    compare(base, new)
    assert {path: path.read_bytes() for path in Path("results").rglob("*") if path.is_file()} == before


# The sides


def test_two_csv_files_alone_are_enough(base, compare, here):
    new = stored("new", slower(1.3))
    for name, folder in (("a.csv", base), ("b.csv", new)):
        (folder / "measurements.csv").rename(here / name)
    ended = compare("a.csv", "b.csv", "--format", "json")
    assert ended.code == Exit.MISSED
    assert json.loads(ended.out)["counts"]["slower"] == 1


def test_the_noise_that_was_measured_beside_the_runs_makes_the_margin(base, compare):
    new = stored("new", slower(1.04), **ONE_SESSION)
    before = json.loads(compare(base, new, "--format", "json").out)
    assert before["verdict"] == "regressed"
    loud = pd.DataFrame(
        {"schema": 1, "case_id": [MANUAL.case_id, AUTOGRAD.case_id], "spread": 0.06, "rounds": 20, "workload": "line"}
    ).assign(engine="x", device="cpu", dtype="float32", batch_size=100, run_id="noise", commit="ab", dirty=False)
    loud.assign(machine="amd-epyc-2c", fingerprint="00aa11bb22cc").to_csv(base.parent / "noise.csv", index=False)
    ended = compare(base, new, "--format", "json")
    after = json.loads(ended.out)
    assert (ended.code, after["counts"]["regressed"]) == (Exit.MET, 0)
    assert {case["spread_from"] for case in after["cases"]} == {"noise"}


def sessions_stored(count: int) -> None:
    for number in range(count):
        stored(f"2026112{number}T000000Z-{'ab' * 5}", slower(1 + 0.001 * number), autograd=slower(1 + 0.001 * number))


def test_five_stored_sessions_take_the_place_of_what_is_assumed(base, compare, here):
    sessions_stored(4)
    new = stored("new", slower(1.05))
    assert "fewer than 5 other sessions stored here measured these cases" in compare(base, new).out
    stored("20261124T000000Z-abababab", slower(1.004), autograd=slower(1.004))
    stored("20261125T000000Z-other", [None], autograd=[None])  # has no time of either
    shutil.copy(new / "measurements.csv", here / "new.csv")
    for side in (new, "new.csv"):  # beside the file there is no run
        told = json.loads(compare(base, side, "--format", "json").out)
        assert told["sessions"]["measured"] is True
        assert told["sessions"]["sessions"] == 5
        assert told["verdict"] == "slower"  # what is assumed would not say so


def test_what_varies_is_declared_by_its_name(base, compare):
    new = stored("new", slower(1.3), fingerprint="ffff", environment={**MACHINE, "torch": "2.14.0"})
    assert_refused(compare(base, new), "torch: 2.13.0+cpu and 2.14.0", "--vary torch", code=Exit.NOT_COMPARABLE)
    assert_refused(compare(base, new, "--vary", "cpus"), "torch: 2.13.0+cpu and 2.14.0", code=Exit.NOT_COMPARABLE)
    told = json.loads(compare(base, new, "--vary", "torch", "--format", "json").out)
    assert told["varied"] == ["torch: 2.13.0+cpu and 2.14.0"]
    assert told["verdict"] == "slower"


# By revision


@pytest.fixture
def repository(here) -> dict[str, str]:
    """Stand in a repository with two commits, each measured once; return these by tag."""
    git("init", "-q", "-b", "main")
    commits = {}
    for name, steps in (("old", QUIET), ("new", slower(1.3))):
        (here / "code.py").write_text(name)
        git("add", "code.py")
        git("commit", "-q", "-m", name)
        git("tag", name)
        commits[name] = git("rev-parse", "HEAD")
        stored(f"20261124T090511Z-{commits[name][:10]}", steps, commit=commits[name])
    return commits


def test_two_revisions_are_compared_by_their_stored_runs(repository, compare):
    for base, new in (("old", "new"), ("HEAD~1", "main"), (repository["old"], repository["new"][:10])):
        told = compare(base, new, "--format", "json")
        assert told.code == Exit.MISSED
        assert [json.loads(told.out)[side]["commit"] for side in ("base", "new")] == list(repository.values())
    assert compare("new", "old").code == Exit.MET


def of_another_workload(folder: Path) -> Path:
    for name in ("measurements.csv", "summary.csv"):
        (folder / name).write_text((folder / name).read_text().replace("line/", "line_deep/"))
    return folder


def test_of_two_revisions_the_newest_runs_of_one_session_are_compared_else_of_the_same_cases(repository, compare):
    def run(time: str, name: str, **header: Any) -> Path:
        return stored(f"{time}-{repository[name][:10]}", slower(1.3), commit=repository[name], **header)

    later = run("20261126T000000Z", "new")
    of_another_workload(run("20261127T000000Z", "new"))
    ended = compare("old", "new")
    assert ended.code == Exit.MISSED
    first = f"20261124T090511Z-{repository['old'][:10]}"
    for text in (ended.out, compare("old", "new", "--format", "markdown").out):
        assert f"old (run {first}) → new (run {later.name}), measured in two sessions" in text
    for day in (24, 25):  # in one session
        for name in ("old", "new"):
            run(f"202611{day}T090000Z", name, session=f"ab{day}")
    told = json.loads(compare("old", "new", "--format", "json").out)
    assert [told[side]["run_id"] for side in ("base", "new")] == [
        f"20261125T090000Z-{repository[name][:10]}" for name in ("old", "new")
    ]
    assert told["firm"] is True
    told = json.loads(
        compare(f"results/amd-epyc-2c/20261124T090000Z-{repository['old'][:10]}", "new", "--format", "json").out
    )
    assert told["new"]["run_id"].startswith("20261124T090000Z")


def test_two_names_of_one_run_are_refused_with_what_to_do(repository, compare):
    texts = ("old and old are the same run", "name another one, or measure a second one by: harness run")
    assert_refused(compare("old", "old"), *texts, code=Exit.NOT_COMPARABLE)


def test_a_revision_is_compared_with_a_folder_or_a_file(repository, compare):
    folder = Path("results/amd-epyc-2c") / f"20261124T090511Z-{repository['new'][:10]}"
    for new in (folder, folder / "measurements.csv"):
        assert compare("old", new).code == Exit.MISSED


def test_a_revision_that_was_measured_on_two_machines_is_taken_from_that_of_the_other_side(repository, compare):
    one, other = Path("results/amd-epyc-2c"), Path("results/nvidia-h200")
    shutil.copytree(one, other)
    for folder in other.iterdir():
        for file in folder.iterdir():
            file.write_text(file.read_text().replace("amd-epyc-2c", "nvidia-h200"))
    assert_refused(compare("old", "new"), "old was measured on amd-epyc-2c, nvidia-h200: name one run's folder")
    for machine in (one, other):
        (folder,) = machine.glob(f"*{repository['old'][:10]}")
        ended = compare(folder, "new", "--format", "json")
        assert (ended.code, json.loads(ended.out)["new"]["machine"]) == (Exit.MISSED, machine.name)
        ended = compare("new", folder, "--format", "json")
        assert (ended.code, json.loads(ended.out)["base"]["machine"]) == (Exit.MET, machine.name)


def test_a_revision_that_was_not_measured_says_how_to_get_it(repository, compare, here):
    (here / "code.py").write_text("third")
    git("commit", "-q", "-a", "-m", "third")
    texts = (git("rev-parse", "--short=10", "HEAD"), "results has no run of it", "harness ab")
    assert_refused(compare("old", "HEAD"), *texts)
    assert_refused(compare("HEAD", "old"), *texts)
    assert_refused(compare("old", "new", "--results", "elsewhere"), "elsewhere has no run of it")


@pytest.mark.parametrize("named", ["none", "old..new", "a\x00b", "\x1b[31m"])
def test_what_is_no_revision_is_refused_on_either_side(named, repository, compare):
    for arguments in ((named, "new"), ("new", named)):
        assert_refused(compare(*arguments), "is no run, no CSV file and no revision of this repository")


@pytest.mark.parametrize("named", ["-x", "--all", "--git-dir=/tmp"])
def test_what_looks_like_an_option_is_one_unless_it_comes_after_two_dashes(named, repository, compare):
    assert_refused(compare(named, "new"), named.partition("=")[0])
    assert_refused(compare("--", named, "new"), named)


def test_a_shallow_clone_says_so(repository, compare, here, monkeypatch):
    git("clone", "-q", "--depth", "1", f"file://{here}", "shallow")
    monkeypatch.chdir("shallow")
    assert_refused(compare(repository["old"], "HEAD"), "this clone is shallow: git fetch --unshallow")


def test_outside_of_a_repository_a_revision_is_refused_as_such(base, compare):
    assert_refused(compare("HEAD", base), "this is no repository")


# What cannot be read


WIDTH = len(MEASUREMENTS)


def edited(change: Callable[[pd.DataFrame], pd.DataFrame]) -> bytes:
    return change(pd.read_csv(io.BytesIO(whole()))).to_csv(index=False).encode()


def cut(lines: int, cells: int) -> bytes:
    """Return a file that ends in the middle of a cell."""
    text = whole().decode().splitlines(keepends=True)
    return ("".join(text[:lines]) + ",".join(text[lines].split(",")[: cells + 1])[:-1]).encode()


UNREADABLE: dict[str, tuple[Callable[[], bytes], str]] = {
    "empty": (lambda: b"", "is no CSV table: it is empty"),
    "a line end": (lambda: b"\n", "is no"),
    "a picture": (lambda: b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR\0\0\0\x01", "is no"),
    "NUL": (lambda: whole().replace(b"manual", b"man\0al", 1), "line 2 has a NUL"),
    "zeros": (lambda: b"\0" * 4096, "has a NUL"),
    "zeros at its end": (lambda: whole() + b"\0" * 512, "has a NUL"),
    "UTF-16": (lambda: whole().decode().encode("utf-16"), "it is no UTF-8 text"),
    "Latin-1": (lambda: whole().replace(b"manual", b"man\xfcal"), "it is no UTF-8 text"),
    "cut in a row": (lambda: cut(5, 9), f"row 6 has 10 cells and the header {WIDTH}"),
    "cut in its first cell": (lambda: cut(5, 0), f"row 6 has 1 cells and the header {WIDTH}"),
    "cut in the header": (lambda: cut(0, 10), "is no results table: it has no column schema"),
    "cut in quotes": (lambda: b'schema,reason\n1,"killed by', "is no CSV table"),
    "cut in its last cell": (lambda: whole()[:-9], "its last line has no end, as if it was cut: copy it again"),
    "cut before its last end of line": (lambda: whole()[:-1], "its last line has no end, as if it was cut"),
    "a foreign table without it": (lambda: b"name,price\npear,3", "is no results table: it has no column schema"),
    "a foreign table": (
        lambda: b"name,price\npear,3\napple,4\n",
        "is no results table: it has no column schema; name a run's measurements.csv, or its folder",
    ),
    "JSON": (lambda: b'{"schema": 1}\n', "is no"),
    "a letter": (lambda: b"Dear all,\n\nyours, truly\n", "is no"),
    "another schema": (
        lambda: edited(lambda table: table.assign(schema=SCHEMA + 1)),
        f"has schema {SCHEMA + 1}, this program reads up to {SCHEMA}; update it",
    ),
    "no step_ns": (lambda: edited(lambda table: table.drop(columns="step_ns")), "it has no column step_ns"),
    "no fingerprint": (lambda: edited(lambda table: table.drop(columns="fingerprint")), "it has no column fingerprint"),
    "no such outcome": (lambda: edited(lambda table: table.assign(outcome="fine")), "row 2: outcome 'fine'"),
    "a formula": (lambda: edited(lambda table: table.assign(run_id="=cmd")), "row 2: run_id '=cmd'"),
    "a negative time": (lambda: edited(lambda table: table.assign(step_ns=-1)), "row 2: step_ns"),
    "an endless time": (lambda: edited(lambda table: table.assign(step_ns="inf")), "row 2: step_ns"),
    "a word for a time": (lambda: edited(lambda table: table.assign(step_ns="soon")), "row 2: step_ns 'soon'"),
    "schema 0": (lambda: edited(lambda table: table.assign(schema=0)), "it has schema 0, and the first one was 1"),
    "schema -1 in a row": (
        lambda: edited(lambda table: table.assign(schema=[-1, *[1] * (len(table) - 1)])),
        "it has schema -1, and the first one was 1",
    ),
    "schema nan": (lambda: edited(lambda table: table.assign(schema="nan")), "row 2: schema 'nan': must be a number"),
    "no schema in a row": (
        lambda: edited(lambda table: table.assign(schema=[None, *[1] * (len(table) - 1)])),
        "schema",
    ),
    "a row twice": (lambda: edited(lambda table: pd.concat([table, table[:1]])), "are those of an earlier row"),
    "a column twice": (
        lambda: edited(lambda table: pd.concat([table, table["step_ns"]], axis=1)),
        "has the column 'step_ns' twice",
    ),
    "a row too long": (lambda: whole() + b"," * WIDTH + b"\n", f"row 22 has {WIDTH + 1} cells"),
}


@pytest.mark.parametrize("kind", UNREADABLE)
def test_a_file_that_cannot_be_read_is_refused_on_either_side_in_one_line(kind, base, compare, here):
    make, text = UNREADABLE[kind]
    (here / "other.csv").write_bytes(make())
    for arguments in (("other.csv", base), (base, "other.csv")):
        assert_refused(compare(*arguments), "other.csv: ", text)
    (here / "folder").mkdir()
    (here / "other.csv").rename("folder/measurements.csv")
    assert_refused(compare(base, "folder"), "folder/measurements.csv: ", text)


def test_a_summary_of_other_cases_and_schema_is_read_from_no_file_but_its_own(base, compare):
    instead = "which every version wrote; name a run's measurements.csv, or its folder"
    assert_refused(compare(base, base / "summary.csv"), "is no measurements table: it has no column round", instead)
    assert_refused(compare(base, base / "convergence.csv"), "convergence.csv: is no measurements table")


def test_a_summary_without_rows_beside_the_measurements_is_no_hindrance(base, compare):
    new = stored("new")
    (new / "summary.csv").write_text((new / "summary.csv").read_text().splitlines(keepends=True)[0])
    assert compare(base, new).code == Exit.MET


@pytest.mark.parametrize("name", ["summary.csv", "machine.json", "../noise.csv"])
def test_a_broken_file_beside_the_measurements_is_named(name, base, compare):
    new = stored("new")
    (new / name).write_text("broken")
    assert_refused(compare(base, new), Path(name).name)


@pytest.mark.parametrize("named", ["none.csv", "none/measurements.csv", "results/none.csv"])
def test_a_file_that_is_not_there_is_refused(named, base, compare):
    for arguments in ((named, base), (base, named)):
        assert_refused(compare(*arguments), f"{named}: cannot be read: No such file or directory")


def test_a_path_of_nothing_is_refused(base, compare):
    git("init", "-q")
    for named in ("results/none", "./none", "none/"):
        for arguments in ((named, base), (base, named)):
            assert_refused(compare(*arguments), "is no run, no CSV file and no revision of this repository")


def test_a_name_that_is_too_long_for_a_file_is_refused_like_any_other(base, compare):
    assert_refused(compare(base, "x" * 300), "is no run")


def test_a_folder_without_tables_is_refused(base, compare):
    Path("empty").mkdir()
    for folder in ("empty", "results", "."):
        assert_refused(compare(base, folder), f"{folder} is no folder of a run: it has no measurements.csv")


def test_a_run_whose_first_round_is_not_finished_has_no_table_yet(base, compare):
    Path("begun").mkdir()
    Path("begun/journal.jsonl").touch()
    assert_refused(compare(base, "begun"), "begun/measurements.csv: cannot be read: No such file")


def test_what_is_no_regular_file_is_refused(base, compare):
    os.mkfifo("pipe.csv")
    Path("loop.csv").symlink_to("loop.csv")
    Path("device.csv").symlink_to("/dev/zero")
    for name, text in (("pipe.csv", "is no regular file"), ("device.csv", "is no regular file"), ("loop.csv", "")):
        assert_refused(compare(base, name), name, text)


@pytest.mark.parametrize(
    ("arguments", "texts"),
    [
        ([], ["argument 'BASE'"]),
        (["results"], ["argument 'NEW'"]),
        (["a", "b", "c"], ["c"]),
        (["BASE", "NEW", "--vary", "torhc"], ["--vary torhc", "use one of", "torch"]),
        (["BASE", "NEW", "--margin", "0"], ["--margin", "0.1<=x<=100"]),
        (["BASE", "NEW", "--margin", "nan"], ["--margin"]),
        (["BASE", "NEW", "--margin", "inf"], ["--margin"]),
        (["BASE", "NEW", "--margin", "wide"], ["--margin", "'wide'"]),
        (["BASE", "NEW", "--format", "xml"], ["--format", "'xml'", "markdown"]),
        (["BASE", "NEW", "--output", "a.html"], ["--output a.html: must end in .md or .json"]),
        (["BASE", "NEW", "--output", "none/a.md"], ["none/a.md: cannot be written"]),
        (["BASE", "NEW", "--colour"], ["--colour"]),
    ],
    ids=lambda value: " ".join(value),
)
def test_a_command_line_that_makes_no_sense_gets_one_line(arguments, texts, base, compare):
    new = stored("new", **ONE_SESSION)
    ended = compare(*({"BASE": base, "NEW": new}.get(part, part) for part in arguments))
    if "none/a.md" in arguments:  # the comparison is there before its file is
        ended = Ended(ended.code, "", ended.err)
    assert_refused(ended, *texts)


# What is not comparable


@pytest.mark.parametrize(
    ("header", "texts"),
    [
        ({"fingerprint": "ffff", "environment": {**MACHINE, "cpus": 4}}, ["cpus: 2 and 4", "--vary cpus"]),
        ({"fingerprint": "ffff", "environment": {}}, ["fingerprint: 00aa11bb22cc and ffff", "does not say"]),
        ({"machine": "nvidia-h200"}, ["machine: amd-epyc-2c and nvidia-h200"]),
    ],
)
def test_runs_that_measured_different_things_end_with_3_and_say_what(header, texts, base, compare):
    assert_refused(compare(base, stored("new", **header)), *texts, code=Exit.NOT_COMPARABLE)


def test_a_base_of_uncommitted_code_ends_with_3_and_new_code_does_not(base, compare):
    dirty = stored("dirty", dirty=True)
    assert_refused(compare(dirty, base), "measured with uncommitted changes (dirty)", code=Exit.NOT_COMPARABLE)
    ended = compare(base, dirty)
    assert ended.code == Exit.MET
    assert "dirty was measured with uncommitted changes" in ended.out


def test_several_runs_in_one_file_end_with_3(base, compare, here):
    tables = [pd.read_csv(folder / "measurements.csv") for folder in (base, stored("another"))]
    pd.concat(tables).to_csv("glued.csv", index=False)
    for arguments in (("glued.csv", base), (base, "glued.csv")):
        said = ("glued.csv holds rows of 2 different", "compare takes one run a side")
        assert_refused(compare(*arguments), *said, code=Exit.NOT_COMPARABLE)


def test_a_table_without_rows_ends_with_3(base, compare, here):
    (here / "none.csv").write_bytes(whole().splitlines(keepends=True)[0])
    assert_refused(compare(base, "none.csv"), "none.csv holds no measurements", code=Exit.NOT_COMPARABLE)


def test_runs_without_a_case_in_common_end_with_3(base, compare, here):
    file = base / "measurements.csv"
    file.write_text(file.read_text().replace("b100", "b7"))
    (base / "summary.csv").unlink()
    assert_refused(compare(base, stored("new")), "no case is both in", code=Exit.NOT_COMPARABLE)


# The program itself


@pytest.mark.parametrize(
    ("steps", "flags", "code"),
    [
        (slower(1.3), ["--advisory"], Exit.MET),
        (slower(1.3), [], Exit.MISSED),
        (slower(1.0884), ["--strict"], Exit.UNDECIDED),
    ],
)
def test_the_program_ends_with_the_code_of_the_verdict(steps, flags, code, base):
    ended = program(base, stored("new", steps), *flags)
    assert (ended.code, ended.err) == (code, "")
    assert MANUAL.case_id in ended.out


def test_the_program_refuses_in_one_line(base, here):
    (here / "cut.csv").write_bytes(cut(5, 9))
    assert_refused(program(base, "cut.csv"), "cut.csv: is no CSV table")
    assert_refused(program(base, stored("far", machine="nvidia-h200")), "nvidia-h200", code=Exit.NOT_COMPARABLE)


WITHOUT_TORCH = """
import sys

class NoTorch:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == "torch":
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, NoTorch())
from harness.cli import main
main()
"""


def test_two_runs_are_compared_without_torch(base):
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT_TORCH, "compare", str(base), str(stored("new", slower(1.3)))],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.returncode, done.stderr) == (Exit.MISSED, "")
