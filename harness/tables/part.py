"""Some columns of a large table, several times as fast as all of it: for comparing, not for showing."""

import csv
import io
from collections.abc import Collection

import numpy as np
import pandas as pd
from numpy.typing import NDArray

_LONGEST_LINE = 2**20
_BEFORE = np.frombuffer(b'\n,"', np.uint8)  # a quote that opens
_BEHIND = np.frombuffer(b'\r\n,"', np.uint8)  # one that closes
_MOST_CELLS = 2_500_000  # of those that are wanted: each takes some hundred bytes of memory


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
    """Whether every line is whole and has `width` cells, of which quotes enclose all or nothing."""
    begun = 0
    while begun < len(content):
        # Some lines at a time: what is known of each of their characters takes eight times as much memory as they do.
        end = content.find(b"\n", begun + _LONGEST_LINE) + 1 or len(content)
        if end - begun > 2 * _LONGEST_LINE or not _are_regular(np.frombuffer(content[begun:end], np.uint8), width):
            return False
        begun = end
    return True


def _are_regular(text: NDArray[np.uint8], width: int) -> bool:
    """Answer the same of some lines, given as the codes of their characters."""
    ends, commas, quotes = (np.flatnonzero(text == ord(sign)) for sign in '\n,"')
    if not len(ends) or ends[-1] != len(text) - 1:  # the last one has no end
        return False
    if np.diff(ends, prepend=-1).max() > _LONGEST_LINE + 1:
        return False
    if len(quotes):
        around = np.concatenate([[ord("\n")], text])  # so that what is before the first is the end of a line
        before, behind = around[quotes[::2]], text[quotes[1::2] + 1]
        # A quote within quotes is two: one that closes and one that opens.
        if not (np.isin(before, _BEFORE).all() and np.isin(behind, _BEHIND).all()):
            return False
        if (np.searchsorted(quotes, ends) % 2).any():  # they go on in the next line
            return False
        commas = commas[np.searchsorted(quotes, commas) % 2 == 0]
    return bool((np.diff(np.searchsorted(commas, ends), prepend=0) == width - 1).all())
