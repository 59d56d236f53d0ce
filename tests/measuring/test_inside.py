import time

import pytest
import torch
from torch import Tensor

from harness.measuring.inside import Inside, look_inside

CPU = torch.device("cpu")
STEPS = 10


def inside(step) -> Inside:
    def run() -> None:
        for _ in range(STEPS):
            step()

    run()
    return look_inside(run, STEPS, CPU)


def test_operations_of_an_update_are_counted_and_the_longest_is_first():
    left, right, out = torch.rand(300, 300), torch.rand(300, 300), torch.empty(300, 300)

    def step() -> None:
        torch.mm(left, right, out=out)
        out.add_(1).relu_()

    seen = inside(step)
    names = {part.name: part.per_step for part in seen.parts}
    assert names["aten::mm"] == names["aten::add_"] == names["aten::relu_"] == 1
    assert seen.parts[0].name == "aten::mm"
    assert seen.parts[0].self_ns < seen.work_ns < seen.profiled_ns
    assert seen.kernels == ()


def test_an_operation_that_an_update_has_often_counts_as_often():
    values = torch.rand(1000)

    def step() -> None:
        for _ in range(40):
            values.add_(values)

    once, often = inside(lambda: values.add_(values)), inside(step)
    assert (once.operations, often.operations) == (1, 40)
    assert often.work_ns > 8 * once.work_ns


def test_memory_is_counted_where_it_is_taken_and_only_there():
    values, out = torch.rand(1000), torch.empty(1000)
    taking = inside(lambda: values + values)
    assert taking.allocations == 1
    assert taking.allocated_bytes == pytest.approx(4000, rel=0.1)
    assert inside(lambda: torch.add(values, values, out=out)).allocations == 0


def test_what_torch_does_not_do_is_in_none_of_its_parts():
    seen = inside(lambda: time.sleep(0.002))
    assert seen.profiled_ns > 2e6
    assert seen.machinery_ns + seen.work_ns < 0.1 * seen.profiled_ns
    assert seen.operations == 0


def test_views_and_backward_nodes_are_machinery():
    weight = torch.rand(10, 10, requires_grad=True)

    def step() -> None:
        loss: Tensor = (weight.t() @ weight).sum()
        loss.backward()

    seen = inside(step)
    assert seen.machinery >= 3
    assert 0 < seen.machinery_ns < seen.profiled_ns


def test_the_least_operation_takes_less_than_a_large_one():
    left, right, out = torch.rand(300, 300), torch.rand(300, 300), torch.empty(300, 300)
    seen = inside(lambda: torch.mm(left, right, out=out))
    assert 0 < 5 * seen.least_ns < seen.work_ns
