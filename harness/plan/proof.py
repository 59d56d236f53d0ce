"""What `harness prove` looks at: the right engines, finite differences, and every mistake of the catalogue."""

from dataclasses import replace
from enum import StrEnum

from harness.plan.case import Case
from harness.plan.mistakes import MISTAKES

# A mistake goes through the gate from so many seeds; right engines from all.
GATE_SEEDS = 20
# Finite differences train from so many at most: an update of theirs takes as long as ten others.
OLDEST_SEEDS = 100
FINITE_DIFFERENCES = "finite_differences"
FINITE_DIFFERENCES_AT = "harness.training.finite_differences:FiniteDifferences"
# What every other is held against, seed by seed.
TRUTH = "autograd"
# The lesson's claim of gradients derived by hand.
LESSON_LOSS, LESSON_ACCURACY = 0.5, 0.5


class Kind(StrEnum):
    """What is expected of the gate: nothing of `right`, to catch a `mistake`; neither of finite differences."""

    RIGHT = "right"
    OLDEST = "finite differences"
    MISTAKE = "mistake"


def kind_of(engine: str) -> Kind:
    """Return what an engine of the proof is, by its name."""
    if engine == FINITE_DIFFERENCES:
        return Kind.OLDEST
    return Kind.MISTAKE if engine in MISTAKES else Kind.RIGHT


def what_of(engine: str) -> str:
    """Return in words what is wrong with an engine of the proof; empty where nothing is."""
    return MISTAKES[engine].what if engine in MISTAKES else ""


def gate_seeds(engine: str, seeds: int) -> int:
    """Return from how many of these seeds an engine goes through the gate."""
    return seeds if kind_of(engine) is Kind.RIGHT else min(seeds, GATE_SEEDS)


def training_seeds(engine: str, seeds: int) -> int:
    """Return from how many of these seeds an engine is trained."""
    return min(seeds, OLDEST_SEEDS) if kind_of(engine) is Kind.OLDEST else seeds


def plan_proof() -> tuple[Case, ...]:
    """Return what is looked at, what takes longest first; everything on the CPU.

    The places where mistakes are looked at come with the right engines that they are compared with; `line` and
    `line_deep` at batch 100 answer the lesson's bonus question.
    """
    line = Case("line", TRUTH, "cpu", "float32", 100)
    places = (line, replace(line, batch_size=10), replace(line, workload="line_deep"))
    right = [replace(place, engine=engine) for place in places for engine in (TRUTH, "manual")]
    right += [replace(line, engine=engine) for engine in ("compile_step", "compile")]
    oldest = [replace(line, engine=FINITE_DIFFERENCES, dtype=dtype) for dtype in ("float64", "float32")]
    wrong = [
        replace(line, engine=name, workload=mistake.workload, batch_size=mistake.batch_size)
        for name, mistake in MISTAKES.items()
    ]
    return (*oldest, *right, *sorted(wrong, key=lambda case: case.batch_size))
