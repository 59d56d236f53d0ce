"""A model as the chain of its layers, for whoever needs to know each layer: hand-derived rules, error bounds."""

from torch import nn


def chain(model: nn.Module) -> list[tuple[str, nn.Module]]:
    """Return the layers of a (nested) `nn.Sequential` in order, each with its dotted name.

    A model that is not a plain Sequential is one layer of its own.
    """
    layers: list[tuple[str, nn.Module]] = []

    def visit(name: str, module: nn.Module) -> None:
        # A subclass with a forward of its own is no chain; `named_children` would leave out a layer used twice.
        if isinstance(module, nn.Sequential) and type(module).forward is nn.Sequential.forward:
            for child_name, child in module._modules.items():
                assert child is not None
                visit(f"{name}.{child_name}" if name else child_name, child)
        elif not isinstance(module, nn.Identity):
            layers.append((name, module))

    visit("", model)
    return layers


def describe(layer: nn.Module) -> str:
    """Return the name of a layer as a reader knows it, e.g. `GELU(approximate='tanh')`."""
    text = str(layer)
    return text if "\n" not in text else type(layer).__name__
