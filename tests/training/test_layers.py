from torch import Tensor, nn

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


def test_a_layer_that_is_used_twice_is_in_the_chain_twice() -> None:
    activation = nn.ReLU()
    model = nn.Sequential(nn.Linear(1, 2), activation, nn.Linear(2, 2), activation, nn.Linear(2, 1))
    assert len(chain(model)) == 5


def test_a_sequential_with_a_forward_of_its_own_is_no_chain() -> None:
    class Odd(nn.Sequential):
        def forward(self, inputs: Tensor) -> Tensor:
            return 2 * inputs

    model = Odd(nn.Linear(1, 1))
    assert chain(model) == [("", model)]
