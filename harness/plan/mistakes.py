"""The literal catalogue of mistakes in gradients derived by hand: a new one is one class and one entry here."""

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Mistake:
    """One real mistake.

    target: the engine that makes it, as `module:attribute`. what: what is wrong, in words.
    workload, batch_size: where it is looked at. everywhere: whether it shows in other workloads and batches as well.
    """

    target: str
    what: str
    workload: str = "line"
    batch_size: int = 100
    everywhere: bool = True


_IN = "harness.training.mistakes"
_MINIBATCH = 10  # ten of them make up the data, and as many points as `line` has hidden units

MISTAKES: Mapping[str, Mistake] = {
    # In the gradient of the loss
    "MeanForgotten": Mistake(f"{_IN}.loss:MeanForgotten", "1/N forgotten: summed where the loss is a mean"),
    "MeanTakenTwice": Mistake(f"{_IN}.loss:MeanTakenTwice", "1/N taken twice"),
    "FactorTwoLost": Mistake(f"{_IN}.loss:FactorTwoLost", "the 2 of the square is lost"),
    "WrongSign": Mistake(f"{_IN}.loss:WrongSign", "target minus output: up the hill"),
    "GradientOfAnotherLoss": Mistake(f"{_IN}.loss:GradientOfAnotherLoss", "gradient of the absolute error"),
    "TargetsBroadcast": Mistake(f"{_IN}.loss:TargetsBroadcast", "outputs (N, 1) against targets (N,): all by all"),
    "LastPointLeftOut": Mistake(f"{_IN}.loss:LastPointLeftOut", "the loop over points ends one too early"),
    # In the derivative of the activation
    "ReluMaskForgotten": Mistake(f"{_IN}.activation:ReluMaskForgotten", "ReLU's mask forgotten"),
    "MaskFromTheGradient": Mistake(f"{_IN}.activation:MaskFromTheGradient", "ReLU's mask from the wrong tensor"),
    "MaskInverted": Mistake(f"{_IN}.activation:MaskInverted", "ReLU's mask inverted"),
    "ValueInsteadOfSlope": Mistake(f"{_IN}.activation:ValueInsteadOfSlope", "times ReLU(x) instead of its derivative"),
    "SlopeOfAnotherActivation": Mistake(
        f"{_IN}.activation:SlopeOfAnotherActivation", "the sigmoid's derivative left over"
    ),
    # In the gradients of a linear layer
    "BiasFromOneSample": Mistake(f"{_IN}.linear:BiasFromOneSample", "bias gradient of one point alone"),
    "BiasGradientMissing": Mistake(f"{_IN}.linear:BiasGradientMissing", "no bias gradient"),
    "BiasAveragedAgain": Mistake(f"{_IN}.linear:BiasAveragedAgain", "bias gradient averaged twice"),
    "MeanForgottenInTheBias": Mistake(f"{_IN}.linear:MeanForgottenInTheBias", "1/N forgotten in the bias alone"),
    "InputsForgotten": Mistake(f"{_IN}.linear:InputsForgotten", "weight gradient without the layer's inputs"),
    "InputsTransposed": Mistake(
        f"{_IN}.linear:InputsTransposed",
        "activations transposed: as many points as units",
        batch_size=_MINIBATCH,
        everywhere=False,
    ),
    "PreactivationInsteadOfActivation": Mistake(
        f"{_IN}.linear:PreactivationInsteadOfActivation", "weight gradient with values from before the ReLU"
    ),
    "MeanTakenAtEveryLayer": Mistake(f"{_IN}.linear:MeanTakenAtEveryLayer", "another 1/N in each layer on the way"),
    "WeightsForgottenOnTheWayBack": Mistake(
        f"{_IN}.linear:WeightsForgottenOnTheWayBack", "passed on without the layer's weights"
    ),
    "WeightTransposed": Mistake(
        f"{_IN}.linear:WeightTransposed", "a square layer's weights transposed", workload="line_deep", everywhere=False
    ),
    "HiddenLayerDetached": Mistake(f"{_IN}.linear:HiddenLayerDetached", "hidden layers detached: only the last learns"),
    "UpdatedBeforeTheLayerBelow": Mistake(
        f"{_IN}.linear:UpdatedBeforeTheLayerBelow", "weights updated before the layer below uses them"
    ),
    # In how gradients become an update
    "GradientsNotCleared": Mistake(f"{_IN}.update:GradientsNotCleared", "gradients not cleared"),
    "ClearedTooEarly": Mistake(f"{_IN}.update:ClearedTooEarly", "gradients cleared before the update"),
    "OneUpdateLate": Mistake(f"{_IN}.update:OneUpdateLate", "gradients of the update before"),
    "StaleActivations": Mistake(f"{_IN}.update:StaleActivations", "activations of the forward pass before"),
    "OneMinibatchBehind": Mistake(
        f"{_IN}.update:OneMinibatchBehind",
        "gradients of the minibatch before",
        batch_size=_MINIBATCH,
        everywhere=False,
    ),
    "GradientsInWrongOrder": Mistake(
        f"{_IN}.update:GradientsInWrongOrder", "the last layer's gradients for the first, reshaped"
    ),
    "LearningRateTwice": Mistake(f"{_IN}.update:LearningRateTwice", "learning rate applied twice"),
    "LearningRateForgotten": Mistake(f"{_IN}.update:LearningRateForgotten", "learning rate forgotten"),
    "GradientInLowPrecision": Mistake(f"{_IN}.update:GradientInLowPrecision", "gradients rounded to bfloat16"),
    "ForwardInHalfPrecision": Mistake(f"{_IN}.update:ForwardInHalfPrecision", "activations rounded to float16"),
}
