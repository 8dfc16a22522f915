"""Attention between measured points: decodes, chunks, and both in one call."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Mapping, Sequence
from math import sqrt
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from calibrate.curves import SLACK, Floats, Line


class Decodes:
    """One-token rows: time over (rows, tokens of context of all of them together).

    At a measured number of rows straight between contexts; between two numbers of rows
    linear at equal total context, which is what the kernel reads. Of five ways that left the
    smallest errors when whole measured batches were left out (docs/background/latency-tables.md).
    Beyond the most rows, the last batch's time per row at equal mean context.
    """

    def __init__(self, by_batch: Mapping[int, Line]) -> None:
        """`by_batch`: time of one call over the context of *each* row, by number of rows."""
        self._batches = sorted(by_batch)
        self._totals = {n: _stretched(line, n) for n, line in by_batch.items()}
        self._rows: dict[int, Line] = {}
        self.largest = self._batches[-1]

    def row(self, n: int) -> Line:
        """Time of n decodes over the sum of their contexts."""
        line = self._rows.get(n)
        if line is None:
            line = self._rows[n] = self._make_row(n)
        return line

    def _make_row(self, n: int) -> Line:
        if n in self._totals:
            return self._totals[n]
        if n > self.largest:
            share, line = n / self.largest, self._totals[self.largest]
            nodes = [share * node for node in line.nodes]
            return Line(nodes, [share * time for time in line.times], tail=line.tail)
        above = bisect_right(self._batches, n)
        if not above:
            return self._totals[self._batches[0]]
        fewer, more = self._batches[above - 1], self._batches[above]
        low, high = self._totals[fewer], self._totals[more]
        share = (n - fewer) / (more - fewer)
        nodes = sorted({*low.nodes, *high.nodes})
        times = [(1 - share) * low.at(node) + share * high.at(node) for node in nodes]
        return Line(nodes, times, tail=(1 - share) * low.tail + share * high.tail)

    def reach(self, n: int) -> float:
        """The largest sum of contexts that counts as measured."""
        return SLACK * self.row(n).last


def _stretched(line: Line, n: int) -> Line:
    """From the context of each of n rows to that of all together."""
    return Line([n * node for node in line.nodes], line.times, tail=line.tail / n)


def area_of(chunk: Any, context: Any) -> Any:
    """Pairs of query and key of a chunk behind a context, q (c + q / 2): of numbers a float, of
    arrays an array."""
    return chunk * context + chunk * chunk / 2


class Chunks(Protocol):
    """Time of chunks of several tokens by themselves, over (tokens, context before them)."""

    largest: float
    """The most tokens that were measured."""
    deepest: float
    """The longest context that was measured before a chunk."""

    def one(self, chunk: int, context: float) -> float: ...

    def many(self, chunk: NDArray[np.int64], context: NDArray[np.int64]) -> Floats:
        """Bit for bit those of `one`."""
        ...


class ChunksByContext:
    """Chunks measured behind contexts.

    At a measured chunk straight between contexts; between two chunks linear in the area of
    the attention at equal context: exact wherever a + b x area is the law. Smaller chunks
    than measured cost what the smallest does (a tile is a tile), larger ones the largest's
    time for each unit of area.
    """

    def __init__(self, by_chunk: Mapping[int, Line]) -> None:
        """`by_chunk`: time of one call over the context, by tokens of the chunk."""
        self._chunks = sorted(by_chunk)
        self._lines = [by_chunk[chunk] for chunk in self._chunks]
        self.largest = float(self._chunks[-1])
        self.deepest = max(line.last for line in self._lines)

    def one(self, chunk: int, context: float) -> float:
        above = bisect_right(self._chunks, chunk)
        if not above:
            return self._lines[0].at(context)
        low = self._lines[above - 1].at(context)
        area, from_area = area_of(chunk, context), area_of(self._chunks[above - 1], context)
        if above == len(self._chunks):
            time: float = low * (area / from_area)
            return time
        high, to_area = self._lines[above].at(context), area_of(self._chunks[above], context)
        share: float = (area - from_area) / (to_area - from_area)
        return low + share * (high - low)

    def many(self, chunk: NDArray[np.int64], context: NDArray[np.int64]) -> Floats:
        pieces = np.searchsorted(self._chunks, chunk, side="right")
        times = np.empty(chunk.shape)
        for above in np.unique(pieces).tolist():
            here = pieces == above
            times[here] = self._piece(above, chunk[here], context[here])
        return times

    def _piece(self, above: int, chunk: NDArray[np.int64], context: NDArray[np.int64]) -> Floats:
        if not above:
            return self._lines[0].at_many(context)
        low = self._lines[above - 1].at_many(context)
        area, from_area = area_of(chunk, context), area_of(self._chunks[above - 1], context)
        if above == len(self._chunks):
            times: Floats = low * (area / from_area)
            return times
        high, to_area = self._lines[above].at_many(context), area_of(self._chunks[above], context)
        share: Floats = (area - from_area) / (to_area - from_area)
        return low + share * (high - low)


class ChunksByArea:
    """Chunks of which only whole prompts were measured: one behind a context costs what a
    prompt of equal attention area does."""

    deepest = 0.0

    def __init__(self, prompts: Line) -> None:
        """`prompts`: time of one call over the tokens of the prompt."""
        nodes = [area_of(node, 0) for node in prompts.nodes]
        self._areas = Line(nodes, prompts.times)
        self.largest = prompts.last

    def one(self, chunk: int, context: float) -> float:
        return self._areas.at(area_of(chunk, context))

    def many(self, chunk: NDArray[np.int64], context: NDArray[np.int64]) -> Floats:
        return self._areas.at_many(area_of(chunk, context))


def together(
    chunks: Chunks, parts: Sequence[tuple[int, int]], *, apart: bool
) -> tuple[float, int, float]:
    """Time of (tokens, context) chunks in one step, and the one chunk they are taken for.

    That is the chunk of as many tokens and as much area. Kernels that attend to chunks `apart`,
    one after another, take the sum of their times. All at once take what the one chunk does.
    Several prompts may have less area than one of all their tokens; then the time is the
    geometric mean of what it lies between. At least it is that of the one prompt in proportion
    to area, and of the longest chunk; at most that of the one prompt, and the sum
    (docs/background/latency-tables.md says how good that is).
    """
    if len(parts) == 1:
        ((tokens, context),) = parts
        return chunks.one(tokens, context), tokens, float(context)
    tokens = sum(n for n, _ in parts)
    area = float(sum(area_of(n, c) for n, c in parts))
    alone = [chunks.one(n, c) for n, c in parts]
    time, before = as_one(chunks, tokens, area), area / tokens - tokens / 2
    if apart:
        time = sum(alone)
    elif before < 0:
        least = max(time, *alone)
        time = sqrt(least * max(least, min(chunks.one(tokens, 0), sum(alone))))
    return max(time, *alone), tokens, max(before, 0.0)


def as_one(chunks: Chunks, tokens: int, area: float) -> float:
    """Time of a chunk of so many tokens and so much area."""
    before = area / tokens - tokens / 2
    if before >= 0:
        return chunks.one(tokens, before)
    share: float = area / area_of(tokens, 0)
    return chunks.one(tokens, 0) * share
