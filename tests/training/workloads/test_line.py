import pytest
import torch

from harness.training.loading import load_workload


@pytest.mark.parametrize("name", ["line", "line_deep"])
@pytest.mark.parametrize(("batch_size", "points"), [(10, 100), (100, 100), (10_000, 10_000)])
def test_there_are_at_least_a_hundred_points_and_at_least_a_batch(name: str, batch_size: int, points: int) -> None:
    inputs, targets = load_workload(name).data(batch_size, 0)
    assert inputs.shape == targets.shape == (points, 1)
    assert (inputs.min(), inputs.max()) == (-1, 1)
    assert (targets - 2 * inputs - 1).std() == pytest.approx(0.1, rel=0.5)


@pytest.mark.parametrize(("name", "parameters"), [("line", 31), ("line_deep", 141)])
def test_the_networks_are_those_of_the_lesson(name: str, parameters: int) -> None:
    assert sum(value.numel() for value in load_workload(name).model(0).parameters()) == parameters


def test_accuracy_is_the_share_within_a_half() -> None:
    outputs = torch.tensor([[0.0], [0.5], [0.51], [-3.0]])
    assert load_workload("line").accuracy(outputs, torch.zeros(4, 1)).item() == 0.5
