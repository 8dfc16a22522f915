"""What every reader does with the rows of a file: drop, order, spread, shift, name, count."""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Iterator
from decimal import Decimal
from pathlib import Path
from typing import ClassVar, TypedDict

import numpy as np

from sim.request import Request, Run
from traces.arrange import Entry, Row, in_order, spread_ties
from traces.file import Head, TraceFile
from traces.ranges import ARRIVALS, check_least
from traces.streams import Streams

_SURROGATE = re.compile("[\\ud800-\\udfff]")

Compose = Callable[[Row], tuple[tuple[Run, ...], int]]
"""From a row to its prompt, and the stream of its answer."""


class Options(TypedDict, total=False):
    """How any file with arrival times may be read."""

    reorder_rows: int
    """How many rows may be held back to bring them into order of arrival."""
    jitter_grid_ms: float | None
    """Spread rows that share an arrival over so many milliseconds."""
    seed: int
    """Of everything that is drawn."""


class FileTrace(ABC):
    """A trace read from a file, row by row; a reader says only what a row is.

    Rows without prompt or answer (failures) are dropped, rows are brought into order within
    `reorder_rows` or refused, ties are spread if asked for; the first request kept arrives
    at 0, and all of that is counted in `notes`. A request is called after its row, counted
    from 0. Iterating raises TraceError for whatever cannot be read.
    """

    kind: ClassVar[str]
    """Its name in a config."""
    looks: ClassVar[str]
    """How a file of this format begins, for errors."""
    takes: ClassVar[tuple[str, ...]] = ("reorder_rows", "jitter_grid_ms")
    """The options of `kind: auto` that it understands."""
    shifted: ClassVar[bool] = True

    def __init__(
        self,
        path: str | Path,
        *,
        reorder_rows: int = 0,
        jitter_grid_ms: float | None = None,
        seed: int = 0,
    ) -> None:
        self._file = TraceFile(path)
        self.name = self._file.path.name
        self.notes: Counter[str] = Counter()
        self.shifted_by: str | None = None
        check_least(0, reorder_rows=reorder_rows, seed=seed)
        self._reorder_rows = reorder_rows
        self._grid_ns = _grid_ns(jitter_grid_ms)
        self._seed = seed

    @staticmethod
    def recognises(_head: Head) -> bool:
        """Whether a file that begins like this (and is not empty) is surely of the format."""
        return False

    @abstractmethod
    def rows(self) -> Iterator[Row | None]:
        """The file's rows, in its order, by its clock; None for one left out.

        Counts in `notes` what it leaves out or changes, and never clears them.
        """

    def composing(self, streams: Streams) -> Compose:
        """What makes the content of one pass's requests, one after the other as they arrive.

        Here nothing is known of it: every prompt and every answer is a stream of its own.
        """
        return lambda row: (
            ((streams.private(), 0, row.prompt_tokens),),
            streams.private(),
        )

    def sorted_by(self) -> str | None:
        """What `traces.sort` has to be told to sort such a file; None where it cannot."""
        return ""

    def parameters(self) -> dict[str, object]:
        """What the requests depend on besides the file."""
        given: dict[str, object] = {}
        if self._reorder_rows:
            given["reorder_rows"] = self._reorder_rows
        if self._grid_ns:
            given |= {"grid_ns": self._grid_ns, "seed": self._seed}
        return given

    def fingerprint(self) -> str:
        return self._file.fingerprint(self.kind, **self.parameters())

    def __iter__(self) -> Iterator[Request]:
        self.notes.clear()
        self.shifted_by = None
        compose = self.composing(Streams())
        origin_ns: int | None = None
        for arrival_ns, index, row in self._arranged():
            if origin_ns is None:
                origin_ns = 0
                if self.shifted:
                    # The recorded time: jitter delays the first request like all others.
                    origin_ns, self.shifted_by = row.arrival_ns, row.shown
            placed_ns = arrival_ns - origin_ns
            if placed_ns not in ARRIVALS:
                allowed = "arrivals within 146 years (2**62 ns)"
                raise self._file.error(row.line, found=row.shown, allowed=allowed)
            self._check_names(row)
            prompt, output_stream = compose(row)
            yield Request(
                f"r{index:05d}" if row.id is None else row.id,
                placed_ns,
                prompt,
                row.output_tokens,
                output_stream,
                row.max_tokens,
                row.priority,
                row.tenant,
                row.session,
                row.n,
                row.beam,
            )
        if origin_ns is None:
            self._refuse_nothing()

    def _arranged(self) -> Iterator[Entry]:
        entries = in_order(
            self._with_tokens(),
            window=self._reorder_rows,
            file=self._file,
            notes=self.notes,
            sorted_by=self.sorted_by(),
        )
        if not self._grid_ns:
            return entries
        random = np.random.default_rng(self._seed)
        return spread_ties(entries, grid_ns=self._grid_ns, random=random, notes=self.notes)

    def _with_tokens(self) -> Iterator[Entry]:
        for index, row in enumerate(self.rows()):
            if row is None:
                continue
            if row.prompt_tokens and row.output_tokens:
                yield row.arrival_ns, index, row
            else:
                side = "output" if row.prompt_tokens else "prompt"
                self.notes[f"requests with zero {side} tokens dropped"] += 1

    def _check_names(self, row: Row) -> None:
        """JSON can write half a character; no table and no screen can show one."""
        for name in (row.id, row.session, row.tenant):
            if name is not None and not name.isascii() and _SURROGATE.search(name):
                raise self._file.error(
                    row.line, found=f"the name {ascii(name)[:80]}", allowed="whole characters"
                )

    def _refuse_nothing(self) -> None:
        """An empty trace is a mistake."""
        dropped = ", ".join(f"{count} {what}" for what, count in self.notes.items())
        found = f"no requests ({dropped})" if dropped else "no requests"
        raise self._file.error(None, found=found, allowed="at least one request")


def _grid_ns(grid_ms: float | None) -> int:
    """0 for None."""
    if grid_ms is None:
        return 0
    check_least(1e-6, jitter_grid_ms=grid_ms)
    return int(Decimal(str(grid_ms)) * 10**6)
