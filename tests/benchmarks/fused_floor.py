"""Holds `fused` against plain C and against autograd, on `line`, in one process on one core, in turn.

    python tests/benchmarks/fused_floor.py [ROUNDS]

For each batch size: plain C, `fused`, `autograd`, an eager loop written here, `numpy`, `manual`, and `jax_scan` where
it is installed. Each makes the same number of updates per call and returns their losses; a round times every one in an
order of its own, and ratios are taken within rounds. Prints microseconds per update and the median ratios with their
quartiles. Exits 1 where `fused` is less than 300 × as fast as `autograd` at 100 points and fewer, takes more than 1.5 ×
the time of the C loop, or is slower than `jax_scan`, or where `autograd` is off by more than 10 % from the eager loop.
"""

import ctypes
import os
import random
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory

ROOT = Path(__file__).parent.parent.parent
sys.path.insert(0, str(ROOT))

BATCHES = {1: 1000, 10: 1000, 32: 1000, 100: 1000, 1024: 500, 16384: 40, 262144: 4}  # and updates per call
ENGINES = ("fused", "autograd", "numpy", "manual", "jax_scan")
LEAST_NS = 4_000_000  # of one timing; a call is repeated until then
FASTER, SMALL_BATCH = 300, 100
OF_C, OF_LOOP = 1.5, 0.1

# As anybody would write it for this network; parameters: W1 [10], b1 [10], W2 [10], b2.
PLAIN_C = r"""
#include <stdint.h>
#define HIDDEN 10

extern "C" void train(
    int64_t steps, int64_t batch, const float *x, const float *t, float *parameters, float *losses, float rate)
{
    float *w1 = parameters, *b1 = w1 + HIDDEN, *w2 = b1 + HIDDEN, *b2 = w2 + HIDDEN;
    for (int64_t step = 0; step < steps; step++) {
        float dw1[HIDDEN] = {0}, db1[HIDDEN] = {0}, dw2[HIDDEN] = {0}, db2 = 0, loss = 0;
        for (int64_t n = 0; n < batch; n++) {
            float hidden[HIDDEN], y = *b2;
            for (int j = 0; j < HIDDEN; j++) {
                float z = w1[j] * x[n] + b1[j];
                hidden[j] = z > 0 ? z : 0;
                y += w2[j] * hidden[j];
            }
            float difference = y - t[n], dy = 2 * difference / batch;
            loss += difference * difference;
            db2 += dy;
            for (int j = 0; j < HIDDEN; j++) {
                dw2[j] += dy * hidden[j];
                float dz = hidden[j] > 0 ? dy * w2[j] : 0;
                dw1[j] += dz * x[n];
                db1[j] += dz;
            }
        }
        losses[step] = loss / batch;
        for (int j = 0; j < HIDDEN; j++) {
            w1[j] -= rate * dw1[j];
            b1[j] -= rate * db1[j];
            w2[j] -= rate * dw2[j];
        }
        *b2 -= rate * db2;
    }
}
"""

Call = Callable[[], object]


def plain_c(folder: Path) -> Callable[..., None]:
    """Compile the C loop and return it."""
    source, library = folder / "plain.cpp", folder / "plain.so"
    source.write_text(PLAIN_C, "utf-8")
    flags = ("-O3", "-march=native", "-ffast-math", "-shared", "-fPIC")
    subprocess.run([os.environ.get("CXX", "g++"), *flags, str(source), "-o", str(library)], check=True)
    train = ctypes.CDLL(str(library)).train
    pointer, integer = ctypes.c_void_p, ctypes.c_int64
    train.argtypes, train.restype = (integer, integer, *[pointer] * 4, ctypes.c_float), None
    return train


def eager_loop(model, inputs, targets):
    """Make one update per batch, as the first page of any tutorial does; return the losses."""
    import torch

    loss_function, optimizer = torch.nn.MSELoss(), torch.optim.SGD(model.parameters(), lr=0.1)

    def train():
        losses = []
        for x, y in zip(inputs, targets, strict=True):
            optimizer.zero_grad()
            loss = loss_function(model(x), y)
            loss.backward()
            optimizer.step()
            losses.append(loss.detach())
        return torch.stack(losses)

    return train


def contenders(batch_size: int, steps: int, train: Callable[..., None]) -> dict[str, Call]:
    """Return a call of `steps` updates for each, all on the same data and from the same weights."""
    import torch

    from harness.plan import catalogue
    from harness.plan.case import Case
    from harness.training.loading import load_engine, load_workload
    from harness.training.trial import begin, problem_of

    workload, device = load_workload("line"), torch.device("cpu")
    problem = problem_of(workload, batch_size, device, torch.float32)
    trial = begin(workload, batch_size, 0, device, torch.float32)
    inputs, targets = trial.inputs[:batch_size].contiguous(), trial.targets[:batch_size].contiguous()
    batches = tuple(values.expand(steps, *values.shape) for values in (inputs, targets))
    flat, losses = torch.cat([value.flatten() for value in trial.parameters.values()]), torch.empty(steps)
    pointers = [values.data_ptr() for values in (inputs, targets, flat, losses)]
    model = problem.model()
    model.load_state_dict(trial.parameters)
    calls: dict[str, Call] = {
        # Whoever calls it holds the tensors as long as it does.
        "C": lambda kept=(inputs, targets, flat, losses): train(steps, batch_size, *pointers, 0.1) or kept[-1],
        "eager loop": eager_loop(model, [inputs] * steps, [targets] * steps),
    }
    for name in ENGINES:
        if name not in catalogue.ENGINES:
            continue
        engine = load_engine(name)
        reason = engine.unsupported(problem, Case("line", name, "cpu", "float32", batch_size))
        if reason is not None:
            print(f"without {name}: {reason}")
            continue
        updates = engine.prepare(problem, steps)
        updates.load(trial.parameters)
        calls[name] = lambda updates=updates: updates(*batches)
    firsts = {name: call()[:5].clone() for name, call in calls.items()}  # also compiles and warms
    for name, first in firsts.items():
        assert torch.allclose(first, firsts["autograd"], rtol=1e-3, atol=1e-5), (name, first, firsts["autograd"])
    return calls


def timed_us(call: Call, steps: int) -> float:
    """Return microseconds per update of one call, or of as many as take LEAST_NS.

    Of the process's own time on the core: what others do there meanwhile is not in it.
    """
    count, start = 0, time.process_time_ns()
    while True:
        call()
        count += 1
        taken = time.process_time_ns() - start
        if taken >= LEAST_NS:
            return taken / count / steps / 1e3


def quartiles(values: list[float]) -> tuple[float, float, float]:
    """Return median, lower and upper quartile."""
    low, middle, high = statistics.quantiles(values, n=4, method="inclusive")
    return middle, low, high


def faults_of(batch_size: int, times: dict[str, list[float]]) -> list[str]:
    """Print the row of each contender and return what is not as promised."""

    def ratio(of: str, to: str) -> tuple[float, float, float]:
        return quartiles([one / other for one, other in zip(times[of], times[to], strict=True)])

    for name, values in times.items():
        faster, low, high = ratio("autograd", name)
        print(
            f"{batch_size:>7} {name:>10} {statistics.median(values):>10.3f} µs (least {min(values):.3f})   "
            f"{faster:8.2f} × autograd [{low:.2f}, {high:.2f}]   {ratio(name, 'C')[0]:8.2f} of C's time",
            flush=True,
        )
    checks = {f"{ratio('fused', 'C')[0]:.2f} of the C loop's time, not at most {OF_C}": ratio("fused", "C")[0] <= OF_C}
    if batch_size <= SMALL_BATCH:
        faster = ratio("autograd", "fused")[0]
        checks[f"{faster:.0f} × autograd, not at least {FASTER}"] = faster >= FASTER
    if "jax_scan" in times:
        than_jax = ratio("fused", "jax_scan")[0]
        checks[f"{than_jax:.2f} of jax_scan's time, not at most 1"] = than_jax <= 1
    off = ratio("autograd", "eager loop")[0]
    checks[f"autograd takes {off:.2f} of the eager loop's time, not within 10 % of it"] = abs(off - 1) <= OF_LOOP
    return [f"batch {batch_size}: {told}" for told, held in checks.items() if not held]


def main() -> None:
    """Measure all batch sizes on one core."""
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 15
    core = max(os.sched_getaffinity(0))
    os.sched_setaffinity(0, {core})
    faults: list[str] = []
    with TemporaryDirectory() as cache:
        os.environ |= {"TORCHINDUCTOR_CACHE_DIR": cache, "OPENBLAS_NUM_THREADS": "1"}
        import torch

        torch.set_num_threads(1)
        train = plain_c(Path(cache))
        for batch_size, steps in BATCHES.items():
            calls = contenders(batch_size, steps, train)
            times: dict[str, list[float]] = {name: [] for name in calls}
            for _ in range(rounds):
                for name in random.sample(list(calls), len(calls)):
                    times[name].append(timed_us(calls[name], steps))
            print(f"\nbatch {batch_size}, {steps} updates per call, {rounds} rounds, CPU {core}")
            faults += faults_of(batch_size, times)
    print("\n" + ("\n".join(faults) or "all as promised"))
    sys.exit(bool(faults))


if __name__ == "__main__":
    main()
