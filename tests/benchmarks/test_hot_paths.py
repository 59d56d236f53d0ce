"""The program's own hot paths: what runs between blocks, between cases and at the end of a run."""

from pathlib import Path
from typing import Any

from harness.measuring import seal
from harness.measuring.evidence import CpuEvidence
from harness.measuring.protocol import EventStream
from harness.measuring.sampling import interval_width
from harness.plan.sweep import Axes, plan_sweep
from harness.running.journal import Journal
from harness.tables.build import build_tables


def test_an_event_is_sent(benchmark: Any) -> None:
    with Path("/dev/null").open("wb") as sink:
        events = EventStream(sink.fileno())
        benchmark(events.send, "phase", phase="timing")


def test_a_block_is_announced(benchmark: Any) -> None:
    with Path("/dev/null").open("wb") as sink:
        events = EventStream(sink.fileno())
        benchmark(events.block, "end", 10_000_000)


def test_evidence_is_looked_for_around_a_block(benchmark: Any) -> None:
    evidence = CpuEvidence((0,), alone=True)

    def around() -> None:
        evidence.begin()
        evidence.end(10_000_000)

    benchmark(around)


def test_a_seal_is_compared(benchmark: Any) -> None:
    sealed = seal.take()
    assert benchmark(seal.broken, sealed) is None


def test_the_stop_rule_is_asked_after_150_blocks(benchmark: Any) -> None:
    blocks = [10_000_000 + (7919 * index) % 100_003 for index in range(150)]
    benchmark(interval_width, blocks)


def test_a_record_is_put_on_the_disk(benchmark: Any, tmp_path: Path) -> None:
    journal = Journal.create(tmp_path, {})
    benchmark(journal.append, {"kind": "record", "blocks_ns": list(range(150))})
    journal.close()


def test_the_tables_of_the_standard_sweep_are_made(benchmark: Any) -> None:
    sweep = plan_sweep(None, Axes())
    header = {
        "run_id": "run",
        "commit": "0" * 40,
        "dirty": False,
        "machine": "machine",
        "fingerprint": "f",
        "sweep": sweep.to_json(),
    }
    seeds = [
        {
            "seed": seed,
            "updates": 20,
            "loss": 0.02,
            "accuracy": 0.95,
            "r2": 0.98,
            "converged": True,
            "epochs_to_target": 9,
        }
        for seed in range(64)
    ]
    targets = {
        "max_loss": 0.1,
        "min_accuracy": 0.9,
        "min_converged_share": 0.75,
        "max_median_loss": 0.05,
        "min_median_accuracy": 0.9,
    }
    records = [
        {
            "kind": "record",
            "case_id": case.case_id,
            "round": number,
            "outcome": "ok",
            "reason": "",
            "step_ns": 1e5 + number,
            "blocks": 150,
            "blocks_disturbed": 0,
            "threads": 2,
            **({"convergence": seeds, "convergence_targets": targets} if number == 0 else {}),
        }
        for number, case in sweep.schedule()
    ]
    benchmark(build_tables, header, records)
