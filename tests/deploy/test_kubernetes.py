"""docker/deploy/kubernetes.yaml: the schema, the rules beyond it, and what becomes of a shard by its exit code."""

import copy
import re
from collections.abc import Iterator
from typing import Any

import pytest

from harness.cli.common import Exit
from tests.deploy.commands import ROOT
from tests.deploy.program import complaint

yaml = pytest.importorskip("yaml", reason="nox -s tests_deploy installs it")
kubernetes_validate = pytest.importorskip("kubernetes_validate", reason="nox -s tests_deploy installs it")

JOB: dict[str, Any] = yaml.safe_load((ROOT / "docker/deploy/kubernetes.yaml").read_text("utf-8"))
SPEC = JOB["spec"]
POD = SPEC["template"]["spec"]
CONTAINER = POD["containers"][0]
VERSIONS = ("1.33", kubernetes_validate.latest_version())
FREE = ("labels", "nodeSelector", "requests", "limits")  # maps whose keys are the user's


def validate(job: dict[str, Any], version: str) -> None:
    kubernetes_validate.validate(job, version, strict=True)


def keys(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Yield the path to every key that the schema knows."""
    if isinstance(value, list):
        for index, item in enumerate(value):
            yield from keys(item, (*path, index))
    elif isinstance(value, dict) and (not path or path[-1] not in FREE):
        for key, item in value.items():
            yield (*path, key)
            yield from keys(item, (*path, key))


def at(value: Any, path: tuple[Any, ...]) -> Any:
    for part in path:
        value = value[part]
    return value


def renamed(path: tuple[Any, ...]) -> dict[str, Any]:
    job = copy.deepcopy(JOB)
    holder = at(job, path[:-1])
    holder[f"{path[-1]}x"] = holder.pop(path[-1])
    return job


@pytest.mark.parametrize("version", VERSIONS)
def test_the_schema_of_kubernetes_takes_it(version) -> None:
    validate(JOB, version)


@pytest.mark.parametrize("path", list(keys(JOB)), ids=lambda path: ".".join(map(str, path)))
def test_a_typo_in_any_key_is_caught(path) -> None:
    with pytest.raises(Exception, match=re.escape(f"{path[-1]}")):
        validate(renamed(path), VERSIONS[0])


def test_a_word_where_a_number_belongs_is_caught() -> None:
    job = copy.deepcopy(JOB)
    job["spec"]["backoffLimitPerIndex"] = "three"
    with pytest.raises(kubernetes_validate.ValidationError, match="three"):
        validate(job, VERSIONS[0])


def refusals(job: dict[str, Any]) -> list[str]:
    """What the API server refuses beyond the schema, of the fields used here."""
    spec, pod = job["spec"], job["spec"]["template"]["spec"]
    names = {container["name"] for container in pod["containers"]}
    found = []
    if spec["completionMode"] != "Indexed" or spec["maxFailedIndexes"] > spec["completions"]:
        found.append("maxFailedIndexes: of an Indexed job, and at most completions")
    if pod["restartPolicy"] != "Never" or spec["podReplacementPolicy"] != "Failed":
        found.append("podFailurePolicy: only with restartPolicy Never and podReplacementPolicy Failed")
    for rule in spec["podFailurePolicy"]["rules"]:
        codes = rule.get("onExitCodes")
        if codes and (codes["containerName"] not in names or 0 in codes["values"]):
            found.append("onExitCodes: a container of this pod, and not 0")
        if codes and codes["values"] != sorted(set(codes["values"])):
            found.append("onExitCodes: in order, each once")
    volumes = {volume["name"] for volume in pod["volumes"]}
    if {mount["name"] for container in pod["containers"] for mount in container["volumeMounts"]} != volumes:
        found.append("volumeMounts: each of a volume, and each volume mounted")
    return found


def test_the_rules_beyond_the_schema_are_kept() -> None:
    assert refusals(JOB) == []


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("spec", "maxFailedIndexes"), 9),
        (("spec", "podReplacementPolicy"), "TerminatingOrFailed"),
        (("spec", "template", "spec", "restartPolicy"), "OnFailure"),
        (("spec", "template", "spec", "containers", 0, "name"), "other"),
        (("spec", "template", "spec", "volumes", 0, "name"), "other"),
        (("spec", "podFailurePolicy", "rules", 1, "onExitCodes", "values"), [3, 1]),
    ],
)
def test_what_the_api_server_would_refuse_is_caught(path, value) -> None:
    job = copy.deepcopy(JOB)
    at(job, path[:-1])[path[-1]] = value
    assert len(refusals(job)) == 1


def insecure(pod: dict[str, Any]) -> set[str]:
    """What the restricted pod security standard, and this program's own rule of a read-only root, forbid."""
    found = set()
    if any(pod.get(key) for key in ("hostNetwork", "hostPID", "hostIPC")):
        found.add("host namespaces")
    if any(set(volume) - {"name", "emptyDir"} for volume in pod["volumes"]):
        found.add("volumes")
    for container in pod["containers"]:
        own = container.get("securityContext", {})
        context = {**pod.get("securityContext", {}), **own}
        if context.get("runAsNonRoot") is not True or context.get("runAsUser") == 0:
            found.add("root")
        if context.get("seccompProfile", {}).get("type") not in ("RuntimeDefault", "Localhost"):
            found.add("seccomp")
        if own.get("allowPrivilegeEscalation") is not False or own.get("privileged"):
            found.add("privileges")
        capabilities = own.get("capabilities", {})
        if "ALL" not in capabilities.get("drop", []) or capabilities.get("add"):
            found.add("capabilities")
        if own.get("readOnlyRootFilesystem") is not True:
            found.add("writable root")
    return found


def test_the_pod_meets_the_restricted_standard() -> None:
    assert insecure(POD) == set()


@pytest.mark.parametrize(
    ("path", "finding"),
    [
        (("securityContext", "runAsNonRoot"), "root"),
        (("securityContext", "seccompProfile"), "seccomp"),
        (("containers", 0, "securityContext", "allowPrivilegeEscalation"), "privileges"),
        (("containers", 0, "securityContext", "capabilities"), "capabilities"),
        (("containers", 0, "securityContext", "readOnlyRootFilesystem"), "writable root"),
    ],
)
def test_each_part_of_the_standard_is_needed(path, finding) -> None:
    pod = copy.deepcopy(POD)
    del at(pod, path[:-1])[path[-1]]
    assert insecure(pod) == {finding}


def becomes(code: int, *, disrupted: bool) -> str:
    """What Kubernetes makes of a pod that ended: the action of the first rule that fits, or Count for none."""
    for rule in SPEC["podFailurePolicy"]["rules"]:
        if disrupted and {"type": "DisruptionTarget", "status": "True"} in rule.get("onPodConditions", []):
            return rule["action"]
        if code in rule.get("onExitCodes", {"values": []})["values"]:
            return rule["action"]
    return "Count"


@pytest.mark.parametrize(
    ("code", "becomes_of_it"),
    [
        (Exit.MISSED, "FailIndex"),
        (Exit.USAGE, "Count"),
        (Exit.NOT_COMPARABLE, "FailIndex"),
        (Exit.UNDECIDED, "FailIndex"),
        (Exit.INTERRUPTED, "Count"),
        (137, "Count"),
    ],
)
def test_what_is_final_is_not_tried_again_and_a_preemption_never_counts(code, becomes_of_it) -> None:
    assert becomes(code, disrupted=False) == becomes_of_it
    assert becomes(code, disrupted=True) == "Ignore"
    assert SPEC["backoffLimitPerIndex"] >= 1


def test_every_exit_code_of_the_program_was_thought_of() -> None:
    assert {int(code) for code in Exit} == {0, 1, 2, 3, 4, 130}


def test_the_program_takes_the_arguments_of_the_last_shard(tmp_path) -> None:
    completions = SPEC["completions"]
    declared = {variable["name"] for variable in CONTAINER["env"]}
    used = set(re.findall(r"\$\((\w+)\)", " ".join(CONTAINER["args"])))
    assert used == declared == {"JOB_COMPLETION_INDEX"}
    arguments = [word.replace("$(JOB_COMPLETION_INDEX)", str(completions - 1)) for word in CONTAINER["args"]]
    assert arguments[arguments.index("--shard") + 1] == f"{completions - 1}/{completions}"
    assert SPEC["parallelism"] == SPEC["maxFailedIndexes"] == completions
    assert complaint(arguments, tmp_path) == ""
    assert "--devicex" in complaint([f"{word}x" if word == "--device" else word for word in arguments], tmp_path)


def test_the_image_finds_its_user_and_the_folders_that_it_writes() -> None:
    dockerfile = (ROOT / "docker/Dockerfile").read_text("utf-8")
    context = POD["securityContext"]
    assert f"USER {context['runAsUser']}:{context['runAsGroup']}" in dockerfile
    assert {"/tmp", "/results"} <= {mount["mountPath"] for mount in CONTAINER["volumeMounts"]}  # noqa: S108
    assert CONTAINER["resources"]["requests"] == CONTAINER["resources"]["limits"]
    assert CONTAINER["resources"]["limits"]["nvidia.com/gpu"] == 1
