"""A shard: a part of a sweep's cases, measured on one machine while others measure the other parts."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Self

from harness.plan.case import Case, whole_number
from harness.plan.errors import PlanError
from harness.plan.sweep import MAX_CASES, Sweep
from harness.plan.text import shown


@dataclass(frozen=True, order=True)
class Shard:
    """Part `index`, counted from 0, of the `count` parts that a sweep is dealt into."""

    index: int
    count: int

    def __str__(self) -> str:
        return f"{self.index}/{self.count}"

    @property
    def name(self) -> str:
        """What its part of a published run is called: `shard-3-of-8`."""
        return f"shard-{self.index}-of-{self.count}"

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read `K/N`; raises PlanError for anything else."""
        match = re.fullmatch(r"([0-9]{1,6})/([0-9]{1,6})", text)
        if match is None:
            raise PlanError(f"--shard {shown(text)}: use K/N, part K of N counted from 0, as in 0/8")
        try:
            return cls._checked(int(match[1]), int(match[2]))
        except PlanError as error:
            raise PlanError(f"--shard {text}: {error}") from error

    @classmethod
    def from_json(cls, stored: object) -> Self:
        """Read `to_json`'s object; raises PlanError for anything else."""
        if not isinstance(stored, dict) or stored.keys() != {"index", "count"}:
            raise PlanError(f"shard {shown(stored)}: must be an object of index and count")
        return cls._checked(stored["index"], stored["count"])

    @classmethod
    def _checked(cls, index: object, count: object) -> Self:
        number = whole_number("number of shards", count, 1, MAX_CASES)
        return cls(whole_number("shard", index, 0, number - 1), number)

    def to_json(self) -> dict[str, Any]:
        """Return the shard as a JSON object."""
        return asdict(self)

    def of(self, sweep: Sweep) -> Sweep:
        """Return the sweep with this shard's cases only: none, where there are more shards than groups of cases."""
        shards = shard_by_case(sweep.cases, self.count)
        return replace(sweep, cases=tuple(case for case in sweep.cases if shards[case.case_id] == self.index))


def shard_by_case(cases: Sequence[Case], count: int) -> dict[str, int]:
    """Return the shard of each case, by `case_id`, where a sweep is dealt into so many.

    What is compared with each other stays on one machine: all engines and threads of a workload, batch size, dtype and
    device. Such groups are dealt out in turn, in the order of the table.
    """
    numbers: dict[Case, int] = {}
    return {case.case_id: numbers.setdefault(replace(case.group, threads=None), len(numbers)) % count for case in cases}


def sweep_of(header: Mapping[str, Any]) -> Sweep:
    """Return what the run of this header measures, its sweep or its shard of that; raises PlanError."""
    sweep = Sweep.from_json(header.get("sweep"))
    return sweep if "shard" not in header else Shard.from_json(header["shard"]).of(sweep)
