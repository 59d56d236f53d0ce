"""The ranks of a case: processes that train together, each on its share of every batch.

All ranks of a case run the same program: they make the same updates in the same order, check the same weights, and
come to the same end. What each would decide by itself – by its clock, by chance, by a fault that it alone sees – they
agree on here. In a process that trains alone nothing of this does anything.
"""

import contextlib
import os
import sys
from collections.abc import Iterator, Mapping
from datetime import timedelta
from random import SystemRandom
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from harness.plan.outcome import CaseEnded, Outcome

# What the ranks tell each other goes through gloo, on a GPU as well; only gradients and losses go through NCCL.
_BACKENDS = {"cpu": "gloo", "cuda": "cpu:gloo,cuda:nccl"}
# Whoever started the ranks holds them to a deadline, a week at most; no second one may come before it.
_TIMEOUT = timedelta(days=30)

_Value = TypeVar("_Value")


def count() -> int:
    """Return how many ranks train together; 1 where this process trains alone."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def own() -> int:
    """Return the number of this rank, from 0."""
    return dist.get_rank() if count() > 1 else 0


def join(device: torch.device) -> None:
    """Become one of several ranks on this machine, as the environment says that torchrun sets."""
    _by_loopback()
    dist.init_process_group(_BACKENDS[device.type], timeout=_TIMEOUT)


def join_nobody(device: torch.device) -> None:
    """Become the only rank, unless this process is a rank already."""
    if not dist.is_initialized():
        _by_loopback()
        store = dist.HashStore()  # type: ignore[attr-defined]  # documented; torch names it nowhere in its `__all__`
        dist.init_process_group(_BACKENDS[device.type], store=store, rank=0, world_size=1, timeout=_TIMEOUT)


def _by_loopback() -> None:
    """Let ranks talk over the loopback interface: a machine's own name may be known to nobody, not even to itself."""
    for library in ("GLOO", "NCCL"):
        os.environ.setdefault(f"{library}_SOCKET_IFNAME", "lo0" if sys.platform == "darwin" else "lo")


def told_all(value: _Value) -> list[_Value]:
    """Return what every rank says, in their order; each waits for all others."""
    ranks = count()
    if ranks == 1:
        return [value]
    said: list[Any] = [None] * ranks
    dist.all_gather_object(said, value)
    return said


def wait() -> None:
    """Wait until every rank is here: what begins then, begins everywhere within the time that a message takes."""
    if count() > 1:
        dist.all_reduce(torch.zeros(1))


class _Shared(SystemRandom):
    """The first rank's chance, for all ranks."""

    def random(self) -> float:
        return told_all(super().random())[0]

    def getrandbits(self, k: int, /) -> int:
        return told_all(super().getrandbits(k))[0]


def chance() -> SystemRandom:
    """Return chance that no engine can seed, the same on every rank."""
    return _Shared() if count() > 1 else SystemRandom()


@contextlib.contextmanager
def together() -> Iterator[None]:
    """End the case on all ranks, with the same outcome and reason, where it ends on one within this block.

    Nothing within may wait for other ranks.
    """
    ended = None
    try:
        yield
    except CaseEnded as error:
        if count() == 1:
            raise
        ended = error
    faults = told_all(ended and (ended.outcome, ended.reason))
    for rank, fault in enumerate(faults):
        if fault:
            outcome, reason = fault
            raise CaseEnded(outcome, reason if all(each == fault for each in faults) else f"rank {rank}: {reason}")


def check_same(parameters: Mapping[str, Tensor], when: str = "", outcome: Outcome = Outcome.WRONG_GRADIENT) -> None:
    """Check that all ranks have the same weights, bit for bit; raises CaseEnded, on each of them, where not."""
    if count() == 1:
        return
    different = ""
    for name, value in parameters.items():
        first = value.detach().clone()
        dist.broadcast(first, 0)
        if not (different or torch.equal(_bits(first), _bits(value))):
            different = f"{when}rank {own()} has another {name} than rank 0"
    told = next(filter(None, told_all(different)), "")
    if told:
        raise CaseEnded(outcome, told)


def _bits(value: Tensor) -> Tensor:
    return value.detach().contiguous().view(-1).view(torch.uint8)
