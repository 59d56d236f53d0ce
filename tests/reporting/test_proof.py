import io
import json

import pytest
from rich.console import Console

from harness.comparing.proof import depths, proven
from harness.plan.case import Case
from harness.reporting.proof import ProofProgress, show_depths, show_faults, show_proof
from harness.tables.proof import build_proof
from tests.tables.test_proof import GOOD, RUN, TRUTH, WRONG, caught, record

DEEP = Case("line_deep", "autograd", "cpu", "float32", 100)
OLDEST = Case("line", "finite_differences", "cpu", "float32", 100)
BAD = Case("line", "WrongSign", "cpu", "float32", 100)
GATE = caught((1, "0.weight", 2.5e4))
FOUND = {
    TRUTH: record(GOOD),
    DEEP: record([0.04, 0.05]),
    WRONG: record([2 * loss for loss in GOOD], gate=GATE),
    BAD: record([None] * 60, accuracy=0.0, gate=GATE),
    OLDEST: record(GOOD, forward_passes=63, ratio_to_autograd=0.1, gate=GATE),
}


@pytest.fixture
def tables():
    return build_proof(RUN, list(FOUND), FOUND)


def text_of(show, *arguments, **named):
    console = Console(file=io.StringIO(), width=220)
    show(console, *arguments, **named)
    return console.file.getvalue()


def test_engines_are_shown_best_first_with_the_lessons_claim_in_its_place(tables):
    text = text_of(show_proof, tables["mistakes"], proven(tables["mistakes"]), interrupted=False)
    order = [text.index(part) for part in ("ReluMaskForgotten", "the lesson's “before”", "WrongSign")]
    assert order == sorted(order)
    line = next(each for each in text.splitlines() if each.strip().startswith("ReluMaskForgotten"))
    assert "1 of 1" in line
    assert "0.weight at 1" in line
    assert "2e+04" in line
    assert line.split()[-1] == "yes"
    assert "∞" in next(each for each in text.splitlines() if each.strip().startswith("WrongSign"))


def test_what_follows_is_told_in_words(tables):
    text = text_of(show_proof, tables["mistakes"], proven(tables["mistakes"]), interrupted=False)
    assert "2 mistakes, 2 of them caught by the gate on every seed. 1 (50%) train anyway: over 60 seeds" in text
    assert "63 forward passes per update, 10 times autograd's time" in text
    assert "Nearest to the lesson's “before”, loss 0.5 and accuracy 50%: ReluMaskForgotten" in text


def test_what_speaks_against_it_is_named():
    missed = {**FOUND, WRONG: record(GOOD), TRUTH: record(GOOD, gate=GATE)}
    del missed[BAD]
    proof = proven(build_proof(RUN, list(FOUND), missed)["mistakes"])
    lines = text_of(show_faults, proof).splitlines()
    assert lines[0] == "MISSED line/ReluMaskForgotten/cpu/float32/b100: caught on 0 of 1 seeds"
    assert lines[1] == "FLAGGED line/autograd/cpu/float32/b100: caught on 1 of 1 seeds"
    assert lines[2].startswith("interrupted line/WrongSign/cpu/float32/b100: not finished")


def test_a_second_layer_is_shown_by_epoch(tables):
    text = text_of(show_depths, *depths(tables["epochs"]))
    assert "0.02 [0.01 – 0.03]" in text
    assert "100.0%" in text


def test_without_a_terminal_each_finished_process_is_a_line():
    console = Console(file=io.StringIO(), width=220)
    with ProofProgress(console, 2, quiet=False) as progress:
        progress.count(TRUTH, {"outcome": "ok", "reason": "", "seconds": 1.25})
        progress.count(DEEP, {"outcome": "crashed", "reason": "it fell", "seconds": 2})
    assert console.file.getvalue().splitlines() == [
        "1/2 line/autograd/cpu/float32/b100 ok (1.2 s)",
        "2/2 line_deep/autograd/cpu/float32/b100 crashed: it fell (2.0 s)",
    ]


def test_the_chart_holds_every_engine_and_is_drawn(tables, tmp_path):
    pytest.importorskip("altair")
    pytest.importorskip("vl_convert")
    from harness.reporting.charts.proof import FILES, write_chart

    write_chart(tmp_path, tables["mistakes"], tables["epochs"])
    assert all((tmp_path / name).stat().st_size > 1000 for name in FILES)
    chart = json.loads((tmp_path / "proof.vl.json").read_text())
    rows = [row for data in chart["datasets"].values() for row in data if "ending" in row]
    assert {row["engine"]: row["ending"] for row in rows} == {
        "autograd": "right",
        "autograd (line_deep)": "right",
        "finite_differences": "right",
        "ReluMaskForgotten": "trains anyway",
        "WrongSign": "does not train",
    }
    assert all(0 < row["loss_p05"] <= 100 for row in rows)
