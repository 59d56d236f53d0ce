"""How far from the float64 reference an honest engine may be: the constants, and what they were measured on."""

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch

from harness.training.contract import Problem


@dataclass(frozen=True)
class Tolerance:
    """What the gate allows an honest engine of one dtype.

    update: c of the elementwise bound of one update, in units of eps · Σ|terms|.
    trajectory: relative difference of a loss from the free reference trajectory, over the first twenty updates.
    eps: distance from 1 to the next number; of what products are made of, where that is less than the parameters.
    roundings: how many times as far from the reference a block of another kind than single updates may be as a
        reference that is off by a rounding after each update.
    length, together: how much longer or shorter the gate's updates together may be than the reference's: by a share of
        their length, and by a share of what the limits allow along them; 0 and 1 is what the limits say anyway.
    """

    update: float
    trajectory: float
    eps: float
    roundings: float = 16.0
    length: float = 0.0
    together: float = 1.0


SUMMED = 1000

# float32, float64: measured with manual, autograd and compile_step on `line` and `line_deep`, up to 300 seeds × 50
# updates: the largest honest error is 1.3 units of eps · Σ|terms| at batch 10 and 100, 2.7 at 1 000, 12.3 at 10 000,
# 30.6 at 100 000 (the weight gradient's matrix product adds its terms in order); c is 16, 16, 16, 51 and 160 there. The
# smallest structural mistakes start at thousands. Trajectories of twenty updates differ by at most 5e-5 in float32 and
# 3e-14 in float64; one update skipped shows as 1e-2 and more.
#
# bfloat16: measured with autograd and compile_step by torch.autocast on a CPU, on `line` and `line_deep` at batch 10,
# 100 and 1 000, 20 to 210 seeds × 20 updates each. Compiled code leaves out roundings that eager code makes, so the
# reference rounds nothing and the limit allows all of them: the largest honest error is 0.98 units of eps · Σ|terms|
# where no kink is near; c is 3. Mistakes of structure are caught on every seed within two updates, but activations of
# one update before on 39 of 40. A learning rate that is off by 5 % is within that limit; twenty honest updates
# together, though, are 3e-4 longer or shorter than the reference's in the median and 1e-2 at most, 0.71 of what
# `length` and `together` allow (390 trials). So 1 % shows on every seed of `line` and on a third of `line_deep`, 2 %
# on all but one in fifty, 5 % on all. Trajectories of twenty updates differ by at most 0.25 (600 trials). Of blocks
# whose calls of many round elsewhere than single updates, 1 process in 160 was off by 8 `roundings` and the others by
# less than 6; where these leave out every second update it shows always, and one in ten in 10 of 24 blocks.
#
# tf32: emulated on a CPU, factors of products rounded or cut to 10 bits (`tests/rounded.py`), 100 trials: at most 1.5
# units where they are cut, 0.5 where they are rounded; twenty updates together at most 9e-4 (cut: that is a bias), a
# quarter of the limit, on other networks half of it; trajectories at most 0.034. A learning rate that is off by 1 %
# shows on every seed, products in bfloat16 on 7 of 20. Not measured on a GPU.
TOLERANCES: Mapping[str, Tolerance] = {
    "float32": Tolerance(update=16.0, trajectory=1e-3, eps=torch.finfo(torch.float32).eps),
    "float64": Tolerance(update=16.0, trajectory=1e-9, eps=torch.finfo(torch.float64).eps),
    "tf32": Tolerance(update=3.0, trajectory=1e-1, eps=2**-10, roundings=10.0, length=3e-3, together=0.015),
    "bfloat16": Tolerance(
        update=3.0, trajectory=3e-1, eps=torch.finfo(torch.bfloat16).eps, roundings=10.0, length=3e-3, together=0.015
    ),
}


@dataclass(frozen=True)
class Units:
    """What a rounding counts for in the bound of one update, in units of Σ|terms|, c included.

    sums: of the terms of a value on its way through the network. weights: of the weight itself, when it is updated.
    """

    sums: float
    weights: float


def units(problem: Problem) -> Units:
    """Return the units for updates of the problem.

    Up to SUMMED points c is constant; beyond, it grows with the root of their number, as the error of a sum in the
    parameters' dtype does that is taken term by term.
    """
    growth = max(1.0, math.sqrt(problem.batch_size / SUMMED))
    plain = TOLERANCES[str(problem.dtype).removeprefix("torch.")]
    if not problem.mixed:
        both = plain.update * growth * plain.eps
        return Units(both, both)
    mixed = TOLERANCES[problem.mixed]
    weights = plain.update * growth * plain.eps
    return Units(mixed.update * mixed.eps + weights, weights)
