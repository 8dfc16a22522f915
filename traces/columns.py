"""Logs of one's own: any CSV, JSON lines or parquet file, by the names of its columns."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from shlex import quote
from typing import Any, ClassVar, Unpack

from traces.arrange import Row
from traces.clock import make_clock
from traces.filetrace import FileTrace, Options
from traces.jsonl import Record, read_named
from traces.ranges import PRIORITIES, TOKENS
from traces.table import read_table


@dataclass(frozen=True, kw_only=True)
class Columns:
    """Which column, or field, holds what; None: the file does not say."""

    arrival: str
    prompt_tokens: str
    output_tokens: str
    session: str | None = None
    tenant: str | None = None
    priority: str | None = None
    max_tokens: str | None = None
    id: str | None = None

    @property
    def required(self) -> tuple[str, ...]:
        return self.arrival, self.prompt_tokens, self.output_tokens

    def named(self) -> dict[str, str]:
        """What it is -> the column's name, for those that have one."""
        each = {field.name: getattr(self, field.name) for field in fields(self)}
        return {what: name for what, name in each.items() if name is not None}


class ColumnsTrace(FileTrace):
    """Rows by the names and the unit that the config gives; other columns are ignored.

    `time_unit` is s, ms, us, ns or datetime. Every prompt is its own. Iterating raises
    TraceError also for an id that was used before, and for max_tokens below the answer.
    """

    takes: ClassVar[tuple[str, ...]] = ()

    def __init__(
        self,
        path: str | Path,
        *,
        columns: Mapping[str, Any],
        time_unit: str,
        **options: Unpack[Options],
    ) -> None:
        super().__init__(path, **options)
        self._columns = Columns(**columns)
        self._time_unit = time_unit

    def records(self) -> Iterator[Record]:
        raise NotImplementedError

    def rows(self) -> Iterator[Row]:
        clock = make_clock(self._time_unit, self.notes)
        columns = self._columns
        used: dict[str, int] = {}
        for record in self.records():
            record.require(*columns.required)
            output_tokens = record.whole(columns.output_tokens, TOKENS)
            yield Row(
                record.line,
                record.time_ns(columns.arrival, clock),
                record.show(columns.arrival),
                record.whole(columns.prompt_tokens, TOKENS),
                output_tokens,
                session=_name(record, columns.session),
                tenant=_name(record, columns.tenant),
                priority=_whole(record, columns.priority, PRIORITIES) or 0,
                max_tokens=_whole(
                    record, columns.max_tokens, range(max(1, output_tokens), TOKENS.stop)
                ),
                id=_id(record, columns.id, used),
            )

    def sorted_by(self) -> str | None:
        return f" --column {quote(self._columns.arrival)} --time-unit {self._time_unit}"

    def parameters(self) -> dict[str, object]:
        named = {"columns": self._columns.named(), "time_unit": self._time_unit}
        return named | super().parameters()


class CsvTrace(ColumnsTrace):
    """A CSV file with a header."""

    kind: ClassVar[str] = "csv"
    looks: ClassVar[str] = "any CSV with a header; the config names its columns"

    def records(self) -> Iterator[Record]:
        yield from read_table(self._file, required=list(self._columns.named().values()))


class JsonLinesTrace(ColumnsTrace):
    """JSON lines; a name like usage.prompt_tokens is that of a field within an object."""

    kind: ClassVar[str] = "jsonl"
    looks: ClassVar[str] = "any JSON lines; the config names their fields"

    def records(self) -> Iterator[Record]:
        yield from read_named(self._file, self._columns.named().values())


def _name(record: Record, column: str | None) -> str | None:
    return None if column is None else record.name(column)


def _whole(record: Record, column: str | None, allowed: range) -> int | None:
    return None if column is None else record.optional_whole(column, allowed)


def _id(record: Record, column: str | None, used: dict[str, int]) -> str | None:
    if column is None:
        return None
    record.require(column)
    name = record.name(column) or ""
    if name in used:
        found = f"{column} = {name!r}, used on line {used[name]}"
        raise record.error(found=found, allowed="a new one for each request")
    used[name] = record.line
    return name
