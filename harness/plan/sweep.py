"""A sweep: which cases, how often, in which order, held to which throughput targets."""

import itertools
import random
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from importlib.resources import files
from pathlib import Path
from typing import Any, Self

from harness.plan.case import MAX_BATCH_SIZE, Case, checked, whole_number
from harness.plan.catalogue import ENGINES, installed, label, unknown
from harness.plan.errors import PlanError
from harness.plan.targets import ThroughputTarget

PRESETS: Mapping[str, int] = {"quick": 3, "standard": 5, "rigorous": 12}
MAX_CASES = 10_000


@dataclass(frozen=True)
class Axes:
    """The flags that replace axes of every grid; an empty tuple leaves the grids' own values."""

    workload: tuple[str, ...] = ()
    engine: tuple[str, ...] = ()
    device: tuple[str, ...] = ()
    dtype: tuple[str, ...] = ()
    batch_size: tuple[int, ...] = ()
    threads: tuple[int, ...] = ()


@dataclass(frozen=True)
class Sweep:
    """Everything that decides what a run measures.

    cases: in the order of the table.
    rounds: passes over all cases, each case in a fresh process.
    seeds: convergence is judged over seeds 0 … seeds-1, in a case's first round.
    named_engines: engines that the user named, by a flag or in a file: `unsupported` is a failure for these.
    targets: throughput targets.
    order_seed: seed of the random order of the cases in each round.
    """

    cases: tuple[Case, ...]
    rounds: int = PRESETS["quick"]
    seeds: int = 64
    named_engines: tuple[str, ...] = ()
    targets: tuple[ThroughputTarget, ...] = field(default=())
    order_seed: int = 0

    def schedule(self) -> Iterator[tuple[int, Case]]:
        """Yield (round, case): every case once a round, in seeded random order, so that drift hits all alike."""
        for number in range(self.rounds):
            cases = list(self.cases)
            random.Random(f"{self.order_seed}/{number}").shuffle(cases)  # noqa: S311 - an order, not a secret
            yield from ((number, case) for case in cases)

    def to_json(self) -> dict[str, Any]:
        """Return the sweep as a JSON object."""
        return asdict(self)

    @classmethod
    def from_json(cls, stored: Mapping[str, Any]) -> Self:
        """Read `to_json`'s object; raises TypeError or KeyError when it is something else."""
        return cls(
            **{
                **stored,
                "cases": tuple(Case.from_json(case) for case in stored["cases"]),
                "named_engines": tuple(stored["named_engines"]),
                "targets": tuple(ThroughputTarget(**target) for target in stored["targets"]),
            }
        )


def plan_sweep(file: Path | None, axes: Axes, *, rounds: int | None = None, seeds: int | None = None) -> Sweep:
    """Make a sweep of a TOML file (None: the standard one) and of flags, which win.

    Raises PlanError, in one line, for anything that cannot be measured.
    """
    source, document = _read(file)
    _only(document, {"rounds", "seeds", "order_seed", "grid", "target"}, source)
    grids = document.get("grid", [])
    if not isinstance(grids, list) or not grids:
        raise PlanError(f"{source}: needs at least one [[grid]]")
    cases = tuple(dict.fromkeys(case for grid in grids for case in _cases(grid, axes, source)))
    ids = [case.case_id for case in cases]
    if len(set(ids)) < len(ids):
        twice = next(name for name in ids if ids.count(name) > 1)
        raise PlanError(f"two different cases are called {twice}: rename one of the files")
    targets = document.get("target", [])
    if not isinstance(targets, list):
        raise PlanError(f"{source}: write targets as [[target]]")
    judged = [_target(target, source) for target in targets]
    known = {label(case.engine): None for case in cases} | dict.fromkeys([*ENGINES, *installed("engine")])
    for target in judged:
        if label(target.engine) not in known:
            raise unknown("engine", target.engine, list(known))
    return Sweep(
        cases=cases,
        rounds=whole_number("rounds", document.get("rounds", 3) if rounds is None else rounds, 1, 1000),
        seeds=whole_number("seeds", document.get("seeds", 64) if seeds is None else seeds, 1, 1_000_000),
        named_engines=tuple(dict.fromkeys(case.engine for case in cases)) if axes.engine or file else (),
        targets=tuple(judged),
        order_seed=whole_number("order_seed", document.get("order_seed", 0), 0, 2**63),
    )


def _read(file: Path | None) -> tuple[str, dict[str, Any]]:
    if file is None:
        return "standard sweep", tomllib.loads((files("harness.plan") / "standard.toml").read_text("utf-8"))
    try:
        return str(file), tomllib.loads(file.read_text("utf-8"))
    except OSError as error:
        raise PlanError(f"{file}: cannot be read: {error.strerror}") from error
    except ValueError as error:  # not TOML, or not UTF-8
        raise PlanError(f"{file}: is not valid TOML: {error}") from error


def _cases(grid: object, axes: Axes, source: str) -> Iterator[Case]:
    if not isinstance(grid, dict):
        raise PlanError(f"{source}: write grids as [[grid]]")
    names = [axis.name for axis in fields(Axes)]
    _only(grid, set(names), f"{source}: [[grid]]")
    defaults: dict[str, list[Any]] = {"device": ["cpu"], "dtype": ["float32"], "threads": [None]}
    values: list[Sequence[Any]] = []
    for name in names:
        value = getattr(axes, name) or grid.get(name, defaults.get(name))
        if value is None:
            raise PlanError(f"{source}: a [[grid]] has no {name}")
        values.append(value if isinstance(value, list | tuple) else [value])
        if not values[-1]:
            raise PlanError(f"{source}: {name} of a [[grid]] is empty")
    size = 1
    for value in values:
        size *= len(value)
    if size > MAX_CASES:
        raise PlanError(f"{source}: {size} cases are more than the {MAX_CASES} that one run may have")
    order = [names.index(name) for name in ("workload", "batch_size", "engine", "device", "dtype", "threads")]
    for combination in itertools.product(*(values[index] for index in order)):
        workload, batch_size, engine, device, dtype, threads = combination
        for name, text in (("workload", workload), ("engine", engine), ("device", device), ("dtype", dtype)):
            if not isinstance(text, str):
                raise PlanError(f"{source}: {name} {text!r}: use a name in quotes")
        yield checked(Case(workload, engine, device, dtype, batch_size, threads))


def _target(target: object, source: str) -> ThroughputTarget:
    where = f"{source}: [[target]]"
    if not isinstance(target, dict):
        raise PlanError(f"{source}: write targets as [[target]]")
    _only(target, {part.name for part in fields(ThroughputTarget)}, where)
    ratio = target.get("min_ratio_to_autograd")
    if isinstance(ratio, bool) or not isinstance(ratio, int | float) or not 0 < ratio <= 1e6:
        raise PlanError(f"{where}: min_ratio_to_autograd must be a number above 0")
    if not isinstance(target.get("engine"), str):
        raise PlanError(f"{where}: engine must name one engine")
    if not isinstance(target.get("workload", ""), str):
        raise PlanError(f"{where}: workload must name one workload")
    if target.get("device", "cpu") not in ("cpu", "cuda"):
        raise PlanError(f"{where}: device must be cpu or cuda")
    for bound in ("min_batch_size", "max_batch_size"):
        whole_number(f"{where}: {bound}", target.get(bound, 1), 1, MAX_BATCH_SIZE)
    return replace(ThroughputTarget(**target), min_ratio_to_autograd=float(ratio))


def _only(table: Mapping[str, Any], known: set[str], where: str) -> None:
    for key in table:
        if key not in known:
            raise PlanError(f"{where}: unknown key {key!r}; known are {', '.join(sorted(known))}")
