"""A JSON list of objects, element by element: files of any size in little memory."""

from __future__ import annotations

import json
from collections.abc import Iterator

from traces.file import TraceFile
from traces.jsonl import Record, shorten

_CHUNK_CHARACTERS = 1 << 20
_CUT_CHARACTERS = 32
"""An error so near the end of what was read, as in a number or an escape, may be a cut."""
_BLANK = " \t\r\n"


class _Window:
    """The stretch of a text that is read and not yet understood."""

    def __init__(self, file: TraceFile, chunks: Iterator[str]) -> None:
        self._file = file
        self._chunks = chunks
        self._decoder = json.JSONDecoder()
        self._text = ""
        self._at = 0
        self.line = 1

    def peek(self) -> str:
        """The next character that is not blank; '' at the end."""
        while True:
            start = self._at
            while self._at < len(self._text) and self._text[self._at] in _BLANK:
                self._at += 1
            self.line += self._text.count("\n", start, self._at)
            if self._at < len(self._text):
                return self._text[self._at]
            if not self._read():
                return ""

    def skip(self) -> None:
        self._at += 1

    def element(self) -> object:
        """The next value, and behind it."""
        while True:
            try:
                value, end = self._decoder.raw_decode(self._text, self._at)
            except json.JSONDecodeError as error:
                cut = len(self._text) - error.pos < _CUT_CHARACTERS
                if (cut or error.msg.startswith("Unterminated")) and self._read():
                    continue
                line = self.line + self._text.count("\n", self._at, error.pos)
                raise self._file.error(
                    line, found=f"no JSON ({error.msg})", allowed="a JSON list of objects"
                ) from None
            except (RecursionError, ValueError) as error:  # nested too deeply, or endless digits
                found = f"no JSON that can be read ({error})"
                raise self._file.error(self.line, found=found, allowed="objects") from None
            self.line += self._text.count("\n", self._at, end)
            self._at = end
            return value

    def _read(self) -> bool:
        """Read on, at least doubling what is held, so that a long element costs no squares."""
        kept = self._text[self._at :]
        parts = [kept]
        size = 0
        while size < max(_CHUNK_CHARACTERS, len(kept)) and (chunk := next(self._chunks, "")):
            parts.append(chunk)
            size += len(chunk)
        self._text, self._at = "".join(parts), 0
        return size > 0


def read_json_list(file: TraceFile) -> Iterator[Record]:
    """The objects of a list in order, each with the line on which it begins."""
    with file.text() as text:
        window = _Window(file, iter(lambda: text.read(_CHUNK_CHARACTERS), ""))
        if window.peek() != "[":
            found = shorten(window.peek()) if window.peek() else "an empty file"
            raise file.error(window.line, found=found, allowed="a JSON list of objects")
        window.skip()
        if window.peek() == "]":
            return
        while True:
            window.peek()
            line = window.line
            value = window.element()
            if not isinstance(value, dict):
                raise file.error(line, found=shorten(value), allowed="a JSON list of objects")
            yield Record(file, line, value)
            mark = window.peek()
            if mark == "]":
                return
            if mark != ",":
                found = shorten(mark) if mark else "the end of the file"
                raise file.error(window.line, found=found, allowed="',' or ']' behind an object")
            window.skip()
