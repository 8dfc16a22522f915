"""Recorded step durations: a CSV file as a clock."""

from __future__ import annotations

import csv
from pathlib import Path

from experiments.errors import ConfigError, shown
from sim.latency import Replay
from sim.plan import Plan

COLUMN = "duration_ns"
_LARGEST_NS = 10**12


def read_durations(path: str | Path) -> list[int]:
    """The column duration_ns, one row per step, in nanoseconds; other columns are ignored.

    Raises ConfigError for a file that cannot be read, has no such column or no rows, and for
    values that are no whole numbers above 0, or beyond 1,000 s.
    """
    durations_ns = []
    try:
        with Path(path).open(encoding="utf-8-sig", newline="") as file:
            rows = csv.DictReader(file)
            if COLUMN not in (rows.fieldnames or ()):
                raise ConfigError(
                    f"{path}:1: found the columns {rows.fieldnames or []}; allowed: {COLUMN} among"
                    " them"
                )
            for row in rows:
                text = row[COLUMN]
                if not _is_duration(text):
                    raise ConfigError(
                        f"{path}:{rows.line_num}: found {COLUMN} = {shown(text)}; allowed: a whole"
                        f" number of nanoseconds from 1 to {_LARGEST_NS:,}"
                    )
                durations_ns.append(int(text))
    except FileNotFoundError:
        raise ConfigError(f"latency.path: {path}: no such file") from None
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise ConfigError(f"latency.path: {path}: cannot be read ({error})") from None
    if not durations_ns:
        raise ConfigError(f"{path}: found no rows; allowed: one row for each step")
    return durations_ns


def write_durations(path: Path, durations_ns: list[int]) -> None:
    """A file that `read_durations` reads."""
    path.write_text("\n".join([COLUMN, *map(str, durations_ns), ""]), encoding="utf-8")


def _is_duration(text: str | None) -> bool:
    # Python refuses to read numbers of thousands of digits: their length comes first.
    if text is None or not (text.isascii() and text.isdigit() and len(text) < 20):
        return False
    return 0 < int(text) <= _LARGEST_NS


class Recording(Replay):
    """The durations of one file, in order. ConfigError where the run outlives them."""

    def __init__(self, path: str | Path, durations_ns: list[int] | None = None) -> None:
        """`durations_ns`: what the file says, where that was read otherwise."""
        recorded = read_durations(path) if durations_ns is None else durations_ns
        super().__init__(recorded, source=str(path))
        self._path = path

    def durations(self, plan: Plan, k: int) -> list[int]:
        try:
            return super().durations(plan, k)
        except IndexError as error:
            raise ConfigError(
                f"latency.path: {self._path}: {error}; allowed: a recording of this very trace and"
                " engine"
            ) from None
