"""Rows into order of arrival, and rows that share an arrival apart."""

from __future__ import annotations

import heapq
from collections import Counter
from collections.abc import Iterable, Iterator
from shlex import quote
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    import numpy as np

    from traces.file import TraceFile


class Row(NamedTuple):
    """A row of a file, understood but not yet placed in a trace."""

    line: int
    arrival_ns: int
    """By the file's own clock."""
    shown: str
    """The arrival as the file writes it."""
    prompt_tokens: int
    output_tokens: int
    content: Any = None
    """What the reader needs to make the prompt; None: nothing is known of it."""
    session: str | None = None
    tenant: str | None = None
    priority: int = 0
    max_tokens: int | None = None
    id: str | None = None
    """None: to be called after its row."""
    floating: bool = False
    """Its arrival follows from an earlier turn's, so its place in the file says nothing."""
    n: int = 1
    beam: int = 0


Entry = tuple[int, int, Row]
"""(arrival in ns, index of the row in the file, row): sorts by arrival, then as in the file."""


def in_order(
    entries: Iterable[Entry],
    *,
    window: int,
    file: TraceFile,
    notes: Counter[str],
    sorted_by: str | None = "",
) -> Iterator[Entry]:
    """Entries by arrival; equal arrivals keep their order. Holds back `window` rows at most.

    Floating rows are held back, beyond the window, until their time has come. Rows that
    moved up are counted in `notes`. Raises TraceError for one that is too late for the
    window; it says how to sort the file, with the options `sorted_by`, or not where None.
    """
    held: list[Entry] = []
    fixed = 0
    newest_ns: int | None = None
    last: Entry | None = None
    for entry in entries:
        if not entry[2].floating:
            if newest_ns is not None and entry[0] < newest_ns:
                notes["rows moved up, by order of arrival"] += 1
            else:
                newest_ns = entry[0]
            fixed += 1
        if fixed > window and not held:
            fixed -= 1
            _check_order(last, entry, file, sorted_by)
            last = entry
            yield entry
            continue
        heapq.heappush(held, entry)
        while fixed > window:
            first = heapq.heappop(held)
            fixed -= not first[2].floating
            _check_order(last, first, file, sorted_by)
            last = first
            yield first
    while held:
        first = heapq.heappop(held)
        _check_order(last, first, file, sorted_by)
        last = first
        yield first


def _check_order(last: Entry | None, entry: Entry, file: TraceFile, sorted_by: str | None) -> None:
    if last is not None and entry[0] < last[0]:
        row = entry[2]
        found = f"{row.shown}, which is earlier than the row before it ({last[2].shown})"
        allowed = "rows in order of arrival ("
        if not row.floating and sorted_by is not None:
            command = f"python -m traces.sort {quote(str(file.path))} --out SORTED{sorted_by}"
            allowed += f"{command} makes them so; "
        allowed += "the option reorder_rows: N reorders within N rows)"
        raise file.error(row.line, found=found, allowed=allowed)


def spread_ties(
    entries: Iterable[Entry], *, grid_ns: int, random: np.random.Generator, notes: Counter[str]
) -> Iterator[Entry]:
    """Entries that share an arrival, uniformly over the grid of the file's clock.

    They keep their order, and never pass the next arrival: n rows at t go to n sorted draws
    from [t, t + grid) or, where the next row comes sooner, [t, next). Each is counted.
    """
    tied: list[Entry] = []
    for entry in entries:
        if tied and entry[0] != tied[0][0]:
            yield from _spread(tied, min(grid_ns, entry[0] - tied[0][0]), random, notes)
            tied = []
        tied.append(entry)
    yield from _spread(tied, grid_ns, random, notes)


def _spread(
    tied: list[Entry], span_ns: int, random: np.random.Generator, notes: Counter[str]
) -> Iterator[Entry]:
    if len(tied) < 2:
        yield from tied
        return
    notes["tied arrivals spread over the grid of the file's clock"] += len(tied)
    offsets = sorted(random.integers(0, span_ns, len(tied)).tolist())
    for (arrival_ns, index, row), offset_ns in zip(tied, offsets, strict=True):
        yield arrival_ns + offset_ns, index, row
