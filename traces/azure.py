"""The Azure LLM inference traces of 2023: when, how long a prompt, how long an answer.

Patel et al., "Splitwise", ISCA 2024; github.com/Azure/AzurePublicDataset, CC-BY 4.0.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from datetime import datetime, timedelta
from pathlib import Path

from sim.request import Request
from traces.file import TraceFile
from traces.intake import TOKENS, Intake, whole_number
from traces.streams import Streams

_COLUMNS = ("TIMESTAMP", "ContextTokens", "GeneratedTokens")
_HEADER = ",".join(_COLUMNS)
_STAMP = re.compile(r"(\d{4}-\d\d-\d\d \d\d:\d\d:\d\d)(?:\.(\d{1,9}))?", re.ASCII)
_STAMP_FORM = "YYYY-MM-DD HH:MM:SS with up to 9 fractional digits"
_EPOCH = datetime(1970, 1, 1)


class AzureTrace:
    """CSV with the header TIMESTAMP,ContextTokens,GeneratedTokens, read row by row.

    Stamps carry 100 ns digits, which stay exact. The first request kept arrives at 0, equal
    stamps keep their order, rows with a zero length are dropped and counted. Nothing is
    known of the content: every prompt and every answer is a stream of its own. A request
    is called after its row, counted from 0 below the header. Iterating raises TraceError
    for another header, rows out of order, lengths that are no counts, and stamps that are
    no times: the ShareGPT lengths come in this layout with the stamp XXX.
    """

    def __init__(self, path: str | Path) -> None:
        self._file = TraceFile(path)
        self.name = self._file.path.name
        self.notes: Counter[str] = Counter()
        self.shifted_by: str | None = None

    @staticmethod
    def recognises(first_line: str) -> bool:
        return first_line == _HEADER

    def __iter__(self) -> Iterator[Request]:
        intake = Intake(self._file, notes=self.notes, shifted=True)
        streams = Streams()
        for row, (line, stamp, prompt_tokens, output_tokens) in enumerate(self._rows()):
            if not intake.has_tokens(prompt_tokens=prompt_tokens, output_tokens=output_tokens):
                continue
            arrival_ns = intake.place(self._time_ns(line, stamp), line=line, shown=stamp)
            self.shifted_by = intake.shifted_by
            yield Request(
                id=f"r{row:05d}",
                arrival_ns=arrival_ns,
                prompt=((streams.private(), 0, prompt_tokens),),
                output_tokens=output_tokens,
                output_stream=streams.private(),
            )
        intake.finish()

    def fingerprint(self) -> str:
        return self._file.fingerprint("azure")

    def _rows(self) -> Iterator[tuple[int, str, int, int]]:
        """(line, stamp, prompt tokens, output tokens); the first line must be the header."""
        lines = self._file.lines()
        _, header = next(lines, (1, None))
        if header != _HEADER:
            found = "an empty file" if header is None else f"the header {header[:80]!r}"
            raise self._file.error(1, found=found, allowed=f"the header {_HEADER!r}")
        for line, text in lines:
            if not text:
                continue
            fields = text.split(",")
            if len(fields) != len(_COLUMNS):
                found = f"{len(fields)} columns ({text[:80]!r})"
                allowed = f"{len(_COLUMNS)} columns ({_HEADER})"
                raise self._file.error(line, found=found, allowed=allowed)
            prompt_tokens, output_tokens = (
                self._tokens(line, column, field)
                for column, field in zip(_COLUMNS[1:], fields[1:], strict=True)
            )
            yield line, fields[0], prompt_tokens, output_tokens

    def _tokens(self, line: int, column: str, field: str) -> int:
        # int() alone would take "1_000", " 7" and Arabic digits.
        if field.isascii() and field.isdigit() and len(field) < 19 and int(field) in TOKENS:
            return int(field)
        found = f"{column} = {field[:80]!r}"
        raise self._file.error(line, found=found, allowed=whole_number(TOKENS))

    def _time_ns(self, line: int, stamp: str) -> int:
        """Nanoseconds since 1970, in integers: a float would lose the last digits."""
        if match := _STAMP.fullmatch(stamp):
            try:
                seconds = (datetime.fromisoformat(match[1]) - _EPOCH) // timedelta(seconds=1)
            except ValueError:  # a 13th month
                pass
            else:
                return seconds * 10**9 + int((match[2] or "0").ljust(9, "0"))
        found = f"TIMESTAMP = {stamp[:80]!r}"
        if stamp == "XXX":
            found += " (a file of lengths, without arrival times)"
        raise self._file.error(line, found=found, allowed=_STAMP_FORM)
