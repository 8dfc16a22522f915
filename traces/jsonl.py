"""JSON lines: one object a line, each field asked for by name and range."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator

from traces.file import TraceFile
from traces.intake import whole_number
from traces.schema import TraceError

_SHOWN_CHARACTERS = 60


def shorten(value: object) -> str:
    """A value as an error shows it."""
    text = repr(value)
    return text if len(text) <= _SHOWN_CHARACTERS else text[: _SHOWN_CHARACTERS - 3] + "..."


class Record:
    """One JSON object and the line it stands on. All methods raise TraceError."""

    def __init__(self, file: TraceFile, line: int, fields: dict[str, object]) -> None:
        self._file = file
        self.line = line
        self.fields = fields

    def __contains__(self, key: str) -> bool:
        """Whether the field has a value; null is no value."""
        return self.fields.get(key) is not None

    def check_fields(self, *, required: Collection[str], optional: Collection[str] = ()) -> None:
        """Refuse missing fields, and unknown ones: a typo must not pass for a default."""
        for key in required:
            if key not in self:
                raise self.error(found=f"no field {key!r}", allowed=_fields(required, optional))
        for key in self.fields:
            if key not in required and key not in optional:
                raise self.error(found=f"field {key!r}", allowed=_fields(required, optional))

    def whole(self, key: str, allowed: range) -> int:
        value = self.fields[key]
        # By type: true is no number, and 3.0 is not a count.
        if type(value) is not int or value not in allowed:
            raise self.error(found=f"{key} = {shorten(value)}", allowed=whole_number(allowed))
        return value

    def optional_whole(self, key: str, allowed: range) -> int | None:
        return self.whole(key, allowed) if key in self else None

    def text(self, key: str) -> str:
        value = self.fields[key]
        if not isinstance(value, str) or not value:
            raise self.error(found=f"{key} = {shorten(value)}", allowed="a text, not empty")
        return value

    def optional_text(self, key: str) -> str | None:
        return self.text(key) if key in self else None

    def items(self, key: str) -> list[object]:
        value = self.fields[key]
        if not isinstance(value, list):
            raise self.error(found=f"{key} = {shorten(value)}", allowed="a list")
        return value

    def error(self, *, found: str, allowed: str) -> TraceError:
        return self._file.error(self.line, found=found, allowed=allowed)


def read_records(file: TraceFile) -> Iterator[Record]:
    """The file's objects in order; blank lines are skipped."""
    for number, line in file.lines():
        if not line.strip():
            continue
        try:
            value = json.loads(line)
        except (ValueError, RecursionError) as error:
            found = f"{shorten(line)}, which is no JSON ({error})"
            raise file.error(number, found=found, allowed="one JSON object a line") from None
        if not isinstance(value, dict):
            raise file.error(number, found=shorten(value), allowed="one JSON object a line")
        yield Record(file, number, value)


def first_keys(line: str) -> frozenset[str]:
    """The fields of a line that holds a JSON object; none for any other line."""
    try:
        value = json.loads(line)
    except (ValueError, RecursionError):
        return frozenset()
    return frozenset(value) if isinstance(value, dict) else frozenset()


def _fields(required: Collection[str], optional: Collection[str]) -> str:
    text = "fields " + ", ".join(required)
    return f"{text}, and optionally {', '.join(optional)}" if optional else text
