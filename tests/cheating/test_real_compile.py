"""The real compiler under the seal that keeps cheats out: it takes twenty seconds, so not among the quick tests."""

import os
from pathlib import Path

import pytest

from harness.measuring.protocol import Request
from harness.plan.case import Case
from harness.plan.presets import Sampling
from harness.running.launcher import Launcher, worker_environment
from harness.training.toolchain import missing_toolchain


def tree(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.skipif(missing_toolchain("cpu") is not None, reason="needs what torch.compile needs")
def test_a_real_compile_breaks_no_seal_and_writes_into_no_folder_of_the_users(tmp_path, monkeypatch):
    folders = {name: tmp_path / name.lower() for name in ("HOME", "XDG_CACHE_HOME", "TMPDIR")}
    for name, folder in folders.items():
        folder.mkdir()
        monkeypatch.setenv(name, str(folder))
    user = os.environ.get("USER") or "root"
    own = {
        f".cache/torch_extensions/{user}": "HOME",
        "torch/kernels": "XDG_CACHE_HOME",
        f"torchinductor_{user}": "TMPDIR",
    }
    for path, name in own.items():
        (folders[name] / path).mkdir(parents=True)
        (folders[name] / path / "mine").write_text("mine")
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(folders["TMPDIR"] / f"torchinductor_{user}"))
    before = {name: tree(folder) for name, folder in folders.items()}
    cache = tmp_path / "cache"
    request = Request(
        Case("line", "compile_step", "cpu", "float32", 100), 0, 0, Sampling(budget_ns=50_000_000), threads=1
    )
    record = Launcher(worker_environment(cache)).measure(request)
    assert (record["outcome"], record["reason"]) == ("ok", "")
    assert (record["compile_cache"], record["graphs"]) == ("cold", 1)
    assert tree(cache / "inductor")
    # The compiler's precompiled headers are the only thing that torch puts where no setting of ours reaches.
    headers = {
        name for name in tree(folders["TMPDIR"]) if name.startswith(f"torchinductor_{user}/precompiled_headers/")
    }
    after = {name: tree(folder) for name, folder in folders.items()}
    after["TMPDIR"] = {name: text for name, text in after["TMPDIR"].items() if name not in headers}
    assert after == before
