"""Makes folders of a machine with stored sessions of which the step times are chosen."""

import csv
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from harness.tables.columns import SCHEMA, SUMMARY

MACHINE = "amd-epyc-9654-2c"
FINGERPRINT = "00aa11bb22cc"
MANUAL, AUTOGRAD, FROZEN = (f"line/{engine}/cpu/float32/b100" for engine in ("manual", "autograd", "frozen"))

# What a row of a real run holds besides: reading it takes as long.
_ROW = {
    "targets_met": "yes",
    "samples_per_s": 1767012.34,
    "ratio_to_autograd": 5.19876543,
    "ratio_low": 5.05432101,
    "ratio_high": 5.34567891,
    "loss_p05": 0.0110260605,
    "loss_p50": 0.0204348573,
    "loss_p95": 0.0849130343,
    "accuracy_p50": 0.965,
    "converged_share": 0.90625,
    "converged_low": 0.810456,
    "converged_high": 0.956321,
    "rounds": 5,
    "seeds": 64,
    "r2_p50": 0.971968021,
    "epochs_to_target_p50": 12,
    "import_ns": 942928653,
    "setup_ns": 11781956,
    "first_call_warm_ns": 465049,
    "disturbed_share": 0.0308788599,
    "disturbances": "preempted 26, stolen 3",
    "latency_ns": 48261.75,
    "cpus": "1",
    "attempts": 1,
    "gate_share": 0.0369981247,
    "graphs": 0,
    "graph_breaks": 0,
    "recompiles": 0,
    "peak_rss_bytes": 286085120,
    "targets": "met: converged_share >= 0.75: 0.906 [0.810, 0.956] of 64 seeds; met: loss_p50 <= 0.05: 0.02043; "
    "met: accuracy_p50 >= 0.9: 0.965; met: ratio_to_autograd >= 2: 5.20 [5.05, 5.35]",
    "schema": SCHEMA,
}


def run_id(number: int, commit: str = "") -> str:
    """Return the id of the run that was begun so many hours after the first."""
    begun = datetime(2026, 1, 1, tzinfo=UTC) + timedelta(hours=number)
    return f"{begun:%Y%m%dT%H%M%SZ}-{(commit or f'{number:010x}')[:10]}"


def write_run(
    machine: Path,
    number: int,
    steps: Mapping[str, float | str],
    *,
    dirty: bool = False,
    session: str | None = None,
    **columns: Any,
) -> Path:
    """Store run `number` of a machine; steps: by case the step time in ns, or the outcome where it has none.

    session: its own, unless given; empty for a table without one. columns: cells of every row. Returns its folder.
    """
    name = run_id(number, columns.get("commit", "")) + ("-dirty" if dirty else "")
    folder = machine / name
    folder.mkdir(parents=True)
    with (folder / "summary.csv").open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, [column.name for column in SUMMARY], restval="", lineterminator="\n")
        writer.writeheader()
        for case_id, step in steps.items():
            workload, engine, device, dtype, batch = case_id.split("/")
            writer.writerow(
                {
                    **_ROW,
                    "workload": workload,
                    "engine": engine,
                    "device": device,
                    "dtype": dtype,
                    "batch_size": batch[1:],
                    "threads": 1,
                    "outcome": step if isinstance(step, str) else "ok",
                    "reason": "because" if isinstance(step, str) else "",
                    **({} if isinstance(step, str) else {"step_ns": f"{step:.9g}"}),
                    "case_id": case_id,
                    "run_id": name,
                    "commit": f"{number:010x}" * 4,
                    "dirty": dirty,
                    "machine": MACHINE,
                    "fingerprint": FINGERPRINT,
                    "session": name if session is None else session,
                    "workload_digest": "0123456789ab",
                    **columns,
                }
            )
    return folder


def write_sessions(machine: Path, steps: Mapping[str, Sequence[float | str]], **columns: Any) -> None:
    """Store sessions 0, 1, … of one run each; steps: by case one value per session, as `write_run` takes them."""
    for number, values in enumerate(zip(*steps.values(), strict=True)):
        write_run(machine, number, dict(zip(steps, values, strict=True)), **columns)
