"""What a table covers: ranges, numbers of points, holes."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from calibrate.table_schema import OPERATORS

if TYPE_CHECKING:
    from calibrate.table import Points, Table


class Coverage(NamedTuple):
    """Of one operator and variant."""

    operator: str
    variant: str
    calls: int
    points: int
    held_out: int
    """Points of split `check`, from which nothing is interpolated."""
    fastest_ns: float
    slowest_ns: float
    ranges: dict[str, tuple[int, int]]
    holes: int
    """Places of the grid, all values of all axes, that lie between two points along the last
    axis and have none: bridged."""
    beyond: int
    """Other places of the grid without a point, such as large batches of long contexts, which
    do not fit into memory."""


def coverage_of(table: Table) -> Iterator[Coverage]:
    """In the order of the operators."""
    for operator in OPERATORS:
        held_out = {each.variant: len(each.ns) for each in table.of(operator, split="check")}
        for points in table.of(operator):
            ranges = {
                name: (int(axis.min()), int(axis.max())) for name, axis in points.axes.items()
            }
            yield Coverage(
                operator,
                points.variant,
                points.calls,
                len(points.ns),
                held_out.get(points.variant, 0),
                float(points.ns.min()),
                float(points.ns.max()),
                ranges,
                *_count_holes(points),
            )


def _count_holes(points: Points) -> tuple[int, int]:
    """(between two points along the last axis, others)."""
    columns = list(points.axes.values())
    grid = [np.unique(column) for column in columns]
    there = np.zeros([len(axis) for axis in grid], dtype=bool)
    there[tuple(map(np.searchsorted, grid, columns))] = True
    after = np.logical_or.accumulate(there, axis=-1)
    before = np.logical_or.accumulate(there[..., ::-1], axis=-1)[..., ::-1]
    holes = int((after & before & ~there).sum())
    return holes, int((~there).sum()) - holes
