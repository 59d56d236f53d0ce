import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.plan.text import printable, shown

texts = st.text(st.characters())


@given(texts)
def test_what_is_printable_has_no_control_characters_and_stays_as_it_is_when_it_is_made_so_again(text):
    assert printable(text).isprintable()
    assert printable(printable(text)) == printable(text)
    assert len(printable(text, 20)) <= 20
    assert printable(printable(text, 20), 20) == printable(text, 20)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("plain – ± é", "plain – ± é"),
        ("\x1b[31m", "\\x1b[31m"),
        ("a\r\n\tb\0", "a\\x0d\\x0a\\x09b\\x00"),
        ("\u202e\ud800\u2028", "\\u202e\\ud800\\u2028"),
        ("\U000e0001", "\\U000e0001"),
    ],
    ids=range(5),
)
def test_what_steers_a_terminal_is_written_out(text, expected):
    assert printable(text) == expected


HUGE = [10**10_000, -(2**100_000), "x" * 10**6, [[[[[[[[[[1]]]]]]]]]], {"a": 10**10_000}, list(range(10**5)), "\x1b"]


@pytest.mark.parametrize("value", HUGE, ids=range(len(HUGE)))
def test_any_value_is_shown_in_one_short_line(value):
    assert shown(value).isprintable()
    assert len(shown(value)) <= 200
