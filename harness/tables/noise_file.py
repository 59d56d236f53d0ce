"""A machine's noise, `results/<machine>/noise.csv`: kept beside its runs, the last one measured."""

import math
from pathlib import Path

import pandas as pd

from harness.plan.errors import PlanError
from harness.plan.text import printable
from harness.running.folder import replaced
from harness.tables.cells import as_written
from harness.tables.columns import NOISE
from harness.tables.files import read_table

FILE = "noise.csv"

_FLOAT_FORMAT = "%.9g"  # as of the other tables


def write_noise(folder: Path, noise: pd.DataFrame) -> None:
    """Write a table `noise` into a machine's folder; the file is complete or as it was.

    Raises OSError, naming the file, where that fails.
    """
    with replaced(folder / FILE) as unfinished:
        as_written(noise, NOISE).to_csv(unfinished, index=False, float_format=_FLOAT_FORMAT, errors="backslashreplace")


def read_noise(folder: Path, fingerprint: str) -> pd.DataFrame | None:
    """Read the noise of a machine's folder, or None where there is none of this fingerprint.

    Raises PlanError when the file is no such table, or has a schema newer than this program.
    """
    file = folder / FILE
    if not file.exists():
        return None
    noise = read_table(file, "noise")
    known = noise["spread"].dropna()
    if known.empty:  # what is measured has one at least
        raise _refused(file, "has no spread of any case")
    if not known.between(0, math.inf, inclusive="left").all():
        raise _refused(file, "has a spread that is below 0 or infinite")
    if noise["case_id"].duplicated().any():
        raise _refused(file, "has two rows for one case")
    noise = noise[noise["fingerprint"] == fingerprint].reset_index(drop=True)
    return None if noise.empty else noise


def spread_by_case(noise: pd.DataFrame | None) -> dict[str, float]:
    """Return the spread of each case that has one, by its `case_id`, from a table `noise`; nothing from none."""
    if noise is None:
        return {}
    known = noise[noise["spread"].notna()]
    return dict(zip(known["case_id"], known["spread"].astype(float), strict=True))


def _refused(file: Path, why: str) -> PlanError:
    return PlanError(f"{printable(str(file))}: {why}; measure it again with: harness noise")
