"""What each timed block begins with, and which blocks are kept to be checked."""

from dataclasses import dataclass, field
from random import SystemRandom

import torch
from torch import Tensor

from harness.training.gate import TimedBlock
from harness.training.trial import Trial

# Blocks that are checked as a whole: some by chance, which the engine cannot know, and the fastest, since who cheats in
# some blocks only is fast in these.
BY_CHANCE = 2
FASTEST = 2

# What a block is given differs from the trial by up to this share, and its weights as `varied` has them, each number by
# its own: what is computed between a few blocks known beforehand is off by more than rounding.
VARIED_INPUTS = 0.01


@dataclass
class VariedBatches:
    """The batches of a block, in memory that stays where it is while their values change from block to block.

    inputs, targets: [steps, batch, …]; a full batch is a view expanded over steps. What a block is given is known to
    nobody before its weights are loaded: nothing of it can be computed beforehand, or found again by its address.
    """

    inputs: Tensor
    targets: Tensor
    _original: Tensor
    _memory: Tensor
    _generator: torch.Generator

    @classmethod
    def of(cls, trial: Trial, steps: int) -> "VariedBatches":
        """Take the first `steps` batches of a trial."""
        inputs, targets = trial.batches(steps)
        original = inputs if trial.orders else inputs[0]
        memory = original.clone()
        inputs = memory if trial.orders else memory.expand(steps, *memory.shape)
        return cls(inputs, targets, original, memory, torch.Generator(memory.device))

    def vary(self, seed: int) -> None:
        """Let the inputs be the trial's, each number off by up to VARIED_INPUTS; a seed always gives the same."""
        self._generator.manual_seed(seed)
        self._memory.uniform_(1 - VARIED_INPUTS, 1 + VARIED_INPUTS, generator=self._generator).mul_(self._original)


@dataclass(frozen=True)
class Kept:
    """A block that will be checked: the seed of its inputs and what it began and ended with."""

    index: int
    taken_ns: int
    seed: int
    block: TimedBlock


@dataclass
class Chosen:
    """Which blocks are kept: of all blocks, each with the same chance, and the fastest."""

    _chance: SystemRandom
    _by_chance: list[Kept] = field(default_factory=list)
    _fastest: list[Kept] = field(default_factory=list)
    _seen: int = 0

    def wants(self, taken_ns: int) -> bool:
        """Whether the block that just ended is to be kept; asked once per block."""
        self._seen += 1
        self._place = self._chance.randrange(self._seen) if self._seen > BY_CHANCE else len(self._by_chance)
        self._is_fast = len(self._fastest) < FASTEST or taken_ns < self._fastest[-1].taken_ns
        return self._place < BY_CHANCE or self._is_fast

    def keep(self, kept: Kept) -> None:
        """Keep the block for which `wants` just said so."""
        if self._place < BY_CHANCE:
            self._by_chance[self._place : self._place + 1] = [kept]
        if self._is_fast:
            self._fastest = sorted([*self._fastest, kept], key=lambda other: other.taken_ns)[:FASTEST]

    def all(self) -> list[Kept]:
        """Return the blocks to be checked, each once."""
        return list({kept.index: kept for kept in (*self._by_chance, *self._fastest)}.values())
