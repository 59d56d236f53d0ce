import re
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from harness.training import trial
from harness.training.loading import load_workload
from harness.training.trial import MAX_BATCH_BYTES, MAX_GPU_BATCH_BYTES, begin, chunks, digest_of, problem_of
from harness.training.workloads.line import Line

CPU = torch.device("cpu")


def test_one_generator_draws_noise_then_weights_then_shuffles() -> None:
    torch.manual_seed(7)
    inputs = torch.linspace(-1, 1, 100).unsqueeze(1)
    targets = 2 * inputs + 1 + 0.1 * torch.randn(inputs.shape)
    model = nn.Sequential(nn.Linear(1, 10), nn.ReLU(), nn.Linear(10, 1))
    orders = [torch.randperm(100) for _ in range(20)]

    begun = begin(load_workload("line"), 10, 7, CPU, torch.float32)
    assert torch.equal(begun.targets, targets)
    for name, value in model.named_parameters():
        assert torch.equal(begun.parameters[name], value)
    assert begun.orders is not None
    assert all(torch.equal(mine, wanted) for mine, wanted in zip(begun.orders, orders, strict=True))


def test_the_callers_random_state_is_left_alone() -> None:
    torch.manual_seed(1)
    wanted = torch.rand(3)
    torch.manual_seed(1)
    begin(load_workload("line"), 10, 5, CPU, torch.float32)
    problem_of(load_workload("line"), 10, CPU, torch.float32)
    assert torch.equal(torch.rand(3), wanted)


@pytest.mark.parametrize(("batch_size", "updates"), [(1, 100), (10, 10), (30, 3), (50, 2), (51, 1), (100, 1), (250, 1)])
def test_an_epoch_has_as_many_updates_as_whole_batches(batch_size: int, updates: int) -> None:
    inputs, targets = next(begin(load_workload("line"), batch_size, 0, CPU, torch.float32).epochs())
    assert inputs.shape == targets.shape == (updates, batch_size, 1)


def test_a_full_batch_is_not_shuffled_and_takes_no_memory_over_steps() -> None:
    begun = begin(load_workload("line"), 100, 0, CPU, torch.float32)
    inputs, _ = begun.batches(1000)
    assert inputs.shape == (1000, 100, 1)
    assert torch.equal(inputs[999], begun.inputs)
    assert inputs.untyped_storage().nbytes() == begun.inputs.nbytes
    assert begun.max_steps() is None


def test_batches_go_through_the_epochs_in_their_orders() -> None:
    begun = begin(load_workload("line"), 50, 0, CPU, torch.float32)
    assert begun.orders is not None
    inputs, _ = begun.batches(43)
    assert torch.equal(inputs[2:4].flatten(), begun.inputs[begun.orders[1]].flatten())
    # 20 epochs of two batches, then the first order again
    assert torch.equal(inputs[40:42], inputs[0:2])


def test_real_batches_keep_to_the_byte_cap() -> None:
    begun = begin(load_workload("line"), 10, 0, CPU, torch.float32)
    most = begun.max_steps()
    assert most is not None
    assert most * 10 * 8 <= MAX_BATCH_BYTES < (most + 1) * 10 * 8


def test_a_gpu_has_room_for_more_batches() -> None:
    class OnAGpu(Tensor):
        is_cuda = True

    begun = begin(load_workload("line"), 10, 0, CPU, torch.float32)
    most = replace(begun, inputs=begun.inputs.as_subclass(OnAGpu)).max_steps()
    assert most is not None
    assert most * 10 * 8 <= MAX_GPU_BATCH_BYTES < (most + 1) * 10 * 8
    assert MAX_GPU_BATCH_BYTES > MAX_BATCH_BYTES


def test_floating_data_takes_the_dtype_and_classes_stay_whole_numbers() -> None:
    class Classes(Line):
        def data(self, batch_size: int, seed: int) -> tuple[Tensor, Tensor]:
            return torch.rand(20, 1), torch.arange(20)

    begun = begin(Classes(), 10, 0, CPU, torch.float64)
    assert begun.inputs.dtype == torch.float64
    assert begun.targets.dtype == torch.int64


def test_a_workload_with_fewer_points_than_a_batch_is_refused() -> None:
    class Short(Line):
        def data(self, batch_size: int, seed: int) -> tuple[Tensor, Tensor]:
            return torch.rand(5, 1), torch.rand(5, 1)

    with pytest.raises(ValueError, match="5 inputs"):
        begin(Short(), 10, 0, CPU, torch.float32)


# Batches for engines that unroll


@pytest.mark.parametrize("steps", [1, 2, 3, 6, 7])
def test_chunks_are_the_batches_in_order_without_the_rest(steps: int) -> None:
    batches = torch.arange(steps * 4.0).view(steps, 2, 2)
    found = list(chunks(batches, 3))
    assert len(found) == steps // 3
    for place, chunk in enumerate(found):
        assert torch.equal(chunk, batches[3 * place : 3 * place + 3])
        assert chunk.data_ptr() == batches[3 * place].data_ptr()


def test_chunks_of_one_batch_expanded_over_steps_have_the_layout_of_others_and_are_copied_once() -> None:
    batches = torch.arange(4.0).view(2, 2).expand(7, 2, 2)
    first, second = chunks(batches, 3)
    assert first is second
    assert first.is_contiguous()
    assert torch.equal(first, batches[:3])


@pytest.mark.parametrize(("most", "wanted"), [(10**9, 20), (64 * 5, 5), (64 * 5 - 1, 4), (1, 1)])
def test_large_batches_are_unrolled_less(most: int, wanted: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trial, "MAX_CHUNK_BYTES", most)
    assert trial.steps_at_once(20, torch.zeros(8, 1), torch.zeros(8, 1)) == wanted


# What is trained


class Deeper(Line):
    def model(self, seed: int) -> nn.Module:
        return nn.Sequential(nn.Linear(1, 10), nn.ReLU(), nn.Linear(10, 10), nn.ReLU(), nn.Linear(10, 1))


class Smooth(Line):
    """The same weights, since an activation draws none."""

    def model(self, seed: int) -> nn.Module:
        return nn.Sequential(nn.Linear(1, 10), nn.GELU(), nn.Linear(10, 1))


class SmoothByTanh(Line):
    def model(self, seed: int) -> nn.Module:
        return nn.Sequential(nn.Linear(1, 10), nn.GELU("tanh"), nn.Linear(10, 1))


class Scaled(Line):
    def model(self, seed: int) -> nn.Module:
        model = super().model(seed)
        nn.init.zeros_(next(model.parameters()))
        return model


class Shifted(Line):
    def data(self, batch_size: int, seed: int) -> tuple[Tensor, Tensor]:
        inputs, targets = super().data(batch_size, seed)
        return inputs, targets + 1e-6


class Faster(Line):
    learning_rate = 0.11


class Longer(Line):
    epochs = 21


class Absolute(Line):
    loss = nn.L1Loss()


OTHERS = (Deeper, Smooth, SmoothByTanh, Scaled, Shifted, Faster, Longer, Absolute)


def test_the_digest_is_that_of_what_is_trained_however_often_it_is_asked_for() -> None:
    found = digest_of(Line(), 100)
    assert re.fullmatch("[0-9a-f]{12}", found)
    assert digest_of(Line(), 100) == digest_of(load_workload("line"), 100) == found


def test_whatever_else_is_trained_has_another_digest() -> None:
    digests = [digest_of(each(), 100) for each in (Line, *OTHERS)]
    digests.append(digest_of(Line(), 10_000))
    assert len(set(digests)) == len(digests)


def test_what_changes_no_update_changes_no_digest() -> None:
    class Stricter(Line):
        targets = replace(Line.targets, max_loss=0.01)

        def accuracy(self, outputs: Tensor, targets: Tensor) -> Tensor:
            return torch.zeros(())

        def held_out(self, batch_size: int, seed: int) -> tuple[Tensor, Tensor]:
            return torch.rand(3, 1), torch.rand(3, 1)

    assert digest_of(Stricter(), 100) == digest_of(Line(), 100)


def test_a_digest_depends_on_nothing_of_the_process_and_leaves_its_random_state_alone() -> None:
    found = digest_of(Line(), 10)
    torch.manual_seed(5)
    torch.rand(3)
    wanted = torch.rand(3)
    torch.manual_seed(5)
    torch.rand(3)
    assert digest_of(Line(), 10) == found
    assert torch.equal(torch.rand(3), wanted)


def test_the_batch_size_matters_only_where_it_changes_the_data() -> None:
    """The case has it in its name."""
    assert digest_of(Line(), 10) == digest_of(Line(), 100) != digest_of(Line(), 200)
