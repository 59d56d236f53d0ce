import pytest
import torch

from harness.plan.outcome import CaseEnded, Outcome
from harness.training import ranks

# Of several ranks: tests/distributed.


def test_a_process_that_trains_alone_agrees_with_itself() -> None:
    assert (ranks.count(), ranks.own()) == (1, 0)
    assert ranks.told_all("alone") == ["alone"]
    ranks.wait()
    ranks.check_same({"weight": torch.tensor(torch.nan)})
    assert len({ranks.chance().getrandbits(63) for _ in range(3)}) == 3


def test_alone_a_case_ends_with_its_own_reason() -> None:
    with pytest.raises(CaseEnded, match=r"^wrong$") as ended, ranks.together():
        raise CaseEnded(Outcome.REJECTED, "wrong")
    assert ended.value.outcome is Outcome.REJECTED


def test_an_error_that_is_no_end_of_a_case_passes() -> None:
    with pytest.raises(ValueError, match="no such layer"), ranks.together():
        raise ValueError("no such layer")
