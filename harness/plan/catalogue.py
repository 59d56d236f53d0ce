"""The literal catalogue of engines and workloads: a new one is one file and one line here.

Names are looked up here, then among the entry points of installed packages (groups `gradient_harness.engines` and
`gradient_harness.workloads`), then as `path/to/file.py:Name`. Nothing is imported to list or to plan.
"""

import difflib
import functools
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path

from harness.plan.errors import PlanError
from harness.plan.text import printable, shown


@dataclass(frozen=True)
class Entry:
    """One engine or workload of the catalogue.

    target: where it is, as `module:attribute`.
    summary: one line; for an engine, who would choose it.
    process_s: seconds that one warm process of it takes besides its timing, for the estimate before a run; for a
        workload, how many more than of `line`.
    compile_s: seconds its first, cold compile adds.
    seed_s: seconds that a seed of a workload trains.
    device: the only kind, `cpu` or `cuda`, that an engine is for; elsewhere it is left out unless it is named.
    """

    target: str
    summary: str
    process_s: float = 0.0
    compile_s: float = 0.0
    seed_s: float = 0.02
    device: str = ""

    def is_for(self, device: str) -> bool:
        """Whether there is any use in trying it on `cpu` or `cuda[:N]`."""
        return device.startswith(self.device)


_ENGINES = "harness.training.engines"
_WORKLOADS = "harness.training.workloads"

ENGINES: Mapping[str, Entry] = {
    "manual": Entry(
        f"{_ENGINES}.manual:Manual",
        "gradients by hand, layer by layer, in place; what autograd's comfort costs",
        1.7,
    ),
    "manual_naive": Entry(
        f"{_ENGINES}.manual_naive:ManualNaive",
        "gradients by hand as a lesson writes them, each a new tensor: what working in place saves",
        1.7,
    ),
    "manual_compile": Entry(
        f"{_ENGINES}.manual_compile:ManualCompile",
        "the same in one compiled graph: for who has derived gradients and wants no kernels of their own",
        5,
        6,
    ),
    "autograd": Entry(
        f"{_ENGINES}.autograd:Autograd",
        "module, loss.backward(), SGD: what everybody writes; the yardstick",
        2.5,
    ),
    "autograd_fused": Entry(
        f"{_ENGINES}.autograd_fused:AutogradFused",
        "autograd with SGD(fused=True): the smallest change that might help",
        2.5,
    ),
    "compile": Entry(
        f"{_ENGINES}.compile:Compile",
        "forward and loss under torch.compile: the usual one-line speed-up",
        5,
        6,
    ),
    "compile_step": Entry(
        f"{_ENGINES}.compile_step:CompileStep",
        "the whole update in one compiled graph: most of the speed-up",
        5,
        6,
    ),
    "ensemble": Entry(
        f"{_ENGINES}.ensemble:Ensemble",
        "64 seeds at once by torch.func.vmap, compiled; time per seed: for whoever trains many small models",
        6,
        6,
    ),
    "numpy": Entry(
        f"{_ENGINES}.numpy:Numpy",
        "gradients by hand in numpy, in place: what is left without any framework",
        1.7,
        device="cpu",
    ),
    "fused": Entry(
        f"{_ENGINES}.fused:Fused",
        "all updates in one call of code written for this network: what the machine can do",
        5,
        2,
    ),
    "jax_scan": Entry(
        f"{_ENGINES}.jax_scan:JaxScan",
        "another framework: JAX, whole stretches of training in one XLA program; needs the extra jax",
        5,
    ),
    "func_grad_compile": Entry(
        f"{_ENGINES}.func_grad_compile:FuncGradCompile",
        "the whole update compiled, gradients by torch.func: for who thinks in functions, as in JAX",
        5,
        6,
    ),
    "compile_unroll": Entry(
        f"{_ENGINES}.compile_unroll:CompileUnroll",
        "20 updates in one compiled graph: for small models on a CPU, where a longer compile pays",
        6,
        30,
    ),
    "compile_reduce_overhead": Entry(
        f"{_ENGINES}.compile_modes:CompileReduceOverhead",
        "compile_step with mode reduce-overhead, on a GPU: CUDA graphs for the asking",
        8,
        10,
        device="cuda",
    ),
    "compile_max_autotune": Entry(
        f"{_ENGINES}.compile_modes:CompileMaxAutotune",
        "compile_step with mode max-autotune, on a GPU: for large layers and long trainings",
        8,
        60,
        device="cuda",
    ),
    "cuda_graph_manual": Entry(
        f"{_ENGINES}.cuda_graph:CudaGraphManual",
        "manual as a CUDA graph, 20 updates a launch: the least that torch's own kernels take",
        4,
        device="cuda",
    ),
    "cuda_graph_autograd": Entry(
        f"{_ENGINES}.cuda_graph:CudaGraphAutograd",
        "autograd as a CUDA graph, 20 updates a launch: a graph's speed without a compiler",
        4,
        device="cuda",
    ),
    "cuda_graph_compile": Entry(
        f"{_ENGINES}.cuda_graph:CudaGraphCompile",
        "compile_step as a CUDA graph, 20 updates a launch: fused kernels and no overhead",
        8,
        10,
        device="cuda",
    ),
    "ddp": Entry(
        f"{_ENGINES}.ddp:Ddp",
        "autograd in several processes, each on its share of the batch: --ranks N",
        3,
    ),
    "frozen": Entry(
        f"{_ENGINES}.frozen:Frozen",
        "never changes: tells the machine from the commit",
        1.7,
    ),
}

WORKLOADS: Mapping[str, Entry] = {
    "line": Entry(f"{_WORKLOADS}.line:Line", "y = 2x + 1 with noise, learnt by a 1-10-1 ReLU network"),
    "line_deep": Entry(f"{_WORKLOADS}.line_deep:LineDeep", "the same with a second hidden layer, 1-10-10-1"),
    "tanh_deep": Entry(
        f"{_WORKLOADS}.tanh_deep:TanhDeep",
        "the same by eight hidden layers of 16 tanh units: next to no work in many calls",
        process_s=0.5,
        seed_s=0.3,
    ),
    "digits": Entry(
        f"{_WORKLOADS}.digits:Digits",
        "1,797 hand-written digits by a 64-32-10 ReLU network, accuracy of 297 held out; needs scikit-learn",
        seed_s=0.3,
    ),
    "medium": Entry(
        f"{_WORKLOADS}.medium:Medium",
        "ten classes by a 256-1024-1024-10 network: enough work for several ranks",
        process_s=3,
        seed_s=3,
    ),
    "wide": Entry(
        f"{_WORKLOADS}.wide:Wide",
        "ten classes by a 1024-4096-4096-10 network: enough work for a whole GPU",
        process_s=180,
        seed_s=20,
    ),
}

GROUPS = {"engine": "gradient_harness.engines", "workload": "gradient_harness.workloads"}
CATALOGUES: Mapping[str, Mapping[str, Entry]] = {"engine": ENGINES, "workload": WORKLOADS}

PLAIN_DTYPES = ("float32", "float64")
# Products are less precise than parameters and data, which are float32.
MIXED_DTYPES = ("tf32", "bfloat16")
DTYPES = (*PLAIN_DTYPES, *MIXED_DTYPES)

# A name goes into case ids, CSV cells and onto terminals: none of their readers sees anything special in it.
SAFE_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.+-]{0,199}")
_SAFE_CLASS = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,99}")
_LONGEST_REFERENCE = 4096  # a path that Linux opens is no longer
_LISTED = 20


@functools.cache
def installed(kind: str) -> dict[str, EntryPoint]:
    """Engines or workloads (`kind`) that installed packages offer, by name; without those of unsafe name."""
    return {point.name: point for point in entry_points(group=GROUPS[kind]) if SAFE_NAME.fullmatch(point.name)}


def resolve(kind: str, name: str) -> str:
    """Return the reference of an engine or workload (`kind`), checked as far as that goes without importing it.

    A catalogue or entry-point name is returned as it is; `path/to/file.py:Name` with its path made absolute.

    Raises PlanError, naming the nearest known name, when there is none.
    """
    path, colon, attribute = name.rpartition(":")
    if not (colon and path.endswith(".py")):
        if name in CATALOGUES[kind] or name in installed(kind):
            return name
        raise unknown(kind, name, [*CATALOGUES[kind], *installed(kind)])
    if len(name) > _LONGEST_REFERENCE:
        raise PlanError(f"{kind} {shown(name)}: is longer than {_LONGEST_REFERENCE} characters")
    try:
        file = Path(path).expanduser().resolve()
        found = file.is_file()
    except (OSError, RuntimeError, ValueError):
        found = False
    if not found:
        raise PlanError(f"{kind} {shown(name)}: there is no file {printable(path, 200)}")
    if not attribute.isidentifier():
        raise PlanError(f"{kind} {shown(name)}: after the colon goes the name of a class in {printable(path, 200)}")
    return named(kind, f"{file}:{attribute}")


def named(kind: str, reference: str) -> str:
    """Return a reference to an engine or workload (`kind`) whose label is safe; nothing is looked up.

    Raises PlanError, which says what to rename, for one that is no name and no `path/to/file.py:Name`, or whose name
    holds what a spreadsheet, a shell or a terminal might take for more than a name.
    """
    if len(reference) > _LONGEST_REFERENCE:
        raise PlanError(f"{kind} {shown(reference)}: is longer than {_LONGEST_REFERENCE} characters")
    path, colon, attribute = reference.rpartition(":")
    if not colon:
        if SAFE_NAME.fullmatch(reference):
            return reference
        raise PlanError(f"{kind} {shown(reference)}: is no name; use letters, digits and . _ + -")
    file = path.rpartition("/")[2]
    if not (SAFE_NAME.fullmatch(file) and file.endswith(".py")):
        raise PlanError(
            f"{kind} {shown(reference)}: rename the file {shown(file)}: its name may have letters (a to z), digits and "
            ". _ + -, begins with a letter, digit or _, and ends with .py"
        )
    if not _SAFE_CLASS.fullmatch(attribute):
        raise PlanError(f"{kind} {shown(reference)}: rename {shown(attribute)}: letters (a to z), digits and _")
    return reference


def unknown(kind: str, name: str, known: Sequence[str]) -> PlanError:
    """Return the error for a name that is not among the known ones, with the nearest of them."""
    near = difflib.get_close_matches(name[:200], known, n=1)
    listed = ", ".join([*known[:_LISTED], *(["…"] if len(known) > _LISTED else [])])
    hint = f"did you mean {near[0]!r}?" if near else f"known are {listed}, or path/to/file.py:Name"
    return PlanError(f"unknown {kind} {shown(name)}: {hint}")


def label(reference: str) -> str:
    """Return the short, stable name of a reference: a file's is `file.py:Name`, without its folders."""
    return reference.rpartition("/")[2]
