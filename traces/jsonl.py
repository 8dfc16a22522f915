"""JSON lines: one object a line, each field asked for by name and range."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator
from decimal import Decimal, InvalidOperation

from traces.clock import Clock
from traces.file import Head, TraceFile
from traces.ranges import whole_number
from traces.schema import TraceError

_SHOWN_CHARACTERS = 60
_decode = json.JSONDecoder(parse_float=Decimal).decode


def shorten(value: object) -> str:
    """A value as an error shows it."""
    text = str(value) if isinstance(value, Decimal) else repr(value)
    return text if len(text) <= _SHOWN_CHARACTERS else text[: _SHOWN_CHARACTERS - 3] + "..."


class Record:
    """One row's named fields and the line it stands on. All methods raise TraceError."""

    def __init__(self, file: TraceFile, line: int, fields: dict[str, object]) -> None:
        self._file = file
        self.line = line
        self.fields = fields

    def __contains__(self, key: str) -> bool:
        """Whether the field has a value; null is no value."""
        return self.fields.get(key) is not None

    def check_fields(self, *, required: Collection[str], optional: Collection[str] = ()) -> None:
        """Refuse missing fields, and unknown ones: a typo must not pass for a default."""
        self.require(*required, optional=optional)
        for key in self.fields:
            if key not in required and key not in optional:
                raise self.error(found=f"field {key!r}", allowed=_fields(required, optional))

    def require(self, *keys: str, optional: Collection[str] = ()) -> None:
        for key in keys:
            if key not in self:
                found = f"no {'value in' if key in self.fields else 'field'} {key!r}"
                raise self.error(found=found, allowed=_fields(keys, optional))

    def whole(self, key: str, allowed: range) -> int:
        value = self._integer(self.fields[key])
        if value is None or value not in allowed:
            found = f"{key} = {shorten(self.fields[key])}"
            raise self.error(found=found, allowed=whole_number(allowed))
        return value

    def optional_whole(self, key: str, allowed: range) -> int | None:
        return self.whole(key, allowed) if key in self else None

    def time_ns(self, key: str, clock: Clock) -> int:
        time_ns = clock.read(self.fields[key])
        if time_ns is None:
            found = f"{key} = {shorten(self.fields[key])}"
            raise self.error(found=found, allowed=clock.allowed)
        return time_ns

    def text(self, key: str) -> str:
        value = self.fields[key]
        if not isinstance(value, str) or not value:
            raise self.error(found=f"{key} = {shorten(value)}", allowed="a text, not empty")
        return value

    def optional_text(self, key: str) -> str | None:
        return self.text(key) if key in self else None

    def name(self, key: str) -> str | None:
        """A text, or a whole number as a text: ids come as both."""
        value = self.fields.get(key)
        return str(value) if type(value) is int else self.optional_text(key)

    def items(self, key: str) -> list[object]:
        value = self.fields[key]
        if not isinstance(value, list):
            raise self.error(found=f"{key} = {shorten(value)}", allowed="a list")
        return value

    def show(self, key: str) -> str:
        """The field as notes and errors quote it."""
        return f"{key} = {self.fields[key]}"

    def error(self, *, found: str, allowed: str) -> TraceError:
        return self._file.error(self.line, found=found, allowed=allowed)

    def _integer(self, value: object) -> int | None:
        # By type: true is no number, and 3.0 is not a count.
        return value if type(value) is int else None


def read_records(file: TraceFile) -> Iterator[Record]:
    """The file's objects in order; blank lines are skipped. Fractions are exact decimals."""
    for number, line in file.lines():
        if not line.strip():
            continue
        try:
            value = _decode(line)
        except (ValueError, RecursionError, InvalidOperation) as error:
            found = f"{shorten(line)}, which is no JSON ({error})"
            raise file.error(number, found=found, allowed="one JSON object a line") from None
        if not isinstance(value, dict):
            raise file.error(number, found=shorten(value), allowed="one JSON object a line")
        yield Record(file, number, value)


def read_named(file: TraceFile, names: Collection[str]) -> Iterator[Record]:
    """The same; a name like usage.prompt_tokens is that of a field within an object."""
    dotted = [name for name in names if "." in name]
    for record in read_records(file):
        for name in dotted:
            if name not in record.fields and (value := _within(record.fields, name)) is not None:
                record.fields[name] = value
        yield record


def first_keys(head: Head) -> frozenset[str]:
    """The fields of a first line that holds a JSON object; none for any other line."""
    try:
        value = json.loads(head.first_line)
    except (ValueError, RecursionError):
        return frozenset()
    return frozenset(value) if isinstance(value, dict) else frozenset()


def _within(fields: object, name: str) -> object:
    for key in name.split("."):
        fields = fields.get(key) if isinstance(fields, dict) else None
    return fields


def _fields(required: Collection[str], optional: Collection[str]) -> str:
    text = "fields " + ", ".join(required)
    return f"{text}, and optionally {', '.join(optional)}" if optional else text
