import sys
import time
import types

import pytest
import torch

# What a worker has loaded when it takes its seal.
import harness.measuring.timing
import harness.training.convergence
import harness.training.loading  # noqa: F401
from harness.measuring import clocks, device, evidence, sampling, seal, timing
from harness.measuring.blocks import Chosen, VariedBatches
from harness.plan.outcome import CaseEnded, Outcome
from harness.training import gate, tolerances


@pytest.fixture(scope="module")
def sealed():
    return seal.take()


@pytest.fixture(autouse=True)
def unbroken_afterwards(sealed):
    yield
    assert seal.broken(sealed) is None


def test_what_nobody_touches_is_not_broken(sealed):
    assert seal.broken(sealed) is None
    assert len(sealed) > 200


def elsewhere(*_arguments, **_options):
    return 0


REPLACED = {
    "a function": (gate, "check_block", "harness.training.gate.check_block"),
    "a function where it is used": (timing, "check_updates", "harness.measuring.timing.check_updates"),
    "the clock": (clocks, "monotonic_ns", "harness.measuring.clocks.monotonic_ns"),
    "a class": (timing, "Chosen", "harness.measuring.timing.Chosen"),
    "a method": (Chosen, "wants", "harness.measuring.blocks.Chosen.wants"),
    "a class method": (VariedBatches, "of", "harness.measuring.blocks.VariedBatches.of"),
    "a special method": (tolerances.Tolerance, "__init__", "harness.training.tolerances.Tolerance.__init__"),
    "a number": (gate, "SINGLE_UPDATES", "harness.training.gate.SINGLE_UPDATES"),
    "a share": (evidence, "WAITED_SHARE", "harness.measuring.evidence.WAITED_SHARE"),
    "a time function": (time, "perf_counter_ns", "time.perf_counter_ns"),
    "another time function": (time, "process_time_ns", "time.process_time_ns"),
    "a torch function": (torch, "equal", "torch.equal"),
    "torch's gradient": (torch.autograd, "grad", "torch.autograd.grad"),
    "a method that tensors inherit": (torch.Tensor, "isfinite", "torch.Tensor.isfinite"),
    "waiting for a GPU": (torch.cuda, "synchronize", "torch.cuda.synchronize"),
    "the device's waiting": (device.Cpu, "synchronize", "harness.measuring.device.Cpu.synchronize"),
    "the quantile": (sampling, "quantile_of", "harness.measuring.sampling.quantile_of"),
}


@pytest.mark.parametrize(("owner", "name", "told"), REPLACED.values(), ids=REPLACED)
def test_what_was_replaced_is_told_by_its_name(sealed, owner, name, told):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(owner, name, elsewhere)
        assert seal.broken(sealed) == told


def test_a_check_rejects_what_was_replaced_since_the_seal_was_taken(sealed):
    seal.check()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(gate, "check_block", elsewhere)
        with pytest.raises(CaseEnded) as ended:
            seal.check()
        reason = "the engine replaces harness.training.gate.check_block, which it is measured or checked by"
        assert (ended.value.outcome, ended.value.reason) == (Outcome.REJECTED, reason)
    seal.check()


def test_without_a_seal_there_is_nothing_to_check(monkeypatch):
    monkeypatch.setattr(seal, "_taken", {})
    monkeypatch.setattr(gate, "check_block", elsewhere)
    seal.check()
    monkeypatch.undo()


def test_other_code_in_the_same_function_is_noticed(sealed):
    before = gate.check_updates.__code__
    try:
        gate.check_updates.__code__ = elsewhere.__code__
        assert seal.broken(sealed) == "harness.training.gate.check_updates"
    finally:
        gate.check_updates.__code__ = before


def test_other_defaults_of_the_same_function_are_noticed(sealed):
    before = sampling.interval_width.__defaults__
    try:
        sampling.interval_width.__defaults__ = (0.0,)
        assert seal.broken(sealed) == "harness.measuring.sampling.interval_width"
    finally:
        sampling.interval_width.__defaults__ = before


def test_other_code_in_a_method_is_noticed(sealed):
    before = Chosen.wants.__code__
    try:
        Chosen.wants.__code__ = elsewhere.__code__
        assert seal.broken(sealed) == "harness.measuring.blocks.Chosen.wants"
    finally:
        Chosen.wants.__code__ = before


@pytest.mark.parametrize(
    "change",
    [
        {"float32": tolerances.Tolerance(update=1e9, trajectory=1e9, eps=1.2e-7)},
        {"float16": tolerances.Tolerance(update=16.0, trajectory=1e-3, eps=1e-3)},
    ],
)
def test_another_entry_in_a_table_of_limits_is_noticed(sealed, change):
    with pytest.MonkeyPatch.context() as patch:
        for key, value in change.items():
            patch.setitem(tolerances.TOLERANCES, key, value)
        assert seal.broken(sealed) == "harness.training.tolerances.TOLERANCES"


def test_a_seal_that_is_told_to_look_away_is_broken(sealed):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(seal, "_NOT_SEALED", ("harness.",))
        assert seal.broken(sealed) is not None


def test_what_was_deleted_is_noticed(sealed):
    with pytest.MonkeyPatch.context() as patch:
        patch.delattr(gate, "check_block")
        assert seal.broken(sealed) == "harness.training.gate.check_block"


def test_modules_that_are_loaded_later_break_nothing(sealed):
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, "harness.training.engines.new", types.ModuleType("harness.training.engines.new"))
        patch.setitem(sys.modules, "harness.measuring.new", types.ModuleType("harness.measuring.new"))
        assert seal.broken(sealed) is None


def test_taking_a_seal_costs_next_to_nothing():
    start = time.perf_counter()
    seal.take()
    assert time.perf_counter() - start < 0.5
