"""What the images are made of: locks that hold what the project asks for, a Dockerfile that agrees with other files."""

import importlib.util
import re
import sys
import tomllib
from pathlib import Path
from types import ModuleType

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import harness

ROOT = Path(sys.modules["harness"].__file__).parents[1]
DOCKERFILE = (ROOT / "docker/Dockerfile").read_text("utf-8")
LOCKS = ("cpu", "cu130")


def load_lock() -> ModuleType:
    spec = importlib.util.spec_from_file_location("lock", ROOT / "docker/lock.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


lock = load_lock()
# Read and not loaded: nox takes each session only once, and other tests have them.
NOXFILE = (ROOT / "noxfile.py").read_text("utf-8")
TORCH = re.search(r'^TORCH = "(.*)"$', NOXFILE, re.MULTILINE)[1]
FIRST_WHEEL = re.search(r'^CUDA_WHEELS = \(\n    CudaWheel\("(\w+)"', NOXFILE, re.MULTILINE)[1]


def locked(tag: str) -> dict[str, str]:
    return dict(list(lock.read((ROOT / f"docker/lock-{tag}.txt").read_text("utf-8"))))


@pytest.mark.parametrize("tag", LOCKS)
def test_a_lock_holds_what_the_project_asks_for_in_a_version_that_it_takes(tag: str) -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))
    wanted = [*project["project"]["dependencies"], *project["project"]["optional-dependencies"]["torch"]]
    versions = locked(tag)
    for each in map(Requirement, (*wanted, *project["build-system"]["requires"])):
        assert each.specifier.contains(versions[canonicalize_name(each.name)]), each


@pytest.mark.parametrize("tag", LOCKS)
def test_every_line_of_a_lock_is_one_version_with_its_hashes(tag: str) -> None:
    text = (ROOT / f"docker/lock-{tag}.txt").read_text("utf-8")
    found = lock.read(text)
    assert len(found) > 20
    assert all(hashes for hashes in found.values())
    assert len(re.findall(r"^[a-z0-9-]+==", text, re.MULTILINE)) == len(found)
    assert lock.written(found, tag) == text


def test_the_torch_of_a_lock_is_the_one_that_nox_installs_and_only_the_gpus_is_built_for_cuda() -> None:
    assert locked("cpu")["torch"] == f"{TORCH}+cpu"
    assert locked("cu130")["torch"] == TORCH  # PyPI's name for it
    assert not any("nvidia" in name or "cuda" in name for name in locked("cpu") if name != "nvidia-ml-py")
    assert '\nPYPI_CUDA = "cu130"' in NOXFILE
    # What PyPI has under the bare version is built for this CUDA.
    assert locked("cu130")["nvidia-cuda-runtime"].startswith("13.0.")


def test_the_dockerfile_agrees_with_the_other_files() -> None:
    said = dict(re.findall(r"^ARG (\w+)=(.*)$", DOCKERFILE, re.MULTILINE))
    assert said["CUDA"] == FIRST_WHEEL
    assert said["VERSION"] == harness.__version__
    assert f'TORCH_INDEX = "{said["TORCH_INDEX"]}"\n' in NOXFILE
    (uid,) = set(re.findall(r"^USER (\d+):\1$", DOCKERFILE, re.MULTILINE))
    assert f"\nIMAGE_UID = {uid} " in NOXFILE


def test_nothing_is_installed_that_no_hash_was_checked_of() -> None:
    installs = re.findall(r"pip install ((?:.*\\\n)*.*)", DOCKERFILE)
    assert len(installs) == 4
    assert all("--require-hashes" in each or "--no-index" in each for each in installs)


def test_a_lock_is_read_as_it_is_written() -> None:
    known = {("a-b", "1.0"): {"0" * 64}, ("torch", "2.13.0+cpu"): {"1" * 64, "2" * 64}}
    text = lock.written(known, "cpu")
    assert lock.read(text) == known
    assert lock.read(text.replace("torch===", "# why\ntorch===")) == known
    assert text.startswith("# Made by `nox -s docker_lock -- cpu`")
