"""The charts of how seeds learn: their losses epoch by epoch, and what each ended with."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from harness.reporting.html import shapes
from harness.reporting.html.figures import Chart, digits, filled, named
from harness.reporting.html.groups import CaseGroup, Row, case_label, rows_of, series
from harness.reporting.html.shapes import Axis

_EPOCH = Axis("epoch", "datum.value == floor(datum.value) ? datum.value : ''", log=False)
_MEDIAN = Axis("loss, over the whole data set", "format(datum.value, '~g')")
_LOSS = Axis("final loss, over the whole data set", "format(datum.value, '~g')")

_MOST_CURVES = 60  # of a chart; beyond that autograd's stand for all
_MOST_TICKS = 1500  # of a chart; beyond that deciles stand for seeds
_DECILES = tuple(range(0, 101, 10))


def curves(group: CaseGroup, learnt: Mapping[str, list[Row]]) -> Chart | None:
    """Return the loss of each case epoch by epoch: the median over seeds, and 5 to 95 % of them; None without any.

    A colour is a batch size. Engines that learn alike lie on each other, so that one line of all that are drawn tells.
    """
    there = [row for row in group.rows if learnt.get(row["case_id"])]
    if len(there) > _MOST_CURVES:
        there = [row for row in there if row["engine"] == "autograd"][:_MOST_CURVES]
    sizes = sorted({row["batch_size"] for row in there})
    names = tuple((f"batch size {size:,}", number) for number, size in enumerate(sizes))
    rows: list[dict[str, Any]] = []
    bands: list[dict[str, Any]] = []
    for row in there:
        name = f"batch size {row['batch_size']:,}"
        first = all(band["name"] != name for band in bands)
        for epoch in learnt[row["case_id"]]:
            low, middle, high = digits(epoch[f"loss_p{percent}"] for percent in ("05", "50", "95"))
            if middle > 0 and math.isfinite(middle):
                share = f"{epoch['converged_share']:.0%}"
                at = {"x": epoch["epoch"], "name": name, "line": case_label(row)}
                rows.append({**at, "value": middle, "said": f"{middle:.4g}", "share": share})
                if first and low > 0 and math.isfinite(high):
                    bands.append({"x": epoch["epoch"], "name": name, "low": low, "high": high})
    if not rows:
        return None
    tips = (("line", "case"), ("x", "epoch"), ("said", "median loss"), ("share", "converged"))
    return Chart(
        slug=f"curves-{group.slug}",
        title=f"Loss by epoch: {group.title}",
        note="Median over seeds, a line for each engine; the band: 5 to 95 % of the seeds, of one of them. Where lines "
        "of one colour lie on each other, engines learn alike.",
        spec=filled(shapes.curves(_EPOCH, _MEDIAN, names, tips), rows, bands),
        head=("case", "median loss after the first epoch", "after half", "after the last", "seeds converged by epoch"),
        rows=tuple(_learnt(row, learnt[row["case_id"]]) for row in there),
    )


def losses(group: CaseGroup, numbers: Mapping[str, int], seeds: Mapping[str, Any]) -> Chart | None:
    """Return the final loss of every seed, one row of ticks for each case; None where none was trained."""
    there = [(row, seeds[row["case_id"]]) for row in group.rows if len(seeds.get(row["case_id"], ()))]
    if not there:
        return None
    by_seed = sum(len(values) for _, values in there) <= _MOST_TICKS
    rows: list[dict[str, Any]] = []
    middles: list[dict[str, Any]] = []
    table = []
    for row, values in there:
        low, middle, high, *deciles = np.quantile(values, (0.05, 0.5, 0.95, *(each / 100 for each in _DECILES)))
        shown = values if by_seed else deciles
        what = [f"a seed of {len(values)}"] * len(values) if by_seed else [f"{each} % of seeds" for each in _DECILES]
        of_row = {"row": case_label(row), "name": series(row)}
        rows += [
            {**of_row, "value": value, "said": f"{value:.4g}", "what": text}
            for value, text in zip(digits(shown), what, strict=True)
            if value > 0
        ]
        middles.append({"row": case_label(row), "value": digits([middle])[0]})
        table.append((case_label(row), str(len(values)), f"{low:.4g}", f"{middle:.4g}", f"{high:.4g}", _share(row)))
    tips = (("row", "case"), ("what", "which"), ("said", "final loss"))
    spec = shapes.ticks(_LOSS, named((each["name"] for each in rows), numbers), tips)
    told = "Every tick is a seed" if by_seed else "Every tick is a tenth of the seeds, from the lowest to the highest"
    return Chart(
        slug=f"loss-{group.slug}",
        title=f"Final losses: {group.title}",
        note=f"{told}; the thick one is the median. A seed whose loss is not finite, or 0, has none.",
        spec=filled(spec, rows, [each for each in middles if each["value"] > 0], rows_of=len(there)),
        head=("case", "seeds", "5 %", "median", "95 %", "converged"),
        rows=tuple(table),
    )


def by_case(epochs: pd.DataFrame | None) -> dict[str, list[Row]]:
    """Return how each case stood after its epochs, from the table `epochs`."""
    found: dict[str, list[Row]] = {}
    for row in [] if epochs is None else rows_of(epochs):
        found.setdefault(row["case_id"], []).append(row)
    return found


def final_losses(convergence: pd.DataFrame | None) -> dict[str, Any]:
    """Return the finite final losses of each case, from the table `convergence`."""
    if convergence is None:
        return {}
    finite = convergence[np.isfinite(convergence["loss"])]
    return {str(name): values.to_numpy() for name, values in finite.groupby("case_id", sort=False)["loss"]}


def _learnt(row: Row, epochs: Sequence[Row]) -> tuple[str, ...]:
    """Return a line of the table of curves."""
    shown = [epochs[place] for place in (0, (len(epochs) - 1) // 2, -1)]
    losses = (f"{each['loss_p50']:.4g} ({each['epoch']})" if math.isfinite(each["loss_p50"]) else "" for each in shown)
    by = ", ".join(f"{each['converged_share']:.0%} ({each['epoch']})" for each in shown)
    return (case_label(row), *losses, by)


def _share(row: Row) -> str:
    return "" if math.isnan(row["converged_share"]) else f"{row['converged_share']:.0%}"
