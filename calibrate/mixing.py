"""Attention of chunks and decodes in one call, as against two."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from itertools import product
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from calibrate.table_curves import chunks_of, decodes_of, only

if TYPE_CHECKING:
    from calibrate.table import Points, Table


class Mixing:
    """How much longer a call with one chunk and decodes takes than the two apart, as a factor.

    Measured on a grid of (chunk, its context, decodes, their mean context); linear in each
    axis between its points, and as at the edge beyond it.
    """

    def __init__(self, axes: Sequence[Sequence[float]], factors: NDArray[np.float64]) -> None:
        """`factors` has one value for each combination; missing ones (nan) count as 1."""
        self._axes = [[float(node) for node in axis] for axis in axes]
        self.filled = int(np.isnan(factors).sum())
        self._factors: list[float] = np.nan_to_num(factors, nan=1.0).ravel().tolist()
        self._strides: list[int] = [factors[0].size, factors[0, 0].size, factors.shape[3], 1]

    def refined(self, axes: Sequence[Sequence[float]], factors: NDArray[np.float64]) -> Mixing:
        """With the contexts of a second grid between its own: there it is wrong by what the second
        one says, as far as that was measured."""
        wrong = factors.copy()
        for place in np.ndindex(factors.shape):
            wrong[place] /= self.at(*(axis[at] for axis, at in zip(axes, place, strict=True)))
        second, known = Mixing(axes, wrong), self._axes[3]
        contexts = sorted({*known, *map(float, axes[3])})
        finer = [*self._axes[:3], contexts]
        values = [
            self.at(*place) * (1.0 if place[3] in known else second.at(*place))
            for place in product(*finer)
        ]
        mixing = Mixing(finer, np.array(values).reshape([len(axis) for axis in finer]))
        mixing.filled = self.filled
        return mixing

    def at(self, chunk: float, before: float, decodes: float, context: float) -> float:
        """The factor at a point of the four axes."""
        corners, weights = [0], []
        point = (chunk, before, decodes, context)
        for axis, stride, x in zip(self._axes, self._strides, point, strict=True):
            at = bisect_right(axis, x)
            if 0 < at < len(axis):
                low = axis[at - 1]
                weights.append((x - low) / (axis[at] - low))
                step = (at - 1) * stride
                corners = [corner + step for corner in corners]
                corners += [corner + stride for corner in corners]
            else:
                step = stride * (at - 1 if at else 0)
                corners = [corner + step for corner in corners]
        factors = self._factors
        values = [factors[corner] for corner in corners]
        for weight in reversed(weights):
            half = len(values) // 2
            values = [values[i] + weight * (values[half + i] - values[i]) for i in range(half)]
        return values[0]


def mixing_of(table: Table, *, grids: int | None = None) -> Mixing | None:
    """Of its mixed points against its decodes and prefills; None where there are none. The first
    variant is the grid, each further one a grid that refines it; `grids`: only so many of them."""
    found = [_grid_of(points, table) for points in table.of("attention_mixed")[:grids]]
    if not found:
        return None
    mixing = Mixing(*found[0])
    for grid in found[1:]:
        mixing = mixing.refined(*grid)
    return mixing


def _grid_of(points: Points, table: Table) -> tuple[list[list[int]], NDArray[np.float64]]:
    """The axes, and the factor at each combination of them, nan where there is no point."""
    decodes = decodes_of(only(table, "attention_decode"))
    chunks = chunks_of(only(table, "attention_prefill"))
    columns = list(points.axes.values())
    apart = [
        chunks.one(q, c) + decodes.row(n).at(n * context)
        for q, c, n, context in zip(*(column.tolist() for column in columns), strict=True)
    ]
    axes = [np.unique(column) for column in columns]
    factors = np.full([len(axis) for axis in axes], np.nan)
    at = tuple(np.searchsorted(axis, column) for axis, column in zip(axes, columns, strict=True))
    factors[at] = points.ns / np.array(apart)
    return [axis.tolist() for axis in axes], factors
