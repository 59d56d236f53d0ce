from torch import nn

from harness.training.layers import chain, describe


def test_a_nested_sequential_is_one_chain_with_dotted_names() -> None:
    model = nn.Sequential(nn.Sequential(nn.Linear(1, 2), nn.ReLU()), nn.Identity(), nn.Linear(2, 1))
    assert [name for name, _ in chain(model)] == ["0.0", "0.1", "2"]


def test_another_module_is_a_layer_of_its_own() -> None:
    layer = nn.Linear(1, 1)
    assert chain(layer) == [("", layer)]


def test_a_layer_is_described_with_its_settings_in_one_line() -> None:
    assert describe(nn.GELU(approximate="tanh")) == "GELU(approximate='tanh')"
    assert describe(nn.Sequential(nn.ReLU())) == "Sequential"
