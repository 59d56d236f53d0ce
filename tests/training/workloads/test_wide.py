import torch

from harness.training.loading import load_workload


def test_there_are_at_least_2048_points_and_at_least_two_batches() -> None:
    for batch_size, points in ((256, 2048), (4096, 8192)):
        inputs, classes = load_workload("wide").data(batch_size, 0)
        assert inputs.shape == (points, 1024)
        assert set(classes.tolist()) == set(range(10))


def test_a_batch_for_a_gpu_is_256_megabytes() -> None:
    inputs, _ = load_workload("wide").data(64, 0)
    assert 65536 * inputs[0].nbytes == 256 * 2**20


def test_an_update_is_work_for_a_gpu() -> None:
    with torch.device("meta"):
        model = load_workload("wide").model(0)
    assert [layer.out_features for layer in model.modules() if isinstance(layer, torch.nn.Linear)] == [4096, 4096, 10]
    assert sum(value.numel() for value in model.parameters()) == 21_020_682


def test_a_seed_has_centres_of_its_own() -> None:
    one, other = (load_workload("wide").data(1, seed)[0] for seed in (0, 1))
    assert not torch.equal(one, other)
