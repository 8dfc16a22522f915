"""CSV: a header, and rows whose fields are asked for by name, wherever they stand."""

from __future__ import annotations

import csv
from collections.abc import Collection, Iterator

from traces.clock import Clock
from traces.file import Head, TraceFile
from traces.jsonl import Record, shorten


class TableRecord(Record):
    """A row of a table: every value is text, and an empty one is none."""

    def __contains__(self, key: str) -> bool:
        return bool(self.fields.get(key))

    def name(self, key: str) -> str | None:
        return self.text(key) if key in self else None

    def time_ns(self, key: str, clock: Clock) -> int:
        text = str(self.fields[key])
        time_ns = clock.read_text(text)
        if time_ns is None:
            raise self.error(found=f"{key} = {shorten(text)}", allowed=clock.allowed)
        return time_ns

    def _integer(self, value: object) -> int | None:
        # pandas turns a column of counts with gaps into floats.
        return whole(value.removesuffix(".0")) if isinstance(value, str) else None


def whole(text: str) -> int | None:
    """A count; int() alone would take "1_000", " 7" and Arabic digits."""
    digits = text[1:] if text.startswith("-") else text
    return int(text) if digits.isascii() and digits.isdigit() and len(digits) < 20 else None


def read_table(file: TraceFile, *, required: Collection[str]) -> Iterator[TableRecord]:
    """The rows below the header, which names at least the required columns, in any order.

    Blank lines are skipped. Raises TraceError for another header, a row of another width,
    and a quoted field that runs over several lines.
    """
    reader = csv.reader((line for _, line in file.lines()), strict=True)
    header: list[str] | None = None
    line = 0
    while True:
        try:
            fields = next(reader, None)
        except csv.Error as error:
            allowed = "comma-separated values, a row a line"
            raise file.error(line + 1, found=f"no CSV ({error})", allowed=allowed) from None
        line += 1
        if fields is None:
            break
        if reader.line_num != line:
            found = "a quoted field over several lines"
            raise file.error(line, found=found, allowed="a row a line")
        if not fields:
            continue
        if header is None:
            header = fields
            _check_header(file, header, required, line)
        elif len(fields) != len(header):
            found = f"{len(fields)} columns ({','.join(fields)[:80]!r})"
            allowed = f"{len(header)} columns ({','.join(header)})"
            raise file.error(line, found=found, allowed=allowed)
        else:
            yield TableRecord(file, line, dict(zip(header, fields, strict=True)))
    if header is None:
        allowed = f"a header with {', '.join(required)}"
        raise file.error(1, found="an empty file", allowed=allowed)


def first_columns(head: Head) -> frozenset[str]:
    """The names in a CSV header."""
    try:
        return frozenset(next(csv.reader([head.first_line], strict=True), []))
    except csv.Error:
        return frozenset()


def _check_header(file: TraceFile, header: list[str], required: Collection[str], line: int) -> None:
    missing = [name for name in required if name not in header]
    twice = sorted({name for name in required if header.count(name) > 1})
    if missing or twice:
        found = f"the header {','.join(header)[:120]!r}"
        wrong = f"without {', '.join(missing)}" if missing else f"with {', '.join(twice)} twice"
        allowed = f"a header with {', '.join(required)}, each once"
        raise file.error(line, found=f"{found}, {wrong}", allowed=allowed)
