"""Starts a run or goes on with one: the folder, the journal and the facts that every row will carry."""

import itertools
import json
import os
import shlex
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from harness import __version__
from harness.measuring.cpus import Placement, away_from_workers, place
from harness.measuring.machine import COMPARABLE, describe_machine, fingerprint, slug
from harness.plan.case import Case, checked
from harness.plan.errors import NotComparable, PlanError
from harness.plan.reading import read_regular
from harness.plan.shard import Shard, sweep_of
from harness.plan.sweep import Sweep
from harness.plan.text import printable, shown
from harness.running.executor import Observer, Progress, execute
from harness.running.folder import Revision, digest, make_run_folder, replaced, revision
from harness.running.journal import Journal, Keeper
from harness.running.launcher import DEFAULT_TIMEOUT_S, Launcher, worker_environment
from harness.running.records import FORMAT, MACHINE_FILE, read_journal

# Nox sessions that are called as the one command that they have an environment for: `ab` for the CPU, others no torch.
_NAMED_SESSIONS = ("ab", "compare", "export", "history", "prove", "report")
_MAX_SOURCE = 2**24  # nobody writes 16 MiB of Python


def typed(command: str, *arguments: str) -> str:
    """Return a command of this program as it is typed where it was started: through a nox session, or bare."""
    session = os.environ.get("NOX_CURRENT_SESSION", "")  # set by nox
    cuda = any(pair[0] == "--device" and pair[1].startswith("cuda") for pair in itertools.pairwise(arguments))
    if session in _NAMED_SESSIONS and command in _NAMED_SESSIONS and not cuda:
        return shlex.join(("nox", "-s", command, "--", *arguments))
    if session not in _NAMED_SESSIONS and not session.startswith("bench_"):
        return shlex.join(("harness", command, *arguments))
    bench = "bench_cuda" if cuda else session if session.startswith("bench_") else "bench_cpu"
    given = (*(() if command == "run" else (command,)), *arguments)
    return shlex.join(("nox", "-s", bench, *(("--", *given) if given else ())))


@dataclass(frozen=True)
class Machine:
    """facts: what `measuring.machine` found. slug: the folder name. fingerprint: equal where runs may be compared.

    on: `ray` where these are the nodes of a cluster together; empty for one machine.
    """

    facts: Mapping[str, Any]
    slug: str
    fingerprint: str
    on: str = ""


def this_machine(sweep: Sweep) -> Machine:
    """Look at this machine; raises PlanError when it cannot run the sweep at all."""
    facts = describe_machine(described_device(sweep))
    if "torch" not in facts:
        raise PlanError("torch is not installed here: run `nox -s bench_cpu`, or install the torch that fits")
    return machine_of(facts, sweep)


def described_device(sweep: Sweep) -> str:
    """Return the device that a run's facts are of: its GPU, where it has one."""
    return max(case.device for case in sweep.cases)  # cuda comes after cpu


def machine_of(facts: Mapping[str, Any], sweep: Sweep) -> Machine:
    """Return the machine that these facts, with a torch, are of; raises PlanError when it cannot run the sweep."""
    for device in sorted({case.device for case in sweep.cases}, reverse=True):
        if device.startswith("cuda"):
            _check_cuda(device, facts)
    return Machine(facts, slug(facts), fingerprint(facts))


def _check_cuda(device: str, facts: Mapping[str, Any]) -> None:
    count = facts.get("gpu_count", 0)
    if not count:
        raise PlanError(f"device {device}: there is no NVIDIA GPU here (nvidia-smi lists none); use --device cpu")
    if int(device.partition(":")[2] or 0) >= count:
        raise PlanError(f"device {device}: this machine has {count} GPU(s), counted from cuda:0")
    if "+cpu" in facts["torch"]:
        raise PlanError(f"device {device}: the torch installed here, {facts['torch']}, is the CPU build")


def own_files(sweep: Sweep) -> list[Path]:
    """Return the files of the user's own engines and workloads, each once."""
    references = {reference for case in sweep.cases for reference in (case.engine, case.workload)}
    return sorted({Path(reference.rpartition(":")[0]) for reference in references if ":" in reference})


def environment(machine: Machine) -> dict[str, Any]:
    """Return what a machine's fingerprint is made of, by name."""
    return {key: machine.facts[key] for key in COMPARABLE if key in machine.facts}


def launchers(sweep: Sweep, cache: Path, timeout_s: float | None) -> Callable[[Case], Launcher]:
    """Return what starts the worker of a case, with compile caches in a folder: one for all, or where cold for each."""

    def launcher(case: Case) -> Launcher:
        own = digest(case.case_id.encode()) if sweep.cold else "run"
        return Launcher(worker_environment(cache / own), timeout_s=timeout_s or DEFAULT_TIMEOUT_S)

    return launcher


def _identity(
    sweep: Sweep, at: Revision, machine: Machine, located: Callable[[Path], Path] = lambda file: file
) -> dict[str, Any]:
    """Return what must not change while a run is measured: code, machine, and the user's own engines and workloads."""
    return {
        "commit": at.commit,
        "dirty": at.dirty,
        "changes": at.changes,
        "machine": machine.slug,
        "fingerprint": machine.fingerprint,
        "files": {str(file): digest(read_regular(located(file), _MAX_SOURCE)) for file in own_files(sweep)},
    }


def check_unchanged(header: Mapping[str, Any], sweep: Sweep, machine: Machine, what: str) -> None:
    """Raise NotComparable unless code and machine are those that a run was begun with.

    sweep: of the header, all of it. what: the run, as the user knows it.
    """
    for name, now in _identity(sweep, revision(Path.cwd()), machine).items():
        if header.get(name) != now:
            raise NotComparable(
                f"{what} cannot be resumed: its {name} is {_brief(header.get(name))}, here it is {_brief(now)}"
            )


def _brief(value: object) -> str:
    return printable(value, 100) if isinstance(value, str) else shown(value)


@dataclass(frozen=True)
class Session:
    """One run on disk: its folder, what is to be measured and what has been.

    published: whether its journal is one that publishes.
    """

    folder: Path
    sweep: Sweep
    progress: Progress
    journal: Keeper
    published: bool = False

    @property
    def go_on(self) -> str:
        """What goes on with this run when it was broken off."""
        return "the same command" if self.published else typed("run", "--resume", str(self.folder))

    @classmethod
    def start(cls, sweep: Sweep, machine: Machine, out: Path, shard: Shard | None = None) -> "Session":
        """Make the folder of a new run and its journal; raises PlanError when `out` cannot be written to.

        shard: measure only this part of the sweep.
        """
        at = revision(Path.cwd())
        return cls.begin(make_run_folder(out, machine.slug, at), sweep, machine, at, shard=shard)

    @classmethod
    def begin(
        cls,
        folder: Path,
        sweep: Sweep,
        machine: Machine,
        at: Revision,
        *,
        name: str = "",
        located: Callable[[Path], Path] = lambda file: file,
        shard: Shard | None = None,
    ) -> "Session":
        """Begin the journal of a run in its folder, which is new; raises PlanError, and removes it, where it cannot.

        name: of the session, where other runs are measured in turn with this one. located: where the code of this run
        has a file of the user's own.
        """
        header = {
            "format": FORMAT,
            "harness": __version__,
            "run_id": folder.name,
            "session": name or folder.name,
            "started": datetime.now(UTC).isoformat(timespec="seconds"),
            **_identity(sweep, at, machine, located),
            **({"on": machine.on} if machine.on else {}),
            "environment": environment(machine),
            "sweep": sweep.to_json(),
            **({"shard": shard.to_json()} if shard else {}),
        }
        try:
            with replaced(folder / MACHINE_FILE) as file:
                file.write_text(json.dumps(machine.facts, indent=2) + "\n", "utf-8")
            journal = Journal.create(folder, header)
        except OSError as error:
            shutil.rmtree(folder, ignore_errors=True)  # nothing was measured yet, and what is there cannot be resumed
            raise PlanError(f"--out {folder.parents[1]}: cannot be written to: {error.strerror}") from error
        return cls(folder, shard.of(sweep) if shard else sweep, Progress(), journal)

    @classmethod
    def resume(cls, folder: Path, machine: Machine | None = None) -> "Session":
        """Go on with the run in a folder; machine: on which, None for this one.

        Raises PlanError when it is none, and NotComparable when commit or machine are not those it was begun with.
        """
        header, _ = read_journal(folder)
        if header.get("session", header["run_id"]) != header["run_id"]:
            raise PlanError(f"{folder} is one side of an A/B run, which cannot be resumed: start `harness ab` again")
        if "shards" in header:
            raise PlanError(f"{folder} was merged from shards, each of which is resumed by itself")
        whole, sweep = Sweep.from_json(header["sweep"]), sweep_of(header)
        for case in whole.cases:
            checked(case)  # what it is of may not be there any more
        on = machine.on if machine else ""
        if header.get("on", "") != on:
            there = "one machine: go on without --on" if on else "a cluster: go on with --on ray"
            raise PlanError(f"{folder} was begun on {there}")
        check_unchanged(header, whole, machine or this_machine(sweep), str(folder))
        journal = Journal.reopen(folder)
        _, records = read_journal(folder)  # once more: until here another process may have added some
        return cls(folder, sweep, Progress.of(records), journal)

    def measure(self, observer: Observer, timeout_s: float | None, after_round: Callable[[], None]) -> None:
        """Measure what is missing, with a compile cache of this run's own, or of each case's, that goes when it ends.

        after_round() is called when every case of a round is done.
        """
        with (
            TemporaryDirectory(prefix="harness-cache-", ignore_cleanup_errors=True) as cache,
            away_from_workers() as allowed,
        ):
            launcher = launchers(self.sweep, Path(cache), timeout_s)

            def placed(case: Case) -> Placement:
                return place(case.device, case.threads, allowed, ranks=case.ranks)

            execute(self.sweep, self.progress, launcher, self.journal, observer, placed, after_round)
