"""CSV and parquet files of a profile, read by column name."""

from __future__ import annotations

import zlib
from pathlib import Path
from typing import Any

from calibrate.naming import did_you_mean
from calibrate.table_schema import TableError


def find(folder: Path, *names: str) -> Path:
    """The first of these files that is in a folder. Raises TableError where none is."""
    for name in names:
        if (folder / name).is_file():
            return folder / name
    if not folder.is_dir():
        raise TableError(f"{folder}: found no such folder; allowed: one with {' or '.join(names)}")
    raise TableError(f"{folder}: found no {' or '.join(names)}")


def read_csv(path: Path, numbers: tuple[str, ...], *, whole: tuple[str, ...] = ()) -> Any:
    """A frame of a CSV file (also .gz), whose named columns are there and finite; `whole` ones
    are sizes and counts, from 0.

    Raises TableError, with the line, for what is missing or no such number.
    """
    import pandas as pd

    try:
        frame = pd.read_csv(path, low_memory=False)
    except (OSError, ValueError, EOFError, zlib.error) as error:
        raise TableError(f"{path}: cannot be read as CSV ({error})") from None
    need(frame, path, (*whole, *numbers))
    for column in (*whole, *numbers):
        values = pd.to_numeric(frame[column], errors="coerce")
        wrong = values.isna() | values.isin([float("inf"), float("-inf")])
        if column in whole:
            wrong |= (values < 0) | (values % 1 != 0)
        if wrong.any():
            at = int(wrong.to_numpy().argmax())
            allowed = "a whole number, 0 or more" if column in whole else "a number"
            raise TableError(
                f"{path}:{at + 2}: found {column} = {frame[column].iloc[at]!s}; allowed: {allowed}"
            )
        frame[column] = values
    return frame


def need(frame: Any, path: Path, columns: tuple[str, ...]) -> None:
    """Raise TableError where a column is missing, or there are no rows."""
    for column in columns:
        if column not in frame.columns:
            known = {str(name): str(name) for name in frame.columns}
            raise TableError(f"{path}: found no column {column}; {did_you_mean(column, known)}")
    if frame.empty:
        raise TableError(f"{path}: found no rows")
