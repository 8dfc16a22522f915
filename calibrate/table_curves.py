"""A table's points of one operator as curves."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from calibrate.attention_curves import Chunks, ChunksByArea, ChunksByContext, Decodes
from calibrate.curves import Line
from calibrate.table_schema import TableError

if TYPE_CHECKING:
    from calibrate.table import Points, Table


def only(table: Table, operator: str) -> Points:
    """Its points. Raises TableError where there are none, or several variants."""
    found = table.of(operator)
    if len(found) != 1:
        raise TableError(f"{table.name}: found {len(found)} variants of {operator}; allowed: one")
    return found[0]


def line_of(points: Points, *, tile: int = 1) -> Line:
    """Time of one call over the only axis, in steps of a tile."""
    (nodes,) = points.axes.values()
    order = np.argsort(nodes)
    line = Line(nodes[order].tolist(), points.ns[order].tolist())
    return line.in_tiles(tile) if tile > 1 else line


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
