"""The machine's ceilings: what no engine can go beyond on this device, in this dtype, with so many threads."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial

import torch

from harness.measuring.clocks import Clock, monotonic_ns, thread_ns
from harness.measuring.work import Work

# What each figure may take; all of them together take some 0.2 s on a CPU.
BUDGET_NS = 12_000_000
# Source and target together, in bytes: what stays in a cache is not bound by what comes after it.
WORKING_SETS = (2**14, 2**18, 2**22, 2**26)
LARGE_WORKING_SET = 2**30  # on a GPU, whose cache may hold the others

# Matrices are square, and twice as wide as long as a product takes less than this: then more of it changes nothing.
_LONG_PRODUCT_NS = 2_000_000
_SMALLEST_MATRIX, _LARGEST_MATRIX = 256, 8192

Least = Callable[[Callable[[], object]], float]


@dataclass(frozen=True)
class Ceilings:
    """What this machine can do at best.

    flops_per_s: floating-point operations of a large matrix product; an addition and a multiplication are two.
    copy_bytes_per_s: bytes read and written by a copy, or by reading alone where that is faster, by the bytes of its
    working set. call_ns: the shortest call into torch from Python. launch_ns: the shortest launch of a kernel by such a
    call, many in a row; None on a CPU.
    """

    flops_per_s: float
    copy_bytes_per_s: Mapping[int, float]
    call_ns: float
    launch_ns: float | None = None

    def copy_rate(self, working_set_bytes: int) -> float:
        """Return the bytes per second that nothing with such a working set can exceed.

        It is the best among sets at least as large, for a smaller one stays in a nearer cache; beyond the largest set,
        that of the largest.
        """
        large = [rate for size, rate in self.copy_bytes_per_s.items() if size >= working_set_bytes]
        return max(large, default=self.copy_bytes_per_s[max(self.copy_bytes_per_s)])

    def floor_ns(self, work: Work) -> float:
        """Return the time that no engine can beat for this work."""
        return 1e9 * max(work.flops / self.flops_per_s, work.moved_bytes / self.copy_rate(work.working_set_bytes))


def measure(device: torch.device, dtype: torch.dtype, threads: int, *, clock: Clock | None = None) -> Ceilings:
    """Measure the ceilings in this process, on the CPUs that it is pinned to, with so many intra-op threads.

    clock: None takes that of the thread, which nobody else's work is in, where one does it all; else the wall's. Raises
    RuntimeError where torch multiplies no matrices of the dtype on the device.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        with torch.inference_mode():
            return _measured(device, dtype, clock or (thread_ns if _alone(device, threads) else monotonic_ns))
    finally:
        torch.set_num_threads(before)


def least_ns(call: Callable[[], object], clock: Clock, budget_ns: int, wait: Callable[[], object]) -> float:
    """Return what a call takes at least, among many in a row: per call, the shortest of several loops.

    wait: is called at the end of each loop, within its time: for the device. budget_ns: what all loops take.
    """
    call()
    wait()
    calls, spent_ns, least = 1, 0, float("inf")
    while spent_ns < budget_ns:
        start = clock()
        for _ in range(calls):
            call()
        wait()
        taken_ns = clock() - start
        least = min(least, taken_ns / calls)
        spent_ns += taken_ns
        if taken_ns < budget_ns / 16:  # so many loops that some of them are quiet, each long against what ends it
            calls *= 2
    return least


def _alone(device: torch.device, threads: int) -> bool:
    return device.type == "cpu" and threads == 1


def _measured(device: torch.device, dtype: torch.dtype, clock: Clock) -> Ceilings:
    on_gpu = device.type == "cuda"
    wait: Callable[[], object] = partial(torch.cuda.synchronize, device) if on_gpu else _nothing
    least: Least = partial(least_ns, clock=clock, budget_ns=BUDGET_NS, wait=wait)
    # Nobody is kept from computing in float32 and rounding afterwards; CPUs are often faster that way.
    dtypes = {dtype, torch.float32} if dtype.itemsize < 4 else {dtype}
    sets = (*WORKING_SETS, LARGE_WORKING_SET) if on_gpu else WORKING_SETS
    here, on_cpu = (torch.ones(1, device=place) for place in (device, "cpu"))
    return Ceilings(
        flops_per_s=max(_flops_per_s(device, each, least) for each in dtypes),
        copy_bytes_per_s=_copy_bytes_per_s(device, sets, least),
        call_ns=least_ns(partial(on_cpu.add_, on_cpu), clock, BUDGET_NS, _nothing),
        launch_ns=least(partial(here.add_, here)) if on_gpu else None,
    )


def _flops_per_s(device: torch.device, dtype: torch.dtype, least: Least) -> float:
    best, size = 0.0, _SMALLEST_MATRIX
    while True:
        # Ones: a GPU's clock falls with the bits that change, and this is a ceiling.
        left, right, product = (torch.ones(size, size, device=device, dtype=dtype) for _ in range(3))
        taken_ns = least(partial(torch.mm, left, right, out=product))
        best = max(best, 2e9 * size**3 / taken_ns)
        if taken_ns >= _LONG_PRODUCT_NS or size >= _LARGEST_MATRIX:
            return best
        size *= 2


def _copy_bytes_per_s(device: torch.device, sets: tuple[int, ...], least: Least) -> dict[int, float]:
    """Return bytes per second by working set, without what the calls themselves take: an engine may need none."""
    rates = {}
    one, other = torch.ones(2, device=device).chunk(2)
    calls_ns = least(partial(other.copy_, one)), least(partial(torch.sum, one))
    for size in sets:
        buffer = torch.ones(size // 4, device=device)
        source, target = buffer.chunk(2)
        taken_ns = least(partial(target.copy_, source)), least(partial(torch.sum, buffer))
        # A tenth at least: of a call that does little else, the difference is noise.
        moving_ns = min(max(all_ns - call_ns, all_ns / 10) for all_ns, call_ns in zip(taken_ns, calls_ns, strict=True))
        rates[size] = 1e9 * size / moving_ns
    return rates


def _nothing() -> None:
    pass
