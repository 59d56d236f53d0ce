"""Texts that strangers wrote, made fit to be shown: no control characters, no endless lines."""

import reprlib

REASON_CHARACTERS = 2000
_HUGE_BITS = 256


def printable(text: str, limit: int | None = None) -> str:
    r"""Return a text without characters that steer a terminal or break a line, cut to `limit` characters.

    Control and format characters (ANSI escapes, NUL, line ends, text direction) and lone surrogates become `\x1b`
    style. What is printable already stays as it is.
    """
    if not text.isprintable():
        text = "".join(each if each.isprintable() else _escaped(each) for each in text)
    return text if limit is None or len(text) <= limit else text[: limit - 1] + "…"


def shown(value: object) -> str:
    """Return a value as Python writes it, in at most some eighty characters, whatever it is."""
    return printable(_SHORT.repr(value), 200)


def _escaped(character: str) -> str:
    number = ord(character)
    if number < 0x100:
        return f"\\x{number:02x}"
    return f"\\u{number:04x}" if number < 0x10000 else f"\\U{number:08x}"


class _Short(reprlib.Repr):
    """Short and shallow; a whole number of a million digits, which Python refuses to write, is named by its size."""

    def __init__(self) -> None:
        super().__init__()
        self.maxstring = self.maxother = self.maxlong = 80

    def repr_int(self, x: int, level: int) -> str:
        if x.bit_length() > _HUGE_BITS:
            return f"a whole number of {x.bit_length()} bits"
        return super().repr_int(x, level)


_SHORT = _Short()
