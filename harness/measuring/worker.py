"""The worker: one case in, one record out, in a process of its own.

`python -m harness.measuring.worker` reads one request (`measuring.protocol`) from stdin and writes events to stdout.
"""

import ctypes
import functools
import math
import os
import signal
import sys
import time
import traceback
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

from harness.measuring import seal
from harness.measuring.clocks import Clock, monotonic_ns
from harness.measuring.cpus import pin
from harness.measuring.protocol import PROTOCOL, EventStream, Request, claim_stdout
from harness.plan.catalogue import label
from harness.plan.outcome import CaseEnded, Outcome

if TYPE_CHECKING:
    from harness.measuring.device import Device
    from harness.training.contract import Problem, Updates, Workload
    from harness.training.trial import Trial


@dataclass
class Record:
    """What is learnt about one case in one round; the journal keeps it as JSON. Times are in nanoseconds."""

    outcome: Outcome = Outcome.OK
    reason: str = ""
    facts: dict[str, Any] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """Return the record as one flat JSON object."""
        return {"outcome": self.outcome, "reason": self.reason, **self.facts}


@dataclass(frozen=True)
class _Prepared:
    workload: "Workload"
    problem: "Problem"
    updates: "Updates"
    trial: "Trial"
    device: "Device"
    broken: Callable[[], str | None]  # of the seal, as it was before the engine could replace that too


class Worker:
    """Takes one case through its phases and fills a record."""

    def __init__(self, request: Request, events: EventStream, clock: Clock = monotonic_ns) -> None:
        self._request = request
        self._events = events
        self._clock = clock
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

        if self._request.seeds:
            self._phase("convergence")
            self._converge(prepared)

        self._phase("end")
        replaced = prepared.broken()
        if replaced is not None:
            raise CaseEnded(Outcome.REJECTED, seal.told(replaced))
        facts["workload_digest"] = self._digest(prepared)

    def _phase(self, phase: str) -> int:
        self._events.send("phase", phase=phase)
        return self._clock()

    def _import(self) -> None:
        import torch

        # All that measures and checks, before anything of the engine's is imported.
        import harness.measuring.timing
        import harness.training.convergence
        import harness.training.loading  # noqa: F401

        if self._request.threads is not None:
            torch.set_num_threads(self._request.threads)
        # NVIDIA's images turn it on; a case of float32 is one.
        torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False

    def _setup(self) -> _Prepared:
        import torch

        from harness.measuring.device import device_of
        from harness.training import loading, reference, trial

        case, facts = self._request.case, self.record.facts
        facts["threads"] = torch.get_num_threads()
        facts["cpus"] = sorted(os.sched_getaffinity(0)) if self._request.cpus else []
        if case.device.startswith("cuda") and not torch.cuda.is_available():
            raise CaseEnded(Outcome.UNSUPPORTED, "torch finds no CUDA device; use --device cpu")
        measured = device_of(torch.device(case.device), self._request.fast_core_ns)
        broken = functools.partial(seal.broken, seal.take())
        device, dtype = torch.device(case.device), getattr(torch, case.dtype)
        workload = loading.load_workload(case.workload)
        facts["convergence_targets"] = asdict(workload.targets)
        engine = loading.load_engine(case.engine)
        problem = trial.problem_of(workload, case.batch_size, device, dtype)
        facts["parameters"] = sum(value.numel() for value in problem.template.parameters())
        reason = reference.unbounded(problem) or engine.unsupported(problem, case)
        if reason is not None:
            raise CaseEnded(Outcome.UNSUPPORTED, reason)
        start = trial.begin(workload, case.batch_size, self._request.round, device, dtype)
        updates = engine.prepare(problem, steps=20)
        return _Prepared(workload, problem, updates, start, measured, broken)

    def _digest(self, prepared: _Prepared) -> str:
        from harness.training.trial import digest_of

        return digest_of(prepared.workload, self._request.case.batch_size)

    def _first_call(self, prepared: _Prepared) -> None:
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

    def _gate(self, prepared: _Prepared) -> float:
        """Check twenty updates from this round's seed, each from the engine's own state."""
        from harness.training.gate import GATE_UPDATES, check_updates, load

        load(prepared.updates, prepared.trial.parameters)
        return check_updates(prepared.problem, prepared.updates, *prepared.trial.batches(GATE_UPDATES))

    def _time(self, prepared: _Prepared) -> None:
        """Time blocks, then check that they did the work; only then do their times enter the record."""
        from harness.measuring import probes
        from harness.measuring.sampling import Rule
        from harness.measuring.timing import Timer, check_singles, check_timed, time_latency, time_updates

        problem, updates, trial, facts = prepared.problem, prepared.updates, prepared.trial, self.record.facts
        sampling = self._request.sampling
        timer = Timer(
            clock=self._clock,
            rule=Rule(relative_width=sampling.relative_width, budget_ns=sampling.budget_ns),
            device=prepared.device,
            cpus=self._request.cpus,
            threads=facts["threads"],
            announce=self._events.block,
        )
        compiled = probes.compilation()
        timed = time_updates(problem, updates, trial, timer)
        singles = time_latency(updates, trial, timer)
        self._phase("gate_after")
        state = probes.compilation()
        probes.assert_compiled_once(compiled, state)
        facts["gate_share"] = max(facts["gate_share"], check_timed(problem, updates, timed))
        check_singles(problem, updates, singles)
        inputs, targets = trial.batches(min(10, trial.max_steps() or 10))
        inside = prepared.device.inside(
            lambda steps: updates(inputs[:steps], targets[:steps]), len(inputs), singles.latency_ns
        )
        facts |= {"graphs": state.graphs, "graph_breaks": state.breaks, "recompiles": state.recompiles}
        facts |= timed.facts | {"latency_ns": singles.latency_ns} | inside

    def _converge(self, prepared: _Prepared) -> None:
        from harness.training.convergence import train_seeds

        results = train_seeds(prepared.workload, prepared.problem, prepared.updates, self._request.seeds)
        # JSON knows no NaN and no infinity: a loss that is no finite number becomes null.
        self.record.facts["convergence"] = [
            {
                name: None if isinstance(value, float) and not math.isfinite(value) else value
                for name, value in row.items()
            }
            for row in map(asdict, results)
        ]


def main() -> None:
    """Measure the case on stdin; whatever happens to it becomes a record, and the exit code is 0."""
    _die_with_parent()
    events = claim_stdout()
    events.send("hello", protocol=PROTOCOL)
    request = Request.from_line(sys.stdin.readline())
    pin(request.cpus)
    worker = Worker(request, events)
    started = time.time()
    try:
        worker.run()
    except CaseEnded as ended:
        worker.record.outcome, worker.record.reason = ended.outcome, ended.reason
    except Exception as error:  # noqa: BLE001 - a user's engine may raise anything; it becomes a row
        traceback.print_exc()
        worker.record.outcome, worker.record.reason = _outcome_of(error), _one_line(error)
    if worker.record.outcome is not Outcome.OK:
        # A fast wrong answer never gets a number.
        for name in _TIMES:
            worker.record.facts.pop(name, None)
    worker.record.facts["peak_rss_bytes"] = _peak_rss_bytes()
    worker.record.facts["started_unix_s"] = started
    events.send("record", record=worker.record.to_json())
    # What the record says is all that is wanted: taking torch down in good order would cost another second.
    sys.stderr.flush()
    os._exit(0)


def _die_with_parent() -> None:
    """Ask Linux to end this process when the one that started it is killed."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG


_TIMES = (
    *("step_ns", "step_median_ns", "step_min_ns", "latency_ns", "device_ns", "kernel_ns", "energy_per_step_j"),
    *("blocks_ns", "counted", "timed_ns"),
)


def _outcome_of(error: Exception) -> Outcome:
    try:
        from harness.measuring.probes import out_of_memory
    except ImportError:  # torch is not there
        return Outcome.CRASHED
    return Outcome.OUT_OF_MEMORY if out_of_memory(error) else Outcome.CRASHED


def _one_line(error: Exception) -> str:
    frames = traceback.extract_tb(error.__traceback__)
    place = f" ({label(frames[-1].filename)}:{frames[-1].lineno})" if frames else ""
    text = str(error).strip().splitlines()
    return f"{type(error).__name__}{f': {text[0]}' if text else ''}{place}"


def _peak_rss_bytes() -> int | None:
    try:
        from harness.measuring.probes import peak_rss_bytes
    except ImportError:
        return None
    return peak_rss_bytes()


if __name__ == "__main__":
    main()
