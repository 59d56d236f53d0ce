"""The example workflow that publishes the images: its script runs under the shell that GitHub uses."""

import re
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

import harness

ROOT = Path(sys.modules["harness"].__file__).parents[1]
WORKFLOW = (ROOT / "docs/examples/publish-images.yml").read_text("utf-8")
DOCKERFILE = (ROOT / "docker/Dockerfile").read_text("utf-8")


def part(start: str) -> str:
    """The text of the step whose first line has this, without its dash."""
    found = re.search(rf"^      - .*{re.escape(start)}.*\n((?:        .*\n|\n)*)", WORKFLOW, re.MULTILINE)
    assert found, start
    return found[0]


def script(name: str) -> str:
    found = re.search(r"^        run: \|\n((?:          .*\n|\n)*)", part(f"name: {name}"), re.MULTILINE)
    assert found, name
    return textwrap.dedent(found[1])


@pytest.fixture
def named(tmp_path):
    """Run the step that names the images, for a tag; return its exit code, what it says and what it puts out."""

    def call(tag: str) -> tuple[int, str, dict[str, str]]:
        output = tmp_path / "output"
        environment = {"TAG": tag, "TARGET": "cpu", "IMAGE": "registry.example/Some/Harness", "REVISION": "a" * 40}
        ended = subprocess.run(
            ["bash", "--noprofile", "--norc", "-eo", "pipefail", "-c", script("Name")],
            cwd=ROOT,
            env={"PATH": "/usr/bin:/bin", "GITHUB_OUTPUT": str(output), **environment},
            capture_output=True,
            text=True,
            timeout=30,
            check=False,
        )
        lines = output.read_text("utf-8").splitlines() if output.exists() else []
        return ended.returncode, ended.stdout, dict(line.split("=", 1) for line in lines)

    return call


def test_an_image_is_named_by_version_and_by_commit_in_lower_case(named) -> None:
    code, _, outputs = named(f"v{harness.__version__}")
    assert code == 0
    assert outputs == {
        "version": harness.__version__,
        "tags": f"registry.example/some/harness:{harness.__version__}-cpu,registry.example/some/harness:{'a' * 40}-cpu",
    }


@pytest.mark.parametrize("tag", ["v9.9.9", f"{harness.__version__}", "latest"])
def test_a_tag_that_is_not_the_version_publishes_nothing(named, tag) -> None:
    code, said, outputs = named(tag)
    assert (code, outputs) == (1, {})
    assert said == f"::error title=wrong tag::the tag is {tag}, and the program's version {harness.__version__}\n"


def test_both_targets_of_the_dockerfile_are_published_by_tag_with_sbom_and_provenance() -> None:
    targets = re.search(r"target: \[(.*)\]", WORKFLOW)[1].split(", ")
    assert sorted(targets) == sorted(re.findall(r"^FROM runtime AS (\w+)$", DOCKERFILE, re.MULTILINE))
    assert re.search(r"^on:\n  push:\n    tags: \[\"v\*\"\]\n", WORKFLOW, re.MULTILINE)
    build = part("docker/build-push-action@")
    for line in ("sbom: true", "provenance: mode=max", "push: true", "file: docker/Dockerfile", "context: ."):
        assert re.search(rf"^          {re.escape(line)}( #.*)?$", build, re.MULTILINE), line


def test_every_argument_that_is_passed_is_one_that_the_dockerfile_takes() -> None:
    passed = re.findall(r"^            (\w+)=", part("docker/build-push-action@"), re.MULTILINE)
    assert set(passed) == {"REVISION", "VERSION", "SOURCE"}
    assert set(passed) <= set(re.findall(r"^ARG (\w+)", DOCKERFILE, re.MULTILINE))


def test_what_is_published_was_tested_before_by_a_session_that_there_is() -> None:
    assert "    needs: test\n" in WORKFLOW
    (session,) = re.findall(r"nox -s (\w+)", script("Test"))
    assert f"def {session}(session" in (ROOT / "noxfile.py").read_text("utf-8")


def test_every_action_is_pinned_by_commit_and_no_script_holds_what_github_would_paste_into_it() -> None:
    actions = re.findall(r"uses: (.*)", WORKFLOW)
    assert len(actions) == 5
    for action in actions:
        assert re.fullmatch(r"(actions|docker)/[a-z-]+@[0-9a-f]{40} # v\d+\.\d+\.\d+", action), action
    for name in ("Test", "Name"):
        assert "${{" not in script(name)


def test_only_the_job_that_publishes_has_the_secret_and_no_token_is_left_in_the_checkout() -> None:
    assert re.findall(r"^( *)permissions:\n((?:  .*\n)+)", WORKFLOW, re.MULTILINE) == [("", "  contents: read\n")]
    before, _, publishing = WORKFLOW.partition("\n  publish:\n")
    assert "secrets." not in before
    assert re.findall(r"secrets\.\w+", publishing) == ["secrets.REGISTRY_TOKEN"]
    assert WORKFLOW.count("persist-credentials: false") == WORKFLOW.count("actions/checkout@")
