"""A sweep: which cases, how often, in which order, held to which throughput targets."""

import itertools
import random
import re
import tomllib
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from importlib.resources import files
from pathlib import Path
from typing import Any, Self

from harness.plan.case import Case, checked, whole_number
from harness.plan.catalogue import ENGINES, installed, label, named, resolve, unknown
from harness.plan.errors import PlanError
from harness.plan.presets import PRESETS, Sampling
from harness.plan.reading import read_regular
from harness.plan.targets import ThroughputTarget, only_known
from harness.plan.text import printable, shown

ALL = "all"  # engines

MAX_CASES = 10_000
MAX_ROUNDS = 1000
MAX_SEEDS = 100_000
# Together: what a run writes must be small enough to be read again. A process takes seconds, so nobody waits for more.
MAX_PROCESSES = 200_000  # 4 kB each in the journal
MAX_TRAININGS = 1_000_000  # 160 bytes each in the journal
MAX_TARGETS = 100  # all of them may end up in one cell of the summary

_STANDARD = "standard sweep"
_MAX_FILE = 2**20  # ten thousand cases written one by one
# tomllib takes time that grows with the square of the parts of a dotted key, which a sweep does not need at all.
_DOTTED_KEY = re.compile(r"""(?:\.[ \t]*(?:"[^"\n]*+"|'[^'\n]*+'|[\w-]++)[ \t]*+){32}""")


@dataclass(frozen=True)
class Axes:
    """The flags that replace axes of every grid; an empty tuple leaves the grids' own values.

    engine: `all` stands for every engine of the catalogue that is for the device.
    """

    workload: tuple[str, ...] = ()
    engine: tuple[str, ...] = ()
    device: tuple[str, ...] = ()
    dtype: tuple[str, ...] = ()
    batch_size: tuple[int, ...] = ()
    threads: tuple[int, ...] = ()
    ranks: tuple[int, ...] = ()


@dataclass(frozen=True)
class Sweep:
    """Everything that decides what a run measures.

    cases: in the order of the table.
    rounds: passes over all cases, each case in a fresh process.
    seeds: convergence is judged over seeds 0 … seeds-1, in a case's first round.
    named_engines: engines that the user named, by a flag or in a file: `unsupported` is a failure for these.
    targets: throughput targets.
    order_seed: seed of the random order of the cases in each round.
    sampling: how long each process times.
    cold: whether each case has a compile cache of its own, empty in its first round.
    spare: rounds after these, for what two arms lost of them (`running.interleaved`).
    """

    cases: tuple[Case, ...]
    rounds: int = PRESETS["quick"].rounds
    seeds: int = 64
    named_engines: tuple[str, ...] = ()
    targets: tuple[ThroughputTarget, ...] = field(default=())
    order_seed: int = 0
    sampling: Sampling = PRESETS["quick"].sampling
    cold: bool = False
    spare: int = 0

    @property
    def all_rounds(self) -> int:
        """Rounds that there may be at most."""
        return self.rounds + self.spare

    def schedule(self) -> Iterator[tuple[int, Case]]:
        """Yield (round, case): every case once a round, in seeded random order, so that drift hits all alike."""
        for number in range(self.all_rounds):
            cases = list(self.cases)
            random.Random(f"{self.order_seed}/{number}").shuffle(cases)  # noqa: S311 - an order, not a secret
            yield from ((number, case) for case in cases)

    def to_json(self) -> dict[str, Any]:
        """Return the sweep as a JSON object."""
        told = {**asdict(self), "cases": [case.to_json() for case in self.cases]}
        return told if self.spare else {name: value for name, value in told.items() if name != "spare"}

    @classmethod
    def from_json(cls, stored: object) -> Self:
        """Read `to_json`'s object; raises PlanError, in one line, for anything that `plan_sweep` would not have made.

        Engines and workloads are not looked up: a user's file may have been deleted since.
        """
        if not isinstance(stored, dict):
            raise PlanError(f"sweep {shown(stored)}: must be an object")
        stored = {"spare": 0, **stored}  # there was none before
        only_known(stored, {part.name for part in fields(cls)})
        lists = {name: stored.get(name) for name in ("cases", "named_engines", "targets")}
        for name, values in lists.items():
            if not isinstance(values, list | tuple):
                raise PlanError(f"sweep: {name} {shown(values)}: must be a list")
        cases = tuple(_stored_case(case) for case in stored["cases"])
        for engine in stored["named_engines"]:
            named("engine", engine if isinstance(engine, str) else "")
        sweep = cls(
            cases=cases,
            rounds=whole_number("rounds", stored.get("rounds"), 1, MAX_ROUNDS),
            seeds=whole_number("seeds", stored.get("seeds"), 1, MAX_SEEDS),
            named_engines=tuple(stored["named_engines"]),
            targets=tuple(_stored_target(target) for target in stored["targets"]),
            order_seed=whole_number("order_seed", stored.get("order_seed"), 0, 2**63),
            spare=whole_number("spare", stored["spare"], 0, MAX_ROUNDS),
            sampling=_stored_sampling(stored.get("sampling", {})),
            cold=_flag("cold", stored.get("cold", False)),
        )
        _check_size(sweep, "sweep")
        return sweep


def plan_sweep(
    file: Path | None,
    axes: Axes,
    *,
    preset: str | None = None,
    rounds: int | None = None,
    seeds: int | None = None,
    cold: bool = False,
) -> Sweep:
    """Make a sweep of a TOML file (None: the standard one) and of flags, which win; preset: a name in PRESETS.

    Raises PlanError, in one line, for anything that cannot be measured.
    """
    source, document = _read(file)
    wanted_engines = dict.fromkeys(resolve("engine", engine) for engine in axes.engine if engine != ALL)
    if ALL in axes.engine:
        axes = replace(axes, engine=tuple(dict.fromkeys([*ENGINES, *wanted_engines])))
    _only(document, {"rounds", "seeds", "order_seed", "grid", "target"}, source)
    grids = document.get("grid", [])
    if not isinstance(grids, list) or not grids:
        raise PlanError(f"{source}: needs at least one [[grid]]")
    size = 0
    for grid in grids:
        size += _grid_size(grid, axes, source)
        if size > MAX_CASES:  # said before they are made
            raise PlanError(f"{source}: {size} cases are more than the {MAX_CASES} that one run may have")
    cases = tuple(dict.fromkeys(case for grid in grids for case in _cases(grid, axes, source)))
    if file is not None and not axes.engine:
        wanted_engines = dict.fromkeys(case.engine for case in cases)
    cases = tuple(case for case in cases if case.engine in wanted_engines or _is_of_use(case))
    targets = document.get("target", [])
    if not isinstance(targets, list):
        raise PlanError(f"{source}: write targets as [[target]]")
    if len(targets) > MAX_TARGETS:
        raise PlanError(f"{source}: {len(targets)} targets are more than the {MAX_TARGETS} that one run may have")
    judged = [_target(each, source) for target in targets for each in _each_workload(target)]
    known = {label(case.engine): None for case in cases} | dict.fromkeys([*ENGINES, *installed("engine")])
    for target in judged:
        if label(target.engine) not in known:
            raise unknown("engine", target.engine, list(known))
    thorough = PRESETS[preset or "quick"]
    wanted = thorough.rounds if preset else document.get("rounds", thorough.rounds)
    sweep = Sweep(
        cases=cases,
        rounds=whole_number("rounds", wanted if rounds is None else rounds, 1, MAX_ROUNDS),
        seeds=whole_number("seeds", document.get("seeds", 64) if seeds is None else seeds, 1, MAX_SEEDS),
        named_engines=tuple(dict.fromkeys(case.engine for case in cases if case.engine in wanted_engines)),
        targets=tuple(judged),
        order_seed=whole_number("order_seed", document.get("order_seed", 0), 0, 2**63),
        sampling=thorough.sampling,
        cold=cold,
    )
    _check_size(sweep, source)
    return sweep


def _is_of_use(case: Case) -> bool:
    return case.engine not in ENGINES or ENGINES[case.engine].is_for(case.device)


def _read(file: Path | None) -> tuple[str, dict[str, Any]]:
    if file is None:
        return _STANDARD, tomllib.loads((files("harness.plan") / "standard.toml").read_text("utf-8"))
    source = printable(str(file))
    try:
        return source, tomllib.loads(_without_long_keys(read_regular(file, _MAX_FILE).decode("utf-8")))
    except OSError as error:
        raise PlanError(f"{source}: cannot be read: {error.strerror}") from error
    except PlanError:
        raise
    except ValueError as error:  # not TOML, or not UTF-8
        raise PlanError(f"{source}: is not valid TOML: {printable(str(error), 200)}") from error
    except RecursionError as error:
        raise PlanError(f"{source}: is not valid TOML: it is nested too deeply") from error


def _without_long_keys(text: str) -> str:
    if _DOTTED_KEY.search(text):
        raise ValueError("a name in it has more than 32 dotted parts")
    return text


def _grid_size(grid: object, axes: Axes, source: str) -> int:
    size = 1
    for values in _axis_values(grid, axes, source).values():
        size *= len(values)
    return size


def _axis_values(grid: object, axes: Axes, source: str) -> dict[str, Sequence[Any]]:
    """Return what each axis of a grid holds, flags before the file; raises PlanError where one is missing or empty."""
    if not isinstance(grid, dict):
        raise PlanError(f"{source}: write grids as [[grid]]")
    names = [axis.name for axis in fields(Axes)]
    _only(grid, set(names), f"{source}: [[grid]]")
    defaults: dict[str, list[Any]] = {"device": ["cpu"], "dtype": ["float32"], "threads": [None], "ranks": [1]}
    values: dict[str, Sequence[Any]] = {}
    for name in names:
        value = getattr(axes, name) or grid.get(name, defaults.get(name))
        if value is None:
            raise PlanError(f"{source}: a [[grid]] has no {name}")
        values[name] = value if isinstance(value, list | tuple) else [value]
        if not values[name]:
            raise PlanError(f"{source}: {name} of a [[grid]] is empty")
    return values


def _cases(grid: object, axes: Axes, source: str) -> Iterator[Case]:
    values = _axis_values(grid, axes, source)
    order = ("workload", "batch_size", "engine", "device", "dtype", "threads", "ranks")
    for combination in itertools.product(*(values[name] for name in order)):
        workload, batch_size, engine, device, dtype, threads, ranks = combination
        try:
            yield checked(Case(workload, engine, device, dtype, batch_size, threads, ranks))
        except PlanError as error:
            if source == _STANDARD:  # nothing is wrong with that: it is a flag's
                raise
            raise PlanError(f"{source}: {error}") from error


def _each_workload(target: object) -> Iterator[object]:
    """Yield a target once for each of the workloads that it names in a list, or as it is."""
    if isinstance(target, dict) and isinstance(target.get("workload"), list) and target["workload"]:
        yield from ({**target, "workload": workload} for workload in target["workload"])
    else:
        yield target


def _target(target: object, source: str) -> ThroughputTarget:
    if not isinstance(target, dict):
        raise PlanError(f"{source}: write targets as [[target]]")
    try:
        return ThroughputTarget.from_table(target)
    except PlanError as error:
        raise PlanError(f"{source}: [[target]]: {error}") from error


def _stored_case(case: object) -> Case:
    if not isinstance(case, dict):
        raise PlanError(f"sweep: case {shown(case)}: must be an object")
    try:
        return Case.from_json(case)
    except TypeError as error:
        raise PlanError(f"sweep: case {shown(case)}: must have the fields of a case and no other") from error
    except PlanError as error:
        raise PlanError(f"sweep: case: {error}") from error


def _stored_target(target: object) -> ThroughputTarget:
    try:
        return ThroughputTarget.from_table(target)
    except PlanError as error:
        raise PlanError(f"sweep: target: {error}") from error


def _stored_sampling(stored: object) -> Sampling:
    if not isinstance(stored, dict):
        raise PlanError(f"sweep: sampling {shown(stored)}: must be an object")
    _only(stored, {part.name for part in fields(Sampling)}, "sweep: sampling")
    sampling = Sampling(**stored)
    width = sampling.relative_width
    if isinstance(width, bool) or not isinstance(width, int | float) or not 0 < width <= 1:
        raise PlanError(f"sweep: relative_width {shown(width)}: must be a number above 0 and up to 1")
    whole_number("sweep: budget_ns", sampling.budget_ns, 1, 10**12)
    return sampling


def _flag(name: str, value: object) -> bool:
    if not isinstance(value, bool):
        raise PlanError(f"{name} {shown(value)}: must be true or false")
    return value


def _check_size(sweep: Sweep, source: str) -> None:
    """Raise PlanError unless this is one run's work, and its cases can be told from each other."""
    count = len(sweep.cases)
    ids = Counter(case.case_id for case in sweep.cases)
    twice = next((name for name, times in ids.items() if times > 1), None)
    if twice:
        raise PlanError(f"two different cases are called {twice}: rename one of the files")
    for number, what, most in (
        (count, "cases", MAX_CASES),
        (len(sweep.targets), "targets", MAX_TARGETS),
        (count * sweep.all_rounds, "processes (cases × rounds)", MAX_PROCESSES),
        (count * sweep.seeds, "trainings (cases × seeds)", MAX_TRAININGS),
    ):
        if number > most:
            raise PlanError(f"{source}: {number} {what} are more than the {most} that one run may have")
    if not count:
        raise PlanError(f"{source}: has no cases")


def _only(table: Mapping[str, Any], known: set[str], where: str) -> None:
    try:
        only_known(table, known)
    except PlanError as error:
        raise PlanError(f"{where}: {error}") from error
