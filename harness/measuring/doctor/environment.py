"""What surrounds the process and slows it down: environment variables, a debugger."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from harness.measuring.doctor.findings import Finding, Severity, ok, warning
from harness.measuring.kernel import read_counts


def _set(value: str) -> bool:
    return value != ""


def _on(value: str) -> bool:
    return value not in ("", "0")


@dataclass(frozen=True)
class _Variable:
    """An environment variable that spoils measurements: when it does, and what it does."""

    spoils: Callable[[str], bool]
    does: str
    severity: Severity = Severity.WARNING
    only_cuda: bool = False


VARIABLES = {
    "PYTHONDEVMODE": _Variable(_set, "Python checks its memory and warns of everything"),
    "PYTHONMALLOC": _Variable(lambda value: "debug" in value, "Python checks every allocation"),
    "PYTHONTRACEMALLOC": _Variable(_on, "Python keeps a traceback of every allocation"),
    "OMP_NUM_THREADS": _Variable(_set, "torch has another number of threads by default; --threads says it in the run"),
    "TORCH_LOGS": _Variable(_set, "torch writes logs while it compiles and runs"),
    "TORCH_SHOW_DISPATCH_TRACE": _Variable(_on, "a debug build of torch prints every operation"),
    "TORCHDYNAMO_DISABLE": _Variable(_on, "torch.compile does nothing: compiled engines time plain Python"),
    "TORCH_COMPILE_DISABLE": _Variable(_on, "torch.compile does nothing: compiled engines time plain Python"),
    "TORCHINDUCTOR_FORCE_DISABLE_CACHES": _Variable(_on, "a warm first call compiles everything again"),
    "TORCH_ALLOW_TF32_CUBLAS_OVERRIDE": _Variable(
        _on, "torch begins with TF32 on; the program turns it off", only_cuda=True
    ),
    "CUDA_LAUNCH_BLOCKING": _Variable(
        _on, "every kernel is waited for: no launch overlaps with another", Severity.WORTHLESS, only_cuda=True
    ),
}


def variables(environ: Mapping[str, str], *, cuda: bool) -> Iterator[Finding]:
    """Judge the variables that workers inherit."""
    spoiled = False
    for name, variable in VARIABLES.items():
        value = environ.get(name, "")
        if variable.spoils(value) and (cuda or not variable.only_cuda):
            spoiled = True
            yield Finding("environment", variable.severity, f"{name}={value:.40}: {variable.does}", f"unset {name}")
    if not spoiled:
        yield ok("environment", "no variable that slows Python or torch down")


def debugger(root: Path) -> Iterator[Finding]:
    """Judge whether another process holds this one."""
    if read_counts(root / "proc/self/status").get("TracerPid"):
        yield warning("debugger", "a debugger or strace holds this process and may hold its workers", "run without it")
