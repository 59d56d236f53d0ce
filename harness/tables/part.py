"""Some columns of a table, several times as fast as all of it, and no more of it in memory: for comparing."""

import csv
from collections import defaultdict
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import BinaryIO

import numpy as np
import pandas as pd
from numpy.typing import NDArray

_LONGEST_LINE = 2**20
_BLOCK = 2**20  # what is known of each of its characters takes several times as much memory, and stays near the CPU
_LARGEST_COLUMN = 2**26  # bytes that one column of a block may take with all its cells as wide as the widest
# Whether a character may be before a quote that opens, or behind one that closes.
_BESIDE = np.isin(np.arange(256), np.frombuffer(b'\n,"', np.uint8))


@dataclass(frozen=True)
class Cells:
    """The cells of a column: its different texts, and which of them each row has."""

    texts: list[str]
    of_row: NDArray[np.intp]

    def by_row(self) -> list[str]:
        """Return the text of each row."""
        return [self.texts[number] for number in self.of_row.tolist()]


def cells_of(texts: Collection[str]) -> Cells:
    """Return the cells of a column, given row by row."""
    of_row, different = pd.factorize(np.array([*texts], dtype=object))
    return Cells(different.tolist(), of_row)


def read_cells(file: BinaryIO, wanted: Collection[str], most_columns: int, most_cells: int) -> dict[str, Cells] | None:
    """Return the cells of those columns that are wanted and there; None for what is no plain table.

    most_columns: of the file. most_cells: of what is wanted. Plain is UTF-8 in which every line has an end and as many
    cells as the first, and quotes enclose all of a cell or nothing. Whoever gets None reads it cell by cell, which says
    what is wrong and where. Raises ValueError for more cells.
    """
    first = file.readline(_LONGEST_LINE)
    if not first.endswith(b"\n") or b"\0" in first:
        return None
    try:
        (header,) = csv.reader([first.decode("utf-8-sig")], strict=True)
    except (ValueError, csv.Error):
        return None
    kept = {name: at for at, name in enumerate(header) if name in wanted}
    if not kept or len(set(header)) < len(header) or len(header) > most_columns:
        return None
    known: dict[str, defaultdict[bytes, int]] = {name: defaultdict() for name in kept}
    for texts in known.values():
        texts.default_factory = texts.__len__  # the next number
    parts: dict[str, list[NDArray[np.intp]]] = {name: [np.empty(0, np.intp)] for name in kept}
    left = most_cells
    for block in _blocks(file):
        ends = _ends(block, len(header))
        if ends is None:
            return None
        left -= len(ends) * len(kept)
        if left < 0:
            raise ValueError(f"has more than the {most_cells} cells that are read")
        line_ends = np.concatenate([[-1], ends[:, -1]])
        padded = block + bytes(int(np.diff(line_ends).max()))
        for name, at in kept.items():
            cells = _cut_out(padded, (ends[:, at - 1] if at else line_ends[:-1]) + 1, ends[:, at])
            if cells is None:
                return None
            if (cells == cells[0]).all():  # as of the columns of a run they are
                cells = cells[:1]
            numbers = np.fromiter(map(known[name].__getitem__, cells.tolist()), np.intp, len(cells))
            parts[name].append(np.broadcast_to(numbers, len(ends)))
    return {name: Cells(_texts([*known[name]]), np.concatenate(parts[name])) for name in kept}


def _blocks(file: BinaryIO) -> Iterator[bytes]:
    """Yield the rest of a file, whole lines at a time, of which the last one may have no end."""
    while block := file.read(_BLOCK):
        whole = block if block.endswith(b"\n") else block + file.readline(_LONGEST_LINE + 1)
        yield whole.replace(b"\r\n", b"\n") if b"\r" in whole else whole


def _ends(block: bytes, width: int) -> NDArray[np.intp] | None:
    """Return where each cell ends, `[lines, width]`; None where a line is not whole or not as wide."""
    # A lone carriage return ends a line for some.
    if not block.endswith(b"\n") or b"\r" in block or b"\0" in block or not _is_utf8(block):
        return None
    text = np.frombuffer(block, np.uint8)
    at_end = text == ord("\n")
    is_end = at_end | (text == ord(","))
    quotes = np.flatnonzero(text == ord('"'))
    if len(quotes):
        # A quote within quotes is two: one that closes and one that opens. Before the first character is a line's end.
        opened, closed = quotes[::2], quotes[1::2]
        if len(quotes) % 2 or not (_BESIDE[text[opened - 1]].all() and _BESIDE[text[closed + 1]].all()):
            return None
        sizes = closed - opened
        is_end[np.arange(sizes.sum()) + np.repeat(closed - sizes.cumsum(), sizes)] = False
    ends = np.flatnonzero(is_end)
    lines = int(np.count_nonzero(at_end))
    if len(ends) != lines * width:
        return None
    cells = ends.reshape(lines, width)
    long = np.diff(cells[:, -1], prepend=-1).max() > _LONGEST_LINE + 1
    return None if long or not at_end[cells[:, -1]].all() else cells


def _is_utf8(block: bytes) -> bool:
    try:
        return block.isascii() or bool(block.decode("utf-8"))
    except UnicodeDecodeError:
        return False


def _cut_out(padded: bytes, begins: NDArray[np.intp], ends: NDArray[np.intp]) -> NDArray[np.bytes_] | None:
    """Return the cells of a column, one a line; None where they would take too much memory.

    padded: the lines, and behind them as much as the longest of them has.
    """
    sizes = ends - begins
    widest = max(1, int(sizes.max()))
    if widest * len(sizes) > _LARGEST_COLUMN:
        return None
    # A view of what begins at each character: numpy copies all cells out of it at once, with what is behind them.
    cells = np.ndarray(len(padded) - widest + 1, f"S{widest}", padded, strides=(1,))[begins]
    if sizes.min() < widest:
        cells.view(np.uint8).reshape(len(sizes), widest)[np.arange(widest) >= sizes[:, None]] = 0
    return cells


def _texts(cells: Sequence[bytes]) -> list[str]:
    joined = b"\n".join(cells).decode("utf-8")
    texts = joined.split("\n") if cells else []
    if '"' in joined:
        texts = [text[1:-1].replace('""', '"') if text.startswith('"') else text for text in texts]
    return texts
