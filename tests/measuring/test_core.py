import sys

import pytest

from harness.measuring.core import CoreEvidence, spin_ns, work_id

FAST, SLOW = 9_000, 14_000


def judged(blocks, fast_ns=None):
    """What is said of blocks whose fixed work took so long before and after."""
    spins = iter([spin for block in blocks for spin in block])
    evidence = CoreEvidence(fast_ns, lambda: next(spins))
    said = []
    for _ in blocks:
        evidence.begin()
        said.append(evidence.end(10_000_000))
        assert evidence.afterwards() == ""
    return said


@pytest.mark.parametrize(
    ("block", "says"),
    [
        ((FAST, FAST), ""),
        ((SLOW, SLOW), "slow core"),
        ((SLOW, FAST), "slow core"),
        ((FAST, SLOW), "slow core"),
        ((FAST, int(1.29 * FAST)), ""),
        ((FAST, int(1.31 * FAST)), "slow core"),
    ],
)
def test_a_block_that_begins_or_ends_on_a_slow_core_is_disturbed(block, says):
    assert judged([(FAST, FAST)] * 9 + [block])[-1] == says


def test_a_process_that_never_sees_a_fast_core_knows_one_from_those_before_it():
    slow = [(SLOW, SLOW)] * 3
    assert judged(slow) == [""] * 3
    assert judged(slow, fast_ns=FAST) == ["slow core"] * 3


def test_one_lucky_look_does_not_make_all_others_slow():
    assert judged([(FAST, FAST)] * 20 + [(FAST // 2, FAST)] + [(FAST, FAST)] * 20) == [""] * 41


def test_what_is_usual_is_what_a_fast_core_takes():
    evidence = CoreEvidence(None, iter([SLOW, FAST, SLOW, FAST]).__next__)
    assert evidence.usual_ns() is None
    for _ in range(2):
        evidence.begin()
        evidence.end(1)
    assert evidence.usual_ns() == FAST


def test_the_fixed_work_is_short_beside_a_block():
    assert 500 < min(spin_ns() for _ in range(50)) < 200_000


def test_the_work_has_another_name_where_another_interpreter_does_it(monkeypatch):
    here = work_id()
    assert work_id() == here
    monkeypatch.setattr(sys, "version", "3.11.7 (built by somebody else)")
    assert work_id() != here
