"""The Azure LLM inference traces: when, how long a prompt, how long an answer.

Patel et al., "Splitwise", ISCA 2024 (the traces of 2023), and Stojkovic et al., "DynamoLLM",
HPCA 2025 (those of 2024); github.com/Azure/AzurePublicDataset, CC-BY 4.0.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import ClassVar, Unpack

from traces.arrange import Row
from traces.clock import Calendar
from traces.file import Head
from traces.filetrace import FileTrace
from traces.ranges import TOKENS, whole_number
from traces.table import whole
from traces.timeless import TIMELESS, ArrivalOptions, GivenArrivals

_COLUMNS = ("TIMESTAMP", "ContextTokens", "GeneratedTokens")
_HEADER = ",".join(_COLUMNS)
_NO_STAMP = "XXX"


class AzureTrace(FileTrace):
    """CSV with the header TIMESTAMP,ContextTokens,GeneratedTokens.

    Stamps carry 100 ns digits, which stay exact; those of 2024 also a time zone. Nothing is
    known of the content: every prompt and every answer is a stream of its own. Iterating
    raises TraceError for another header, lengths that are no counts, and stamps that are no
    times.
    """

    kind: ClassVar[str] = "azure"
    looks: ClassVar[str] = f"CSV: {_HEADER}"

    @staticmethod
    def recognises(head: Head) -> bool:
        return head.first_line == _HEADER and not _lacks_times(head)

    def rows(self) -> Iterator[Row]:
        calendar = Calendar(self.notes)
        for line, stamp, prompt_tokens, output_tokens in self._split():
            arrival_ns = calendar.read_text(stamp)
            if arrival_ns is None:
                found = f"TIMESTAMP = {stamp[:80]!r}"
                if stamp == _NO_STAMP:
                    found += " (a file of lengths, without arrival times: kind lengths reads it)"
                raise self._file.error(line, found=found, allowed=calendar.allowed)
            yield Row(line, arrival_ns, stamp, prompt_tokens, output_tokens)

    def _split(self) -> Iterator[tuple[int, str, int, int]]:
        """(line, stamp, prompt tokens, output tokens); the first of them that is not blank is the
        header."""
        lines = (numbered for numbered in self._file.lines() if numbered[1].strip())
        first, header = next(lines, (1, None))
        if header != _HEADER:
            found = "an empty file" if header is None else f"the header {header[:80]!r}"
            raise self._file.error(first, found=found, allowed=f"the header {_HEADER!r}")
        for line, text in lines:
            fields = text.split(",")
            if len(fields) != len(_COLUMNS):
                found = f"{len(fields)} columns ({text[:80]!r})"
                allowed = f"{len(_COLUMNS)} columns ({_HEADER})"
                raise self._file.error(line, found=found, allowed=allowed)
            stamp, prompt, output = fields
            yield line, stamp, self._tokens(line, 1, prompt), self._tokens(line, 2, output)

    def _tokens(self, line: int, column: int, field: str) -> int:
        tokens = whole(field)
        if tokens is None or tokens not in TOKENS:
            found = f"{_COLUMNS[column]} = {field[:80]!r}"
            raise self._file.error(line, found=found, allowed=whole_number(TOKENS))
        return tokens


class LengthsTrace(AzureTrace):
    """Azure's layout with the stamp XXX: lengths whose arrivals the config gives.

    So NanoFlow publishes the token lengths of ShareGPT and others (Zhu et al., OSDI 2025;
    github.com/efeslab/Nanoflow, datasets/traces). Iterating raises TraceError also for a
    stamp that is a time, and where the config gives no arrivals.
    """

    kind: ClassVar[str] = "lengths"
    looks: ClassVar[str] = f"CSV: {_HEADER} with the stamp {_NO_STAMP}"
    takes: ClassVar[tuple[str, ...]] = TIMELESS
    shifted: ClassVar[bool] = False

    def __init__(self, path: str | Path, **arrivals: Unpack[ArrivalOptions]) -> None:
        super().__init__(path)
        self._arrivals = GivenArrivals(self._file, **arrivals)

    @staticmethod
    def recognises(head: Head) -> bool:
        return head.first_line == _HEADER and _lacks_times(head)

    def rows(self) -> Iterator[Row]:
        times_ns = self._arrivals.times_ns()
        for line, stamp, prompt_tokens, output_tokens in self._split():
            if stamp != _NO_STAMP:
                found = f"TIMESTAMP = {stamp[:80]!r} in a file of lengths"
                allowed = f"{_NO_STAMP} (kind azure reads arrival times)"
                raise self._file.error(line, found=found, allowed=allowed)
            self._arrivals.check(line=line, found="lengths")
            # A row that is going to be dropped takes no arrival from the others.
            arrival_ns = next(times_ns) if prompt_tokens and output_tokens else 0
            yield Row(line, arrival_ns, stamp, prompt_tokens, output_tokens)

    def parameters(self) -> dict[str, object]:
        return self._arrivals.parameters()


def _lacks_times(head: Head) -> bool:
    return len(head.lines) > 1 and head.lines[1].startswith(f"{_NO_STAMP},")
