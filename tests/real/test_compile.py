"""A case that is really compiled, in a worker of its own: twenty seconds, so not among the quick tests."""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from harness.measuring.protocol import Request
from harness.plan.case import Case
from harness.plan.presets import Sampling
from harness.running.launcher import Launcher, worker_environment
from harness.training.toolchain import missing_toolchain

USER = os.environ.get("USER") or "root"
# What the user has where torch would put its own without settings, by the folder's variable.
OWN = {
    f".cache/torch_extensions/{USER}": "HOME",
    "torch/kernels": "XDG_CACHE_HOME",
    f"torchinductor_{USER}": "TMPDIR",
}


def tree(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@dataclass(frozen=True)
class Compiled:
    """What was measured, the run's caches, and the user's folders before and after."""

    record: dict[str, Any]
    cache: Path
    before: dict[str, dict[str, bytes]]
    after: dict[str, dict[str, bytes]]


@pytest.fixture(scope="module")
def compiled(tmp_path_factory) -> Compiled:
    if missing_toolchain("cpu") is not None:
        pytest.skip("needs what torch.compile needs")
    place = tmp_path_factory.mktemp("compiled")
    folders = {name: place / name.lower() for name in ("HOME", "XDG_CACHE_HOME", "TMPDIR")}
    for path, name in OWN.items():
        (folders[name] / path).mkdir(parents=True)
        (folders[name] / path / "mine").write_text("mine")
    before = {name: tree(folder) for name, folder in folders.items()}
    with pytest.MonkeyPatch.context() as patch:
        for name, folder in folders.items():
            patch.setenv(name, str(folder))
        patch.delenv("TORCHINDUCTOR_VEC_ISA_OK", raising=False)  # what it would leave out leaves files as well
        patch.setenv("TORCHINDUCTOR_CACHE_DIR", str(folders["TMPDIR"] / f"torchinductor_{USER}"))
        case = Case("line", "compile_step", "cpu", "float32", 100)
        request = Request(case, 0, 0, Sampling(budget_ns=50_000_000), threads=1)
        record = Launcher(worker_environment(place / "cache")).measure(request)
    return Compiled(record, place / "cache", before, {name: tree(folder) for name, folder in folders.items()})


def test_a_compile_is_in_the_first_call_and_never_in_a_step(compiled):
    record = compiled.record
    assert (record["outcome"], record["reason"]) == ("ok", "")
    assert record["compile_cache"] == "cold"
    assert "first_call_warm_ns" not in record
    assert record["first_call_cold_ns"] > 100 * record["step_ns"]
    assert record["first_call_cold_ns"] > max(record["blocks_ns"])
    assert (record["graphs"], record["graph_breaks"], record["recompiles"]) == (1, 0, 0)


def test_a_compile_writes_into_no_folder_of_the_users(compiled):
    assert tree(compiled.cache / "inductor")
    # The compiler's precompiled headers are the only thing that torch puts where no setting of ours reaches.
    headers = f"torchinductor_{USER}/precompiled_headers/"
    after = dict(compiled.after)
    after["TMPDIR"] = {name: text for name, text in after["TMPDIR"].items() if not name.startswith(headers)}
    assert after == compiled.before
