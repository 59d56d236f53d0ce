import functools
import io
import json
import math
import os
import re
import sys
from dataclasses import dataclass

import pandas
import pytest
import torch
from torch._dynamo.utils import clear_compilation_metrics, counters

from harness.measuring import ceilings, overhead, probes, sampling
from harness.measuring import worker as worker_module
from harness.measuring.device import Cpu
from harness.measuring.protocol import PHASES, PROTOCOL, EventStream, Request
from harness.plan.case import Case
from harness.plan.presets import Sampling
from harness.plan.sweep import Sweep
from harness.tables.build import build_tables
from harness.tables.columns import MEASUREMENTS
from harness.training import gate
from harness.training.workloads import digits

TIMES = {"step_ns", "step_median_ns", "step_min_ns", "latency_ns", "blocks_ns", "counted", "timed_ns"}
SHORT = Sampling(budget_ns=60 * 10**6)

USERS = """
import math
import torch
from harness.plan.targets import ConvergenceTargets
from harness.training.engines.autograd import Autograd
from harness.training.engines.manual import Manual
from harness.training.workloads.line import Line
from tests.several import Several as Several


class Honest:
    # The manual engine, with room for a subclass to do something else.

    def unsupported(self, problem, case):
        return None

    def prepare(self, problem, steps):
        self.updates, self.loads, self.calls, self.block_seen = Manual().prepare(problem, steps), 0, 0, False
        return self

    def load(self, parameters):
        self.loads += 1
        self.calls = 0
        self.updates.load(parameters)

    def parameters(self):
        return self.updates.parameters()

    def __call__(self, inputs, targets):
        self.calls += 1
        self.block_seen |= len(inputs) > 1
        return self.train(inputs, targets)

    def train(self, inputs, targets):
        return self.updates(inputs, targets)


class Eager(Autograd):
    pass


class Unwilling(Honest):
    def unsupported(self, problem, case):
        return f"not at batch size {case.batch_size}"


class TwiceTheStep(Honest):
    def train(self, inputs, targets):
        self.updates(inputs, targets)
        return self.updates(inputs, targets)


class SkipsEverySecondUpdateOfABlock(Honest):
    def train(self, inputs, targets):
        if len(inputs) == 1:
            return self.updates(inputs, targets)
        return self.updates(inputs[::2], targets[::2]).repeat_interleave(2)[: len(inputs)]


class StopsTrainingAfterTheBlocks(Honest):
    def train(self, inputs, targets):
        before = {name: value.clone() for name, value in self.parameters().items()}
        losses = self.updates(inputs, targets)
        if self.block_seen and len(inputs) == 1:
            self.updates.load(before)
        return losses


class LosesItsLossLater(Honest):
    def train(self, inputs, targets):
        losses = self.updates(inputs, targets)
        self.blocks = getattr(self, "blocks", 0) + (len(inputs) > 1)
        return losses * math.nan if len(inputs) > 1 and self.blocks > 25 else losses


class FailsToPrepare(Honest):
    def prepare(self, problem, steps):
        raise ValueError("no such layer: Swish\\nand much more of it")  # the place


class FailsInSilence(Honest):
    def prepare(self, problem, steps):
        raise KeyError


class FailsWhileItConverges(Honest):
    def load(self, parameters):
        super().load(parameters)
        if self.loads == 200:  # those of first call, gate and blocks are fewer, those of seeds follow
            raise ValueError("enough")


class ReplacesAtTheEnd(Honest):
    def load(self, parameters):
        super().load(parameters)
        if self.loads == 200:  # as above
            import harness.training.gate

            harness.training.gate.SINGLE_UPDATES += 1


class HasNoMemory(Honest):
    def prepare(self, problem, steps):
        raise MemoryError


class WantsAllMemory(Honest):
    def prepare(self, problem, steps):
        torch.empty(10**14)


class Diverging(Line):
    # All seeds but the first leave the finite numbers, and end at NaN.

    def data(self, batch_size, seed):
        inputs, targets = super().data(batch_size, seed)
        return inputs * (1e3 if seed else 1), targets


class Far(Line):
    # All seeds but the first have a loss above the largest float32.
    epochs = 1

    def data(self, batch_size, seed):
        inputs, targets = super().data(batch_size, seed)
        return inputs, targets * (1e25 if seed else 1)


class Flat(Line):
    # Nothing to explain: R² is minus infinity.

    def data(self, batch_size, seed):
        inputs, targets = super().data(batch_size, seed)
        return inputs, torch.zeros_like(targets)


class TooFast(Line):
    learning_rate = 100.0


class TooFewPoints(Line):
    def data(self, batch_size, seed):
        return torch.zeros(3, 1), torch.zeros(3, 1)
"""


@dataclass
class Measured:
    """What the worker wrote about one case."""

    events: list[dict]

    @property
    def record(self):
        return self.events[-1]["record"]

    @property
    def ending(self):
        return self.record["outcome"], self.record["reason"]

    @property
    def phases(self):
        return tuple(event["phase"] for event in self.events if event["event"] == "phase")


def case(engine="manual", workload="line", device="cpu", dtype="float32", batch_size=100, threads=None) -> Case:
    return Case(workload, engine, device, dtype, batch_size, threads)


def no_such_constant(name):
    pytest.fail(f"{name} is no JSON: other readers of a journal stumble over it")


def measured(folder, request: Request) -> Measured:
    """Run the worker's main in this process, where torch is imported already, and with short blocks."""
    counters.clear()
    clear_compilation_metrics()
    exits = []
    quick = functools.partial(sampling.Rule, block_ns=10**6, warm_up_ns=2 * 10**6)
    with pytest.MonkeyPatch.context() as patch, (folder / "events").open("wb", buffering=0) as stream:
        patch.setattr(sampling, "Rule", quick)
        patch.setattr(sys, "path", [*sys.path])  # a user's file adds its folder
        patch.setattr(sys, "stdin", io.StringIO(request.to_line()))
        patch.setattr(worker_module, "claim_stdout", lambda: EventStream(stream.fileno()))
        patch.setattr(worker_module, "die_with_parent", lambda: None)
        patch.setattr(os, "_exit", lambda code: exits.append(code))
        patch.setattr(ceilings, "BUDGET_NS", 200_000)
        patch.setattr(ceilings, "WORKING_SETS", (2**14, 2**18))
        patch.setattr(overhead, "BUDGET_NS", 200_000)
        worker_module.main()
    assert exits == [0]
    lines = (folder / "events").read_text().splitlines()
    return Measured([json.loads(line, parse_constant=no_such_constant) for line in lines])


@pytest.fixture
def users(tmp_path):
    """Measures a case with an engine or a workload of the file above."""
    file = tmp_path / "users.py"
    file.write_text(USERS)

    def measure(engine=None, workload=None, seeds=0, **more):
        names = {name: f"{file}:{value}" for name, value in (("engine", engine), ("workload", workload)) if value}
        return measured(tmp_path, Request(case(**names, **more), 0, seeds, SHORT))

    return measure


@pytest.fixture(scope="module")
def honest(tmp_path_factory):
    return measured(tmp_path_factory.mktemp("honest"), Request(case(), 1, 3, SHORT, threads=1))


# A case that is as it should be


def test_an_honest_case_goes_through_all_phases_in_order(honest):
    assert honest.ending == ("ok", "")
    assert honest.phases == PHASES[1:]
    assert honest.events[0] == {"event": "hello", "protocol": PROTOCOL}
    assert [event["event"] for event in honest.events].count("record") == 1


def test_the_step_times_are_those_of_the_blocks_over_their_updates(honest):
    record = honest.record
    used = [record["blocks_ns"][index] for index in record["counted"]]
    assert record["block_steps"] > 1
    assert len(record["blocks_ns"]) == record["blocks"]
    assert record["timed_ns"] == sum(record["blocks_ns"])
    assert record["step_ns"] == sampling.quantile_of(used, 0.25) / record["block_steps"]
    assert record["step_median_ns"] == sampling.quantile_of(used, 0.5) / record["block_steps"]
    assert record["step_min_ns"] == min(used) / record["block_steps"]
    assert record["blocks_disturbed"] == sum(record["disturbances"].values())
    assert record["stop_rule"] in list(sampling.StopRule)
    assert record["latency_ns"] > record["step_min_ns"] / 2


def test_each_block_is_announced_before_it_begins_and_after_it_ended(honest):
    said = [event["event"] for event in honest.events if event["event"] in ("begin", "end")]
    assert said == ["begin", "end"] * honest.record["blocks"]
    assert [event["ns"] for event in honest.events if event["event"] == "end"] == honest.record["blocks_ns"]
    at = [event.get("phase") for event in honest.events]
    blocks = [index for index, event in enumerate(honest.events) if event["event"] == "begin"]
    assert at.index("timing") < blocks[0] < blocks[-1] < at.index("gate_after")


def test_how_long_it_times_is_what_the_request_says(tmp_path):
    short = measured(tmp_path, Request(case(), 0, 0, Sampling(relative_width=1e-9, budget_ns=40 * 10**6), threads=1))
    long = measured(tmp_path, Request(case(), 0, 0, Sampling(relative_width=1e-9, budget_ns=200 * 10**6), threads=1))
    assert short.record["timed_ns"] < long.record["timed_ns"]
    wide = measured(tmp_path, Request(case(), 0, 0, Sampling(relative_width=1e9, budget_ns=10**12), threads=1))
    assert wide.record["stop_rule"] == "relative_width"


@pytest.mark.skipif(not hasattr(os, "sched_getaffinity"), reason="this system cannot pin processes")
def test_it_runs_on_the_cpus_that_it_is_given_and_says_which(tmp_path):
    before = os.sched_getaffinity(0)
    try:
        measurement = measured(tmp_path, Request(case(), 0, 0, SHORT, cpus=(max(before),), threads=1))
        assert os.sched_getaffinity(0) == {max(before)}
    finally:
        os.sched_setaffinity(0, before)
    assert measurement.record["cpus"] == [max(before)]


def test_a_record_fills_every_column_but_those_of_a_gpu_and_of_the_run(honest):
    header = {"run_id": "r", "commit": "c", "dirty": False, "machine": "m", "fingerprint": "f"}
    header["sweep"] = Sweep((case(),)).to_json()
    parents = {"seconds": 1.0, "clock_ratio": 1.0, "phases_ns": dict.fromkeys((*PHASES, "exit"), 5)}
    kept = {"kind": "record", "case_id": case().case_id, "round": 1, "attempts": 1, **honest.record, **parents}
    [row] = build_tables(header, [kept]).measurements.to_dict("records")
    missing = {column.name for column in MEASUREMENTS if pandas.isna(row[column.name])}
    # Nothing was compiled here, so that the first call was no cold one.
    of_a_gpu = {"device_ns", "kernel_ns", "kernels_per_step", "launches_per_step", "graph_launches_per_step"}
    of_a_gpu |= {"energy_per_step_j", "peak_allocated_bytes", "peak_reserved_bytes", "sm_clock_mhz"}
    of_a_gpu |= {"gpu_temperature_c", "power_limit_w", "gpu_processes", "ceiling_launch_ns"}
    assert missing == {"first_call_cold_ns", *of_a_gpu}


def test_the_floor_is_looked_for_in_the_first_round_and_costs_no_honest_case_its_time(tmp_path, users, monkeypatch):
    later = users("Honest")
    assert later.phases[-1] == "end"
    assert "ceiling_flops_per_s" not in later.record

    def fail(*_arguments):
        raise RuntimeError("no such dtype")

    monkeypatch.setattr(ceilings, "measure", fail)
    first = users("Honest", seeds=1)
    assert first.ending == ("ok", "")
    assert first.phases[-1] == "floor"
    assert first.record["step_ns"] > 0
    assert "ceiling_flops_per_s" not in first.record


def test_the_memory_of_the_ceilings_is_not_the_cases(users, monkeypatch):
    measure, peak = ceilings.measure, [1 << 28]

    def hungry(*arguments):
        peak[0] = 1 << 29
        return measure(*arguments)

    monkeypatch.setattr(probes, "peak_rss_bytes", lambda: peak[0])
    monkeypatch.setattr(ceilings, "measure", hungry)
    assert users("Honest", seeds=1).record["peak_rss_bytes"] == 1 << 28
    assert peak == [1 << 29]


def test_the_phases_are_timed_apart(honest):
    record = honest.record
    for name in ("import_ns", "setup_ns", "first_call_warm_ns"):
        assert 0 < record[name] < 60e9
    assert record["compile_cache"] == "none"
    assert (record["graphs"], record["graph_breaks"], record["recompiles"]) == (0, 0, 0)


def test_the_gate_says_how_near_to_its_limit_the_engine_came(honest):
    assert 0 < honest.record["gate_share"] < 1


def test_convergence_has_one_entry_a_seed_and_its_targets_travel_with_it(honest):
    assert [entry["seed"] for entry in honest.record["convergence"]] == [0, 1, 2]
    assert {entry["updates"] for entry in honest.record["convergence"]} == {20}
    assert honest.record["convergence_targets"]["min_converged_share"] == 0.75


def test_all_seeds_together_are_there_epoch_by_epoch(honest):
    epochs, seeds = honest.record["epochs"], honest.record["convergence"]
    assert [epoch["epoch"] for epoch in epochs] == list(range(1, 21))
    assert {epoch["seeds"] for epoch in epochs} == {3}
    assert epochs[-1]["loss_p50"] == sorted(seed["loss"] for seed in seeds)[1]
    assert epochs[-1]["converged_share"] == sum(seed["converged"] for seed in seeds) / 3
    assert epochs[-1]["loss_p50"] < epochs[0]["loss_p50"]
    reached = min(seed["epochs_to_target"] or 21 for seed in seeds)
    assert next((epoch["epoch"] for epoch in epochs if epoch["converged_share"]), 21) == reached


def test_without_seeds_there_is_no_convergence(users):
    measurement = users("Honest")
    assert measurement.ending == ("ok", "")
    assert "convergence" not in measurement.record
    assert "convergence" not in measurement.phases


def test_the_threads_asked_for_are_the_threads_it_runs_with(tmp_path):
    before = torch.get_num_threads()
    try:
        assert measured(tmp_path, Request(case(threads=2), 0, 0, SHORT, threads=2)).record["threads"] == 2
    finally:
        torch.set_num_threads(before)


def test_float64_and_real_batches_are_measured_too(tmp_path):
    measurement = measured(tmp_path, Request(case("autograd", dtype="float64", batch_size=10), 0, 1, SHORT))
    assert measurement.ending == ("ok", "")
    assert measurement.record["convergence"][0]["updates"] == 200


@pytest.mark.parametrize(("batch_size", "batches", "most"), [(100, 3, 20), (10, 3, 3), (10, 30, 20)])
def test_what_happens_inside_is_asked_with_no_more_batches_than_there_are(
    tmp_path, monkeypatch, batch_size, batches, most
):
    asked = []

    def inside(_device, run, steps, latency_ns):
        asked.append((steps, latency_ns, [len(run(count)) for count in range(1, steps + 1)]))
        return {"kernel_ns": 7.0}

    monkeypatch.setattr("harness.training.trial.MAX_BATCH_BYTES", batches * batch_size * 8)
    monkeypatch.setattr(Cpu, "inside", inside)
    record = measured(tmp_path, Request(case(batch_size=batch_size), 0, 0, SHORT, threads=1)).record
    assert (record["outcome"], record["reason"]) == ("ok", "")
    assert record["kernel_ns"] == 7.0
    assert asked == [(most, record["latency_ns"], list(range(1, most + 1)))]


def test_of_several_members_whatever_is_per_update_is_that_of_one(users, monkeypatch):
    inside = {"kernel_ns": 10.0, "launches_per_step": 1.0, "energy_per_step_j": 0.5, "device_note": "none"}
    monkeypatch.setattr(Cpu, "inside", lambda *_: inside)
    record = users("Several", seeds=2, batch_size=10).record
    assert (record["outcome"], record["reason"]) == ("ok", "")
    assert record["members"] == 5
    used = [record["blocks_ns"][index] for index in record["counted"]]
    assert record["block_steps"] % 5 == 0
    assert record["step_ns"] == sampling.quantile_of(used, 0.25) / record["block_steps"]
    expected = {"kernel_ns": 2.0, "launches_per_step": 0.2, "energy_per_step_j": 0.1, "device_note": "none"}
    assert {name: record[name] for name in inside} == expected
    assert [entry["updates"] for entry in record["convergence"]] == [200, 200]


def test_float32_is_float32_on_a_gpu_whatever_torch_begins_with(tmp_path):
    backends = (torch.backends.cuda.matmul, torch.backends.cudnn)
    before = [backend.allow_tf32 for backend in backends]
    try:
        for backend in backends:
            backend.allow_tf32 = True
        measured(tmp_path, Request(case(), 0, 0, SHORT, threads=1))
        assert [backend.allow_tf32 for backend in backends] == [False, False]
    finally:
        for backend, value in zip(backends, before, strict=True):
            backend.allow_tf32 = value


def test_tf32_is_on_for_a_case_of_it_alone(tmp_path):
    backends = (torch.backends.cuda.matmul, torch.backends.cudnn)
    before = [backend.allow_tf32 for backend in backends]
    try:
        for dtype, on in (("tf32", True), ("bfloat16", False)):
            measured(tmp_path, Request(case("manual", dtype=dtype), 0, 0, SHORT, threads=1))
            assert [backend.allow_tf32 for backend in backends] == [on, on]
    finally:
        for backend, value in zip(backends, before, strict=True):
            backend.allow_tf32 = value


def test_a_case_of_bfloat16_is_gated_timed_and_trained_to_its_end(tmp_path):
    record = measured(tmp_path, Request(case("autograd", dtype="bfloat16"), 0, 2, SHORT, threads=1)).record
    assert (record["outcome"], record["reason"]) == ("ok", "")
    assert 0 < record["gate_share"] < 1
    assert record["step_ns"] > 0
    assert len(record["convergence"]) == 2


@pytest.mark.parametrize(
    ("engine", "dtype", "reason"),
    [
        ("manual", "bfloat16", "engine manual is not written for bfloat16; autograd, compile and compile_step are"),
        ("frozen", "bfloat16", "engine frozen is not written for bfloat16; autograd, compile and compile_step are"),
        ("autograd", "tf32", "tf32 is what NVIDIA's GPUs multiply in; use --device cuda, or --dtype float32 on a CPU"),
    ],
)
def test_a_dtype_that_engine_or_device_does_not_have_is_unsupported_in_one_line(tmp_path, engine, dtype, reason):
    measurement = measured(tmp_path, Request(case(engine, dtype=dtype), 0, 2, SHORT, threads=1))
    assert measurement.ending == ("unsupported", reason)
    assert measurement.phases == ("import", "setup")
    assert_without_time(measurement)


def test_a_request_of_another_protocol_is_not_measured(tmp_path, monkeypatch):
    monkeypatch.setattr("harness.measuring.protocol.PROTOCOL", PROTOCOL + 1)
    line = Request(case(), 0, 0).to_line()
    monkeypatch.undo()
    monkeypatch.setattr(Request, "to_line", lambda _self: line)
    with pytest.raises(ValueError, match="protocol"):
        measured(tmp_path, Request(case(), 0, 0))


# The gate, before and after


def assert_without_time(measurement):
    assert TIMES & measurement.record.keys() == set()


def test_a_wrong_gradient_is_found_before_anything_is_timed(users):
    measurement = users("TwiceTheStep", seeds=2)
    assert measurement.record["outcome"] == "wrong_gradient"
    assert "update 1" in measurement.record["reason"]
    assert measurement.phases == ("import", "setup", "first_call", "gate")
    assert_without_time(measurement)


def test_an_engine_that_skips_updates_only_while_it_is_timed_is_rejected_by_the_update(users):
    measurement = users("SkipsEverySecondUpdateOfABlock", seeds=2)
    assert measurement.record["outcome"] == "rejected"
    assert "the loss of update 2 is" in measurement.record["reason"]
    assert measurement.phases[-1] == "gate_after"
    assert_without_time(measurement)


def test_an_engine_that_stops_training_once_it_was_timed_is_found_by_the_gate_afterwards(users):
    measurement = users("StopsTrainingAfterTheBlocks")
    assert measurement.record["outcome"] == "wrong_gradient"
    assert measurement.phases[-1] == "gate_after"
    assert_without_time(measurement)


def test_losses_that_leave_the_finite_numbers_in_a_late_block_are_found(users):
    measurement = users("LosesItsLossLater")
    # Rejected where chance has chosen such a block to be checked as a whole.
    assert measurement.record["outcome"] in ("not_converged", "rejected")
    assert measurement.phases[-1] == "gate_after"
    assert_without_time(measurement)


@pytest.mark.parametrize("engine", ["Honest", "Eager"])
def test_a_training_that_diverges_has_not_converged_whoever_leaves_the_numbers_first(users, engine):
    measurement = users(engine, workload="TooFast")
    assert measurement.record["outcome"] == "not_converged"
    assert "learning rate 100" in measurement.record["reason"]
    assert_without_time(measurement)


# A case that ends early


def test_what_an_engine_cannot_do_is_unsupported_with_its_own_reason(users):
    measurement = users("Unwilling", batch_size=7)
    assert measurement.ending == ("unsupported", "not at batch size 7")
    assert measurement.phases == ("import", "setup")


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without an NVIDIA GPU")
def test_without_a_gpu_cuda_is_unsupported_and_says_what_to_do(tmp_path):
    measurement = measured(tmp_path, Request(case(device="cuda"), 0, 0))
    assert measurement.ending == ("unsupported", "torch finds no CUDA device; use --device cpu")


def test_a_workload_whose_package_is_missing_is_unsupported_and_says_how_to_get_it(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "sklearn", None)  # as if it were not there
    digits._in_fixed_order.cache_clear()
    measurement = measured(tmp_path, Request(case(workload="digits"), 0, 0))
    assert measurement.record["outcome"] == "unsupported"
    assert "pip install -e '.[digits]'" in measurement.record["reason"]


def test_an_exception_is_a_crash_with_type_first_line_and_place(users, capfd):
    measurement = users("FailsToPrepare")
    place = USERS.splitlines().index(next(line for line in USERS.splitlines() if "# the place" in line)) + 1
    assert measurement.ending == ("crashed", f"ValueError: no such layer: Swish (users.py:{place})")
    assert "and much more of it" in capfd.readouterr().err  # the launcher keeps it


def test_an_exception_without_text_is_told_by_its_type(users):
    assert re.fullmatch(r"KeyError:? +\(users\.py:\d+\)", users("FailsInSilence").record["reason"])


@pytest.mark.parametrize("engine", ["HasNoMemory", "WantsAllMemory"])
def test_memory_that_runs_out_is_an_outcome_of_its_own(users, engine):
    measurement = users(engine)
    assert measurement.record["outcome"] == "out_of_memory"
    assert "emory" in measurement.record["reason"]
    assert "users.py" in measurement.record["reason"]


@pytest.mark.parametrize("name", ["engine", "workload"])
def test_a_class_that_is_not_in_the_file_is_a_crash_that_names_it(users, name):
    measurement = users(**{name: "Nowhere"})
    assert measurement.record["outcome"] == "crashed"
    assert "has no Nowhere" in measurement.record["reason"]


def test_data_with_fewer_points_than_a_batch_is_a_crash_with_both_numbers(users):
    measurement = users(workload="TooFewPoints")
    assert measurement.record["outcome"] == "crashed"
    assert "3 inputs and 3 targets for batches of 100" in measurement.record["reason"]


def test_a_case_that_fails_after_it_was_timed_has_no_time(users):
    measurement = users("FailsWhileItConverges", seeds=300)
    assert measurement.record["outcome"] == "crashed"
    assert measurement.record["reason"].startswith("ValueError: enough")
    assert measurement.phases[-1] == "convergence"
    assert_without_time(measurement)


def test_what_an_engine_replaces_after_everything_was_timed_is_found_at_the_end(users, monkeypatch):
    monkeypatch.setattr(gate, "SINGLE_UPDATES", gate.SINGLE_UPDATES)  # restored afterwards
    measurement = users("ReplacesAtTheEnd", seeds=300)
    reason = "the engine replaces harness.training.gate.SINGLE_UPDATES, which it is measured or checked by"
    assert measurement.ending == ("rejected", reason)
    assert measurement.phases[-1] == "end"
    assert_without_time(measurement)


def test_however_a_case_ends_its_memory_and_the_phases_it_reached_are_known(users):
    record = users("FailsToPrepare").record
    assert record["peak_rss_bytes"] > 0
    assert record["import_ns"] > 0
    assert "setup_ns" not in record


# Numbers that JSON has not


@pytest.mark.parametrize("workload", ["Diverging", "Far"])
def test_a_final_loss_that_is_no_number_is_null_and_not_converged(users, workload):
    measurement = users(workload=workload, seeds=3)
    assert measurement.ending == ("ok", "")
    first, *others = measurement.record["convergence"]
    assert math.isfinite(first["loss"])
    assert [(entry["loss"], entry["r2"], entry["converged"]) for entry in others] == [(None, None, False)] * 2


def test_an_r2_that_is_no_number_is_null(users):
    measurement = users(workload="Flat", seeds=1)
    assert measurement.ending == ("ok", "")
    [entry] = measurement.record["convergence"]
    assert entry["r2"] is None
    assert entry["loss"] < 0.1


# On a GPU


@pytest.mark.cuda
def test_a_case_on_a_gpu_is_measured_there(tmp_path):
    measurement = measured(tmp_path, Request(case("autograd", device="cuda"), 0, 2))
    assert measurement.ending == ("ok", "")
    assert measurement.phases == PHASES[1:]
    assert measurement.record["step_ns"] > 0
    assert len(measurement.record["convergence"]) == 2
