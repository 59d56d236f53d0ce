"""From a reference of the catalogue, an entry point or a file to the engine or workload itself."""

import importlib
import importlib.util
import sys
from pathlib import Path
from typing import Any

from harness.plan.catalogue import CATALOGUES, installed
from harness.plan.outcome import CaseEnded, Outcome
from harness.plan.targets import ConvergenceTargets
from harness.training.contract import Engine, Workload

_EXPECTED = {
    "engine": ("unsupported", "prepare"),
    "workload": ("loss", "learning_rate", "epochs", "targets", "data", "model", "accuracy"),
}


def load_engine(reference: str) -> Engine:
    """Import and make an engine; raises CaseEnded (crashed) when it is not there or not an engine."""
    engine: Engine = _load("engine", reference)
    return engine


def load_workload(reference: str) -> Workload:
    """Import and make a workload; raises CaseEnded (crashed) when it is not there or not a workload."""
    workload: Workload = _load("workload", reference)
    return workload


def _load(kind: str, reference: str) -> Any:
    found = _find(kind, reference)
    made = found() if isinstance(found, type) else found
    missing = [name for name in _EXPECTED[kind] if not hasattr(made, name)]
    if missing:
        raise CaseEnded(Outcome.CRASHED, f"{reference} is no {kind}: it has no {', '.join(missing)}")
    if kind == "workload" and not isinstance(made.targets, ConvergenceTargets):
        raise CaseEnded(Outcome.CRASHED, f"{reference}: targets must be harness.plan.targets.ConvergenceTargets")
    return made


def _find(kind: str, reference: str) -> Any:
    catalogue = CATALOGUES[kind]
    if reference in catalogue:
        module, _, attribute = catalogue[reference].target.partition(":")
        return getattr(importlib.import_module(module), attribute)
    path, colon, attribute = reference.rpartition(":")
    if not colon:
        return installed(kind)[reference].load()
    module_name = f"harness_user_{Path(path).stem}"
    spec = importlib.util.spec_from_file_location(module_name, path)
    if spec is None or spec.loader is None:
        raise CaseEnded(Outcome.CRASHED, f"{path} cannot be imported as Python")
    loaded = importlib.util.module_from_spec(spec)
    sys.path.append(str(Path(path).parent))  # the file may import its neighbours
    sys.modules[module_name] = loaded  # dataclasses and pickling look their module up there
    spec.loader.exec_module(loaded)
    if not hasattr(loaded, attribute):
        raise CaseEnded(Outcome.CRASHED, f"{path} has no {attribute}")
    return getattr(loaded, attribute)
