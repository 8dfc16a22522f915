"""Lengths sampled from those that somebody observed."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from traces.file import TraceFile
from traces.ranges import whole_number
from traces.reader import open_trace
from traces.schema import Trace, TraceError
from traces.synthetic.draws import Draws, Whole, block_sizes, endless
from traces.synthetic.lengths import LONGEST

_ALLOWED = range(1, LONGEST + 1)


class Empirical:
    """Values of one column of a CSV file, drawn with replacement.

    With the column `prompt_tokens` or `output_tokens` the file may also be a trace of any
    format. Rows with a 0 are dropped and counted. Raises TraceError, when lengths are asked
    for, where the file has no such column, or in it something that is no length.
    """

    longest = LONGEST

    def __init__(self, path: str | Path, *, column: str) -> None:
        self._file = TraceFile(path)
        self._column = column
        self.dropped = 0

    def lengths(self, draws: Draws) -> Iterator[int]:
        values = self._read()
        random = draws.generator("lengths")
        return endless(lambda size: values[_rows(random, len(values), size)])

    def fingerprint(self) -> str:
        return self._file.fingerprint("empirical", column=self._column)

    def _read(self) -> Whole:
        names = next(csv.reader([self._file.head().first_line]), [])
        if self._column in names:
            rows = self._from_csv()
        elif self._column in ("prompt_tokens", "output_tokens"):
            trace = open_trace(self._file.path)
            rows = (getattr(request, self._column) for request in trace)
        else:
            allowed = f"one of {', '.join(map(repr, names))[:200]}"
            allowed += ", or prompt_tokens or output_tokens of a trace"
            raise self._file.error(1, found=f"no column {self._column!r}", allowed=allowed)
        read = np.fromiter(rows, dtype=np.int64)
        values = read[read > 0]
        self.dropped = len(read) - len(values)
        if not len(values):
            raise self._file.error(None, found="no lengths above 0", allowed="at least one")
        return values

    def _from_csv(self) -> Iterator[int]:
        numbered = (pair for pair in self._file.lines() if pair[1].strip())
        _, header = next(numbered)
        at = next(csv.reader([header])).index(self._column)
        for number, line in numbered:
            fields = next(csv.reader([line]))
            text = fields[at].strip() if at < len(fields) else ""
            if not (text.isascii() and text.isdigit() and len(text) < 10):
                found = f"{self._column} = {text[:60]!r}"
                raise self._file.error(number, found=found, allowed=whole_number(_ALLOWED))
            yield int(text)


@dataclass(frozen=True, slots=True, eq=False)
class Joint:
    """(prompt, answer) lengths of whole requests of a trace, drawn with replacement.

    Long prompts keep the short answers that went with them, which independent draws lose.
    """

    trace: Trace
    longest = (LONGEST, LONGEST)

    def pairs(self, draws: Draws) -> Iterator[tuple[int, int]]:
        both = ((request.prompt_tokens, request.output_tokens) for request in self.trace)
        pairs = np.fromiter(both, dtype=np.dtype((np.int64, 2)))
        if not len(pairs):
            raise TraceError(self.trace.name, None, "no requests", "at least one")
        random = draws.generator("pairs")
        for size in block_sizes():
            yield from map(tuple, pairs[_rows(random, len(pairs), size)].tolist())


def _rows(random: np.random.Generator, count: int, size: int) -> Whole:
    return (random.random(size) * count).astype(np.int64)
