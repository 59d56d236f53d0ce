import torch

from harness.training.loading import load_workload
from harness.training.trial import begin


def test_there_are_at_least_4096_points_and_at_least_four_batches() -> None:
    for batch_size, points in ((1024, 4096), (8192, 32768)):
        inputs, classes = load_workload("medium").data(batch_size, 0)
        assert inputs.shape == (points, 256)
        assert classes.shape == (points,)
        assert set(classes.tolist()) == set(range(10))


def test_an_update_is_enough_work_for_several_ranks() -> None:
    assert sum(value.numel() for value in load_workload("medium").model(0).parameters()) > 1_000_000


def test_a_seed_has_centres_of_its_own() -> None:
    one, other = (begin(load_workload("medium"), 1024, seed, torch.device("cpu"), torch.float32) for seed in (0, 1))
    assert not torch.equal(one.inputs, other.inputs)


def test_accuracy_is_the_share_of_classes_that_are_right() -> None:
    outputs = torch.tensor([[0.0, 1.0], [2.0, 1.0], [0.0, 3.0], [0.0, 3.0]])
    assert load_workload("medium").accuracy(outputs, torch.tensor([1, 0, 1, 0])).item() == 0.75
