"""Step times from a latency table: operators composed into whole steps."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import inf
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from calibrate.attention_curves import (
    Chunks,
    ChunksByArea,
    ChunksByContext,
    Decodes,
    Mixing,
    together,
)
from calibrate.curves import Floats, Line, add
from calibrate.host_link import PricesSwaps
from calibrate.table_schema import COLLECTIVES, OPERATORS, TableError
from sim.latency import LONGEST_STRETCH, Counts, Nanoseconds

if TYPE_CHECKING:
    from calibrate.table import Points, Table
    from sim.plan import Plan

_STEPS = np.arange(LONGEST_STRETCH, dtype=np.int64)
_BY_TOKENS = ("linear", "kv_write", "allreduce")
_BY_ROWS = ("head", "sampling", "allgather")
_EVERYWHERE = ("head", "sampling")


@dataclass(frozen=True, slots=True, kw_only=True)
class Parts:
    """A table of one model, made ready: nanoseconds of a whole step's calls."""

    tokens: Line
    """Matrices, norms, KV write and all-reduce, over scheduled tokens, and what every step
    takes."""
    rows: Line
    """Output head, sampling and all-gather, over rows of logits."""
    decodes: Decodes
    chunks: Chunks
    mixing: Mixing | None
    copies: Line | None
    """Over copied blocks; None where the table has none."""
    collectives: Mapping[str, float]
    """The last measured place of all-reduce (tokens) and all-gather (rows), where there are."""

    @classmethod
    def of(cls, table: Table) -> Parts:
        """Raises TableError where an operator that every step needs is missing, and for
        correction factors that are negative or infinite, or belong to no operator."""
        factors = dict(table.provenance.factors)
        for operator, factor in factors.items():
            if operator not in OPERATORS:
                raise TableError(f"{table.name}: factor of {operator}: found no such operator")
            if not 0 <= factor < inf:
                raise TableError(
                    f"{table.name}: factor of {operator}: found {factor:g}; allowed: 0 or more"
                )

        def lines(*operators: str) -> list[Line]:
            return [
                line_of(points).scaled(points.calls * factors.get(operator, 1.0))
                for operator in operators
                for points in table.of(operator)
            ]

        every_step = Line([1], [table.provenance.step_ns], tail=0.0)
        matrices = [*lines(*_BY_TOKENS), every_step]
        if not table.of("linear"):
            raise TableError(f"{table.name}: found no points of linear; allowed: a whole model's")
        decode, prefill = _one(table, "attention_decode"), _one(table, "attention_prefill")
        alone = chunks_of(prefill, factor=prefill.calls * factors.get(prefill.operator, 1.0))
        running = decodes_of(decode, factor=decode.calls * factors.get(decode.operator, 1.0))
        copied = lines("block_copy")
        return cls(
            tokens=add(matrices),
            rows=add(lines(*_BY_ROWS)),
            decodes=running,
            chunks=alone,
            mixing=mixing_of(table),
            copies=add(copied) if copied else None,
            collectives={
                operator: max(line.last for line in found)
                for operator in COLLECTIVES
                if (found := lines(operator))
            },
        )


def _one(table: Table, operator: str) -> Points:
    found = table.of(operator)
    if len(found) != 1:
        raise TableError(f"{table.name}: found {len(found)} variants of {operator}; allowed: one")
    return found[0]


def line_of(points: Points) -> Line:
    """Time of one call over the only axis."""
    (nodes,) = points.axes.values()
    order = np.argsort(nodes)
    return Line(nodes[order].tolist(), points.ns[order].tolist())


def decodes_of(points: Points, *, factor: float = 1.0) -> Decodes:
    """Time of one call, times the factor."""
    return Decodes(_by(points, "batch", "context", factor))


def chunks_of(points: Points, *, factor: float = 1.0) -> Chunks:
    """Time of one call, times the factor; by area where no context was measured."""
    lines = _by(points, "chunk", "chunk_context", factor)
    if points.axes["chunk_context"].any():
        return ChunksByContext(lines)
    tokens = sorted(lines)
    return ChunksByArea(Line(tokens, [lines[n].times[0] for n in tokens]))


def _by(points: Points, outer: str, inner: str, factor: float) -> dict[int, Line]:
    """A line over one axis for each value of the other."""
    lines = {}
    for value in np.unique(points.axes[outer]).tolist():
        here = points.axes[outer] == value
        order = np.argsort(points.axes[inner][here])
        nodes, times = points.axes[inner][here][order], factor * points.ns[here][order]
        lines[value] = Line(nodes.tolist(), times.tolist())
    return lines


def mixing_of(table: Table) -> Mixing | None:
    """Of its mixed points against its decodes and prefills; None where there are none."""
    found = table.of("attention_mixed")
    if not found:
        return None
    points = _one(table, "attention_mixed")
    decodes = decodes_of(_one(table, "attention_decode"))
    chunks = chunks_of(_one(table, "attention_prefill"))
    columns = list(points.axes.values())
    apart = [
        chunks.one(q, c) + decodes.row(n).at(n * context)
        for q, c, n, context in zip(*(column.tolist() for column in columns), strict=True)
    ]
    grid = [np.unique(column) for column in columns]
    factors = np.full([len(axis) for axis in grid], np.nan)
    at = tuple(np.searchsorted(axis, column) for axis, column in zip(grid, columns, strict=True))
    factors[at] = points.ns / np.array(apart)
    return Mixing([axis.tolist() for axis in grid], factors)


class StepTime(PricesSwaps):
    """A latency model: a table's operators, summed over what a step computes.

    Matrices by scheduled tokens (padded to a captured size where a step has nothing but
    decodes and sizes are given), output head and sampling by rows of logits (one per chunk
    and decode), attention of the decodes by their number and the sum of their contexts,
    attention of the chunks as of one chunk of their tokens and area, both in one call by the
    table's mixed points (apart where it has none), block copies by blocks. A chunk of one
    token is a decode.

    `front_end_ns` of a request is the config's. Raises TableError for a table that is not of
    one model, or lacks what a step needs.
    """

    modelled = False
    knows_alone = True

    def __init__(
        self,
        table: Table,
        *,
        host_ns: int = 0,
        capture_sizes: Sequence[int] = (),
        skew: bool = True,
    ) -> None:
        """`capture_sizes`: token counts of captured CUDA graphs; larger steps run as they are.
        `skew`: use what the table knows of decodes of mixed length."""
        self.host_ns = host_ns
        self.table = table
        self.parts = Parts.of(table)
        told = table.provenance
        self.source = f"{told.source}, on {told.device}; host {host_ns} ns a step"
        self.notes = (*told.notes, *_list_gaps(table, self.parts))
        self._captured = sorted(set(capture_sizes))
        known: Mapping[str, tuple[tuple[int, float], ...]] = told.skew if skew else {}
        self._skew = _share_of(known.get("decode"))
        self._mixed_skew = _share_of(known.get("mixed"))
        self._skewed = bool(known)

    def durations(self, plan: Plan, k: int) -> list[int]:
        """Durations of the plan's step and of the k - 1 that repeat it.

        In the j-th step every decode's context is j tokens longer. The plan is not empty.
        """
        decodes, parts = plan.decodes, self.parts
        n = growing = len(decodes)
        context, longest = decodes.context_sum, 0
        prefills: list[tuple[int, int]] = []
        for _, before, tokens in plan.chunks:
            if tokens > 1:
                prefills.append((tokens, before))
            else:
                n += 1
                context += before + 1
                longest = max(longest, before + 1)
        fixed = self._fixed_ns(n, prefills, copies=len(plan.copies))
        if not n:
            return [self.host_ns + round(fixed + together(parts.chunks, prefills)[0])] * k
        members, longer = (decodes.context_max if self._skewed else 0, 1) if growing else (0, 0)
        if prefills:
            price = self._price_mixed(prefills, n)
            return [
                self.host_ns
                + round(fixed + price(context + j * growing, max(longest, members + j * longer)))
                for j in range(k)
            ]
        row = parts.decodes.row(n)
        share = self._skew(n)
        if k == 1:  # the same arithmetic, without an array of one
            step_ns = row.at(context)
            if share:
                step_ns += share * (row.at(n * max(longest, members)) - step_ns)
            return [self.host_ns + round(fixed + step_ns)]
        steps = _STEPS[:k]
        steps_ns = row.at_many(context + growing * steps)
        if share:
            most = row.at_many(n * np.maximum(longest, members + longer * steps))
            steps_ns += share * (most - steps_ns)
        whole: list[int] = (self.host_ns + np.rint(fixed + steps_ns).astype(np.int64)).tolist()
        return whole

    def _fixed_ns(self, n: int, prefills: list[tuple[int, int]], *, copies: int) -> float:
        """All but attention."""
        parts, tokens = self.parts, n
        if prefills:
            tokens += sum(chunk for chunk, _ in prefills)
        elif self._captured and tokens <= self._captured[-1]:
            tokens = self._captured[bisect_left(self._captured, tokens)]
        fixed = parts.tokens.at(tokens) + parts.rows.at(n + len(prefills))
        if copies and parts.copies is not None:
            fixed += parts.copies.at(copies)
        return fixed

    def _price_mixed(self, prefills: list[tuple[int, int]], n: int) -> Callable[[int, int], float]:
        """Attention of these chunks and n decodes, over (sum, longest) of the contexts."""
        parts = self.parts
        alone, chunk, before = together(parts.chunks, prefills)
        row, mixing, share = parts.decodes.row(n), parts.mixing, self._mixed_skew(n)

        def at(context: float) -> float:
            apart = alone + row.at(context)
            return apart if mixing is None else apart * mixing.at(chunk, before, n, context / n)

        def price(context: int, longest: int) -> float:
            mean = at(context)
            return mean + share * (at(n * longest) - mean) if share else mean

        return price

    def alone(self, computed_before: Counts, n: Counts) -> Nanoseconds:
        """Engine time of each chunk of n tokens with nothing beside it, int64, in the shape
        of the two. Without host time; 0 where n is 0.
        """
        before, tokens = np.broadcast_arrays(np.asarray(computed_before), np.asarray(n))
        parts = self.parts
        attention = self._attend_alone(before, tokens)
        fixed = parts.tokens.at_many(self._padded(tokens)) + parts.rows.at(1)
        return np.where(tokens, np.rint(fixed + attention), 0).astype(np.int64)

    def _attend_alone(self, before: NDArray[np.int64], tokens: NDArray[np.int64]) -> Floats:
        single = self.parts.decodes.row(1).at_many(before + tokens)
        chunk = np.maximum(tokens, 1)
        return np.where(tokens > 1, self.parts.chunks.many(chunk, before), single)

    def _padded(self, tokens: NDArray[np.int64]) -> NDArray[np.int64]:
        """Chunks of one token run as decodes do, in the smallest captured size."""
        return np.where(tokens == 1, self._captured[0], tokens) if self._captured else tokens

    def outside(
        self, steps: Mapping[str, NDArray[np.int64]], chunks: Mapping[str, NDArray[np.int64]]
    ) -> dict[str, int]:
        """How many steps (or chunks) a run priced beyond what was measured, by what it was.

        `steps` and `chunks` are columns of the tables of those names in `sim.record`.
        """
        from calibrate.table_range import count_outside

        most_swapped = None if self.swaps is None else self.swaps.most_blocks
        return count_outside(self.parts, steps, chunks, most_swapped=most_swapped)


def _list_gaps(table: Table, parts: Parts) -> Iterator[str]:
    """What steps have and the table does not, in words."""
    wanted = [*_EVERYWHERE]
    if max(table.points["tp"].to_pylist()) > 1:
        wanted += COLLECTIVES
    if lacking := [operator for operator in wanted if not table.of(operator)]:
        yield f"no points of {' and '.join(lacking)}, which take no time here"
    if parts.mixing is not None and parts.mixing.filled:
        yield f"mixed points missing from the grid, priced as apart: {parts.mixing.filled:,}"


def _share_of(known: tuple[tuple[int, float], ...] | None) -> Callable[[int], float]:
    """The share by number of decodes: linear between the known ones; 0 of one, or of none
    known."""
    if not known:
        return lambda _: 0.0
    batches, shares = zip(*known, strict=True)
    line = np.interp(np.arange(batches[-1] + 1), batches, shares).tolist()
    line[:2] = [0.0] * len(line[:2])
    last = len(line) - 1
    return lambda n: float(line[min(n, last)])
