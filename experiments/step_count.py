"""How many steps an engine made between two instants that it recorded, of which no step is seen.

A request that runs gets a token in every step, so the steps between its first and its last token
are known to be its answer's tokens less one. That ties pairs of instants, far apart. What ties do
not settle is settled by time: the steps that a clock says fit between neighbours, the surest ones
first (Kruskal's tree), so that no more guesses are believed than are needed. The others are a
check.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Counts = NDArray[np.int64]


class Tie(NamedTuple):
    """So many steps lie between two instants, by their indices."""

    first: int
    last: int
    steps: int


class Count(NamedTuple):
    """Of every instant, the steps that had ended by then."""

    ended: Counts
    guessed: int
    """Gaps between neighbours that time settled."""
    contradicted: int
    """Of the other gaps, those where time says another number than the ties."""
    broken: int
    """Ties that contradict those before them, and were left out."""


def count_steps(
    instants: int, ties: Iterable[Tie], guesses: Sequence[float], doubts: Sequence[float]
) -> Count:
    """`guesses[i]`: steps between instants i and i + 1, not rounded; 0 where nobody runs, else at
    least one is taken. `doubts[i]`: how unsure it is, in any unit. Steps never run backwards:
    where the guesses would make them, they stand still.
    """
    offsets = _Offsets(instants)
    broken = sum(offsets.tie(tie) not in (None, tie.steps) for tie in ties)
    guessed = contradicted = 0
    for at in sorted(range(instants - 1), key=lambda at: doubts[at]):
        steps = max(1, round(guesses[at])) if guesses[at] else 0
        found = offsets.tie(Tie(at, at + 1, steps))
        guessed += found is None
        contradicted += found not in (None, steps)
    ended = np.array([offsets.of(at) for at in range(instants)], dtype=np.int64)
    return Count(np.maximum.accumulate(ended - ended[0]), guessed, contradicted, broken)


class _Offsets:
    """Places on a line of which only distances are known: a disjoint-set forest with offsets."""

    def __init__(self, size: int) -> None:
        self._parent = list(range(size))
        self._offset = [0] * size

    def of(self, place: int) -> int:
        """Its distance from the root of its tree."""
        return self._find(place)[1]

    def tie(self, tie: Tie) -> int | None:
        """Note a distance; or, where it is known already, return the known one."""
        (root, at), (other, there) = self._find(tie.first), self._find(tie.last)
        if root == other:
            return there - at
        self._parent[other] = root
        self._offset[other] = at + tie.steps - there
        return None

    def _find(self, place: int) -> tuple[int, int]:
        path = []
        while self._parent[place] != place:
            path.append(place)
            place = self._parent[place]
        total = 0
        for each in reversed(path):  # the nearest to the root first; all hang from it afterwards
            total += self._offset[each]
            self._parent[each], self._offset[each] = place, total
        return place, total
