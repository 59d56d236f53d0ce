"""The worker: one case in, one record out, in a process of its own.

`python -m harness.measuring.worker` reads one request (`measuring.protocol`) from stdin and writes events to stdout.
"""

import functools
import math
import os
import sys
import traceback
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from harness.measuring import seal
from harness.measuring.clocks import Clock, monotonic_ns
from harness.measuring.cpus import crowded, pin
from harness.measuring.ending import Record, die_with_parent, run_to_its_end
from harness.measuring.protocol import PROTOCOL, EventStream, Request, claim_stdout
from harness.plan.catalogue import label
from harness.plan.outcome import CaseEnded, Outcome

if TYPE_CHECKING:
    import torch

    from harness.measuring.device import Device
    from harness.measuring.peers import Peers
    from harness.training.contract import Engine, Problem, Updates, Workload
    from harness.training.trial import Trial


@dataclass(frozen=True)
class Prepared:
    """A case that is ready to be measured."""

    workload: "Workload"
    problem: "Problem"
    engine: "Engine"
    updates: "Updates"
    trial: "Trial"
    device: "Device"
    peers: "Peers"
    broken: Callable[[], str | None]  # of the seal, as it was before the engine could replace that too


class Worker:
    """Takes one case through its phases and fills a record.

    rank, all_cpus: its number and the CPUs of all ranks, where the case has several.
    """

    def __init__(
        self,
        request: Request,
        events: EventStream,
        clock: Clock = monotonic_ns,
        rank: int = 0,
        all_cpus: tuple[int, ...] = (),
    ) -> None:
        self._request = request
        self._events = events
        self._clock = clock
        self._rank = rank
        self._all_cpus = all_cpus
        self.record = Record()

    def run(self) -> None:
        """Go through all phases; raises CaseEnded when the case ends early."""
        facts = self.record.facts
        start = self._phase("import")
        self._import()
        facts["import_ns"] = self._clock() - start

        start = self._phase("setup")
        prepared = self._setup()
        facts["setup_ns"] = self._clock() - start

        self._phase("first_call")
        self._first_call(prepared)

        self._phase("gate")
        facts["gate_share"] = self._gate(prepared)

        self._phase("timing")
        self._time(prepared)
        self._look(prepared)

        if self._request.seeds:
            self._phase("convergence")
            self._converge(prepared)

        self._phase("end")
        self._end(prepared)
        facts["workload_digest"] = self._digest(prepared)

        if self._request.seeds and self._request.case.ranks == 1:
            self._phase("floor")
            self._floor(prepared)

    def _phase(self, phase: str) -> int:
        self._events.send("phase", phase=phase)
        return self._clock()

    def _import(self) -> None:
        if self._request.threads is not None:
            # numpy comes with torch, and its BLAS has threads of its own: as many as are said when it is loaded.
            os.environ["OPENBLAS_NUM_THREADS"] = str(self._request.threads)
        import torch

        # All that measures and checks, before anything of the engine's is imported.
        import harness.measuring.curve
        import harness.measuring.floor
        import harness.measuring.timing
        import harness.training.convergence
        import harness.training.loading  # noqa: F401

        if self._request.threads is not None:
            torch.set_num_threads(self._request.threads)
        # NVIDIA's images turn it on; a case of float32 is one.
        tf32 = self._request.case.dtype == "tf32"
        torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = tf32

    def _setup(self) -> Prepared:
        import torch

        from harness.measuring.device import device_of
        from harness.measuring.peers import ALONE, Ranks
        from harness.training import loading, members, precision, reference, trial
        from harness.training.contract import UNROLLED

        case, facts = self._request.case, self.record.facts
        facts["threads"] = torch.get_num_threads()
        own = sorted(os.sched_getaffinity(0)) if self._request.cpus else []
        facts["cpus"] = list(self._all_cpus) if case.ranks > 1 else own
        if case.device.startswith("cuda") and not torch.cuda.is_available():
            raise CaseEnded(Outcome.UNSUPPORTED, "torch finds no CUDA device; use --device cpu")
        device, (dtype, mixed) = self._join(), precision.of(case.dtype)
        measured = device_of(device, self._request.fast_core_ns)
        broken = functools.partial(seal.broken, seal.take())
        workload = loading.load_workload(case.workload)
        facts["convergence_targets"] = asdict(workload.targets)
        engine = loading.load_engine(case.engine)
        together = getattr(engine, "takes_ranks", False)
        if case.ranks > 1 and not together:
            raise CaseEnded(
                Outcome.UNSUPPORTED, f"engine {label(case.engine)} trains in one process; several ranks take ddp"
            )
        problem = trial.problem_of(workload, case.batch_size, device, dtype, mixed)
        facts["parameters"] = sum(value.numel() for value in problem.template.parameters())
        reason = (
            precision.missing(case, engine, device) or reference.unbounded(problem) or engine.unsupported(problem, case)
        )
        if reason is not None:
            raise CaseEnded(Outcome.UNSUPPORTED, reason)
        start = trial.begin(workload, case.batch_size, self._request.round, device, dtype)
        updates = members.prepared(engine, problem, steps=UNROLLED)
        facts["members"] = members.count(updates)
        is_crowded = crowded(self._all_cpus, case.ranks, facts["threads"])
        peers = Ranks(is_crowded) if together else ALONE
        return Prepared(workload, problem, engine, updates, start, measured, peers, broken)

    def _join(self) -> "torch.device":
        """Return where this process trains, after it has found the others; each rank has a GPU of its own."""
        import torch

        from harness.training import ranks

        case = self._request.case
        device = torch.device(case.device)
        if case.ranks == 1:
            return device
        if device.type == "cuda":
            if torch.cuda.device_count() < case.ranks:
                raise CaseEnded(
                    Outcome.UNSUPPORTED,
                    f"{case.ranks} ranks need a GPU each, and torch finds {torch.cuda.device_count()}",
                )
            device = torch.device("cuda", self._rank)
            torch.cuda.set_device(device)
        ranks.join(device)
        return device

    def _end(self, prepared: Prepared) -> None:
        """Check that nothing was replaced; raises CaseEnded (`rejected`)."""
        from harness.training import ranks

        replaced = prepared.broken()
        with ranks.together():
            if replaced is not None:
                raise CaseEnded(Outcome.REJECTED, seal.told(replaced))

    def _digest(self, prepared: Prepared) -> str:
        from harness.training.trial import digest_of

        return digest_of(prepared.workload, self._request.case.batch_size)

    def _first_call(self, prepared: Prepared) -> None:
        """Time the first update alone: whatever is compiled, is compiled here."""
        from harness.measuring.probes import compilation

        inputs, targets = prepared.trial.batches(1)
        prepared.updates.load(prepared.trial.parameters)
        prepared.device.synchronize()
        start = self._clock()
        prepared.updates(inputs, targets)
        prepared.device.synchronize()
        taken = self._clock() - start
        cache = compilation().cache
        self.record.facts["first_call_cold_ns" if cache == "cold" else "first_call_warm_ns"] = taken
        self.record.facts["compile_cache"] = cache

    def _gate(self, prepared: Prepared) -> float:
        """Check twenty updates from this round's seed, each from the engine's own state."""
        from harness.training.gate import GATE_UPDATES, check_updates, load

        load(prepared.updates, prepared.trial.parameters)
        return check_updates(prepared.problem, prepared.updates, *prepared.trial.batches(GATE_UPDATES))

    def _time(self, prepared: Prepared) -> None:
        """Time blocks, then check that they did the work; only then do their times enter the record."""
        from harness.measuring import peers, probes
        from harness.measuring.sampling import Rule
        from harness.measuring.timing import Timer, check_singles, check_timed, time_latency, time_updates
        from harness.training.contract import UNROLLED
        from harness.training.members import all_members, count

        problem, updates, facts = prepared.problem, prepared.updates, self.record.facts
        everyone, trial = all_members(updates, prepared.trial)
        sampling = self._request.sampling
        timer = Timer(
            clock=self._clock,
            rule=Rule(
                relative_width=sampling.relative_width,
                budget_ns=sampling.budget_ns,
                **({"block_ns": peers.BLOCK_NS} if self._request.case.ranks > 1 else {}),
            ),
            device=prepared.device,
            cpus=self._request.cpus,
            threads=facts["threads"],
            announce=self._events.block,
            peers=prepared.peers,
            members=count(updates),
        )
        compiled = probes.compilation()
        timed = time_updates(problem, everyone, trial, timer)
        singles = time_latency(everyone, trial, timer)
        self._phase("gate_after")
        state = probes.compilation()
        probes.assert_compiled_once(compiled, state)
        facts["gate_share"] = max(facts["gate_share"], check_timed(problem, updates, timed))
        check_singles(problem, updates, singles)
        inputs, targets = trial.batches(min(UNROLLED, trial.max_steps() or UNROLLED))
        inside: dict[str, Any] = {}
        if self._request.case.ranks == 1:  # what each rank would look at, it would look at alone
            inside = prepared.device.inside(
                lambda steps: everyone(inputs[:steps], targets[:steps]), len(inputs), singles.latency_ns
            )
        per_update = {name: value / timer.members for name, value in inside.items() if not isinstance(value, str)}
        facts |= {"graphs": state.graphs, "graph_breaks": state.breaks, "recompiles": state.recompiles}
        facts |= timed.facts | {"latency_ns": singles.latency_ns} | inside | per_update

    def _look(self, prepared: Prepared) -> None:
        """Nothing: `measuring.explainer` looks inside here."""

    def _converge(self, prepared: Prepared) -> None:
        from harness.measuring.curve import Curve
        from harness.training.convergence import has_converged, train_seeds

        curve = Curve(functools.partial(has_converged, prepared.workload))
        seeds = self._request.seeds
        results = train_seeds(prepared.workload, prepared.problem, prepared.updates, seeds, curve.add)
        # JSON knows no NaN and no infinity: a loss that is no finite number becomes null.
        self.record.facts["convergence"] = [
            {
                name: None if isinstance(value, float) and not math.isfinite(value) else value
                for name, value in row.items()
            }
            for row in map(asdict, results)
        ]
        self.record.facts["epochs"] = curve.rows()

    def _floor(self, prepared: Prepared) -> None:
        """Find out what the machine needs for such an update at least; whatever goes wrong here is not the case's."""
        import torch

        from harness.measuring import ceilings
        from harness.measuring.floor import floor_facts, overhead_facts
        from harness.measuring.probes import peak_rss_bytes

        facts, problem, trial = self.record.facts, prepared.problem, prepared.trial
        facts["peak_rss_bytes"] = peak_rss_bytes()  # the ceilings' own memory is not of the case
        dtype = getattr(torch, self._request.case.dtype, problem.dtype)
        try:
            found = ceilings.measure(problem.device, dtype, facts["threads"])
            facts |= floor_facts(problem, trial, found)
            if facts["graphs"] == 0:  # to compile once more takes too long
                facts |= overhead_facts(prepared.engine, prepared.updates, problem, trial, found)
        except Exception:  # noqa: BLE001 - the case is measured and checked; the row has no floor
            traceback.print_exc()


def main(kind: type[Worker] = Worker) -> None:
    """Measure the case on stdin; whatever happens to it becomes a record, and the exit code is 0."""
    die_with_parent()
    events = claim_stdout()
    events.send("hello", protocol=PROTOCOL)
    request = Request.from_line(sys.stdin.readline())
    pin(request.cpus)
    worker = kind(request, events)
    run_to_its_end(worker.run, worker.record)
    events.send("record", record=worker.record.to_json())
    # What the record says is all that is wanted: taking torch down in good order would cost another second.
    sys.stderr.flush()
    os._exit(0)


if __name__ == "__main__":
    main()
