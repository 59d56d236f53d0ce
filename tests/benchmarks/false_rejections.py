"""How often an honest engine is rejected: each goes through a worker's checks from many seeds. Exit code 1 if any is.

`python tests/benchmarks/false_rejections.py --seeds 1000 --jobs 2 --workload line`: one process for each engine, dtype
and batch size. From each seed's weights it makes the gate's updates, then blocks of a millisecond with varied weights
and inputs, and single updates, and checks them as the worker does. `in between` is an engine whose calls of many are
not to the last bit its calls of one, as of an engine that unrolls.
"""

import argparse
import itertools
import multiprocessing
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

sys.path.insert(0, str(Path(__file__).parent.parent.parent))

from harness.measuring.clocks import monotonic_ns
from harness.measuring.device import Cpu
from harness.measuring.sampling import Rule
from harness.measuring.timing import Timer, check_singles, check_timed, time_latency, time_updates
from harness.plan.outcome import CaseEnded
from harness.training import loading, precision
from harness.training.contract import Problem, Updates
from harness.training.engines.autograd import Autograd
from harness.training.engines.manual import Manual
from harness.training.gate import GATE_UPDATES, check_updates, load
from harness.training.trial import begin, problem_of

ENGINES = ("manual", "autograd", "compile", "compile_step", "in between")
DTYPES = ("float32", "float64", "bfloat16")
BATCH_SIZES = (10, 100, 1000)
MS = 1_000_000
RULE = Rule(block_ns=MS, warm_up_ns=0, min_blocks=2, budget_ns=2 * MS)


@dataclass(frozen=True)
class Combination:
    workload: str
    engine: str
    dtype: str
    batch_size: int
    seeds: int


class InBetween:
    """One update by hand, many by autograd: the same training, rounded elsewhere."""

    def prepare(self, problem: Problem, steps: int) -> Updates:
        self.one, self.many = Manual().prepare(problem, steps), Autograd().prepare(problem, steps)
        return self

    def load(self, parameters: Mapping[str, Tensor]) -> None:
        self.one.load(parameters)

    def parameters(self) -> dict[str, Tensor]:
        return self.one.parameters()

    def __call__(self, inputs: Tensor, targets: Tensor) -> Tensor:
        if len(inputs) == 1:
            return self.one(inputs, targets)
        self.many.load(self.one.parameters())
        losses = self.many(inputs, targets)
        self.one.load(self.many.parameters())
        return losses


def rejections(combination: Combination) -> tuple[Combination, list[str], float, float]:
    """Return what was wrong with which seed, the largest share of the gate's limit, and the seconds that it took."""
    torch.set_num_threads(1)
    began = time.monotonic()
    workload = loading.load_workload(combination.workload)
    (dtype, mixed), cpu = precision.of(combination.dtype), torch.device("cpu")
    problem = problem_of(workload, combination.batch_size, cpu, dtype, mixed)
    engine: Any = InBetween() if combination.engine == "in between" else loading.load_engine(combination.engine)
    updates = engine.prepare(problem, steps=20)
    found, largest = [], 0.0
    for seed in range(combination.seeds):
        trial = begin(workload, combination.batch_size, seed, cpu, dtype)
        timer = Timer(monotonic_ns, RULE, Cpu())
        try:
            load(updates, trial.parameters)
            share = check_updates(problem, updates, *trial.batches(GATE_UPDATES))
            timed = time_updates(problem, updates, trial, timer)
            singles = time_latency(updates, trial, timer)
            largest = max(largest, share, check_timed(problem, updates, timed))
            check_singles(problem, updates, singles)
        except CaseEnded as ended:
            found.append(f"seed {seed}: {ended.outcome}: {ended.reason}")
    return combination, found, largest, time.monotonic() - began


def main() -> int:
    parser = argparse.ArgumentParser(description="How often an honest engine is rejected.")
    parser.add_argument("--workload", default="line")
    parser.add_argument("--engine", action="append", choices=ENGINES)
    parser.add_argument("--dtype", action="append", choices=DTYPES)
    parser.add_argument("--batch-size", action="append", type=int)
    parser.add_argument("--seeds", type=int, default=1000)
    parser.add_argument("--jobs", type=int, default=2)
    chosen = parser.parse_args()
    combinations = [
        Combination(chosen.workload, engine, dtype, batch_size, chosen.seeds)
        for engine, dtype, batch_size in itertools.product(
            chosen.engine or ENGINES, chosen.dtype or DTYPES, chosen.batch_size or BATCH_SIZES
        )
    ]
    total = 0
    # One process for each: a compiler is not asked for a second shape, and nothing is left over from another engine.
    with multiprocessing.get_context("spawn").Pool(chosen.jobs, maxtasksperchild=1) as pool:
        for made, found, largest, seconds in pool.imap_unordered(rejections, combinations, chunksize=1):
            total += len(found)
            name = f"{made.workload}/{made.engine}/{made.dtype}/b{made.batch_size}"
            print(
                f"{name:40} {made.seeds} seeds, {len(found)} rejected, largest share of the limit {largest:.3f}, "
                f"{seconds:.0f} s",
                flush=True,
            )
            for reason in found:
                print(f"    {reason}", flush=True)
    print(f"{total} rejections of {len(combinations) * chosen.seeds}")
    return 1 if total else 0


if __name__ == "__main__":
    sys.exit(main())
