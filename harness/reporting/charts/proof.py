"""A proof as a chart: how every engine ends, and what a second hidden layer does, epoch by epoch."""

from pathlib import Path
from typing import Any

import altair as alt
import pandas as pd
import vl_convert  # noqa: F401 - draws what Altair saves; said here where it is missing

from harness.plan.proof import LESSON_LOSS, Kind
from harness.running.folder import replaced

FILES = ("proof.vl.json", "proof.svg", "proof.png")

# A logarithmic axis has no place for what diverged: it stands at its end.
_LARGEST = 100.0
_COLOURS = {"right": "#2a7f4f", "trains anyway": "#c8402f", "does not train": "#8a8a8a"}


def write_chart(folder: Path, mistakes: pd.DataFrame, epochs: pd.DataFrame) -> None:
    """Write the chart of the tables `mistakes` and `epochs` as a Vega-Lite specification, SVG and PNG."""
    parts = [_endings(mistakes[mistakes["outcome"] == "ok"])]
    layers = epochs[(epochs["engine"] == "autograd") & (epochs["batch_size"] == 100)]
    if layers["workload"].nunique() > 1:
        parts.append(_depths(layers))
    chart = alt.vconcat(*parts).resolve_scale(color="independent", x="independent")
    for name in FILES:
        with replaced(folder / name) as unfinished:
            chart.save(str(unfinished), format={"json": "json", "svg": "svg", "png": "png"}[name.rpartition(".")[2]])


def _endings(done: pd.DataFrame) -> Any:
    shown = pd.DataFrame(
        {
            "engine": done["engine"] + [_place(row) for row in done.to_dict("records")],
            **{name: done[name].clip(upper=_LARGEST) for name in ("loss_p05", "loss_p50", "loss_p95")},
            "ending": [_ending(row) for row in done.to_dict("records")],
        }
    ).sort_values("loss_p50")
    scale = alt.Scale(type="log", domain=[0.005, _LARGEST], clamp=True)
    colour = alt.Color("ending", scale=alt.Scale(domain=list(_COLOURS), range=list(_COLOURS.values())), title=None)
    rows = alt.Y("engine", sort=list(shown["engine"]), title=None)
    base = alt.Chart(
        shown, title="final loss over seeds: median, 5 % to 95 %; dashed: the lesson's “before”", width=480
    )
    spread = base.mark_rule(size=2).encode(
        x=alt.X("loss_p05", scale=scale, title="loss"), x2="loss_p95", y=rows, color=colour
    )
    middle = base.mark_point(filled=True, size=45).encode(x=alt.X("loss_p50", scale=scale), y=rows, color=colour)
    lesson = (
        alt.Chart(pd.DataFrame({"loss": [LESSON_LOSS]}))
        .mark_rule(strokeDash=[5, 4])
        .encode(x=alt.X("loss", scale=scale))
    )
    return spread + middle + lesson


def _depths(layers: pd.DataFrame) -> Any:
    named = layers.assign(
        network=layers["workload"].map({"line": "one hidden layer", "line_deep": "two hidden layers"})
    )
    shown = named[["network", "epoch", "loss_p05", "loss_p50", "loss_p95", "converged_share"]]
    base = alt.Chart(shown, title="does a second hidden layer help or slow?", width=220, height=180).encode(
        x="epoch", color=alt.Color("network", title=None)
    )
    loss = alt.Scale(type="log")
    band = base.mark_area(opacity=0.2).encode(y=alt.Y("loss_p05", scale=loss, title="loss"), y2="loss_p95")
    middle = base.mark_line().encode(y=alt.Y("loss_p50", scale=loss))
    share = base.mark_line().encode(y=alt.Y("converged_share", title="seeds converged", axis=alt.Axis(format="%")))
    return (band + middle) | share


def _place(row: Any) -> str:
    parts = [
        row["workload"] if row["workload"] != "line" else "",
        f"b{row['batch_size']}" if row["batch_size"] != 100 else "",
    ]
    parts += [row["dtype"] if row["dtype"] != "float32" else ""]
    told = " ".join(filter(None, parts))
    return f" ({told})" if told else ""


def _ending(row: Any) -> str:
    if row["kind"] != Kind.MISTAKE:
        return "right"
    return "trains anyway" if row["trains_anyway"] == "yes" else "does not train"
