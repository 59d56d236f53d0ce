"""Some columns of a large table, several times as fast as all of it: for comparing, not for showing."""

import csv
import io
from collections.abc import Collection

import numpy as np
import pandas as pd
from numpy.typing import NDArray

_CHUNK = 2**22
_MOST_CELLS = 2_500_000  # of those that are wanted: each takes some hundred bytes of memory
_MOST_QUOTES = 2**22
_COMMA, _NEWLINE, _RETURN, _QUOTE = 44, 10, 13, 34


def read_cells(content: bytes, wanted: Collection[str], most_columns: int) -> pd.DataFrame | None:
    """Return the cells of those columns that are wanted and there, as texts; None for what is no plain table.

    most_columns: of the file. Plain is UTF-8 in which every line has as many cells as the first: pandas' reader would
    take others as well, and shift or invent cells. Whoever gets None reads it cell by cell, which says what is wrong
    and where.
    """
    try:
        header = next(csv.reader([content[: content.index(b"\n") + 1].decode("utf-8-sig")], strict=True))
    except (ValueError, csv.Error, StopIteration):
        return None
    kept = [name for name in header if name in wanted]
    lone = b"\r" in content and b"\r" in content.replace(b"\r\n", b"\n")  # ends a line for pandas
    if lone or b"\0" in content or content.count(b"\n") * len(kept) > _MOST_CELLS:
        return None
    if (
        len(set(header)) < len(header)
        or len(header) > most_columns
        or not kept
        or not _is_regular(content, len(header))
    ):
        return None
    try:
        return pd.read_csv(
            io.BytesIO(content),
            usecols=kept,
            dtype=str,
            na_filter=False,
            encoding="utf-8-sig",
            index_col=False,
            skip_blank_lines=False,
        )
    except ValueError:  # a ParserError or UnicodeDecodeError as well
        return None


def _is_regular(content: bytes, width: int) -> bool:
    """Whether cells are quoted whole and, outside of quotes, every `width`-th separator and no other ends a line."""
    data = np.frombuffer(content, dtype=np.uint8)
    if content.count(b'"') > _MOST_QUOTES or not _is_quoted(data):
        return False
    inside, seen = False, 0
    for start in range(0, len(data), _CHUNK):
        chunk = data[start : start + _CHUNK]
        quoted = np.logical_xor.accumulate(chunk == _QUOTE) ^ inside
        inside = bool(quoted[-1])
        separators = chunk[((chunk == _COMMA) | (chunk == _NEWLINE)) & ~quoted]
        ends = np.zeros(len(separators), dtype=bool)
        ends[(width - 1 - seen) % width :: width] = True
        if not np.array_equal(separators == _NEWLINE, ends):
            return False
        seen += len(separators)
    return not inside and seen % width == 0 and content.endswith(b"\n")


def _is_quoted(data: NDArray[np.uint8]) -> bool:
    """Whether each quote that opens begins a cell, each that closes ends one, and all others are doubled."""
    places = np.flatnonzero(data == _QUOTE)
    opening, closing = places[::2], places[1::2]
    before, after = data[np.maximum(opening - 1, 0)], data[np.minimum(closing + 1, len(data) - 1)]
    begins = (opening == 0) | np.isin(before, (_COMMA, _NEWLINE, _QUOTE))
    ends = (closing == len(data) - 1) | np.isin(after, (_COMMA, _NEWLINE, _RETURN, _QUOTE))
    return len(opening) == len(closing) and bool(begins.all() and ends.all())
