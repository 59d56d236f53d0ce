"""Some columns of a large table, several times as fast as all of it: for comparing, not for showing."""

import csv
import io
from collections.abc import Collection

import pandas as pd

_LONGEST_LINE = 2**20
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
    lines = content.split(b"\n")
    if lines.pop():  # the last one has no end
        return False
    for line in lines:
        if len(line) > _LONGEST_LINE:  # of quotes alone, one of 60 MiB would fall into 60 million pieces
            return False
        if b'"' in line:
            line = _without_quoted(line)
        if line.count(b",") != width - 1:
            return False
    return True


def _without_quoted(line: bytes) -> bytes:
    """Return what of a line is outside of quotes; nothing where these enclose no whole cells, or go on in the next."""
    outside = line.split(b'"')
    if len(outside) % 2 == 0:
        return b""
    outside = outside[::2]  # an empty one is a quote within quotes
    if outside[0][-1:] not in b"," or outside[-1][:1] not in b",\r":
        return b""
    if any(each and not each[:1] == each[-1:] == b"," for each in outside[1:-1]):
        return b""
    return b"".join(outside)
