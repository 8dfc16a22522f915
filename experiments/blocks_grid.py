"""Cells of memory as a grid: in order of address, row by row."""

from __future__ import annotations

import math
from collections import Counter
from typing import NamedTuple

from experiments.blocks_snapshot import Cell

_ROUND = (1, 2, 4, 5, 8, 10, 16, 20, 25, 32, 40, 50, 64, 80, 100, 128, 160, 200, 250, 256, 320)
"""Lengths of rows in which one counts easily."""


class Grid(NamedTuple):
    columns: int
    rows: int
    per_cell: int
    """Cells of memory for which a cell of the grid stands."""
    cells: list[Cell]
    """What is shown, row by row; where `per_cell` is more than 1, one for each group."""

    def place(self, at: int) -> int:
        """Where in `cells` this cell of the memory is shown."""
        return at // self.per_cell

    def row_starts(self, most: int) -> dict[int, int]:
        """The first cell of memory in some of the rows, by row; of at most so many rows."""
        every = _round_up(-(-self.rows // most))
        return {row: row * self.columns * self.per_cell for row in range(0, self.rows, every)}


def lay_out(cells: list[Cell], *, aspect: float, most: int, most_columns: int = 320) -> Grid:
    """A grid about `aspect` times as wide (in cells) as it is high, of at most `most` cells.

    Where there are more, each stands for the same number of neighbours and shows what most of
    them are: a state and its holders, the first of those that are as many.
    """
    per_cell = -(-len(cells) // most)
    if per_cell > 1:
        cells = [
            _usual(cells[first : first + per_cell]) for first in range(0, len(cells), per_cell)
        ]
    ideal = math.sqrt(len(cells) * aspect)
    choices = [columns for columns in _ROUND if columns <= most_columns]
    columns = min(choices, key=lambda columns: abs(math.log(columns / ideal)))
    return Grid(columns, -(-len(cells) // columns), per_cell, cells)


def _usual(group: list[Cell]) -> Cell:
    alike = Counter((cell.state, cell.holders) for cell in group)
    (most, _), *_ = alike.most_common(1)
    return next(cell for cell in group if (cell.state, cell.holders) == most)


def _round_up(n: int) -> int:
    """The next of 1, 2, 5, 10, 20, 50, ..."""
    size = 1
    while True:
        for step in (1, 2, 5):
            if n <= step * size:
                return step * size
        size *= 10
