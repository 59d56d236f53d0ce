import itertools
import os
import re
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest
import torch
from torch import nn

from harness.training.contract import Problem
from harness.training.engines.fused_triton import FusedTriton, FusedTritonUpdates, Network, _constants, _side_by_side

HOPPER = 90
ONE_HIDDEN, TWO_HIDDEN, LARGEST = (1, 10, 1), (1, 10, 10, 1), (32, 32, 32, 32, 32)


def test_what_it_computes_is_right_by_tritons_interpreter():
    """Runs interpreted.py in a process of its own: the interpreter is chosen when triton is imported."""
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", Path(__file__).with_name("interpreted.py")]
    environment = {**os.environ, "TRITON_INTERPRET": "1"}
    run = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stdout + run.stderr


@cache
def compiled(widths, batch_size):
    """Compile the kernel for an H100 or H200; no GPU is needed for that."""
    import triton
    from triton.backends.compiler import GPUTarget

    from harness.training import fused_kernel

    layers = [layer for pair in itertools.pairwise(widths) for layer in (nn.Linear(*pair), nn.ReLU())]
    model = nn.Sequential(*layers[:-1])
    _side_by_side(model)
    constants = _constants(Network.of(model), Problem(model, nn.MSELoss(), 0.1, batch_size))
    options = {name: constants.pop(name) for name in ("num_warps", "enable_fp_fusion")}
    types = dict.fromkeys(("inputs", "targets", "losses", "parameters"), "*fp32")
    types |= dict.fromkeys(("steps", "input_stride", "target_stride"), "i32")
    signature = {name: types.get(name, "constexpr") for name in fused_kernel.train.arg_names}
    source = triton.compiler.ASTSource(fused_kernel.train, signature, constants)
    return triton.compile(source, target=GPUTarget("cuda", HOPPER, 32), options=options)


@pytest.mark.parametrize(
    ("widths", "batch_size"),
    [
        *((ONE_HIDDEN, batch_size) for batch_size in (1, 100, 256, 512, 1024, 16_384)),
        *((TWO_HIDDEN, batch_size) for batch_size in (10, 32, 100)),
        (LARGEST, 100),
    ],
)
def test_a_thread_has_enough_registers(widths, batch_size, tmp_path):
    """What a thread cannot hold it would write to memory and read again, in every update: at most a few numbers."""
    import triton

    binary = tmp_path / "kernel.cubin"
    binary.write_bytes(compiled(widths, batch_size).asm["cubin"])
    tool = Path(triton.__file__).parent / "backends/nvidia/bin/cuobjdump"
    usage = subprocess.run([tool, "-res-usage", binary], capture_output=True, text=True, check=True).stdout
    [(registers, spilled)] = re.findall(r"REG:(\d+) STACK:(\d+)", usage)
    assert int(registers) > 16
    assert int(spilled) <= 64  # bytes


@pytest.mark.parametrize("widths", [ONE_HIDDEN, TWO_HIDDEN, LARGEST, (3, 12, 12, 3)])
def test_products_are_of_whole_float32_numbers(widths):
    """Not TF32, which keeps ten bits of a number's fraction: of some sums Triton makes such products by itself."""
    code = compiled(widths, 100).asm["ptx"]
    assert "fma.rn.f32" in code
    assert not re.search(r"\bw?g?mma\.|tf32", code)


@pytest.mark.parametrize(("widths", "batch_size"), [(ONE_HIDDEN, 100), (TWO_HIDDEN, 100)])
def test_weights_stay_on_the_chip(widths, batch_size):
    """Within the loop over updates, global memory is read for the next batch alone, and written for the loss alone."""
    code = compiled(widths, batch_size).asm["ptx"]
    loop = max(re.findall(r"(\$L__BB\d+_\d+):(.*?)bra\s+\1;", code, re.DOTALL), key=lambda found: len(found[1]))[1]
    assert len(re.findall(r"st\.global", loop)) == 1
    assert set(re.findall(r"ld\.global\S*", loop))


def test_it_says_what_it_lacks_where_there_is_no_gpu(monkeypatch):
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    reason = FusedTriton().unsupported(Problem(nn.Linear(1, 1), nn.MSELoss(), 0.1, 10), None)
    assert reason is not None
    assert "needs an NVIDIA GPU, not cpu" in reason


@pytest.mark.parametrize("missing", ["CC", "PATH"])
def test_it_says_that_triton_needs_a_c_compiler(missing, monkeypatch, tmp_path):
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    monkeypatch.setenv(missing, str(tmp_path / "none"))
    if missing == "PATH":
        monkeypatch.delenv("CC", raising=False)
    problem = Problem(nn.Linear(1, 1, device="meta"), nn.MSELoss(), 0.1, 10)
    monkeypatch.setattr(Problem, "device", torch.device("cuda"))
    reason = FusedTriton().unsupported(problem, None)
    assert reason is not None
    assert "apt-get install gcc" in reason


class Hopper:
    """A driver for `JITFunction.warmup`, which compiles for a GPU and launches nothing."""

    def get_current_target(self):
        from triton.backends.compiler import GPUTarget

        return GPUTarget("cuda", HOPPER, 32)

    def get_current_device(self):
        return 0

    def get_current_stream(self, device):
        return 0


def test_a_call_of_other_numbers_and_addresses_compiles_nothing_new(monkeypatch):
    """Triton has versions of its own for 1 and for multiples of 16, addresses among them, unless told not to."""
    from triton.runtime import driver

    from harness.training import fused_kernel

    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    monkeypatch.setattr(driver, "_active", Hopper())
    updates = FusedTritonUpdates(Problem(nn.Linear(1, 1), nn.MSELoss(), 0.1, 10))
    batches, losses = torch.zeros(64, 10, 1), torch.zeros(64)
    calls = ((batches, 1), (batches, 16), (batches[1:], 7), (batches[:1].expand(64, 10, 1), 64))
    kernels = {
        fused_kernel.train.warmup(*updates.arguments(inputs, inputs, losses[:steps]), grid=(1,), **updates.constants)
        for inputs, steps in calls
    }
    assert len(kernels) == 1
