"""`harness prove`: real processes, of a part of the catalogue."""

import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from harness.tables.files import read_table

ROOT = Path(__file__).parents[1]
# The command with fewer engines, each of which takes a process.
PROGRAM = """
import sys
from harness.plan import proof

chosen = sys.argv.pop(1).split(",")
whole = proof.plan_proof()
proof.plan_proof = lambda: tuple(case for case in whole if case.case_id.split("/", 1)[1].split("/")[0] in chosen
                                 and (case.workload, case.batch_size) == ("line", 100) and case.dtype == "float32")
from harness.cli import main
main()
"""


def started(tmp_path: Path, chosen: str, *arguments: str) -> "subprocess.Popen[str]":
    command = [sys.executable, "-c", PROGRAM, chosen, "prove", "--out", str(tmp_path), *arguments]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=ROOT)


def the_folder(tmp_path: Path) -> Path:
    [folder] = tmp_path.glob("*/prove/*")
    return folder


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    """A proof of eight seeds: its folder, its exit code and what it said."""
    out = tmp_path_factory.mktemp("results")
    process = started(out, "autograd,FactorTwoLost,WrongSign", "--seeds", "8")
    said, complaints = process.communicate(timeout=120)
    return the_folder(out), process.returncode, said, complaints


def test_a_right_engine_passes_and_mistakes_are_caught_on_every_seed(done):
    folder, code, said, complaints = done
    assert code == 0, complaints
    table = read_table(folder, "mistakes").set_index("engine")
    assert dict(table["outcome"]) == dict.fromkeys(("autograd", "FactorTwoLost", "WrongSign"), "ok")
    assert table.loc["autograd", "caught_seeds"] == 0
    assert table.loc["autograd", "gate_share"] <= 1
    assert table.loc["autograd", "same_share"] == 1
    assert list(table.loc[["FactorTwoLost", "WrongSign"], "caught_seeds"]) == [8, 8]
    assert "2 mistakes, 2 of them caught" in said
    assert f"kept in {folder}" in said


def test_a_mistake_that_is_half_a_gradient_still_learns_and_one_of_the_wrong_sign_does_not(done):
    table = read_table(done[0], "mistakes").set_index("engine")
    assert 1 < table.loc["FactorTwoLost", "loss_ratio"] < 10
    assert table.loc["WrongSign", "loss_p50"] > 1
    assert table.loc["WrongSign", "trains_anyway"] == "no"


def test_every_seed_and_every_epoch_is_kept(done):
    convergence = read_table(done[0], "convergence")
    assert dict(convergence.groupby("engine").size()) == dict.fromkeys(convergence["engine"].unique(), 8)
    epochs = read_table(done[0], "epochs")
    assert list(epochs["epoch"]) == list(range(1, 21))
    assert set(epochs["engine"]) == {"autograd"}  # the way there is asked of right gradients only
    table = read_table(done[0], "mistakes").set_index("engine")
    assert epochs["loss_p50"].iloc[-1] == table.loc["autograd", "loss_p50"]


def test_ctrl_c_keeps_what_is_finished_and_ends_with_130(tmp_path):
    process = started(tmp_path, "autograd,WrongSign", "--seeds", "10000")
    began = time.monotonic()
    while not list(tmp_path.glob("*/prove/*")) and time.monotonic() < began + 60:
        time.sleep(0.1)
    time.sleep(1)
    process.send_signal(signal.SIGINT)
    _, complaints = process.communicate(timeout=30)
    assert process.returncode == 130
    assert re.search(r"^harness: interrupted; what was finished is kept in ", complaints, re.M)
    table = read_table(the_folder(tmp_path), "mistakes")
    assert "interrupted" in set(table["outcome"])
    assert len(table) == 2


def test_a_number_of_seeds_that_is_none_is_one_line(tmp_path):
    process = started(tmp_path, "autograd", "--seeds", "0")
    _, complaints = process.communicate(timeout=30)
    assert process.returncode == 2
    assert len(complaints.strip().splitlines()) == 1
    assert not list(tmp_path.iterdir())
