"""How each cheat of `tests/cheats.py` is caught, and what measures one: a launcher, a worker process, short timing."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from harness.measuring.cpus import away_from_workers, place
from harness.measuring.protocol import Request
from harness.plan.case import Case
from harness.plan.presets import Sampling
from harness.running.launcher import Launcher, worker_environment

FILE = Path(__file__).parents[1] / "cheats.py"
TIMES = {"step_ns", "step_median_ns", "step_min_ns", "blocks_ns", "counted", "timed_ns", "latency_ns"}

LOSS = "^while timed, the loss of update [0-9]+ is .*: off by .*, limit "
UPDATE = "^while timed, (the loss of update|update [0-9]+ of a block is wrong|a block ends with|[0-9]+ updates are not)"
GATE = "^update [0-9]+: .* the float64 reference .*: off by .*, limit "
CLOCK = "^the worker's clock is not to be trusted: "
CORES = "^while timed, (it keeps [0-9.]+ cores busy|[0-9]+% of a core is used by other threads or processes)"
LOADING = "^while timed, loading weights takes [0-9]+% of the time of training"


def replaced(name: str) -> str:
    return f"^the engine replaces {name}, which it is measured or checked by"


# Where two things are wrong with a cheat, either may be found first.
CAUGHT: Mapping[str, str] = {
    "SkipsEverySecondUpdate": GATE,
    "SkipsEverySecondUpdateWhileTimed": LOSS,
    "SkipsInABFloat16Case": LOSS,
    "SkipsInLongCalls": LOSS,
    "SkipsAfterManyCalls": UPDATE,
    "SkipsAfterUpdate20": UPDATE,
    "SkipsAfterAWhile": f"{UPDATE}|{GATE}",
    "SkipsInRepeatedLengths": LOSS,
    "SkipsInEverySecondBlock": LOSS,
    "SkipsAfterBlock20": LOSS,
    "SkipsIn40PercentOfBlocks": LOSS,
    "SkipsOneUpdateInTen": UPDATE,
    "SkipsInTheLatency": LOSS,
    "SkipsUnlessLookedAt": f"{UPDATE}|{LOADING}",
    "SkipsEveryThirdUnlessLookedAt": UPDATE,
    "StopsAfterUpdate20": f"{UPDATE}|{GATE}",
    "StopsAfterUpdate20WhileTimed": f"{UPDATE}|{LOADING}",
    "LeavesTheLastUpdate": GATE,
    "LeavesTheLastUpdateWhileTimed": UPDATE,
    "MergesPairsOfUpdates": UPDATE,
    "MergesPairsOfUpdatesWhileTimed": UPDATE,
    "ReturnsPreviousLosses": GATE,
    "ReturnsPreviousLossesWhileTimed": LOSS,
    "ReturnsConstantLosses": GATE,
    "ReturnsConstantLossesWhileTimed": LOSS,
    "ReturnsAnEarlierBlock": GATE,
    "ReturnsAnEarlierBlockWhileTimed": f"{LOSS}|{LOADING}",
    "PrecomputesInPrepare": GATE,
    "PrecomputesInPrepareWhileTimed": f"{LOSS}|{LOADING}",
    "PrecomputesInLoad": f"{LOADING}|{UPDATE}",
    "PrecomputesInLoadWhileTimed": f"{LOADING}|{UPDATE}",
    "InterpolatesWhatLoadPrecomputed": f"{LOADING}|{UPDATE}",
    "InterpolatesWhatWarmUpPrecomputed": f"{LOADING}|{UPDATE}",
    "CachesByIdentity": GATE,
    "CachesByIdentityWhileTimed": f"{LOSS}|{LOADING}",
    "CachesByValue": f"{UPDATE}|{LOADING}",
    "CachesByValueWhileTimed": f"{UPDATE}|{LOADING}",
    "ReturnsBeforeTheWorkIsDone": GATE,
    "ReturnsBeforeTheWorkIsDoneWhileTimed": f"{CORES}|{UPDATE}|{LOADING}",
    "WorksInAProfileHook": f"{replaced('sys.setprofile')}|{UPDATE}|{LOADING}",
    "WorksInASignalHandler": f"{replaced('signal.signal')}|{UPDATE}|{LOADING}|load does not load",
    "UsesMoreCores": CORES,
    "UsesMoreCoresWhileTimed": CORES,
    "UsesMoreProcesses": CORES,
    "UsesMoreProcessesWhileTimed": CORES,
    "ReturnsALazyTensor": f"returns a _Lazy, not a plain tensor|{GATE}|{UPDATE}",
    "ReturnsALazyTensorWhileTimed": "returns a _Lazy, not a plain tensor",
    "ReturnsALazyDict": "returns a _LazyDict, not a plain tensor or dict",
    "WorksInAFunctionMode": replaced("torch.overrides.TorchFunctionMode"),
    "ForwardInBFloat16": GATE,
    "ForwardInBFloat16WhileTimed": UPDATE,
    "GradientsInFloat16": GATE,
    "GradientsInFloat16WhileTimed": UPDATE,
    "Float32InAFloat64Case": GATE,
    "Float32InAFloat64CaseWhileTimed": UPDATE,
    "IgnoresTheBatch": GATE,
    "IgnoresTheBatchWhileTimed": LOSS,
    "TrainsOnHalfTheBatch": GATE,
    "TrainsOnHalfTheBatchWhileTimed": LOSS,
    "TrainsEverySecondMember": f"{GATE}|{LOSS}",
    "TrainsEverySecondMemberWhileTimed": LOSS,
    "TrainsTheFirstMember": f"{GATE}|{LOSS}",
    "TrainsTheFirstMemberWhileTimed": LOSS,
    "TrainsWhoIsLookedAt": LOSS,
    "GivesOneMembersLosses": f"{GATE}|{LOSS}",
    "GivesOneMembersLossesWhileTimed": LOSS,
    "ReplacesPerfCounter": replaced("time.perf_counter_ns"),
    "ReplacesTheClock": replaced("harness.measuring.clocks.monotonic_ns"),
    "ReplacesTheClockWhileTimed": replaced("harness.measuring.clocks.monotonic_ns"),
    "FindsTheWorkersClock": CLOCK,
    "SlowClockInBlocks": CLOCK,
    "MovesTheStart": CLOCK,
    "EditsTheBlocks": "^the record contradicts itself: block [0-9]+ takes",
    "EditsTheRecord": "^the record contradicts itself: step_ns is ",
    "PatchesTheReference": replaced("harness.training.gate.expected_update"),
    "PatchesTheReferenceWhileTimed": replaced("harness.training.gate.expected_update"),
    "PatchesTheTolerances": replaced("harness.training.tolerances.TOLERANCES"),
    "PatchesTheTolerancesWhileTimed": replaced("harness.training.tolerances.TOLERANCES"),
    "PatchesEqual": replaced("torch.equal"),
    "PatchesIsFinite": replaced("torch.Tensor.isfinite"),
    "PatchesComparisons": replaced("torch.Tensor.__le__"),
    "PatchesTheSeal": replaced("harness.[a-z.]+(broken|check_block)"),
    "PatchesRandom": replaced("random.(System)?Random"),
    "SeedsRandom": UPDATE,
    "PatchesTheChoice": replaced("harness.measuring.blocks.Chosen.wants"),
    "PatchesTheEvidence": replaced("harness.measuring.evidence.CpuEvidence.end"),
    "PatchesTheEvidenceWhileTimed": replaced("harness.measuring.evidence.CpuEvidence.end"),
    "AnswersTwice": "^the worker went on after its answer",
    "ForgesBlocks": "^the worker says that it timed 30 blocks; 0 were seen",
}
# Code in the worker's own process that speaks for the worker.
OUT_OF_REACH = ("ForgesEverything",)
NEED_A_GPU = ("TF32", "TF32WhileTimed", "WorksOnASideStream", "WorksOnASideStreamWhileTimed")


def case_of(engine: str, device: str = "cpu") -> Case:
    """A case in which this engine can cheat: one of its kind of batches and precision."""
    others = {"Float64Case": "float64", "BFloat16Case": "bfloat16"}
    dtype = next((dtype for name, dtype in others.items() if name in engine), "float32")
    # Where a batch is the whole data set there is nothing to ignore.
    return Case("line", f"{FILE}:{engine}", device, dtype, 10 if engine.startswith("Ignores") else 100)


def measured(case: Case, caches: Path, seed: int = 0, cpu: int | None = None) -> dict[str, Any]:
    """Measure a case in a process of its own, with convergence over a few seeds; cpu: where, if it matters."""
    where = place(case.device, 1)
    worker = where.worker if cpu is None else (cpu,)
    request = Request(case, seed, 4, Sampling(budget_ns=300_000_000), worker, where.threads)
    with away_from_workers():
        return Launcher(worker_environment(caches), timeout_s=120).measure(request)
