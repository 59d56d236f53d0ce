"""Tables, charts and figures of README and of the experiment are those of what is stored, as the program writes it."""

import math
import re
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

import pandas as pd
import pytest
from click.testing import CliRunner

from harness.cli import cli
from harness.reporting.terminal import duration, half_width, ratio_interval
from tests.documents.fences import ROOT, STORED, links

README = ROOT / "README.md"
SUMMARY = pd.read_csv(ROOT / STORED / "summary.csv")
EXPERIMENT = ROOT / "docs/experiment.md"
PROOF = ROOT / "results/intel-xeon-2c/prove/20261129T054946Z-1dae50c0ef"
CHART = ROOT / "docs/charts/step-time-line-cpu-float32-1-thread.svg"


def drawn(chart: Path) -> tuple[list[str], list[str]]:
    """What a chart says of its marks, and the words that can be read in it: all but where each lies."""
    elements = list(ET.parse(chart).getroot().iter())  # noqa: S314 - the project's own file
    marks = [label for element in elements if (label := element.get("aria-label", "")).startswith("batch size:")]
    return marks, [element.text for element in elements if element.tag.endswith("}text") and element.text]


def cells(row: dict[str, Any]) -> list[str]:
    return [
        f"`{row['workload']}`",
        str(row["batch_size"]),
        f"`{row['engine']}`",
        duration(row["step_ns"]),
        half_width(row["step_ns"], row["step_ns_low"], row["step_ns_high"]),
        format(row["samples_per_s"], ".3g"),
        ratio_interval(row),
        f"{row['converged_share']:.0%}",
        {"yes": "met", "no": "missed"}.get(row["targets_met"], row["targets_met"]),
    ]


def test_the_table_is_the_summary_row_by_row() -> None:
    lines = README.read_text("utf-8").splitlines()
    (head,) = (number for number, line in enumerate(lines) if line.startswith("| workload | batch | engine | step |"))
    shown = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[head + 2 :][: len(SUMMARY) + 1]]
    assert shown[:-1] == [cells(row) for row in SUMMARY.to_dict("records")]
    assert shown[-1] == [""]


def test_the_chart_shows_the_step_times_of_the_summary_with_their_intervals() -> None:
    assert str(CHART.relative_to(ROOT)) in links(README)
    pattern = r"batch size: (\d+); .*; engine: (\w+); step time: (.*); 95 % interval: (.*) to (.*)"
    shown = [match.groups() for label in drawn(CHART)[0] if (match := re.fullmatch(pattern, label))]
    rows = SUMMARY[SUMMARY["workload"] == "line"].to_dict("records")
    times = ("step_ns", "step_ns_low", "step_ns_high")
    wanted = [(str(row["batch_size"]), row["engine"], *(duration(row[name]) for name in times)) for row in rows]
    assert sorted(shown) == sorted(wanted)


@pytest.mark.skipif(
    any(find_spec(name) is None for name in ("altair", "vl_convert")), reason="needs the extra `report` to draw"
)
def test_the_chart_is_what_the_program_draws_of_the_stored_run(tmp_path) -> None:
    import vl_convert

    from harness.reporting.html.charts import step_times
    from harness.reporting.html.embedded import vega_lite_version
    from harness.reporting.html.figures import as_picture
    from harness.reporting.html.groups import case_groups, numbered
    from harness.tables.files import read_table

    summary = read_table(ROOT / STORED, "summary")
    groups = case_groups(summary)
    chart = step_times(groups[0], numbered(groups))
    assert chart is not None
    assert f"{chart.slug}.svg" == CHART.name
    again = tmp_path / CHART.name
    again.write_text(vl_convert.vegalite_to_svg(as_picture(chart), vl_version=vega_lite_version()), "utf-8")
    assert drawn(again) == drawn(CHART), f"harness report {STORED} --charts draws it anew"


def test_the_chart_can_be_read_on_a_dark_page() -> None:
    background = ET.parse(CHART).getroot()[0]  # noqa: S314
    assert background.tag.endswith("}rect")
    assert background.get("fill") == "white"


@pytest.mark.parametrize("engine", ["manual", "compile_step", "autograd", "compile"])
def test_the_words_beside_the_picture_say_what_it_shows(engine) -> None:
    rows = SUMMARY[(SUMMARY["workload"] == "line") & (SUMMARY["engine"] == engine)].sort_values("batch_size")
    first, last = (f"{value / 1000:.0f}" for value in rows["step_ns"].iloc[[0, -1]])
    text = re.sub(r"\s+", " ", README.read_text("utf-8"))
    assert f"{engine} {first} to {last} µs" in text


def test_what_readme_says_of_engines_is_what_crossover_says_of_the_run() -> None:
    answer = CliRunner().invoke(cli, ["crossover", str(ROOT / STORED)], env={"COLUMNS": "200"})
    said = r"^\| `(\w+)` \| [^|]* \| (?:the fastest|([\d.]+) to ([\d.]+) times)(?:.*after ([\d,]+) to ([\d,]+) upd)?"
    told = re.findall(said, README.read_text("utf-8"), re.MULTILINE)
    assert [engine for engine, *_ in told] == ["manual", "compile_step", "autograd", "compile"]
    for engine, *figures, low, high in told:
        assert all(f"{engine} {figure} ×" in answer.output for figure in figures if figure)
        for updates in filter(None, (low, high)):
            assert re.search(rf"{engine} +{updates} \[", answer.output)


def test_the_table_of_the_experiment_is_the_stored_proof_row_by_row() -> None:
    found = pd.read_csv(PROOF / "mistakes.csv").sort_values("loss_p50", kind="stable")
    found = found[(found["kind"] == "mistake") | ((found["kind"] == "right") & (found["engine"] == "autograd"))]
    lines = EXPERIMENT.read_text("utf-8").splitlines()
    (head,) = (number for number, line in enumerate(lines) if line.startswith("| engine | where | caught by |"))
    shown = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[head + 2 :]]
    wrong = [row["kind"] == "mistake" for row in found.to_dict("records")]
    assert shown == [
        [
            f"`{row['engine']}`{': ' + row['what'] if mistaken else ', right'}",
            f"`{row['workload']}`, {row['batch_size']}",
            f"{row['caught_by']}, update {row['caught_update']:g}" if mistaken else "nothing",
            f"{row['loss_p50']:.3g}" if math.isfinite(row["loss_p50"]) else "∞",
            f"{row['converged_share']:.0%}",
            row["trains_anyway"] if mistaken else "",
        ]
        for row, mistaken in zip(found.to_dict("records"), wrong, strict=True)
    ]


def test_what_is_said_of_the_experiment_is_what_the_proof_found() -> None:
    told = {document: re.sub(r"\s+", " ", document.read_text("utf-8")) for document in (README, EXPERIMENT)}
    found = pd.read_csv(PROOF / "mistakes.csv")
    mistakes, right = found.query("kind == 'mistake'"), found.query("kind == 'right'")
    assert (mistakes["caught_seeds"] == 20).all()
    assert mistakes["caught_update"].max() == 2
    assert (right["caught_seeds"] == 0).all()
    assert (right["gate_seeds"] == 1000).all()
    anyway = int((mistakes["trains_anyway"] == "yes").sum())
    assert f"of {len(mistakes)} real mistakes in gradients derived by hand, {anyway} meet the targets" in told[README]
    assert f"{anyway} of the {len(mistakes)}, {100 * anyway / len(mistakes):.0f} %, train anyway" in told[EXPERIMENT]
    by_hand = right.query("engine == 'manual'")
    assert (by_hand["same_share"] == 1).all()
    uncleared = mistakes.set_index("engine").loc["GradientsNotCleared"]
    ends = f"{uncleared['loss_p50']:.2f} and an accuracy of {100 * uncleared['accuracy_p50']:.0f} %"
    assert ends in told[EXPERIMENT]
    assert f"to {100 * right['gate_share'].max():.0f} % of a limit" in told[EXPERIMENT]
    epochs = pd.read_csv(PROOF / "epochs.csv").query("engine == 'autograd' and batch_size == 100")
    share = epochs.set_index(["workload", "epoch"])["converged_share"]
    for epoch, when in ((10, "after ten epochs"), (20, "after twenty")):
        deep, line = (f"{100 * share[name, epoch]:.1f} %" for name in ("line_deep", "line"))
        deep, line = re.escape(deep), re.escape(line)
        assert re.search(rf"{when} {deep}( of seeds have converged)? instead of {line}", told[EXPERIMENT])
    (oldest,) = set(found.query("kind == 'finite differences'")["forward_passes"])
    assert f"take {oldest:.0f} forward passes per update" in told[EXPERIMENT]
