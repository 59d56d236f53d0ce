"""What pages are made of in tests: a run as this program stores it, with all that a run can have, and a hostile one."""

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd

from harness.comparing.compared import Aggregate, CaseResult, Compared, Status
from harness.comparing.crossover import crossovers
from harness.comparing.run import Run
from harness.comparing.series import CaseHistory, History, Move, RunLine
from harness.comparing.series import Status as Trend
from harness.plan.case import Case
from harness.plan.sweep import Sweep
from harness.plan.targets import ThroughputTarget
from harness.reporting.html.page import RunContent
from harness.tables.build import build_tables
from harness.tables.files import Tables

ENGINES = {"manual": 38e3, "autograd": 205e3, "compile": 280e3, "compile_step": 57e3, "fused": 1.2e3}
BATCHES = (1, 10, 100, 1000, 10_000)
RUN_ID = "20261124T114830Z-9d137a38a0"
HEADER = {
    "run_id": RUN_ID,
    "session": RUN_ID,
    "commit": "9d137a38a0697cf524d8d33f46910a50695c0cc9",
    "dirty": False,
    "machine": "amd-epyc-2c",
    "fingerprint": "dffb64119834",
}
FACTS = {"cpu_model": "AMD EPYC", "cpus": 2, "memory_bytes": 25_276_502_016, "torch": "2.13.0+cpu"}

# Whoever wrote a results file, or named an engine, may have written this. Each part would run a script somewhere.
PAYLOAD = (
    "'\"><script>window.__pwned=1</script></script><script>window.__pwned=2</script>"
    "<img src=x onerror=window.__pwned=3><svg onload=window.__pwned=4>javascript:window.__pwned=5"
    "</style></title></textarea><!--<script>{{7*7}}${window.__pwned=6}\u2028]]>&lt;script&gt;window.__pwned=7"
)


def stored_tables(batches: tuple[int, ...] = BATCHES, rounds: int = 5, seeds: int = 16) -> Tables:
    """Return the tables of a run of five engines; the largest batch of `compile` crashed."""
    cases = tuple(
        Case(workload, engine, "cpu", "float32", batch)
        for workload, sizes in (("line", batches), ("line_deep", (100,)))
        for batch in sizes
        for engine in ENGINES
    )
    targets = (ThroughputTarget("manual", 2.0), ThroughputTarget("compile", 2.0))
    sweep = Sweep(cases, rounds=rounds, seeds=seeds, targets=targets)
    rng = np.random.default_rng(0)
    records = []
    for number in range(rounds):
        for case in cases:
            if case.engine == "compile" and case.batch_size == max(batches):
                if number == 0:
                    records.append(_record(case, number, outcome="crashed", reason="killed by signal 9: out of luck"))
                continue
            step = (ENGINES[case.engine] + 18 * case.batch_size) * math.exp(rng.normal(0, 0.01))
            more: dict[str, Any] = {}
            if number == 0:
                more["convergence"] = [_trial(seed, rng) for seed in range(seeds)]
                more["epochs"] = [_epoch(epoch, case.batch_size, seeds) for epoch in range(1, 21)]
                more["convergence_targets"] = {
                    "max_loss": 0.1,
                    "min_accuracy": 0.9,
                    "min_converged_share": 0.75,
                    "max_median_loss": 0.05,
                    "min_median_accuracy": 0.9,
                }
            cold = "compile" in case.engine and number == 0
            records.append(
                _record(
                    case,
                    number,
                    step_ns=step,
                    import_ns=9.4e8,
                    setup_ns=1.2e9 if "compile" in case.engine else 1.2e7,
                    **{"first_call_cold_ns" if cold else "first_call_warm_ns": 5e9 if cold else 2e6},
                    blocks=100,
                    blocks_disturbed=3 if case.engine == "manual" else 0,
                    disturbances={"preempted": 3} if case.engine == "manual" else {},
                    **more,
                )
            )
    return build_tables({**HEADER, "sweep": sweep.to_json()}, records)


def content() -> RunContent:
    """Return a run with all that one can have."""
    tables = stored_tables()
    floor_ns = tables.summary["batch_size"].astype(float) * 0.8 + 5
    above_floor = tables.summary["step_ns"].astype(float) / floor_ns
    summary = tables.summary.assign(floor_ns=floor_ns, above_floor=above_floor, bound_by="python")
    return RunContent(
        name=RUN_ID,
        summary=summary,
        convergence=tables.convergence,
        epochs=tables.epochs,
        facts=FACTS,
        crossovers=crossovers(tables.measurements),
        compared=compared(tables.measurements),
        history=history(list(summary["case_id"])),
    )


def hostile_content() -> RunContent:
    """Return the same run with PAYLOAD in every text, also in those where the reader of a file refuses it."""
    whole = content()
    assert whole.convergence is not None
    assert whole.epochs is not None
    assert whole.compared is not None
    assert whole.history is not None
    measurements = hostile(stored_tables().measurements)
    summary = hostile(whole.summary)
    summary.loc[1, "outcome"] = PAYLOAD
    run = Run(PAYLOAD, measurements, facts={PAYLOAD: PAYLOAD})
    return RunContent(
        name=PAYLOAD,
        summary=summary,
        convergence=hostile(whole.convergence),
        epochs=hostile(whole.epochs),
        facts={PAYLOAD: PAYLOAD, "cpu": PAYLOAD},
        crossovers=[
            replace(group, workload=PAYLOAD, device=PAYLOAD, dtype=PAYLOAD) for group in crossovers(measurements)
        ],
        compared=replace(
            whole.compared,
            base=run,
            new=run,
            cases=tuple(replace(case, case_id=case.case_id + PAYLOAD, reason=PAYLOAD) for case in whole.compared.cases),
            varied=(PAYLOAD,),
            warnings=(PAYLOAD,),
        ),
        history=replace(
            history([str(name) for name in summary["case_id"]]),
            machine=PAYLOAD,
            runs=tuple(RunLine(PAYLOAD, PAYLOAD, PAYLOAD, PAYLOAD, 1, 0.0) for _ in range(2)),
            others={PAYLOAD: (1, PAYLOAD)},
            moves=(Move(PAYLOAD, 0.04, PAYLOAD),),
        ),
    )


def hostile(table: pd.DataFrame) -> pd.DataFrame:
    """Return a table with PAYLOAD in every text; texts that differed still do."""
    texts = [name for name in table.columns if pd.api.types.is_string_dtype(table[name]) and name != "outcome"]
    return table.assign(**{name: table[name].astype(str) + PAYLOAD for name in texts})


def compared(measurements: pd.DataFrame) -> Compared:
    """Return a comparison with a case of every kind."""
    names = list(dict.fromkeys(measurements["case_id"]))
    changes = {Status.SLOWER: 0.12, Status.FASTER: -0.2, Status.WITHIN: 0.01, Status.UNDECIDED: 0.03}
    cases = [
        CaseResult(name, status, "", 1e5, 1e5 * (1 + change), change, change - 0.02, change + 0.02, margin=0.085)
        for name, (status, change) in zip(names, changes.items(), strict=False)
    ]
    cases += [
        CaseResult(name, status, "so it is")
        for name, status in zip(names[4:], (Status.LOST, Status.NEW, Status.MISSING, Status.CHANGED), strict=False)
    ]
    run = Run("results/amd-epyc-2c/before", measurements)
    return Compared(run, run, tuple(cases), Aggregate(4, 0.01, -0.02, 0.03), firm=False, paired=False)


def history(names: list[str]) -> History:
    """Return a history of twelve sessions with a case of every kind."""
    statuses = list(Trend)
    cases = [
        CaseHistory(
            name,
            statuses[number % len(statuses)],
            "so it is",
            *(0.03, 0.02, 11, 0.001, -0.001, 0.003, 1e5, 0.9e5, 1e5),
            times=tuple(1e5 * (1 + 0.01 * ((each * 7 + number) % 5)) for each in range(12)),
        )
        for number, name in enumerate(names)
    ]
    runs = tuple(RunLine(f"2026112{each}T000000Z-abc", "abc", "", "reference", 26, 0.01) for each in range(3))
    return History("amd-epyc-2c", "dffb64119834", dirty=False, runs=runs, sessions=12, cases=tuple(cases))


def _record(case: Case, number: int, **more: Any) -> dict[str, Any]:
    always = {"kind": "record", "outcome": "ok", "reason": "", "threads": 1, "stop_rule": "budget", "seconds": 5.0}
    return {**always, "case_id": case.case_id, "round": number, **more}


def _trial(seed: int, rng: np.random.Generator) -> dict[str, Any]:
    return {
        "seed": seed,
        "updates": 20,
        "loss": float(0.01 * math.exp(rng.normal(0, 0.5))),
        "accuracy": 1.0,
        "r2": 0.98,
        "converged": True,
        "epochs_to_target": 3,
    }


def _epoch(number: int, batch_size: int, seeds: int) -> dict[str, Any]:
    loss = 0.01 + 2 * math.exp(-number * 100 / (100 + batch_size))
    quantiles = {"loss_p05": loss / 2, "loss_p50": loss, "loss_p95": 3 * loss}
    return {"epoch": number, "seeds": seeds, **quantiles, "accuracy_p50": 0.9, "converged_share": number / 20}
