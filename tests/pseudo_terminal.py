"""A terminal for tests: a real pty, and what a person would see on it.

It knows what the program's screen uses – lines, colours, moving up, erasing lines, the cursor – and breaks lines anew
when its width changes, as most terminals do. Anything else that is sent to it fails the test.
"""

import fcntl
import os
import re
import select
import struct
import termios
from dataclasses import dataclass, field
from typing import IO

COLOUR = re.compile(r"\x1b\[[0-9;:]*m")
_TOKEN = re.compile(r"\x1b\[([?]?)([0-9;:]*)([A-Za-z])|\r|\n|[^\x1b\r\n]+")


def colours(text: str) -> list[str]:
    """Return the SGR codes of a text that set a colour of letters or ground."""
    found = []
    for code in COLOUR.findall(text):
        numbers = [int(number or 0) for number in re.split("[;:]", code[2:-1])]
        found += [code for number in numbers if 30 <= number <= 49 or 90 <= number <= 107]
    return found


@dataclass
class Terminal:
    """width and height in cells. sent: all that was written to it. lines: what is on it, each with whether it goes on
    in the next, as it was too long."""

    width: int
    height: int
    sent: str = ""
    cursor_shown: bool = True
    lines: list[str] = field(default_factory=lambda: [""])
    wrapped: list[bool] = field(default_factory=lambda: [False])
    row: int = 0
    column: int = 0

    def __post_init__(self) -> None:
        self._ours, self.theirs = os.openpty()
        self._tell_size()

    def _tell_size(self) -> None:
        fcntl.ioctl(self.theirs, termios.TIOCSWINSZ, struct.pack("HHHH", self.height, self.width, 0, 0))

    def file(self) -> IO[str]:
        """Return a text file that a program writes to."""
        return open(os.dup(self.theirs), "w", encoding="utf-8", errors="backslashreplace")  # noqa: PTH123

    def close(self) -> None:
        os.close(self._ours)
        os.close(self.theirs)

    def read(self) -> str:
        """Take in what was written since, and return it."""
        new = b""
        while select.select([self._ours], [], [], 0)[0]:
            try:
                chunk = os.read(self._ours, 1 << 16)
            except OSError:  # nobody has it open any more
                break
            new += chunk
        text = new.decode()
        self.sent += text
        end = 0
        for token in _TOKEN.finditer(text):
            assert token.start() == end, f"unknown: {text[end : token.start()]!r}"
            end = token.end()
            self._take(token)
        assert end == len(text), f"unknown: {text[end:]!r}"
        return text

    def _take(self, token: re.Match[str]) -> None:
        kind, number = token[3], token[2]
        if token[0] == "\r":
            self.column = 0
        elif token[0] == "\n":
            self._down()
        elif kind is None:
            self._write(token[0])
        elif kind == "A":
            self.row = max(len(self.lines) - self.height, 0, self.row - int(number or 1))
        elif kind == "K":
            assert number == "2"
            self.lines[self.row], self.wrapped[self.row] = "", False
        elif token[1] == "?" and kind in "hl":
            assert number == "25", token[0]
            self.cursor_shown = kind == "h"
        else:
            assert kind == "m", f"unknown: {token[0]!r}"

    def _write(self, text: str) -> None:
        while text:
            if self.column == self.width:
                self.wrapped[self.row] = True
                self._down()
                self.column = 0
            part, text = text[: self.width - self.column], text[self.width - self.column :]
            line = self.lines[self.row].ljust(self.column)
            self.lines[self.row] = line[: self.column] + part + line[self.column + len(part) :]
            self.column += len(part)

    def _down(self) -> None:
        self.row += 1
        if self.row == len(self.lines):
            self.lines.append("")
            self.wrapped.append(False)

    def seen(self) -> list[str]:
        """Return the lines that are on the terminal now, without what is empty below."""
        self.read()
        lines = [line.rstrip() for line in self.lines[-self.height :]]
        while lines and not lines[-1]:
            lines.pop()
        return lines

    def resize(self, width: int, height: int) -> None:
        """Become as wide and high; lines that are too long now go on in the next, and such that went on are joined."""
        self.read()
        assert self.row == len(self.lines) - 1 or not any(self.lines[self.row + 1 :]), (
            "the cursor is not in the last line"
        )
        whole: list[str] = [""]
        for line, goes_on in zip(self.lines[: self.row + 1], self.wrapped, strict=False):
            whole[-1] += line
            if not goes_on:
                whole.append("")
        whole.pop()
        self.width, self.height = width, height
        self.lines, self.wrapped = [], []
        for line in whole:
            parts = [line[at : at + width] for at in range(0, len(line), width)] or [""]
            self.lines += parts
            self.wrapped += [True] * (len(parts) - 1) + [False]
        self.row, self.column = len(self.lines) - 1, len(self.lines[-1])
        self._tell_size()
