import pytest
import torch

from harness.plan.outcome import CaseEnded, Outcome
from harness.training.engines.compile_modes import TreeUpdates
from harness.training.gate import copied
from harness.training.loading import load_workload
from harness.training.steps import autograd_step
from harness.training.trial import begin, problem_of


def test_an_update_that_torch_does_not_capture_is_unsupported_and_changes_nothing() -> None:
    """torch itself says so in its log only; here it is an update that was never compiled."""
    torch._dynamo.utils.counters.clear()
    cpu = torch.device("cpu")
    problem = problem_of(load_workload("line"), 10, cpu, torch.float32)
    model = problem.model()
    updates = TreeUpdates(model, autograd_step(problem, model))
    before = copied(updates.parameters())
    with pytest.raises(CaseEnded, match="does not replay this update as a CUDA graph") as ended:
        updates(*begin(load_workload("line"), 10, 0, cpu, torch.float32).batches(3))
    assert ended.value.outcome is Outcome.UNSUPPORTED
    torch.testing.assert_close(updates.parameters(), before, rtol=0, atol=0)
