"""Engines for several ranks that end badly, as user engines: `--engine tests/distributed/users.py:NAME`.

Each is `ddp` until its fifth call, which the gate makes, and then something happens on the last rank.
"""

import os
import signal
import time

import torch

from harness.training import ranks
from harness.training.engines.ddp import Ddp, DdpUpdates


class _Updates(DdpUpdates):
    def __init__(self, problem, engine):
        super().__init__(problem)
        self.engine, self.calls = engine, 0

    def __call__(self, inputs, targets):
        self.calls += 1
        if self.calls == self.engine.call and ranks.own() == ranks.count() - 1:
            self.engine.end(self)
        return super().__call__(inputs, targets)


class AtCall(Ddp):
    call = 5

    def prepare(self, problem, steps):
        super().prepare(problem, steps)
        return _Updates(problem, self)

    def end(self, updates):
        raise NotImplementedError


class IsKilledWhileTimed(AtCall):
    call = 40

    def end(self, updates):
        os.kill(os.getpid(), signal.SIGKILL)


class Hangs(AtCall):
    def end(self, updates):
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        time.sleep(300)


class Raises(AtCall):
    def end(self, updates):
        raise ValueError("no such layer: Swish")


class DriftsByOneBit(AtCall):
    """Its loss and gradients are right, and its weights those of the others but for the last bit of one."""

    def end(self, updates):
        weight = updates._model[0].weight.detach()
        weight[0, 0] = torch.nextafter(weight[0, 0], torch.tensor(torch.inf))


class DoesNotSynchronise(AtCall):
    """Each rank trains on its own share, as fast as a rank can."""

    call = 0

    def prepare(self, problem, steps):
        updates = super().prepare(problem, steps)
        updates._replica.require_backward_grad_sync = False
        return updates


class SynchronisesInTheGateOnly(DoesNotSynchronise):
    """Waits for the others where each update is looked at, and not in calls of many."""

    def prepare(self, problem, steps):
        updates = super().prepare(problem, steps)
        return _Quick(updates)


class _Quick:
    def __init__(self, updates):
        self.updates, self.load, self.parameters = updates, updates.load, updates.parameters

    def __call__(self, inputs, targets):
        self.updates._replica.require_backward_grad_sync = len(inputs) == 1
        return self.updates(inputs, targets)
