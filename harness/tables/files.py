"""The tables as CSV files in a run's folder."""

import os
from dataclasses import fields
from pathlib import Path

import pandas as pd

from harness.plan.errors import PlanError
from harness.tables.build import Tables
from harness.tables.columns import SCHEMA, TABLES

# Never numbers, even where all digits of a commit happen to be decimal.
_TEXTS = {column.name for columns in TABLES.values() for column in columns if column.unit == "text"}

# Nine digits bring every float32 back exactly.
_FLOAT_FORMAT = "%.9g"


def write_tables(folder: Path, tables: Tables) -> None:
    """Write `measurements.csv`, `convergence.csv` and `summary.csv`; each is complete or not there."""
    for part in fields(Tables):
        unfinished = folder / f".{part.name}.csv.tmp"
        getattr(tables, part.name).to_csv(
            unfinished, index=False, float_format=_FLOAT_FORMAT, errors="backslashreplace"
        )
        unfinished.replace(folder / f"{part.name}.csv")


def read_table(path: Path, name: str) -> pd.DataFrame:
    """Read a table (`summary`, …) from its CSV, or from the folder of a run.

    Columns it does not know are kept. Raises PlanError when the file is missing, is no such table, or has a schema
    newer than this program.
    """
    file = path
    try:
        file = path / f"{name}.csv" if path.is_dir() else path
        table = pd.read_csv(file, dtype=dict.fromkeys(_TEXTS, str))
    except OSError as error:
        raise PlanError(f"{file}: cannot be read: {os.strerror(error.errno or 0)}") from error
    except (ValueError, UnicodeDecodeError) as error:
        raise PlanError(f"{file}: is no CSV table") from error
    if "schema" not in table.columns:
        raise PlanError(f"{file}: is no results table: it has no column schema")
    schema = pd.to_numeric(table["schema"], errors="coerce").max()
    if schema > SCHEMA:
        raise PlanError(f"{file}: has schema {schema:g}, this program reads up to {SCHEMA}; update it")
    missing = [column.name for column in TABLES[name] if column.name not in table.columns]
    if missing:
        raise PlanError(f"{file}: is no {name} table: it has no column {missing[0]}")
    text = [column for column in _TEXTS if column in table.columns]
    table[text] = table[text].fillna("")
    return table
