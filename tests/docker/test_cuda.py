"""The CUDA image but for its torch: every layer of it on the environment of the CPU image."""

import json

import pytest

from tests.docker.engine import ROOT

NAME, STAGE = "localhost/harness-test:cuda", "localhost/harness-test:stage"
SAID = {"revision": "abcdef1", "version": "1.2.3", "source": "https://example.org/gradient-harness"}


@pytest.fixture(scope="module")
def cuda(engine, image):
    """The image, with the CPU image's stage instead of the one that would download gigabytes; both are cached."""

    def build(target, tag, *more):
        command = ("build", "--target", target, "--tag", tag, "--file", "docker/Dockerfile", *more)
        engine(*command, *engine.build_arguments(), ROOT, timeout_s=300)

    build("build-cpu", STAGE)
    said = [word for name, value in SAID.items() for word in ("--build-arg", f"{name.upper()}={value}")]
    build("cuda", NAME, "--build-context", f"build-cuda=docker-image://{STAGE}", *said)
    return NAME


def test_without_a_gpu_it_ends_with_one_line_that_says_so_and_2(run, writable, cuda):
    ended = run("run", "--device", "cuda", flags=writable, of=cuda)
    assert (ended.returncode, ended.stdout) == (2, "")
    (line,) = ended.stderr.splitlines()
    assert "device cuda: there is no NVIDIA GPU here" in line
    assert "--device cpu" in line


def test_it_asks_the_toolkit_for_the_gpus_and_runs_as_nobody_special(engine, cuda):
    told = engine.inspect(cuda, "json .Config.Env")
    for variable in ("NVIDIA_VISIBLE_DEVICES=all", "NVIDIA_DRIVER_CAPABILITIES=compute,utility"):
        assert variable in told
    assert engine.inspect(cuda, ".Config.User") == "10001:10001"


def test_its_labels_are_what_the_builder_was_told(engine, cuda):
    labels = json.loads(engine.inspect(cuda, "json .Config.Labels"))
    for name, value in {**SAID, "title": "gradient-harness (CUDA)"}.items():
        assert labels[f"org.opencontainers.image.{name}"] == value
