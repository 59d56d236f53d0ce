"""A case: one thing to be measured, with a stable and readable name."""

import difflib
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from pathlib import PurePosixPath
from typing import Any, Self

from harness.plan.catalogue import DTYPES, label, named, resolve
from harness.plan.errors import PlanError
from harness.plan.text import shown

MAX_BATCH_SIZE = 2**28
MAX_THREADS = 4096
MAX_RANKS = 1024

_REFERENCE = r"((?:[^:]*\.py:)?[^/:]+)"
_CASE_ID = re.compile(rf"{_REFERENCE}/{_REFERENCE}/([^/]+)/([^/]+)/b(\d{{1,9}})(?:/t(\d{{1,4}}))?(?:/r(\d{{1,4}}))?")
_HALF = ("float16", "fp16", "f16", "half")
_OTHER_NAMES = {
    **dict.fromkeys(("fp32", "f32", "float", "single"), "float32"),
    **dict.fromkeys(("fp64", "f64", "double"), "float64"),
    **dict.fromkeys(("bf16", "bfloat"), "bfloat16"),
    **dict.fromkeys(("tensorfloat32", "tfloat32"), "tf32"),
}


@dataclass(frozen=True, order=True)
class Case:
    """workload × engine × device × dtype × batch size × threads × ranks.

    workload, engine: names of the catalogue or `/absolute/file.py:Name`.
    device: `cpu`, `cuda` or `cuda:N`.
    dtype: one of DTYPES; `tf32` and `bfloat16` have float32 parameters and less precise products.
    batch_size: points per update, 1 to 2**28.
    threads: torch's intra-op threads, of each rank; None leaves the choice to torch.
    ranks: processes that train together, each on its share of every batch; they divide it.
    """

    workload: str
    engine: str
    device: str
    dtype: str
    batch_size: int
    threads: int | None = None
    ranks: int = 1

    @property
    def case_id(self) -> str:
        """Readable name, stable across machines and commits: `line/autograd/cpu/float32/b100[/t1][/r2]`."""
        parts = [label(self.workload), label(self.engine), self.device, self.dtype, f"b{self.batch_size}"]
        parts += [] if self.threads is None else [f"t{self.threads}"]
        return "/".join(parts if self.ranks == 1 else [*parts, f"r{self.ranks}"])

    @classmethod
    def named(cls, case_id: str) -> "Case":
        """Return the case of such a name, for own files with their path: `dir/own.py:Mine/autograd/cpu/float32/b100`.

        Raises PlanError, in one line, where it is no case's name or names nothing that can be measured.
        """
        found = _CASE_ID.fullmatch(case_id)
        if found is None:
            raise PlanError(f"case {shown(case_id)}: write it as the tables do, like line/autograd/cpu/float32/b100")
        workload, engine, device, dtype, batch_size, threads, ranks = found.groups()
        case = cls(workload, engine, device, dtype, int(batch_size), int(threads) if threads else None, int(ranks or 1))
        return checked(case)

    @property
    def group(self) -> Self:
        """The same case with engine and ranks left open: what a ratio between engines is taken within."""
        return replace(self, engine="", ranks=1)

    def to_json(self) -> dict[str, Any]:
        """Return the case as a JSON object; one of a single rank is written as before there were several."""
        return {name: value for name, value in asdict(self).items() if (name, value) != ("ranks", 1)}

    @classmethod
    def from_json(cls, stored: Mapping[str, Any]) -> Self:
        """Read `to_json`'s object.

        Raises TypeError for unknown or missing fields, PlanError for a value that `checked` would not have let
        through. Nothing is looked up: a file may have been deleted since, and a name be another installation's.
        """
        case = cls(**stored)
        for kind in ("workload", "engine"):
            reference = getattr(case, kind)
            if not isinstance(reference, str):
                raise PlanError(f"{kind} {shown(reference)}: must be a text")
            named(kind, reference)
            path = PurePosixPath(reference.rpartition(":")[0])
            if ":" in reference and not (path.is_absolute() and ".." not in path.parts):
                raise PlanError(f"{kind} {shown(reference)}: must have an absolute path")
        _check_values(case)
        return case


def checked(case: Case) -> Case:
    """Return the case with its references resolved; raises PlanError for a value that cannot be measured."""
    for part in fields(case)[:4]:
        if not isinstance(getattr(case, part.name), str):
            raise PlanError(f"{part.name} {shown(getattr(case, part.name))}: use a name in quotes")
    _check_values(case)
    return replace(case, workload=resolve("workload", case.workload), engine=resolve("engine", case.engine))


def _check_values(case: Case) -> None:
    """Raise PlanError unless device, dtype, batch size, threads and ranks are such as can be measured somewhere."""
    known_device(case.device)
    known_dtype(case.dtype)
    whole_number("batch size", case.batch_size, 1, MAX_BATCH_SIZE)
    if case.threads is not None:
        whole_number("threads", case.threads, 1, MAX_THREADS)
    whole_number("ranks", case.ranks, 1, MAX_RANKS)
    if case.batch_size % case.ranks:
        raise PlanError(f"batch size {case.batch_size}: {case.ranks} ranks cannot share it equally; use a multiple")
    if case.ranks > 1 and case.device.startswith("cuda:"):
        raise PlanError(f"device {case.device}: {case.ranks} ranks take a GPU each; use cuda")


def known_device(device: object) -> str:
    """Return the name of a device if it is one; raises PlanError otherwise."""
    if not isinstance(device, str) or not re.fullmatch(r"cpu|cuda(:[0-9]{1,4})?", device):
        hint = {
            "mps": "Apple's GPU is not supported; use --device cpu",
            "hip": "ROCm is not supported; use --device cpu",
            "rocm": "ROCm is not supported; use --device cpu",
        }.get(str(device)[:9].partition(":")[0], "use cpu, cuda or cuda:N")
        raise PlanError(f"device {shown(device)}: {hint}")
    return device


def known_dtype(dtype: object) -> str:
    """Return the name of a dtype if cases have it; raises PlanError, with what may have been meant, otherwise."""
    if not isinstance(dtype, str) or dtype not in DTYPES:
        name = str(dtype)[:20].lower()
        meant = _OTHER_NAMES.get(name) or next(iter(difflib.get_close_matches(name, DTYPES, n=1)), None)
        hint = f"did you mean {meant!r}?" if meant else f"use {', '.join(DTYPES[:-1])} or {DTYPES[-1]}"
        if name in _HALF:
            hint = "gradients that small need a scaled loss, which no engine has; use bfloat16"
        raise PlanError(f"dtype {shown(dtype)}: {hint}")
    return dtype


def whole_number(name: str, value: object, low: int, high: int) -> int:
    """Return `value` if it is an int within [low, high]; raises PlanError otherwise."""
    if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
        raise PlanError(f"{name} {shown(value)}: use a whole number from {low} to {high}")
    return value
