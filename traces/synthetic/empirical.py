"""Lengths sampled from those that somebody observed."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from traces.file import TraceFile
from traces.reader import open_timeless
from traces.schema import Trace, TraceError
from traces.synthetic.draws import Draws, Whole, block_sizes, endless
from traces.synthetic.lengths import LONGEST
from traces.table import first_columns, read_table

_ALLOWED = range(LONGEST + 1)


class Empirical:
    """Values of one column of a CSV file, drawn with replacement.

    With the column `prompt_tokens` or `output_tokens` the file may also be a trace of any
    format that shows itself. Rows with a 0 are dropped; `notes` counts them, and whatever
    the trace leaves out. Raises TraceError, when lengths are asked for, where the file has no
    such column, or in it something that is no length.
    """

    longest = LONGEST

    def __init__(self, path: str | Path, *, column: str) -> None:
        self._file = TraceFile(path)
        self._column = column
        self.notes: Counter[str] = Counter()

    def lengths(self, draws: Draws) -> Iterator[int]:
        values = self._read()
        random = draws.generator("lengths")
        return endless(lambda size: values[_rows(random, len(values), size)])

    def fingerprint(self) -> str:
        return self._file.fingerprint("empirical", column=self._column)

    def _read(self) -> Whole:
        self.notes.clear()
        columns = first_columns(self._file.head())
        if self._column in columns:
            values = self._from_csv()
        elif self._column in ("prompt_tokens", "output_tokens"):
            values = self._from_trace()
        else:
            allowed = "prompt_tokens or output_tokens of a trace"
            if columns:
                allowed = f"one of {', '.join(map(repr, sorted(columns)))[:200]}, or {allowed}"
            raise self._file.error(1, found=f"no column {self._column!r}", allowed=allowed)
        if not len(values):
            raise self._file.error(None, found="no lengths above 0", allowed="at least one")
        return values

    def _from_csv(self) -> Whole:
        rows = read_table(self._file, required=[self._column])
        read = np.fromiter((row.whole(self._column, _ALLOWED) for row in rows), dtype=np.int64)
        values = read[read > 0]
        if dropped := len(read) - len(values):
            self.notes["rows with 0 dropped"] = dropped
        return values

    def _from_trace(self) -> Whole:
        trace = open_timeless(self._file.path)
        rows = (getattr(request, self._column) for request in trace)
        values = np.fromiter(rows, dtype=np.int64)
        self.notes.update(trace.notes)
        return values


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
