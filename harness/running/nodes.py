"""Which machines a Ray cluster has, what they are, and whether each has the code and the files that are here."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from harness.measuring.machine import fingerprint, slug
from harness.plan.errors import NotComparable, PlanError
from harness.plan.sweep import Sweep
from harness.plan.text import printable, shown
from harness.running.folder import digest
from harness.running.session import Machine, described_device, environment, machine_of, own_files

_ANSWER_S = 60.0
_NAMED = 12  # hex digits of Ray's 56


@dataclass(frozen=True)
class Node:
    """One machine of a cluster.

    key: Ray's name of it. called: the same for whoever reads it on a screen. cpus, gpus: as Ray counts them; gpus is 0
    where none is wanted. machine: what it is.
    """

    key: str
    called: str
    cpus: float
    gpus: float
    machine: Machine

    @property
    def name(self) -> str:
        """How records call it: never by its host."""
        return self.key[:_NAMED]

    def place(self) -> dict[str, Any]:
        """Return what each record of this machine says of it."""
        told = {"machine": self.machine.slug, "fingerprint": self.machine.fingerprint, "node": self.name}
        return {**told, "environment": environment(self.machine)}


def ask_nodes(sweep: Sweep, note: Callable[[str], None]) -> list[Node]:
    """Return the machines of the joined cluster that can measure cases of a sweep; note(line) hears of those left out.

    Raises PlanError where there is none, or one lacks torch or a file of the user's; NotComparable where one has other
    code of this program.
    """
    import ray

    device = described_device(sweep)
    files = [str(file) for file in own_files(sweep)]
    answer = question()
    ours = answer("", "", files)
    asked: dict[Any, tuple[Mapping[str, Any], float]] = {}
    for listed in ray.nodes():
        resources = listed.get("Resources", {})
        gpus = resources.get("GPU", 0.0) if device.startswith("cuda") else 0.0
        wanted = gpus >= 1 or any(case.device == "cpu" for case in sweep.cases)
        if listed["Alive"] and resources.get("CPU") and wanted:
            sent = ray.remote(answer).options(**pinned(listed["NodeID"], num_cpus=0, num_gpus=min(gpus, 1)))
            asked[sent.remote(ours["code"], device if gpus else "cpu", files)] = (listed, gpus)
    if not asked:
        needed = "no machine with a GPU" if device.startswith("cuda") else "no machine with a CPU"
        raise PlanError(f"the Ray cluster has {needed} that it would lend")
    answered, _ = ray.wait(list(asked), num_returns=len(asked), timeout=_ANSWER_S)
    nodes = []
    for sent, (listed, gpus) in asked.items():
        called = f"{listed['NodeManagerAddress']} ({listed['NodeID'][:_NAMED]})"
        if sent not in answered:
            note(f"{called} does not answer within {_ANSWER_S:g} s: it is left out")
            continue
        try:
            told = ray.get(sent)
        except ray.exceptions.RayError as error:
            note(f"{called} does not answer: it is left out: {one_line(error)}")
            continue
        check_node(called, told, ours)
        machine = _machine(called, told["facts"], sweep, gpus)
        nodes.append(Node(listed["NodeID"], called, resources_of(listed, "CPU"), min(gpus, 1), machine))
    if not nodes:
        raise PlanError("no machine of the Ray cluster answers")
    return sorted(nodes, key=lambda node: node.key)


def resources_of(listed: Mapping[str, Any], kind: str) -> float:
    """Return how many of a kind of resource Ray says that a node has."""
    return float(listed["Resources"].get(kind, 0))


def pinned(key: str, **resources: float) -> dict[str, Any]:
    """Return the options of a task that runs on one node, takes these resources there, and is never tried again."""
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    return {
        "scheduling_strategy": NodeAffinitySchedulingStrategy(node_id=key, soft=False),
        "max_retries": 0,
        **resources,
    }


def together(nodes: Sequence[Node]) -> Machine:
    """Return the machines of a run as one: what they are where all are alike, else a cluster of these kinds."""
    machines = [node.machine for node in nodes]
    first = machines[0]
    facts = {
        name: value for name, value in first.facts.items() if all(each.facts.get(name) == value for each in machines)
    }
    facts["nodes"] = len(nodes)
    kinds = sorted({machine.fingerprint for machine in machines})
    if len(kinds) == 1:
        return Machine(facts, first.slug, first.fingerprint, on="ray")
    return Machine(facts, "cluster", digest(" ".join(kinds).encode()), on="ray")


def one_line(error: BaseException) -> str:
    """Return what matters of a failure that Ray reports, without the addresses that its own text is full of."""
    cause = getattr(error, "cause", None)  # what was raised on the node, where it was that
    if not isinstance(cause, BaseException):
        return f"Ray says {type(error).__name__}"
    text = str(cause).strip().splitlines()
    return printable(f"{type(cause).__name__}{f': {text[0]}' if text else ''}", 200)


def _machine(called: str, facts: Mapping[str, Any], sweep: Sweep, gpus: float) -> Machine:
    if "torch" not in facts:
        raise PlanError(f"{called} has no torch: install the one that fits there")
    if not gpus:
        return Machine(facts, slug(facts), fingerprint(facts))
    try:
        return machine_of(facts, sweep)
    except PlanError as error:
        raise PlanError(f"{called}: {error}") from error


def check_node(called: str, told: Mapping[str, Any], ours: Mapping[str, Any]) -> None:
    """Raise NotComparable unless a node has this program's code, PlanError unless it has the user's files."""
    if not told["code"]:
        raise PlanError(f"{called} has no gradient-harness: install there what is installed here")
    if told["code"] != ours["code"]:
        raise NotComparable(
            f"{called} has other code of gradient-harness ({shown(told['code'])}, here {ours['code']}): install there "
            "what is installed here"
        )
    for file, there in told["files"].items():
        if there != ours["files"][file]:
            has = "another" if there else "no"
            raise PlanError(f"{called} has {has} {printable(file)}: copy yours to the same place there")


def question() -> Callable[[str, str, Iterable[str]], dict[str, Any]]:
    """Return what a node is asked. A function within a function is sent as code: what it asks for may not be there.

    It answers with a digest of the code of its gradient-harness, empty where it has none, and of each of some files;
    and, where that is the code that it is told, with the facts of its machine.
    """

    def answer(code: str, device: str, files: Iterable[str]) -> dict[str, Any]:
        import hashlib
        import importlib.util
        from pathlib import Path

        spec = importlib.util.find_spec("harness")
        places = list(spec.submodule_search_locations or ()) if spec else []
        every = hashlib.sha256()
        for place in places:
            for path in sorted(Path(place).rglob("*")):
                if path.suffix in (".py", ".cpp", ".toml"):
                    every.update(f"{path.relative_to(place).as_posix()}\0".encode() + path.read_bytes() + b"\0")
        told: dict[str, Any] = {"code": every.hexdigest()[:12] if places else "", "files": {}}
        for file in files:
            there = Path(file)
            told["files"][file] = hashlib.sha256(there.read_bytes()).hexdigest() if there.is_file() else ""
        if code and told["code"] == code:
            from harness.measuring.machine import describe_machine

            told["facts"] = describe_machine(device)
        return told

    return answer
