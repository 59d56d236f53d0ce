"""One side of a comparison."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import pandas as pd

from harness.comparing.disturbed import EVIDENCE
from harness.measuring.machine import COMPARABLE
from harness.plan.errors import NotComparable
from harness.tables.cells import environment_of

# What is read of a run: columns of the tables `measurements` and `summary`.
MEASURED = (
    *(
        "case_id",
        "round",
        "outcome",
        "reason",
        "step_ns",
        "core_ns",
        "core_work",
        "threads",
        "run_id",
        "commit",
        "dirty",
        "machine",
    ),
    *("fingerprint", "session", "workload_digest", "environment", "sm_clock_mhz"),
    *EVIDENCE,
)
SUMMARISED = (
    *("case_id", "outcome", "reason", "threads", "workload_digest", "rounds", "disturbances"),
    *("converged_share", "converged_low", "converged_high"),
)


@dataclass(frozen=True)
class Run:
    """One side of a comparison.

    name: as the user called it. measurements: its table, of one run. summary: the table, where it is known: it knows
    what was to be measured, and what did not converge. facts: of its machine, as far as they are known.
    """

    name: str
    measurements: pd.DataFrame
    summary: pd.DataFrame | None = None
    facts: Mapping[str, Any] = field(default_factory=dict)

    def only(self, column: str) -> str:
        """Return the one value of a column that is the same in all rows; empty where the table has none."""
        # unique() takes four times as long
        values = self.measurements[column].drop_duplicates().tolist() if column in self.measurements else [""]
        if len(values) > 1:
            raise NotComparable(
                f"{self.name} holds rows of {len(values)} different {column}: compare takes one run a side"
            )
        return str(values[0]) if len(values) else ""

    @property
    def session(self) -> str:
        """The session in which it was measured."""
        return self.only("session") or self.only("run_id")

    def environment(self) -> Mapping[str, str]:
        """Return what its fingerprint is made of, by name; nothing where neither table nor facts tell."""
        told = environment_of(self.only("environment"))
        return told or {name: str(self.facts[name]) for name in COMPARABLE if name in self.facts}
