"""Gradients derived by hand, each with one real mistake, as user engines: `--engine tests/mistakes.py:NAME`.

They are the program's own catalogue, and one more that shows how sharp the gate is.
"""

import importlib
from typing import Any

from harness.plan.mistakes import MISTAKES
from harness.training.mistakes.mistaken import Mistaken, SplitLinearRule, linear


class _OnePercent(SplitLinearRule):
    def apply(self, of_weight: Any, of_bias: Any, learning_rate: float) -> None:
        super().apply(of_weight, of_bias, learning_rate * 1.01)


class LearningRateOffByOnePercent(Mistaken):
    layer_rules = linear(_OnePercent)


def named(name: str) -> type[Mistaken]:
    module, _, attribute = MISTAKES[name].target.partition(":")
    return getattr(importlib.import_module(module), attribute)


ALL = (*map(named, MISTAKES), LearningRateOffByOnePercent)
globals().update({mistake.__name__: mistake for mistake in ALL})


def places_of(mistake: type[Mistaken]) -> list[tuple[str, int]]:
    """Workloads and batch sizes in which a mistake shows."""
    entry = MISTAKES.get(mistake.__name__)
    if entry is None or entry.everywhere:
        return [(workload, batch_size) for workload in ("line", "line_deep") for batch_size in (10, 100, 10_000)]
    return [(entry.workload, entry.batch_size)]
