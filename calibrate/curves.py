"""Times between measured points, along one axis: straight pieces through all of them.

Only comparisons, additions, products and quotients: numpy computes these for arrays exactly
as Python does for numbers, which it does not promise of logarithms and powers.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Sequence
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

SLACK = 1.25
"""How far beyond the last point of an axis a time is still taken as known."""


class Line:
    """Time over one axis: exact at the nodes, straight between them.

    Before the first node it is that node's time: kernels have a least time. Behind the last
    one it grows by `tail` for each unit, by default at the last node's rate (time / axis).
    """

    __slots__ = ("_arrays", "_at", "_slopes", "_times", "last", "nodes", "times")

    def __init__(
        self, nodes: Sequence[float], times: Sequence[float], *, tail: float | None = None
    ) -> None:
        """`nodes` rise. Raises ValueError where they do not, or there are none."""
        self.nodes = [float(node) for node in nodes]
        self.times = [float(time) for time in times]
        if not self.nodes or any(b <= a for a, b in pairwise(self.nodes)):
            raise ValueError("nodes must rise")
        self.last = self.nodes[-1]
        if tail is None:
            tail = self.times[-1] / self.last if self.last else 0.0
        between = [
            (self.times[i + 1] - self.times[i]) / (self.nodes[i + 1] - self.nodes[i])
            for i in range(len(self.nodes) - 1)
        ]
        # Piece i begins at node i - 1; piece 0 is what lies before the first node.
        self._at = [self.nodes[0], *self.nodes]
        self._times = [self.times[0], *self.times]
        self._slopes = [0.0, *between, tail]
        self._arrays = tuple(map(np.array, (self.nodes, self._at, self._times, self._slopes)))

    @property
    def tail(self) -> float:
        return self._slopes[-1]

    def at(self, x: float) -> float:
        """The time at x."""
        piece = bisect_right(self.nodes, x)
        return self._times[piece] + self._slopes[piece] * (x - self._at[piece])

    def at_many(self, x: NDArray[np.int64] | Floats) -> Floats:
        """The times at each x, in its shape; bit for bit those of `at`."""
        nodes, at, times, slopes = self._arrays
        piece = nodes.searchsorted(x, side="right")
        priced: Floats = times[piece] + slopes[piece] * (x - at[piece])
        return priced

    def in_tiles(self, tile: int) -> Line:
        """Of whole tiles: behind a node it is at once the time of the next multiple of `tile`, or
        of the next node where that comes first; from there on straight as before."""
        steps: dict[float, float] = {}
        for node, following in pairwise(self.nodes):
            full = min(following, (node // tile + 1) * tile)
            steps |= {min(node + 1, full): self.at(full), full: self.at(full)}
        points = sorted((steps | dict(zip(self.nodes, self.times, strict=True))).items())
        return Line([node for node, _ in points], [time for _, time in points], tail=self.tail)

    def scaled(self, factor: float) -> Line:
        """So many times as much everywhere."""
        times = [factor * time for time in self.times]
        return Line(self.nodes, times, tail=factor * self.tail)


def add(lines: Iterable[Line]) -> Line:
    """Their sum: straight between the nodes of all of them; 0 everywhere for none."""
    lines = list(lines)
    if not lines:
        return Line([1], [0.0])
    nodes = sorted({node for line in lines for node in line.nodes})
    times = [sum(line.at(node) for line in lines) for node in nodes]
    return Line(nodes, times, tail=sum(line.tail for line in lines))
