import json
import os
import subprocess
from dataclasses import replace
from importlib.metadata import PackageNotFoundError
from pathlib import Path

import pytest

from harness.measuring import machine as machine_module
from harness.measuring.cpus import cpu_list, physical_cores, place
from harness.plan.case import Case
from harness.plan.errors import NotComparable, PlanError
from harness.plan.presets import Sampling
from harness.plan.sweep import Sweep
from harness.plan.targets import ThroughputTarget
from harness.running import session as session_module
from harness.running.journal import FILE
from harness.running.launcher import DEFAULT_TIMEOUT_S
from harness.running.records import read_journal
from harness.running.session import Machine, Session, this_machine, typed

H200 = "NVIDIA H200, 580.65.06, 143771, 9.0, GPU-1, Disabled, 700.00"
OUTER_PATH = os.environ["PATH"]
RECORD = {
    "kind": "record",
    "case_id": "line/manual/cpu/float32/b10",
    "round": 0,
    "outcome": "ok",
    "reason": "",
    "step_ns": 5.0,
}


@pytest.fixture(autouse=True)
def known_machine(tmp_path, monkeypatch):
    """A machine without GPU and with a CUDA build of torch, outside any repository."""
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    (tmp_path / "bin").mkdir()
    for name in [name for name in os.environ if name.startswith("GIT_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("HARNESS_REVISION", "a" * 40)
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    installed(monkeypatch, "2.13.0+cu130")


def records(folder):
    return [entry for entry in read_journal(folder)[1] if entry["kind"] == "record"]


def installed(monkeypatch, torch):
    def version(package):
        if package == "torch" and torch is not None:
            return torch
        raise PackageNotFoundError(package)

    monkeypatch.setattr(machine_module, "version", version)


@pytest.fixture
def nvidia_smi(tmp_path):
    """Puts a program on PATH that answers as nvidia-smi does."""

    def make(*rows: str, code: int = 0) -> None:
        program = tmp_path / "bin/nvidia-smi"
        lines = "\n".join(f"echo '{row}'" for row in rows)
        program.write_text(f"#!/bin/sh\n{lines}\nexit {code}\n")
        program.chmod(0o755)

    return make


def sweep(*devices: str) -> Sweep:
    cases = tuple(
        Case("line", engine, device, "float32", 10) for engine in ("manual", "autograd") for device in devices
    )
    return Sweep(
        cases, rounds=2, seeds=5, named_engines=("manual",), targets=(ThroughputTarget("manual", 2.0),), order_seed=3
    )


# Machines that cannot run the sweep


def test_without_a_gpu_cuda_is_refused_in_one_line(nvidia_smi):
    with pytest.raises(PlanError, match="device cuda: there is no NVIDIA GPU here") as refusal:
        this_machine(sweep("cuda"))
    assert "--device cpu" in str(refusal.value)
    nvidia_smi("No devices were found", code=6)
    with pytest.raises(PlanError, match="there is no NVIDIA GPU here"):
        this_machine(sweep("cpu", "cuda"))


def test_a_gpu_that_is_not_there_is_refused_with_how_many_are(nvidia_smi):
    nvidia_smi(H200, H200.replace("GPU-1", "GPU-2"))
    for device in ("cuda:2", "cuda:17"):
        with pytest.raises(PlanError, match=rf"device {device}: this machine has 2 GPU"):
            this_machine(sweep("cpu", "cuda:1", device))


def test_the_cpu_build_of_torch_is_refused_for_cuda_only(nvidia_smi, monkeypatch):
    nvidia_smi(H200)
    installed(monkeypatch, "2.13.0+cpu")
    with pytest.raises(PlanError, match=r"device cuda: .* 2\.13\.0\+cpu, is the CPU build"):
        this_machine(sweep("cuda"))
    assert this_machine(sweep("cpu")).facts["torch"] == "2.13.0+cpu"


def test_without_torch_nothing_can_be_measured(monkeypatch):
    installed(monkeypatch, None)
    with pytest.raises(PlanError, match="torch is not installed here"):
        this_machine(sweep("cpu"))


def test_a_gpu_that_is_there_names_the_machine(nvidia_smi):
    nvidia_smi(H200, H200.replace("GPU-1", "GPU-2"))
    for device in ("cuda", "cuda:0", "cuda:1"):
        assert this_machine(sweep("cpu", device)).slug == "nvidia-h200"


def test_a_run_on_the_cpu_never_asks_for_a_gpu(nvidia_smi, tmp_path):
    nvidia_smi(f"asked; touch {tmp_path}/asked")
    (tmp_path / "bin/nvidia-smi").write_text(f"#!/bin/sh\n: > {tmp_path}/asked\n")
    assert "gpu" not in this_machine(sweep("cpu")).facts
    assert not (tmp_path / "asked").exists()


# A new run


def test_a_new_run_has_a_folder_with_its_machine_and_an_empty_journal(tmp_path):
    machine = this_machine(sweep("cpu"))
    session = Session.start(sweep("cpu"), machine, tmp_path / "out")
    session.journal.close()
    assert session.folder.parent == tmp_path / "out" / machine.slug
    assert session.folder.name.endswith("-aaaaaaaaaa")
    assert json.loads((session.folder / "machine.json").read_text()) == machine.facts
    header, records = read_journal(session.folder)
    assert records == []
    assert {name: header[name] for name in ("run_id", "commit", "dirty", "machine", "fingerprint")} == {
        "run_id": session.folder.name,
        "commit": "a" * 40,
        "dirty": False,
        "machine": machine.slug,
        "fingerprint": machine.fingerprint,
    }
    assert Sweep.from_json(header["sweep"]) == sweep("cpu")


# Going on with a run


@pytest.fixture
def begun(tmp_path):
    """The folder of a run that was begun here and has one record."""
    session = Session.start(sweep("cpu"), this_machine(sweep("cpu")), tmp_path / "out")
    session.journal.append(RECORD)
    session.journal.close()
    return session.folder


def test_a_run_is_gone_on_with_where_it_ended(begun):
    session = Session.resume(begun)
    session.journal.append({**RECORD, "round": 1})
    session.journal.close()
    assert session.sweep == sweep("cpu")
    first, second = session.sweep.cases
    assert not session.progress.needs(first, 0)
    assert session.progress.needs(first, 1)
    assert session.progress.needs(second, 0)
    assert [record["round"] for record in read_journal(begun)[1]] == [0, 1]


def test_at_another_commit_a_run_is_not_gone_on_with(begun, monkeypatch):
    monkeypatch.setenv("HARNESS_REVISION", "b" * 40)
    with pytest.raises(NotComparable, match=f"its commit is {'a' * 40}, here it is {'b' * 40}"):
        Session.resume(begun)


def test_with_changed_files_a_run_is_not_gone_on_with(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", OUTER_PATH)  # with git
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", os.devnull)
    Path("model.py").write_text("one\n")
    who = ("-c", "user.name=a", "-c", "user.email=a@b.c")
    for command in (("init", "-q"), ("add", "model.py"), (*who, "commit", "-q", "-m", "one")):
        subprocess.run(("git", *command), check=True)
    session = Session.start(sweep("cpu"), this_machine(sweep("cpu")), Path("results"))
    session.journal.close()
    Session.resume(session.folder).journal.close()
    Path("model.py").write_text("two\n")
    with pytest.raises(NotComparable, match="its dirty is False, here it is True"):
        Session.resume(session.folder)


@pytest.mark.parametrize(
    ("change", "name"), [({"slug": "apple-m2-8c"}, "machine"), ({"fingerprint": "0" * 12}, "fingerprint")]
)
def test_on_another_machine_a_run_is_not_gone_on_with(begun, monkeypatch, change, name):
    here = this_machine(sweep("cpu"))
    monkeypatch.setattr(session_module, "this_machine", lambda _: Machine(**{**vars(here), **change}))
    with pytest.raises(NotComparable, match=rf"its {name} is {vars(here)[next(iter(change))]}, here it is"):
        Session.resume(begun)


def test_a_run_is_gone_on_with_where_it_was_begun_on_one_machine_or_on_a_cluster(begun, tmp_path):
    here = this_machine(sweep("cpu"))
    cluster = replace(here, on="ray")
    with pytest.raises(PlanError, match="was begun on one machine: go on without --on"):
        Session.resume(begun, cluster)
    session = Session.start(sweep("cpu"), cluster, tmp_path / "fan")
    session.journal.close()
    with pytest.raises(PlanError, match="was begun on a cluster: go on with --on ray"):
        Session.resume(session.folder)
    Session.resume(session.folder, cluster).journal.close()


def test_with_another_torch_a_run_is_not_gone_on_with(begun, monkeypatch):
    installed(monkeypatch, "2.14.0+cu130")
    with pytest.raises(NotComparable, match="its fingerprint is"):
        Session.resume(begun)


def test_a_refused_run_is_left_as_it_was(begun, monkeypatch):
    with (begun / FILE).open("ab") as file:
        file.write(b'{"kind": "rec')
    before = (begun / FILE).read_bytes()
    monkeypatch.setenv("HARNESS_REVISION", "b" * 40)
    with pytest.raises(NotComparable):
        Session.resume(begun)
    assert (begun / FILE).read_bytes() == before


@pytest.mark.parametrize(
    "change",
    [
        {"sweep": None},
        {"sweep": {}},
        {"sweep": {**sweep("cpu").to_json(), "cases": [{"workload": "line"}]}},
        {"sweep": {**sweep("cpu").to_json(), "colour": "blue"}},
        {"format": 2},
    ],
    ids=["none", "empty", "cases that lack something", "something more", "a later format"],
)
def test_the_run_of_another_version_of_this_program_is_refused(begun, change):
    header, *records = (json.loads(line) for line in (begun / FILE).read_text().splitlines())
    (begun / FILE).write_text("".join(json.dumps(entry) + "\n" for entry in ({**header, **change}, *records)))
    with pytest.raises(PlanError, match="another version of this program"):
        Session.resume(begun)


def test_a_folder_that_is_no_run_is_refused(tmp_path):
    with pytest.raises(PlanError, match="no results folder"):
        Session.resume(tmp_path)


# Measuring


class FakeLauncher:
    """Notes what it is made with and asked for, and that the folder of the caches is there while it measures."""

    made = ()
    ending = None

    def __init__(self, environment, timeout_s):
        self.cache = Path(environment["TORCHINDUCTOR_CACHE_DIR"]).parent
        self.timeout_s = timeout_s

    def measure(self, request, on_phase):
        assert self.cache.parent.is_dir()
        parent = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else set()
        FakeLauncher.made = (*FakeLauncher.made, (self.cache, self.timeout_s, request, parent))
        (self.cache / "inductor").mkdir(exist_ok=True, parents=True)
        if self.ending:
            raise self.ending
        return {"outcome": "ok", "reason": "", "step_ns": 5.0}


class Unheard:
    def __getattr__(self, _name):
        return lambda *_: None


@pytest.fixture
def fake_launcher(monkeypatch):
    monkeypatch.setattr(FakeLauncher, "made", ())
    monkeypatch.setattr(FakeLauncher, "ending", None)
    monkeypatch.setattr(session_module, "Launcher", FakeLauncher)
    return FakeLauncher


def test_a_run_measures_what_is_missing_with_a_compile_cache_that_goes_with_it(begun, fake_launcher):
    session = Session.resume(begun)
    rounds = []
    session.measure(Unheard(), None, after_round=lambda: rounds.append(len(records(begun))))
    session.journal.close()
    assert len(fake_launcher.made) == 3
    assert {timeout_s for _, timeout_s, *_ in fake_launcher.made} == {DEFAULT_TIMEOUT_S}
    [cache] = {cache for cache, *_ in fake_launcher.made}
    assert not cache.parent.exists()
    assert rounds == [2, 4]


def test_the_compile_cache_goes_with_an_interrupted_run_as_well(begun, fake_launcher, monkeypatch):
    monkeypatch.setattr(fake_launcher, "ending", KeyboardInterrupt())
    session = Session.resume(begun)
    with pytest.raises(KeyboardInterrupt):
        session.measure(Unheard(), 2.5, after_round=lambda: None)
    session.journal.close()
    [(cache, timeout_s, *_)] = fake_launcher.made
    assert timeout_s == 2.5
    assert not cache.parent.exists()


def test_a_cold_run_has_a_compile_cache_for_each_case_empty_in_its_first_round(tmp_path, fake_launcher):
    cold = replace(sweep("cpu"), cold=True)
    session = Session.start(cold, this_machine(cold), tmp_path / "out")
    session.measure(Unheard(), None, after_round=lambda: None)
    session.journal.close()
    caches = {}
    for cache, _, request, _ in fake_launcher.made:
        caches.setdefault(request.case, set()).add(cache)
    assert all(len(of_case) == 1 for of_case in caches.values())
    assert len(set.union(*caches.values())) == len(cold.cases) == 2


@pytest.mark.skipif(not hasattr(os, "sched_getaffinity"), reason="this system cannot pin processes")
def test_worker_and_parent_are_placed_apart_while_a_run_measures_and_the_parent_is_free_afterwards(
    begun, fake_launcher
):
    before = os.sched_getaffinity(0)
    session = Session.resume(begun)
    session.measure(Unheard(), None, after_round=lambda: None)
    session.journal.close()
    assert os.sched_getaffinity(0) == before
    for _, _, request, parent in fake_launcher.made:
        where = place("cpu", None, before)
        assert (request.cpus, request.threads) == (where.worker, where.threads)
        assert parent == set(where.parent)
        assert request.sampling == sweep("cpu").sampling


# Real workers


class Looking:
    """Looks, when the timing of a case begins, where its worker may run: the child with a worker's mark."""

    def __init__(self):
        self.seen = []

    def phase_started(self, phase):
        if phase == "timing":
            self.seen.append((os.sched_getaffinity(0), [set(cpus) for cpus in self._of_workers()]))

    @staticmethod
    def _of_workers():
        for path in Path("/proc").glob("[0-9]*/status"):
            try:
                facts = dict(line.split(":\t", 1) for line in path.read_text().splitlines() if ":\t" in line)
                marked = b"HARNESS_WORKER=" in path.with_name("environ").read_bytes()
            except OSError:
                continue
            if marked and facts["PPid"] == str(os.getpid()):
                yield cpu_list(facts["Cpus_allowed_list"])

    def __getattr__(self, _name):
        return lambda *_: None


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs Linux")
def test_in_a_real_run_the_worker_really_is_where_it_is_placed_and_never_where_its_parent_is(tmp_path):
    allowed = os.sched_getaffinity(0)
    if len(physical_cores(allowed)) < 2:
        pytest.skip("needs two cores: on one, worker and parent share it")
    short = Sweep((Case("line", "manual", "cpu", "float32", 100),), 1, 1, sampling=Sampling(budget_ns=50_000_000))
    session, looking = Session.start(short, this_machine(short), tmp_path / "out"), Looking()
    session.measure(looking, 120.0, after_round=lambda: None)
    session.journal.close()
    [record] = records(session.folder)
    assert (record["outcome"], record["reason"]) == ("ok", "")
    [(parent, workers)] = looking.seen
    [worker] = workers
    where = place("cpu", None, allowed)
    assert worker == set(record["cpus"]) == set(where.worker)
    assert parent == set(where.parent)
    assert not worker & parent
    assert record["threads"] == where.threads == len(worker)
    assert 0.9 < record["clock_ratio"] < 1.5


@pytest.mark.parametrize(
    ("session", "command", "line"),
    [
        ("", ("run", "--resume", "a/b"), "harness run --resume a/b"),
        ("", ("run", "--resume", "my results/b"), "harness run --resume 'my results/b'"),
        ("tests", ("noise", "a/b"), "harness noise a/b"),
        ("bench_cpu", ("run", "--resume", "a/b"), "nox -s bench_cpu -- --resume a/b"),
        ("bench_cuda", ("noise", "a/b"), "nox -s bench_cuda -- noise a/b"),
        ("compare", ("ab", "main", "HEAD"), "nox -s ab -- main HEAD"),
        ("compare", ("ab", "main", "HEAD", "--device", "cuda:0"), "nox -s bench_cuda -- ab main HEAD --device cuda:0"),
        ("bench_cpu", ("ab", "main", "HEAD", "--device", "cuda"), "nox -s bench_cuda -- ab main HEAD --device cuda"),
        ("", ("ab", "main", "HEAD", "--device", "cuda"), "harness ab main HEAD --device cuda"),
        ("report", ("run",), "nox -s bench_cpu"),
    ],
)
def test_a_command_is_told_as_it_would_be_typed_where_the_program_was_started(monkeypatch, session, command, line):
    monkeypatch.setenv("NOX_CURRENT_SESSION", session)
    assert typed(*command) == line
