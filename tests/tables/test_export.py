import json
import math
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from pytest_benchmark.stats import Stats

from harness.plan.case import Case
from harness.plan.sweep import Sweep
from harness.tables.build import build_tables
from harness.tables.export import left_out, to_github_action_benchmark, to_pytest_benchmark
from harness.tables.files import Tables

MANUAL = Case("line", "manual", "cpu", "float32", 100)
AUTOGRAD = Case("line", "autograd", "cpu", "float32", 100)
DEEP = Case("line_deep", "manual", "cpu", "float32", 100)
SEED = {"updates": 20, "loss": 0.02, "accuracy": 1.0, "r2": 0.98, "converged": True, "epochs_to_target": 12}
TARGETS = {
    "max_loss": 0.1,
    "min_accuracy": 0.9,
    "min_converged_share": 0.5,
    "max_median_loss": 0.05,
    "min_median_accuracy": 0.9,
}
TIMES = {MANUAL: (40_000.0, 42_000.0, 41_000.0), AUTOGRAD: (200_000.0, 201_000.0, 202_000.0)}


def run(times: dict[Case, tuple[float, ...]] = TIMES, *failed: Case) -> Tables:
    header = {"run_id": "20261124T114830Z-abababab", "commit": "ab" * 20, "dirty": True, "machine": "amd-epyc-2c"}
    sweep = Sweep((*times, *failed), rounds=max(map(len, times.values()), default=1))
    records: list[dict[str, Any]] = []
    for case, steps in times.items():
        for number, step_ns in enumerate(steps):
            record = {"kind": "record", "case_id": case.case_id, "round": number, "outcome": "ok", "reason": ""}
            record |= {"threads": 2, "step_ns": step_ns, "block_steps": 250 + number, "stop_rule": "budget"}
            if number == 0:
                record |= {"convergence": [SEED | {"seed": 0}, SEED | {"seed": 1}], "convergence_targets": TARGETS}
            records.append(record)
    for case in failed:
        ended = {"outcome": "crashed", "reason": "killed"}
        records.append({"kind": "record", "case_id": case.case_id, "round": 0, **ended})
    return build_tables({**header, "fingerprint": "c0ffee", "sweep": sweep.to_json()}, records)


def exported(tables: Tables, facts: dict[str, Any] | None = None) -> dict[str, Any]:
    found = to_pytest_benchmark(tables.measurements, tables.summary, facts)
    return json.loads(json.dumps(found, allow_nan=False))


def entries(tables: Tables) -> list[dict[str, Any]]:
    return json.loads(json.dumps(to_github_action_benchmark(tables.measurements, tables.summary), allow_nan=False))


def compare(*files: Path) -> str:
    """What pytest-benchmark's own command prints of files, in a folder with nothing else."""
    program = Path(sys.executable).parent / "pytest-benchmark"
    ended = subprocess.run(
        [program, "compare", "--time-unit=us", *files],
        cwd=files[0].parent,
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert ended.stderr == ""
    return ended.stdout


def test_pytest_benchmark_itself_shows_every_case_of_both_runs_with_its_times(tmp_path) -> None:
    slower = {case: tuple(step * 1.5 for step in steps) for case, steps in TIMES.items()}
    for name, times in (("before", TIMES), ("after", slower)):
        (tmp_path / f"{name}.json").write_text(json.dumps(exported(run(times))), "utf-8")
    table = compare(tmp_path / "before.json", tmp_path / "after.json")
    for name, times in (("before", TIMES), ("after", slower)):
        for case, steps in times.items():
            shown = [f"{step / 1e3:.4f}" for step in (min(steps), max(steps), sum(steps) / 3)]
            (row,) = (line for line in table.splitlines() if re.match(rf"{case.case_id} \(\S*{name}\)", line))
            assert re.findall(r"(\d+\.\d{4}) \(", row)[:3] == shown
            assert row.split()[-2:] == ["3", "251"], "rounds, updates of a block"
    assert "benchmark 'line/cpu/float32/b100': 4 tests" in table


@pytest.mark.parametrize(
    "steps",
    [
        (5.0,),
        (5.0, 7.0),
        (3.0, 1.0, 2.0),
        (4.0, 1.0, 2.5, 9.0),
        (4.0, 1.0, 2.5, 9.0, 3.0),
        (1.0, 1.1, 0.9, 1.05, 7.0, 1.02, 0.98),
        (2.0, 2.0, 2.0),
        tuple(100 + (number * 37) % 101 for number in range(30)),
    ],
    ids=len,
)
def test_the_statistics_are_those_that_pytest_benchmark_computes_of_the_rounds(steps) -> None:
    (found,) = exported(run({MANUAL: tuple(1e3 * step for step in steps)}))["benchmarks"]
    theirs = Stats()
    for step in steps:
        theirs.update(step * 1e3 / 1e9)
    for name, value in theirs.as_dict().items():
        if isinstance(value, str):
            assert found["stats"][name] == value, name
        else:
            assert found["stats"][name] == pytest.approx(value, rel=1e-9, abs=1e-18), name
    assert found["stats"]["data"] == pytest.approx(theirs.data)


def test_a_benchmark_carries_what_was_proved_besides_its_time() -> None:
    manual, autograd = exported(run())["benchmarks"]
    assert manual["fullname"] == manual["name"] == MANUAL.case_id
    assert manual["group"] == autograd["group"] == "line/cpu/float32/b100"
    assert manual["params"] == {
        "workload": "line",
        "engine": "manual",
        "device": "cpu",
        "dtype": "float32",
        "batch_size": 100,
        "threads": 2,
    }
    extra = manual["extra_info"]
    assert extra["outcome"] == "ok"
    assert extra["converged_share"] == 1
    assert extra["seeds"] == 2
    assert extra["ratio_low"] < extra["ratio_to_autograd"] == pytest.approx(4.9, abs=0.1)
    assert extra["run_id"] == "20261124T114830Z-abababab"


def test_it_says_which_commit_machine_and_time_it_is_of() -> None:
    facts = {"cpu_model": "AMD EPYC", "cpus": 2, "machine_arch": "x86_64", "system": "Linux 6.1", "gpu": "H200"}
    found = exported(run(), facts)
    assert found["commit_info"]["id"] == "ab" * 20
    assert found["commit_info"]["dirty"] is True
    machine = found["machine_info"]
    assert (machine["node"], machine["machine"], machine["system"], machine["release"]) == (
        "amd-epyc-2c",
        "x86_64",
        "Linux",
        "6.1",
    )
    assert machine["cpu"] == {"brand_raw": "AMD EPYC", "count": 2}
    assert machine["gpu"] == "H200"
    assert found["datetime"] == "2026-11-24T11:48:30+00:00"


@pytest.mark.parametrize("run_id", ["mine", "20269999T999999Z-x"])
def test_a_run_of_another_name_has_no_time_of_its_own(run_id) -> None:
    tables = run()
    summary = tables.summary.assign(run_id=run_id)
    assert to_pytest_benchmark(tables.measurements, summary)["datetime"] is None


def test_cases_that_are_not_ok_have_no_benchmark_and_are_told_with_why() -> None:
    tables = run(TIMES, DEEP)
    assert left_out(tables.measurements, tables.summary) == {DEEP.case_id: "crashed"}
    names = [MANUAL.case_id, AUTOGRAD.case_id]
    assert [each["name"] for each in exported(tables)["benchmarks"]] == names
    assert [each["name"] for each in entries(tables)] == names


def test_a_case_that_is_ok_by_its_summary_alone_is_left_out_too() -> None:
    tables = run()
    measurements = tables.measurements[tables.measurements["case_id"] != MANUAL.case_id]
    assert left_out(measurements, tables.summary) == {MANUAL.case_id: "no round has a time"}
    assert len(to_github_action_benchmark(measurements, tables.summary)) == 1


def test_a_round_that_is_not_ok_counts_for_nothing_whatever_time_stands_there() -> None:
    tables = run()
    measurements = tables.measurements.copy()
    measurements.loc[measurements["round"] == 1, "outcome"] = "rejected"
    found = to_pytest_benchmark(measurements, tables.summary)
    assert [each["stats"]["rounds"] for each in found["benchmarks"]] == [2, 2]


def test_without_updates_per_block_a_round_counts_as_one_iteration() -> None:
    tables = run()
    measurements = tables.measurements.assign(block_steps=math.nan)
    found = to_pytest_benchmark(measurements, tables.summary)
    assert [each["stats"]["iterations"] for each in found["benchmarks"]] == [1, 1]


def test_an_entry_for_the_action_has_the_time_in_ns_and_half_its_interval_as_range() -> None:
    tables = run()
    manual = entries(tables)[0]
    row = tables.summary.iloc[0]
    assert manual["unit"] == "ns"
    assert manual["value"] == pytest.approx(row["step_ns"])
    # What the action itself looks for: a sign, then what is a number.
    half = re.fullmatch(r"± (\d.*)", manual["range"])[1]
    assert float(half) == pytest.approx(row["step_ns_high"] - row["step_ns"], rel=1e-5)
    for line in ("rounds: 3", f"commit: {'ab' * 20}-dirty", "converged: 100.0% of 2 seeds", "machine: amd-epyc-2c"):
        assert line in manual["extra"].splitlines()
    assert re.search(r"^times as fast as autograd: 4\.\d+ \[4\.\d+, \d\.\d+\]$", manual["extra"], re.MULTILINE)


def test_a_case_of_one_round_has_no_range_and_nothing_is_nan() -> None:
    tables = run({MANUAL: (40_000.0,)})
    (entry,) = entries(tables)
    assert "range" not in entry
    assert "autograd" not in entry["extra"]
    assert pd.isna(tables.summary["step_ns_low"].iloc[0])
    (benchmark,) = exported(tables)["benchmarks"]
    assert benchmark["extra_info"]["ratio_to_autograd"] is None
    assert benchmark["stats"]["stddev"] == 0
