"""Mistakes in the gradient of the loss: factors, signs, shapes."""

import torch
from torch import Tensor

from harness.training.mistakes.mistaken import Mistaken, squared_error
from harness.training.rules import MSERule


class _Scaled(MSERule):
    """The right loss, and its gradient times a factor."""

    def factor(self) -> float:
        raise NotImplementedError

    def forward(self, outputs: Tensor, targets: Tensor, loss: Tensor) -> Tensor:
        return super().forward(outputs, targets, loss).mul_(self.factor())


class _Summed(_Scaled):
    def factor(self) -> float:
        return self._count


class MeanForgotten(Mistaken):
    """∂L/∂y = 2 (y - t): summed where the loss is a mean."""

    loss_rules = squared_error(_Summed)


class _AveragedTwice(_Scaled):
    def factor(self) -> float:
        return 1 / self._count


class MeanTakenTwice(Mistaken):
    """∂L/∂y = 2 (y - t) / N²."""

    loss_rules = squared_error(_AveragedTwice)


class _Halved(_Scaled):
    def factor(self) -> float:
        return 0.5


class FactorTwoLost(Mistaken):
    """∂L/∂y = (y - t) / N, as if the loss were half the squared error."""

    loss_rules = squared_error(_Halved)


class _Negated(_Scaled):
    def factor(self) -> float:
        return -1.0


class WrongSign(Mistaken):
    """∂L/∂y = 2 (t - y) / N: up the hill."""

    loss_rules = squared_error(_Negated)


class _AbsoluteError(MSERule):
    def forward(self, outputs: Tensor, targets: Tensor, loss: Tensor) -> Tensor:
        return super().forward(outputs, targets, loss).sign_().div_(self._count)


class GradientOfAnotherLoss(Mistaken):
    """∂L/∂y = sign(y - t) / N, that of the absolute error."""

    loss_rules = squared_error(_AbsoluteError)


class _EachAgainstAll(MSERule):
    def forward(self, outputs: Tensor, targets: Tensor, loss: Tensor) -> Tensor:
        # What the matrix yᵢ - tⱼ [N, N] comes to, without making it: its mean square, and the gradient of that.
        mean = targets.mean()
        loss.copy_(outputs.square().mean() - 2 * outputs.mean() * mean + targets.square().mean())
        return torch.sub(outputs, mean, out=self._difference).mul_(2 / self._count)


class TargetsBroadcast(Mistaken):
    """Outputs [N, 1] minus targets [N] is an [N, N] matrix, each output against all targets."""

    loss_rules = squared_error(_EachAgainstAll)


class _LastLeftOut(MSERule):
    def forward(self, outputs: Tensor, targets: Tensor, loss: Tensor) -> Tensor:
        delta = super().forward(outputs, targets, loss)
        delta[-1].zero_()
        return delta


class LastPointLeftOut(Mistaken):
    """A loop over the points of a batch that ends one too early."""

    loss_rules = squared_error(_LastLeftOut)
