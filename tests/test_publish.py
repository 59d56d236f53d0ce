"""Results that outlive the machine: the command line in this process, a folder as the store, and no real worker."""

import itertools
import json
import shutil
import signal
import sys
from collections import Counter
from dataclasses import dataclass, field, replace
from pathlib import Path

import pandas as pd
import pytest

import harness.running.session as sessions
from harness.cli import Exit, main
from harness.plan.shard import shard_by_case
from harness.plan.sweep import Sweep
from harness.running.folder import Revision
from harness.running.journal import FILE
from harness.running.launcher import Launcher
from harness.running.published import object_name
from harness.running.records import read_journal
from harness.running.session import Machine

HERE = Machine({"torch": "2.13.0+cpu", "cpus": 2, "hours_up": 1}, "amd-epyc-9654-2c", "00aa11bb22cc")
THERE = Machine({"torch": "2.13.0+cpu", "cpus": 4, "hours_up": 1}, "intel-xeon-4c", "99ff88ee77dd")
COMMIT = Revision("c0ffee" * 6 + "c0de", dirty=False)
PLAN = ("--workload", "line", "--engine", "manual", "--engine", "autograd", "--rounds", "2", "--seeds", "2")
SIZES = (10, 100, 1000, 10000)
CASES = {f"line/{engine}/cpu/float32/b{size}" for engine in ("manual", "autograd") for size in SIZES}
ROWS = {(case, number) for case in CASES for number in (0, 1)}
TARGETS = {
    "max_loss": 0.1,
    "min_accuracy": 0.9,
    "min_converged_share": 0.1,
    "max_median_loss": 0.05,
    "min_median_accuracy": 0.9,
}
SEED = {"updates": 20, "loss": 0.02, "accuracy": 1.0, "r2": 0.98, "converged": True, "epochs_to_target": 12}


@dataclass(frozen=True)
class Ended:
    code: int
    out: str
    err: str

    @property
    def line(self) -> str:
        """The only line on stderr, of the program's own."""
        [line] = self.err.splitlines()
        assert line.startswith("harness: ")
        return line


@dataclass
class Workers:
    """Stands in for the workers: counts them, and lets the run end at one of them."""

    begun: list[tuple[str, int]] = field(default_factory=list)
    ends_at: int | None = None

    def measure(self, request):
        self.begun.append((request.case.case_id, request.round))
        if len(self.begun) == self.ends_at:
            raise KeyboardInterrupt
        step_ns = (1e6 if request.case.engine == "autograd" else 1e3) + len(self.begun)  # every target is met
        record = {"outcome": "ok", "reason": "", "threads": 1, "step_ns": step_ns, "seconds": 0.1}
        if request.seeds:
            record["convergence"] = [{"seed": number, **SEED} for number in range(request.seeds)]
            record["convergence_targets"] = TARGETS
        return record


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    """Stand in an empty folder on a known machine at a known commit; give signals back to pytest afterwards."""
    monkeypatch.chdir(tmp_path)
    on(monkeypatch, HERE)
    monkeypatch.setattr(sessions, "revision", lambda _where: COMMIT)
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
    yield tmp_path
    for number, handler in handlers.items():
        signal.signal(number, handler)


def on(monkeypatch, machine):
    monkeypatch.setattr(sessions, "this_machine", lambda _sweep: machine)


@pytest.fixture
def workers(monkeypatch):
    workers = Workers()
    monkeypatch.setattr(Launcher, "measure", lambda _self, request, _on_phase: workers.measure(request))
    return workers


@pytest.fixture
def program(workers, monkeypatch, capsys):
    def run(*arguments) -> Ended:
        monkeypatch.setattr(sys, "argv", ["harness", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            main()
        return Ended(int(ended.value.code or 0), *capsys.readouterr())

    return run


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> dict[str, Path]:
    """What several tests begin with, by name: each is measured once and copied for the others."""
    return {}


@pytest.fixture
def once(made, here, tmp_path_factory):
    """Let a function make the folder that the test stands in, or copy what it made for another test."""

    def once(make) -> None:
        name = make.__name__
        if name not in made:
            make()
            made[name] = shutil.copytree(here, tmp_path_factory.mktemp(name) / "made")
        else:
            shutil.copytree(made[name], here, dirs_exist_ok=True)

    return once


@pytest.fixture
def measure(program):
    """Run the plan, published in `store`, on a machine whose disk is `out`."""

    def measure(*more, store="store", out="out", plan=PLAN) -> Ended:
        return program("run", *plan, "--publish", store, "--out", out, "--quiet", *more)

    return measure


@pytest.fixture
def broken_off(measure, workers, once):
    """A job that ended after its second record, its disk `out` and what it had published in `store`."""

    def two_records():
        workers.ends_at = 3
        assert measure().code == Exit.INTERRUPTED
        workers.ends_at = None
        workers.begun.clear()

    once(two_records)


def run_of(out: str) -> Path:
    [folder] = Path(out).glob("*/*")
    return folder


def objects(store="store") -> dict[str, bytes]:
    return {file.relative_to(store).as_posix(): file.read_bytes() for file in Path(store).rglob("*") if file.is_file()}


def records(folder: Path) -> dict[tuple[str, int], dict]:
    entries = [entry for entry in read_journal(folder)[1] if entry["kind"] == "record"]
    found = {(entry["case_id"], entry["round"]): entry for entry in entries}
    assert len(found) == len(entries)
    return found


def rows(folder: Path) -> Counter[tuple[str, int]]:
    table = pd.read_csv(folder / "measurements.csv")
    return Counter(zip(table["case_id"], table["round"], strict=True))


# Publishing


def test_every_record_is_published_as_it_stands_in_the_journal_and_the_run_is_told_once(measure):
    assert measure().code == Exit.MET
    header, *lines = (run_of("out") / FILE).read_bytes().splitlines(keepends=True)
    kept = {object_name(json.loads(line)): line for line in lines if json.loads(line)["kind"] == "record"}
    assert len(kept) == len(ROWS)
    machine = (run_of("out") / "machine.json").read_bytes()
    assert objects() == {"run.json": header, "machine.json": machine, **kept}


def test_a_record_is_published_before_the_next_process_starts(measure, workers, monkeypatch):
    seen = []
    before = workers.measure

    def look(request):
        seen.append(len(list(Path("store/records").glob("*.json"))))
        return before(request)

    monkeypatch.setattr(workers, "measure", look)
    measure()
    assert seen == list(range(len(ROWS)))


@pytest.mark.parametrize("out", ["elsewhere", "out"], ids=["another disk", "the same disk"])
def test_a_job_that_is_started_again_measures_only_what_is_missing(measure, workers, out):
    workers.ends_at = 6
    ended = measure()
    assert ended.code == Exit.INTERRUPTED
    assert ended.err.endswith("harness: interrupted; go on with: the same command\n")
    first, before = run_of("out").name, objects()
    assert len(before) == 2 + 5
    lost = workers.begun[-1]
    workers.ends_at = None
    ended = measure(out=out)
    assert ended.code == Exit.MET
    assert "5 records are published at store" in ended.err
    assert run_of(out).name == first
    assert Counter(workers.begun) == Counter([*ROWS, lost])
    assert before.items() <= objects().items()
    assert rows(run_of(out)) == Counter(ROWS)
    attempts = {key: record["attempts"] for key, record in records(run_of(out)).items()}
    assert attempts.pop(lost) == 2
    assert set(attempts.values()) == {1}


def test_a_finished_job_that_is_started_again_measures_nothing(measure, workers):
    measure()
    before = objects()
    assert measure(out="elsewhere").code == Exit.MET
    assert len(workers.begun) == len(ROWS)
    assert objects() == before
    for name in (FILE, "measurements.csv", "summary.csv"):
        mine, other = ((run_of(out) / name).read_text() for out in ("elsewhere", "out"))
        assert sorted(mine.splitlines()) == sorted(
            line for line in other.splitlines() if not line.startswith('{"kind": "attempt"')
        )


@pytest.mark.parametrize(
    ("key", "change"),
    [
        ("rounds", lambda _: (*PLAN, "--rounds", "3")),
        ("cases", lambda _: (*PLAN, "--batch-size", "10")),
        ("shard", lambda _: None),
        ("commit", lambda patch: patch.setattr(sessions, "revision", lambda _: Revision("b" * 40, dirty=False))),
        ("dirty", lambda patch: patch.setattr(sessions, "revision", lambda _: replace(COMMIT, dirty=True))),
        ("machine", lambda patch: on(patch, THERE)),
        ("fingerprint", lambda patch: on(patch, replace(HERE, fingerprint="0" * 12))),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_another_sweep_commit_or_machine_does_not_go_on_with_a_run(
    broken_off, measure, workers, monkeypatch, key, change
):
    before = objects()
    plan = change(monkeypatch) or PLAN
    if key == "shard":
        shutil.copytree("store", "other/shard-0-of-2")
        ended = measure("--shard", "0/2", store="other", out="elsewhere")
    else:
        ended = measure(plan=plan, out="elsewhere")
    assert ended.code == Exit.NOT_COMPARABLE
    assert f"its {key} is " in ended.line
    assert (objects(), workers.begun) == (before, [])
    assert not Path("elsewhere").exists()


def test_a_store_that_takes_nothing_more_ends_the_run_in_one_line_and_nothing_is_lost(measure, workers, monkeypatch):
    broken = workers.measure

    def breaks(request):
        if len(workers.begun) == 4:
            Path("store/records").rename("store/away")
            Path("store/records").write_text("no folder")
        return broken(request)

    monkeypatch.setattr(workers, "measure", breaks)
    ended = measure()
    assert ended.code == Exit.USAGE
    folder = run_of("out")
    assert ended.line.startswith("harness: store cannot be ")
    assert ended.line.endswith(f"what was finished is kept in {folder}; go on with: the same command")
    assert rows(folder) == Counter(workers.begun) == Counter(records(folder).keys())
    assert len(workers.begun) == 5
    monkeypatch.setattr(workers, "measure", broken)
    Path("store/records").unlink()
    Path("store/away").rename("store/records")
    assert measure().code == Exit.MET
    assert Counter(workers.begun) == Counter(ROWS)
    assert len(objects()) == 2 + len(ROWS)


def test_a_store_that_cannot_be_written_is_refused_before_anything_is_measured(measure, workers):
    Path("store").write_text("a file")
    assert measure().code == Exit.USAGE
    assert workers.begun == []
    assert list(Path("out").glob("*/*")) == []


def test_what_another_process_has_published_first_is_what_counts_here_as_well(measure, workers, monkeypatch):
    ours = workers.measure
    theirs = {}

    def meanwhile(request):
        record = ours(request)
        if len(workers.begun) == 3:
            entry = {"kind": "record", "case_id": request.case.case_id, "round": request.round, "attempts": 1}
            theirs.update({**record, "step_ns": record["step_ns"] + 0.5, **entry})
            Path("store", object_name(entry)).write_text(json.dumps(theirs))
        return record

    monkeypatch.setattr(workers, "measure", meanwhile)
    assert measure().code == Exit.MET
    assert records(run_of("out"))[theirs["case_id"], theirs["round"]] == theirs
    assert rows(run_of("out")) == Counter(ROWS)
    assert len(objects()) == 2 + len(ROWS)


def test_a_record_that_is_here_and_published_otherwise_is_what_is_published(broken_off, measure):
    name = next(file for file in objects() if file.startswith("records/"))
    theirs = json.loads(Path("store", name).read_text())
    theirs["step_ns"] += 0.5
    Path("store", name).write_text(json.dumps(theirs))
    assert measure().code == Exit.MET
    assert records(run_of("out"))[theirs["case_id"], theirs["round"]] == theirs


HOSTILE = {
    "empty": lambda _: "",
    "no JSON": lambda _: "{",
    "a list": lambda _: "[]",
    "nested": lambda _: "[" * 100_000,
    "not a number": lambda record: json.dumps({**record, "step_ns": float("nan")}),
    "a time below 0": lambda record: json.dumps({**record, "step_ns": -1}),
    "an attempt": lambda record: json.dumps({**record, "kind": "attempt"}),
    "a header": lambda record: json.dumps({**record, "kind": "run"}),
    "another round": lambda record: json.dumps({**record, "round": 1 - record["round"]}),
    "no such round": lambda record: json.dumps({**record, "round": 2}),
    "another case": lambda record: json.dumps({**record, "case_id": min(CASES - {record["case_id"]})}),
    "no such case": lambda record: json.dumps({**record, "case_id": "../../etc/passwd"}),
}


@pytest.mark.parametrize("content", HOSTILE.values(), ids=HOSTILE)
def test_an_object_that_this_program_did_not_write_is_named_in_one_line(broken_off, measure, program, workers, content):
    name, _ = [file for file in objects() if file.startswith("records/")]
    record = json.loads(Path("store", name).read_text())
    Path("store", name).write_text(content(record))
    for ended in (measure(out="elsewhere"), program("collect", "store", "--out", "elsewhere")):
        assert ended.code == Exit.USAGE
        assert f"store/{name} is damaged: " in ended.line
        assert not Path("elsewhere").exists()
    assert workers.begun == []


@pytest.mark.parametrize("change", [{"run_id": "../../x"}, {"machine": "/etc"}, {"sweep": {}}, {"kind": "record"}])
def test_a_published_run_that_is_none_is_refused_and_writes_nothing(broken_off, measure, program, change):
    header = json.loads(Path("store/run.json").read_text())
    Path("store/run.json").write_text(json.dumps({**header, **change}))
    for ended in (measure(out="elsewhere"), program("collect", "store", "--out", "elsewhere")):
        assert ended.code == Exit.USAGE
        assert "store/run.json is damaged: " in ended.line
    assert not Path("elsewhere").exists()


def test_files_of_others_beside_the_records_are_no_records(measure, program, workers):
    measure()
    for name in ("records/.0a1b", "records/readme.txt", "notes.md"):
        Path("store", name).write_text("not ours")
    assert program("collect", "store", "--out", "collected").code == 0
    assert rows(run_of("collected")) == Counter(ROWS)


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["--publish", "http://host/x"], "s3://BUCKET/PREFIX"),
        (["--publish", "s3://"], "s3://BUCKET/PREFIX"),
        (["--publish", "store", "--resume", "out"], "leave out --publish"),
        (["--shard", "0/2", "--resume", "out"], "leave out --shard"),
        (["--shard", "2/2"], "--shard 2/2"),
        (["--shard", "half"], "use K/N"),
    ],
    ids=" ".join,
)
def test_wrong_flags_get_one_line_and_nothing_is_measured(program, workers, here, arguments, text):
    ended = program("run", *arguments)
    assert ended.code == Exit.USAGE
    assert text in ended.line
    assert workers.begun == []
    assert list(here.rglob("*.json*")) == []


# Collecting


def test_what_is_collected_is_the_run_as_its_machine_had_it(measure, program):
    measure()
    ended = program("collect", "store", "--out", "collected")
    assert (ended.code, ended.err) == (0, "")
    assert ended.out == f"{len(ROWS)} rows, kept in {run_of('collected')}\n"
    assert run_of("collected").relative_to("collected") == run_of("out").relative_to("out")
    assert records(run_of("collected")) == records(run_of("out"))
    for name in ("measurements.csv", "convergence.csv", "summary.csv", "machine.json"):
        assert (run_of("collected") / name).read_text() == (run_of("out") / name).read_text()


def test_a_run_that_goes_on_is_collected_again_into_the_same_folder(measure, program, workers):
    workers.ends_at = 6
    measure()
    ended = program("collect", "store", "--out", "collected")
    assert (ended.code, ended.line) == (0, f"harness: {len(ROWS) - 5} of {len(ROWS)} rows are not measured yet")
    assert len(rows(run_of("collected"))) == 5
    workers.ends_at = None
    measure()
    assert program("collect", "store", "--out", "collected").code == 0
    assert rows(run_of("collected")) == Counter(ROWS)


@pytest.mark.parametrize("make", [lambda: None, lambda: Path("store").mkdir()], ids=["no folder", "an empty one"])
def test_where_nothing_is_published_nothing_is_collected(program, here, make):
    make()
    ended = program("collect", "store", "--out", "collected")
    assert (ended.code, ended.line) == (Exit.USAGE, "harness: store: no run is published there")
    assert not Path("collected").exists()


def test_a_folder_of_another_run_is_not_collected_into(measure, program):
    measure()
    folder = Path("collected") / run_of("out").relative_to("out")
    shutil.copytree(run_of("out"), folder)
    header, rest = (folder / FILE).read_text().split("\n", 1)
    (folder / FILE).write_text(json.dumps({**json.loads(header), "commit": "b" * 40}) + "\n" + rest)
    before = (folder / FILE).read_bytes()
    ended = program("collect", "store", "--out", "collected")
    assert (ended.code, "choose another --out" in ended.line) == (Exit.USAGE, True)
    assert (folder / FILE).read_bytes() == before


# Shards


@pytest.fixture
def shards(measure, monkeypatch, once):
    """Measure three shards, the second on another machine, each on a disk of its own; return their folders."""

    def three_shards():
        for index, machine in enumerate((HERE, THERE, HERE)):
            on(monkeypatch, machine)
            assert measure("--shard", f"{index}/3", out=f"out{index}").code == Exit.MET

    once(three_shards)
    return [run_of(f"out{index}") for index in range(3)]


def test_shards_measure_each_row_once_and_say_what_they_are_of(shards):
    assert sum(map(rows, shards), Counter()) == Counter(ROWS)
    for index, folder in enumerate(shards):
        header, _ = read_journal(folder)
        assert header["shard"] == {"index": index, "count": 3}
        assert {case.case_id for case in Sweep.from_json(header["sweep"]).cases} == CASES
        assert set(pd.read_csv(folder / "summary.csv")["outcome"]) == {"ok"}
        assert json.loads(Path("store", f"shard-{index}-of-3", "run.json").read_text()) == header


@pytest.mark.parametrize("how", ["merge", "collect"])
def test_shards_become_one_run_whose_rows_keep_their_machines(shards, program, how):
    names = reversed(shards) if how == "merge" else ["store"]
    ended = program(how, *names, "--out", "whole")
    assert (ended.code, ended.err) == (0, "")
    folder = run_of("whole")
    assert rows(folder) == Counter(ROWS)
    dealt = shard_by_case(Sweep.from_json(read_journal(folder)[0]["sweep"]).cases, 3)
    for name in ("measurements", "convergence", "summary"):
        whole = pd.read_csv(folder / f"{name}.csv")
        assert set(whole["run_id"]) == {folder.name}
        for index, (machine, part) in enumerate(zip((HERE, THERE, HERE), shards, strict=True)):
            mine = whole[whole["case_id"].map(dealt) == index].reset_index(drop=True)
            assert set(zip(mine["machine"], mine["fingerprint"], strict=True)) == {(machine.slug, machine.fingerprint)}
            if name != "convergence":
                assert set(mine["session"]) == {folder.name}
                assert set(mine["environment"]) == {f"cpus={machine.facts['cpus']}; torch=2.13.0+cpu"}
            theirs = pd.read_csv(part / f"{name}.csv")
            same = [column for column in theirs if column not in ("run_id", "session")]
            pd.testing.assert_frame_equal(mine[same], theirs[same], check_dtype=False)
    assert json.loads((folder / "machine.json").read_text()) == {"torch": "2.13.0+cpu", "hours_up": 1}
    assert folder.parent.name == "several-machines"


def test_shards_of_one_machine_are_a_run_of_that_machine(measure, program):
    for index in range(2):
        measure("--shard", f"{index}/2", out="out")
    folders = sorted(Path("out").glob("*/*"))
    assert program("merge", *folders, "--out", "out").code == 0
    [merged] = set(Path("out").glob("*/*")) - set(folders)
    assert merged.parent.name == HERE.slug
    assert set(pd.read_csv(merged / "summary.csv")["fingerprint"]) == {HERE.fingerprint}
    assert json.loads((merged / "machine.json").read_text()) == HERE.facts
    assert program("show", merged).code == 0
    refused = program("run", "--resume", merged)
    assert (refused.code, "merged from shards" in refused.line) == (Exit.USAGE, True)
    refused = program("merge", merged)
    assert (refused.code, "is no shard" in refused.line) == (Exit.USAGE, True)


def test_a_shard_goes_on_from_its_folder_and_measures_only_its_part(measure, program, workers):
    workers.ends_at = 3
    measure("--shard", "1/3")
    workers.ends_at = None
    assert program("run", "--resume", run_of("out"), "--quiet").code == Exit.MET
    dealt = shard_by_case(Sweep.from_json(read_journal(run_of("out"))[0]["sweep"]).cases, 3)
    assert rows(run_of("out")) == Counter((case, number) for case, number in ROWS if dealt[case] == 1)


def test_a_shard_that_is_missing_or_there_twice_is_named(shards, program):
    one, two, three = shards
    ended = program("merge", one, three, "--out", "whole")
    assert (ended.code, "shard 1/3 is missing" in ended.line) == (Exit.USAGE, True)
    ended = program("merge", one, two, three, two, "--out", "whole")
    assert (ended.code, "shard 1/3 is there twice" in ended.line) == (Exit.USAGE, True)
    shutil.rmtree("store/shard-2-of-3")
    ended = program("collect", "store", "--out", "whole")
    assert (ended.code, "shard 2/3 is missing" in ended.line) == (Exit.USAGE, True)
    assert not Path("whole").exists()


@pytest.mark.parametrize(
    ("changes", "code", "text"),
    [
        ({"commit": "b" * 40}, Exit.NOT_COMPARABLE, "their commit is "),
        ({"dirty": True}, Exit.NOT_COMPARABLE, "their dirty is True and False"),
        ({"sweep": {"order_seed": 5}}, Exit.NOT_COMPARABLE, "their sweep has 'order_seed' 5 and 0"),
        ({"shard": {"index": 1, "count": 4}}, Exit.USAGE, "another number of shards"),
        ({"shard": {"index": 9, "count": 3}}, Exit.USAGE, "shard 9"),
        ({"shard": {"index": 2, "count": 3}}, Exit.USAGE, "is none of the run's cases"),
    ],
    ids=str,
)
def test_parts_of_different_runs_are_not_merged(shards, program, changes, code, text):
    journal = shards[1] / FILE
    header, rest = journal.read_text().split("\n", 1)
    told = json.loads(header)
    if "sweep" in changes:
        changes = {"sweep": {**told["sweep"], **changes["sweep"]}}
    journal.write_text(json.dumps({**told, **changes}) + "\n" + rest)
    ended = program("merge", *shards, "--out", "whole")
    assert ended.code == code
    assert text in ended.line
    assert not Path("whole").exists()


def test_a_whole_run_beside_shards_is_not_collected_as_either(shards, measure, program):
    for name in ("run.json", "machine.json"):
        shutil.copy(f"store/shard-0-of-3/{name}", "store")
    ended = program("collect", "store", "--out", "whole")
    assert (ended.code, "a whole run, and beside it shard-0-of-3" in ended.line) == (Exit.USAGE, True)


def test_a_shard_without_a_case_is_done_at_once_and_is_not_missed(measure, program, workers):
    ended = measure("--shard", "5/6")
    assert (ended.code, ended.err) == (0, "")
    assert ended.out == "shard 5/6 holds no case of this sweep: there is nothing to measure in it\n"
    assert not Path("store").exists()
    assert not Path("out").exists()
    for index in range(4):
        measure("--shard", f"{index}/6")
    assert program("collect", "store", "--out", "whole").code == 0
    assert rows(run_of("whole")) == Counter(ROWS)


def test_a_dry_run_of_a_shard_names_its_cases(program):
    planned = [program("run", *PLAN, "--shard", f"{index}/3", "--dry-run").out.splitlines()[:-1] for index in range(3)]
    assert sorted(itertools.chain(*planned)) == sorted(CASES)
