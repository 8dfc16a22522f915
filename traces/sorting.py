"""A trace file's rows by arrival: the same lines, byte for byte, in another order."""

from __future__ import annotations

import shutil
import tempfile
from array import array
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, NamedTuple

import numpy as np
from numpy.typing import NDArray

from traces.clock import make_clock
from traces.file import TraceFile
from traces.jsonl import Record, read_named
from traces.reader import recognise
from traces.schema import TraceError
from traces.table import read_table
from traces.unfinished import writing

_BOM = b"\xef\xbb\xbf"
_ARRIVALS: dict[str, dict[str, str]] = {
    "azure": {"TIMESTAMP": "datetime"},
    "mooncake": {"timestamp": "ms"},
    "bailian": {"timestamp": "s"},
    "burstgpt": {"Timestamp": "s"},
    "vidur": {"arrived_at": "s"},
    "splitwise": {"arrival_timestamp": "s"},
    "llmservingsim": {"arrival_time_ns": "ns"},
    "native": {"arrival_ns": "ns", "arrival_us": "us"},
}
"""For each kind the fields of which a row has one, with their units."""

_KINDS = f"kinds {', '.join(_ARRIVALS)}"

Watch = Callable[[int], None]
"""Told, now and then, how many rows more were read or written."""
_WATCHED_ROWS = 10_000


class Sorted(NamedTuple):
    """What became of a file."""

    rows: int
    moved: int
    """Rows that stood behind a later one."""
    blank: int
    """Blank lines, dropped."""


def sort_trace(
    path: Path,
    out: Path,
    *,
    column: str | None = None,
    time_unit: str | None = None,
    watch: Watch = lambda _: None,
) -> Sorted:
    """Write a CSV or JSON lines file's rows to `out` by arrival; equal arrivals keep their order.

    The arrival's field is known from the format, or named as `column`, in `time_unit` (s, ms,
    us, ns, datetime). Lines keep their bytes, a header stays the first line; `out` is gzipped
    where its name ends in .gz, and may be the file itself. Holds some 50 bytes per row. Raises
    TraceError for a file that cannot be read, a row without arrival, and a format without
    rows or arrivals.
    """
    file = TraceFile(path)
    rows, arrivals = _read_arrivals(file, _fields(file, column, time_unit), watch)
    ordered = rows[np.argsort(arrivals, kind="stable")]
    # Only a header stands before the first row, but for blank lines.
    kept = np.concatenate([np.arange(rows[0] - 1), ordered - 1])
    try:
        with tempfile.TemporaryFile(dir=out.parent) as source, writing(out) as target:
            # A copy: what is zipped cannot be read in any order, and `out` may be the file.
            with file.bytes() as raw:
                shutil.copyfileobj(raw, source)
            starts = _line_starts(source, file)
            written = _copy(source, target, starts, kept, watch)
    except OSError as error:
        found = f"a place where nothing can be written ({error.strerror})"
        raise TraceError(out, None, found, "a file in a folder with room for two") from None
    moved = int((arrivals < np.maximum.accumulate(arrivals)).sum())
    return Sorted(len(rows), moved, blank=len(starts) - 1 - written)


def _fields(file: TraceFile, column: str | None, time_unit: str | None) -> dict[str, str]:
    if column is not None and time_unit is not None:
        return {column: time_unit}
    if file.head().parquet:
        found = "a parquet file, whose rows are no lines"
        raise file.error(None, found=found, allowed="CSV or JSON lines")
    try:
        kind = recognise(file)
    except TraceError as error:
        allowed = f"for a log of your own --column and --time-unit; else {_KINDS}"
        raise file.error(error.line, found=error.found, allowed=allowed) from None
    if kind not in _ARRIVALS:
        found = f"a file of kind {kind}, whose lines are not requests with arrivals"
        raise file.error(None, found=found, allowed=_KINDS)
    return _ARRIVALS[kind]


def _read_arrivals(
    file: TraceFile, fields: dict[str, str], watch: Watch
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """(line, arrival in ns) of each row."""
    clocks = {field: make_clock(unit, Counter()) for field, unit in fields.items()}
    lines, arrivals = array("q"), array("q")
    for record in _records(file, fields):
        field = next((field for field in fields if field in record), None)
        if field is None:
            found, allowed = "a row without arrival", " or ".join(fields)
            raise record.error(found=found, allowed=f"rows with {allowed}")
        lines.append(record.line)
        arrivals.append(record.time_ns(field, clocks[field]))
        if len(lines) % _WATCHED_ROWS == 0:
            watch(_WATCHED_ROWS)
    if not lines:
        raise file.error(None, found="no rows", allowed="at least one row")
    return np.array(lines, dtype=np.int64), np.array(arrivals, dtype=np.int64)


def _records(file: TraceFile, fields: dict[str, str]) -> Iterator[Record]:
    if file.head().first_line.lstrip().startswith("{"):
        return read_named(file, fields)
    return read_table(file, required=list(fields))


def _line_starts(source: IO[bytes], file: TraceFile) -> array[int]:
    """Where each line begins, and where the last one ends; a byte order mark is no line."""
    source.seek(0)
    start = len(_BOM) if source.read(len(_BOM)) == _BOM else 0
    source.seek(start)
    starts = array("q", [start])
    for number, line in enumerate(source, 1):
        if b"\r" in line.removesuffix(b"\n").removesuffix(b"\r"):
            found = "a carriage return alone, which ends a line elsewhere"
            raise file.error(number, found=found, allowed="LF or CRLF line ends")
        start += len(line)
        starts.append(start)
    return starts


def _copy(
    source: IO[bytes],
    target: IO[bytes],
    starts: array[int],
    kept: NDArray[np.int64],
    watch: Watch,
) -> int:
    """Write the lines kept (counted from 0) that are not blank; how many these are."""
    source.seek(0)
    target.write(source.read(starts[0]))
    source.seek(starts[kept[0]])
    end = b"\r\n" if source.readline().endswith(b"\r\n") else b"\n"
    written = 0
    for count, index in enumerate(map(int, kept), 1):
        source.seek(starts[index])
        line = source.read(starts[index + 1] - starts[index])
        if count % _WATCHED_ROWS == 0:
            watch(_WATCHED_ROWS)
        if line.strip():
            # The last line of a file may lack its end.
            target.write(line if line.endswith(b"\n") else line + end)
            written += 1
    return written
