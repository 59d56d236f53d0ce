import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import harness
from harness.plan.errors import NotComparable, PlanError
from harness.running.nodes import Node, check_node, one_line, question, together
from harness.running.session import Machine

FACTS = {"cpu_model": "AMD EPYC", "cpus": 2, "torch": "2.13.0+cpu", "memory_bytes": 2**33}
ROOT = Path(harness.__file__).parents[1]


def node(key: str, fingerprint: str = "00aa11bb22cc", **facts: object) -> Node:
    return Node(key * 14, f"10.0.0.{key[0]}", 2, 0, Machine({**FACTS, **facts}, "amd-epyc-2c", fingerprint))


def test_alike_machines_are_kept_as_one_of_them_with_what_they_share():
    both = together([node("1234"), node("5678", memory_bytes=2**34)])
    assert (both.slug, both.fingerprint, both.on) == ("amd-epyc-2c", "00aa11bb22cc", "ray")
    assert both.facts == {"cpu_model": "AMD EPYC", "cpus": 2, "torch": "2.13.0+cpu", "nodes": 2}


def test_machines_of_several_kinds_are_a_cluster_that_is_the_same_in_any_order():
    kinds = [node("1234"), node("5678", "cc22bb11aa00", cpus=1)]
    both = together(kinds)
    assert both.slug == "cluster"
    assert both.fingerprint == together(kinds[::-1]).fingerprint
    assert both.fingerprint != together([node("1234"), node("5678", "ffffffffffff")]).fingerprint
    assert "cpus" not in both.facts


def test_a_record_names_its_machine_by_what_it_is_and_by_rays_own_name_and_never_by_its_address():
    assert node("1234").place() == {
        "machine": "amd-epyc-2c",
        "fingerprint": "00aa11bb22cc",
        "node": "123412341234",
        "environment": {"cpu_model": "AMD EPYC", "cpus": 2, "torch": "2.13.0+cpu"},
    }


def test_the_code_of_a_node_is_told_apart_by_any_file_of_it(tmp_path):
    """Asked in processes of their own that import other copies, as nodes are."""
    file = tmp_path / "mine.py"
    file.write_text("one")
    asked = (
        "import sys; sys.path[0] = sys.argv[2]\n"
        "from harness.running.nodes import question\n"
        "sys.path[0] = sys.argv[1]\n"
        "for name in [name for name in sys.modules if name.partition('.')[0] == 'harness']: del sys.modules[name]\n"
        "print(question()('', '', [sys.argv[3]])['code'])"
    )

    def code(folder: Path) -> str:
        # -S: the program may be installed where the tests run, and a node that has none has not.
        command = [sys.executable, "-S", "-c", asked, str(folder), str(ROOT), str(file)]
        return subprocess.run(command, capture_output=True, text=True, check=True, cwd=tmp_path).stdout.strip()

    copy = tmp_path / "copy"
    shutil.copytree(ROOT / "harness", copy / "harness", ignore=shutil.ignore_patterns("__pycache__"))
    assert code(copy) == code(ROOT) == question()("", "", [])["code"]
    with (copy / "harness/plan/standard.toml").open("a") as changed:
        changed.write("# changed")
    assert code(copy) != code(ROOT)
    (tmp_path / "nothing").mkdir()
    assert code(tmp_path / "nothing") == ""


def test_a_node_with_the_same_code_says_what_it_is_and_one_with_other_code_does_not(tmp_path):
    mine, gone = tmp_path / "mine.py", tmp_path / "gone.py"
    mine.write_text("one")
    ours = question()("", "", [str(mine), str(gone)])
    told = question()(ours["code"], "cpu", [str(mine), str(gone)])
    assert told["facts"]["cpus"] >= 1
    assert "facts" not in question()("0123456789ab", "cpu", [])
    assert told["files"] == ours["files"]
    assert ours["files"][str(gone)] == "" != ours["files"][str(mine)]


def test_a_node_that_lacks_the_program_its_code_or_a_file_is_refused_with_what_to_do():
    ours = {"code": "00aa", "files": {"/x/mine.py": "11bb"}}
    check_node("10.0.0.1", ours, ours)
    for told, error, text in (
        ({**ours, "code": ""}, PlanError, "10.0.0.1 has no gradient-harness: install there"),
        ({**ours, "code": "ffff"}, NotComparable, r"10.0.0.1 has other code of gradient-harness \('ffff', here 00aa\)"),
        ({**ours, "files": {"/x/mine.py": ""}}, PlanError, "10.0.0.1 has no /x/mine.py: copy yours"),
        ({**ours, "files": {"/x/mine.py": "22cc"}}, PlanError, "10.0.0.1 has another /x/mine.py: copy yours"),
    ):
        with pytest.raises(error, match=text):
            check_node("10.0.0.1", told, ours)


def test_what_ray_says_of_a_failure_is_kept_without_the_addresses_in_it():
    crashed = type("WorkerCrashedError", (Exception,), {})("The worker at ip-10-0-0-1.internal died")
    assert one_line(crashed) == "Ray says WorkerCrashedError"
    raised = type("RayTaskError", (Exception,), {})("a long trace with ip=10.0.0.1")
    raised.cause = OSError(28, "No space left on device")
    assert one_line(raised) == "OSError: [Errno 28] No space left on device"
