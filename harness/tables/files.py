"""The tables as CSV files in a run's folder."""

import csv
import io
import itertools
import math
import os
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, BinaryIO, TextIO

import numpy as np
import pandas as pd

from harness.plan.errors import PlanError
from harness.plan.reading import open_regular
from harness.plan.text import printable, shown
from harness.running.folder import replaced
from harness.tables.cells import REQUIRED, Value, as_written, parsed, plain_numbers, series, unknown_series
from harness.tables.columns import SCHEMA, TABLES, Column
from harness.tables.part import Cells, cells_of, read_cells

# Nine digits bring every float32 back exactly.
_FLOAT_FORMAT = "%.9g"

# A row has some 750 bytes and 76 columns, of which a comparison wants twenty: of a million rows in a file of 750 MB it
# keeps 20 million cells, 8 bytes each, and the texts that differ. A whole table keeps each cell as a text of its own.
_MAX_BYTES = 2**30
_MAX_CELLS_OF_SOME = 24_000_000
_MAX_CELLS = 4_000_000
_MAX_COLUMNS = 1000
_MAX_LINE = 2**20  # the longest cell, a hundred targets, has 100 kB; csv itself refuses one of more than 128 KiB

_MANY = 1000  # of cells: then checking them one by one is felt

# What tells the tables apart, and what is shown and judged. Others may have been added since a table was written.
_NEEDED: Mapping[str, tuple[str, ...]] = {
    "measurements": ("reason", "step_ns", "threads"),
    "convergence": ("updates", "loss", "accuracy", "r2"),
    "epochs": ("epoch", "loss_p50"),
    "summary": (
        *("reason", "targets_met", "targets", "step_ns", "step_ns_low", "step_ns_high", "samples_per_s"),
        *("ratio_to_autograd", "ratio_low", "ratio_high", "loss_p50", "first_call_cold_ns", "first_call_warm_ns"),
        *("converged_share", "converged_low", "converged_high", "seeds"),
    ),
}
# What a column holds in a table of before it was added; others are empty there.
_BEFORE: Mapping[str, str] = {"members": "1"}
# What no two rows have alike.
_KEYS: Mapping[str, tuple[str, ...]] = {
    "measurements": ("run_id", "case_id", "round"),
    "convergence": ("run_id", "case_id", "seed"),
    "epochs": ("run_id", "case_id", "epoch"),
    "summary": ("case_id",),
}


@dataclass(frozen=True)
class Tables:
    """The tables of one run, one row per case and round, per case and seed, per case and epoch, and per case."""

    measurements: pd.DataFrame
    convergence: pd.DataFrame
    epochs: pd.DataFrame
    summary: pd.DataFrame


def write_tables(folder: Path, tables: Tables) -> None:
    """Write `measurements.csv`, `convergence.csv`, `epochs.csv` and `summary.csv`; each is complete or not there.

    None takes its place before all are written. Raises OSError, naming one, where that fails.
    """
    write_frames(folder, {part.name: getattr(tables, part.name) for part in fields(Tables)})


def write_frames(folder: Path, frames: Mapping[str, pd.DataFrame]) -> None:
    """Write tables by their names, as `write_tables` does."""
    with ExitStack() as stack:
        for name, frame in frames.items():
            unfinished = stack.enter_context(replaced(folder / f"{name}.csv"))
            as_written(frame, TABLES[name]).to_csv(
                unfinished, index=False, float_format=_FLOAT_FORMAT, errors="backslashreplace"
            )


def read_table(path: Path, name: str, columns: Collection[str] | None = None) -> pd.DataFrame:
    """Read a table (`summary`, …) from its CSV, or from the folder of a run.

    columns: only these, and those by which rows are told apart; several times as fast. Without, all columns, also those
    that this version does not know. What an older version did not write yet is there and empty. Raises PlanError,
    naming row and column, when the file is missing, is no such table, holds what a column cannot hold, was cut in its
    last line, or has a schema that this program does not read.
    """
    file = path
    try:
        file = path / f"{name}.csv" if path.is_dir() else path
        wanted = None if columns is None else {*columns, *_KEYS.get(name, ()), "schema"}
        return _read(file, name, wanted)
    except OSError as error:
        reason = os.strerror(error.errno) if error.errno else "no such name"
        raise PlanError(f"{printable(str(file))}: cannot be read: {reason}") from error
    except UnicodeDecodeError as error:
        raise PlanError(f"{printable(str(file))}: is no CSV table: it is no UTF-8 text") from error
    except csv.Error as error:
        raise PlanError(f"{printable(str(file))}: is no CSV table: {error}") from error
    except PlanError:
        raise
    except ValueError as error:
        raise PlanError(f"{printable(str(file))}: {error}") from error


def _read(file: Path, name: str, wanted: Collection[str] | None) -> pd.DataFrame:
    with open_regular(file, _MAX_BYTES) as source:
        cells = None if wanted is None else read_cells(source, wanted, _MAX_COLUMNS, _MAX_CELLS_OF_SOME)
        if cells is None:
            source.seek(0, os.SEEK_END)  # empties its buffer, which would make the first piece of text shorter
            source.seek(0)
            cells = _read_cell_by_cell(source, wanted)
        table = _table(name, cells, wanted)
        _check_end(source)
        return table


def _read_cell_by_cell(source: BinaryIO, wanted: Collection[str] | None) -> dict[str, Cells]:
    """Return the cells of the columns that are wanted, or all; raises ValueError or csv.Error for what is no CSV."""
    text = io.TextIOWrapper(source, encoding="utf-8-sig", newline="")
    header, rows = _rows(text, wanted)
    text.detach()  # or it would close the file
    return {each: cells_of([row[at] for row in rows]) for at, each in enumerate(header)}


def _rows(text: TextIO, wanted: Collection[str] | None) -> tuple[list[str], list[Sequence[str]]]:
    """Return the names of the columns that are wanted, or all, and their cells of each row."""
    reader = csv.reader(_lines(text), strict=True)
    header = next(reader, [])
    if not header:
        raise ValueError("is no CSV table: it is empty")
    if len(header) > _MAX_COLUMNS:
        raise ValueError(f"is no CSV table of a run: it has {len(header)} columns, more than {_MAX_COLUMNS}")
    twice = next((name for name, times in Counter(header).items() if times > 1), None)
    if twice is not None:
        raise ValueError(f"has the column {shown(twice)} twice")
    kept = [at for at, name in enumerate(header) if wanted is None or name in wanted]
    rows: list[Sequence[str]] = []
    for number, row in enumerate(reader, start=2):
        if not row:  # an empty line
            continue
        if len(row) != len(header):
            raise ValueError(f"is no CSV table: row {number} has {len(row)} cells and the header {len(header)}")
        rows.append(row if wanted is None else [row[at] for at in kept])
        if len(rows) * len(kept) > _MAX_CELLS:
            raise ValueError(f"has more than the {_MAX_CELLS} cells that are read")
    return [header[at] for at in kept], rows


def _lines(text: TextIO) -> Iterator[str]:
    for number in itertools.count(1):
        line = text.readline(_MAX_LINE)
        if not line:
            return
        if len(line) == _MAX_LINE:
            raise ValueError(f"is no CSV table: line {number} is longer than {_MAX_LINE >> 20} MiB")
        if "\0" in line:
            raise ValueError(f"is no CSV table: line {number} has a NUL")
        yield line


def _table(name: str, cells: Mapping[str, Cells], wanted: Collection[str] | None) -> pd.DataFrame:
    """Make a table of cells; raises ValueError, naming row (the header is row 1) and column, where it cannot."""
    if "schema" not in cells:
        raise ValueError(f"is no results table: it has no column schema{_instead(name)}")
    known = {column.name: column for column in TABLES[name] if wanted is None or column.name in wanted}
    schemas = [_schema(text) for text in cells["schema"].texts]
    if schemas and max(schemas) > SCHEMA:
        raise ValueError(f"has schema {max(schemas):g}, this program reads up to {SCHEMA}; update it")
    if schemas and min(schemas) < 1:
        raise ValueError(f"is no results table: it has schema {min(schemas):g}, and the first one was 1")
    missing = [each for each in known if each not in cells and (each in REQUIRED or each in _NEEDED.get(name, ()))]
    if missing:
        raise ValueError(
            f"is no {name} table: it has no column {missing[0]}, which every version wrote{_instead(name)}"
        )
    count = len(cells["schema"].of_row)
    absent = {each: Cells([_BEFORE.get(each, "")][:count], np.zeros(count, np.intp)) for each in known}
    table = pd.DataFrame(
        {
            each: _column(known[each], held) if each in known else unknown_series(each, held.by_row())
            for each, held in {**cells, **{each: absent[each] for each in known if each not in cells}}.items()
            if wanted is None or each in known
        }
    )
    keys = list(_KEYS.get(name, ()))
    if keys and (again := table.duplicated(keys)).any():
        row = int(again.to_numpy().argmax())
        raise ValueError(
            f"row {row + 2}: {' and '.join(keys)} are those of an earlier row: {table['case_id'].iloc[row]}"
        )
    return table


def _instead(name: str) -> str:
    return f"; name a run's {name}.csv, or its folder" if name in _KEYS else ""


def _column(column: Column, cells: Cells) -> "pd.Series[Any]":
    different = plain_numbers(column, cells.texts) if len(cells.texts) > _MANY else None
    if different is None:  # most cells of most columns are like others of them
        values: list[Value] = []
        for number, text in enumerate(cells.texts):
            try:
                values.append(parsed(column, text))
            except ValueError as error:
                raise ValueError(f"row {int((cells.of_row == number).argmax()) + 2}: {error}") from error
        different = series(column, values)
    return different.take(cells.of_row).reset_index(drop=True)


def _schema(text: str) -> float:
    with suppress(ValueError):
        if not math.isnan(number := float(text[:40])):
            return number
    return SCHEMA  # what is wrong is said with its row, like that of every other cell


def _check_end(source: BinaryIO) -> None:
    """Raise ValueError where the last line has no end, which all that write tables give it: that of a cut file is none.

    Every other cut leaves too few cells, which is said before.
    """
    source.seek(-1, os.SEEK_END)
    if source.read(1) not in b"\r\n":
        raise ValueError(
            "its last line has no end, as if it was cut: copy it again, or add one where that line is whole"
        )
