"""What a command of a document calls: the arguments of `harness`, as nox hands them on, by the sessions themselves."""

import importlib.util
from types import ModuleType, SimpleNamespace
from unittest import mock

from tests.documents.fences import ROOT


def _noxfile() -> ModuleType:
    spec = importlib.util.spec_from_file_location("noxfile_of_documents", ROOT / "noxfile.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


NOXFILE = _noxfile()


def program_arguments(words: tuple[str, ...]) -> tuple[str, ...] | None:
    """Return what a command gives to `harness`, itself or by a nox session; None where it starts something else.

    Nothing is installed and nothing is started. Raises AttributeError for a session that there is none of.
    """
    if words[:1] == ("harness",):
        return words[1:]
    if words[:2] != ("nox", "-s") or "&&" in words:
        return None
    session = getattr(NOXFILE, words[2])
    told: list[tuple[str, ...]] = []
    with (
        mock.patch.object(NOXFILE, "install_torch", return_value="python"),
        mock.patch.object(NOXFILE, "install_program", return_value="python"),
        mock.patch.object(NOXFILE, "finish", lambda _session, *command: told.append(command)),
    ):
        session(SimpleNamespace(posargs=list(words[4:]), venv_backend="virtualenv"))
    ((python, flag, module, *arguments),) = told
    assert (python, flag, module) == ("python", "-m", "harness")
    return tuple(arguments)
