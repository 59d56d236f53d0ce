import copy

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from harness.training.rules import LAYER_RULES, LOSS_RULES, has_loss_rule, has_rule

LAYERS = {
    "linear": lambda width: nn.Linear(width, width + 1),
    "linear_without_bias": lambda width: nn.Linear(width, width + 1, bias=False),
    "relu": lambda _width: nn.ReLU(),
    "tanh": lambda _width: nn.Tanh(),
    "sigmoid": lambda _width: nn.Sigmoid(),
    "gelu": lambda _width: nn.GELU(),
}


@pytest.mark.parametrize("name", LAYERS)
@given(batch=st.integers(1, 7), width=st.integers(1, 5), seed=st.integers(0, 2**16))
@settings(max_examples=20, deadline=None)
def test_a_rule_gives_the_outputs_gradient_and_update_of_autograd(name: str, batch: int, width: int, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    layer = LAYERS[name](width).double()
    theirs = copy.deepcopy(layer)
    layer.requires_grad_(False)
    inputs = torch.randn(batch, width, generator=generator, dtype=torch.float64)
    delta = torch.randn(layer(inputs).shape, generator=generator, dtype=torch.float64)

    leaf = inputs.clone().requires_grad_()
    outputs = theirs(leaf)
    outputs.backward(delta)
    rule = LAYER_RULES[type(layer)](layer, outputs.detach(), inputs, first=False)

    torch.testing.assert_close(rule.forward(inputs), outputs.detach())
    torch.testing.assert_close(rule.backward(delta.clone(), 0.1), leaf.grad)
    for mine, wanted in zip(layer.parameters(), theirs.parameters(), strict=True):
        assert wanted.grad is not None
        torch.testing.assert_close(mine, wanted.detach() - 0.1 * wanted.grad)


@pytest.mark.parametrize("loss", [nn.MSELoss(), nn.CrossEntropyLoss()])
@given(batch=st.integers(1, 7), width=st.integers(2, 5), seed=st.integers(0, 2**16))
@settings(max_examples=20, deadline=None)
def test_a_loss_rule_gives_the_value_and_gradient_of_autograd(
    loss: nn.Module, batch: int, width: int, seed: int
) -> None:
    generator = torch.Generator().manual_seed(seed)
    outputs = torch.randn(batch, width, generator=generator, dtype=torch.float64, requires_grad=True)
    targets = torch.randn(batch, width, generator=generator, dtype=torch.float64)
    if isinstance(loss, nn.CrossEntropyLoss):
        targets = targets.argmax(1)
    wanted = loss(outputs, targets)
    wanted.backward()

    value = torch.empty((), dtype=torch.float64)
    delta = LOSS_RULES[type(loss)](outputs.detach()).forward(outputs.detach(), targets, value)

    torch.testing.assert_close(value, wanted.detach())
    torch.testing.assert_close(delta, outputs.grad)


def test_the_first_layer_computes_no_gradient_by_the_data() -> None:
    layer = nn.Linear(2, 3).requires_grad_(False)
    inputs = torch.ones(4, 2)
    rule = LAYER_RULES[nn.Linear](layer, layer(inputs), inputs, first=True)
    rule.forward(inputs)
    delta = torch.ones(4, 3)
    assert rule.backward(delta, 0.1) is delta


@pytest.mark.parametrize(
    ("layer", "known"),
    [(nn.ReLU(), True), (nn.GELU(), True), (nn.GELU(approximate="tanh"), False), (nn.LayerNorm(3), False)],
)
def test_a_rule_is_for_a_layer_with_its_settings(layer: nn.Module, known: bool) -> None:
    assert has_rule(layer) is known


@pytest.mark.parametrize(
    ("loss", "known"),
    [
        (nn.MSELoss(), True),
        (nn.MSELoss(reduction="sum"), False),
        (nn.CrossEntropyLoss(), True),
        (nn.CrossEntropyLoss(label_smoothing=0.1), False),
        (nn.L1Loss(), False),
    ],
)
def test_a_loss_rule_is_for_a_loss_with_its_settings(loss: nn.Module, known: bool) -> None:
    assert has_loss_rule(loss) is known
