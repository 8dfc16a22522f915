"""Draws memory as a map: a cell for each block, coloured by who holds it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import PolyCollection
from matplotlib.patches import Patch, Rectangle

from experiments import style
from experiments.blocks_colours import MEANINGS, STATES, Colours, colour_in, rgb, tint
from experiments.blocks_grid import Grid
from experiments.blocks_snapshot import Holder, State

_DETAILED = 6_000
"""Cells that are drawn as boxes; more of them are points of an image."""
_LABELLED = 60
"""Cells that have room for their number."""
_MARGIN = 0.005
EMPTY = 0.32
"""Share of the colour in the part of a block that is not filled."""
HATCH = "#9fb0d0"
BORDER = "#d5d5d5"


def hide_frame(axes: Axes) -> None:
    """No spines, whatever is despined later, and no grid."""
    axes.grid(visible=False)
    axes.tick_params(length=0)
    axes.spines[:].set_linewidth(0)


def draw_map(axes: Axes, grid: Grid, colours: Colours, *, outlined: Holder | None = None) -> bool:
    """All cells in order of address; a block is filled from the left as its tokens are.
    Returns whether somebody's blocks are outlined: there may be too many for that."""
    detailed = len(grid.cells) <= _DETAILED
    if detailed:
        _draw_boxes(axes, grid, colours)
        if outlined is not None:
            _outline(axes, grid, outlined)
    else:
        _draw_points(axes, grid, colours)
    starts = {} if len(grid.cells) <= _LABELLED else grid.row_starts(12)
    axes.set(
        xlim=(-_MARGIN * grid.columns, (1 + _MARGIN) * grid.columns),
        ylim=((1 + _MARGIN) * grid.rows, -_MARGIN * grid.rows),
        xticks=[],
        yticks=[row + 0.5 for row in starts],
        yticklabels=[f"{first:,}" for first in starts.values()],
    )
    hide_frame(axes)
    return detailed and outlined is not None


def explain_states(counts: Mapping[State, int] | None = None) -> list[Patch]:
    """Legend entries of what is no sequence's own, with the number of cells where asked."""
    looks: dict[State, dict[str, Any]] = {
        State.SHARED: {"facecolor": STATES[State.SHARED], "edgecolor": HATCH, "hatch": "////"},
        State.IDLE: {"facecolor": STATES[State.IDLE]},
        State.FREE: {"facecolor": STATES[State.FREE], "edgecolor": BORDER},
        State.NULL: {"facecolor": STATES[State.NULL]},
    }
    return [
        Patch(
            **look,
            linewidth=0.5,
            label=MEANINGS[state] + ("" if counts is None else f"  {counts[state]:,}"),
        )
        for state, look in looks.items()
    ]


def _draw_boxes(axes: Axes, grid: Grid, colours: Colours) -> None:
    free = [at for at, cell in enumerate(grid.cells) if cell.state is State.FREE]
    shared = [at for at, cell in enumerate(grid.cells) if cell.state is State.SHARED]
    plain = [at for at, cell in enumerate(grid.cells) if cell.state is not State.FREE]
    background, filling = [], []
    for at in plain:
        cell = grid.cells[at]
        colour = colour_in(cell, colours)
        background.append(tint(colour, EMPTY) if cell.holders else colour)
        filling.append(colour)
    width = [
        grid.cells[at].filled / grid.cells[at].slots if grid.cells[at].holders else 1.0
        for at in plain
    ]
    axes.add_collection(
        PolyCollection(_boxes(free, grid), facecolors="white", edgecolors=BORDER, linewidths=0.5)
    )
    axes.add_collection(PolyCollection(_boxes(plain, grid), facecolors=background, linewidths=0))
    axes.add_collection(
        PolyCollection(_boxes(plain, grid, width=width), facecolors=filling, linewidths=0)
    )
    axes.add_collection(
        PolyCollection(
            _boxes(shared, grid),
            facecolors="none",
            edgecolors=HATCH,
            hatch="////",
            linewidths=0,
        )
    )
    if len(grid.cells) <= _LABELLED:
        _number(axes, grid)


def _number(axes: Axes, grid: Grid) -> None:
    """Write into each cell which block it is, and how many hold it where they are several."""
    for at, cell in enumerate(grid.cells):
        row, column = divmod(at, grid.columns)
        dark = cell.state in (State.NULL, State.SHARED)
        ink = "white" if dark else style.INK
        box = {"boxstyle": "round,pad=0.15", "facecolor": colour_in(cell, {}), "linewidth": 0}
        more: dict[str, Any] = {"bbox": box} if cell.state is State.SHARED else {}
        axes.text(column + 0.12, row + 0.16, f"{at}", va="top", fontsize=9, color=ink, **more)
        if cell.state is State.SHARED:
            axes.text(
                *(column + 0.88, row + 0.84, f"x{len(cell.holders)}"),
                ha="right",
                fontsize=9,
                fontweight="bold",
                color=ink,
                **more,
            )


def _draw_points(axes: Axes, grid: Grid, colours: Colours) -> None:
    image = np.full((grid.rows * grid.columns, 3), 255, dtype=np.uint8)
    known = {cell: rgb(colour_in(cell, colours)) for cell in set(grid.cells)}
    image[: len(grid.cells)] = [known[cell] for cell in grid.cells]
    axes.imshow(
        image.reshape(grid.rows, grid.columns, 3),
        extent=(0, grid.columns, grid.rows, 0),
        interpolation="nearest",
        aspect="auto",
    )
    frame = Rectangle((0, 0), grid.columns, grid.rows, fill=False, edgecolor=BORDER, linewidth=0.5)
    axes.add_patch(frame)


def _outline(axes: Axes, grid: Grid, holder: Holder) -> None:
    places = sorted({grid.place(at) for at in holder.cells})
    width = 1.6 if len(grid.cells) <= 2_500 else 0.9
    axes.add_collection(
        PolyCollection(
            _boxes(places, grid), facecolors="none", edgecolors=style.INK, linewidths=width
        )
    )


def _boxes(places: list[int], grid: Grid, *, width: list[float] | None = None) -> Any:
    """Corners of these cells, (n, 4, 2); of the left part of each, where it has a `width`."""
    at = np.array(places, dtype=np.int64)
    gap = min(0.08, max(0.02, 0.0018 * grid.columns))
    top, left = at // grid.columns + gap, at % grid.columns + gap
    wide = (1 - 2 * gap) * (np.ones(len(at)) if width is None else np.array(width, dtype=float))
    right, bottom = left + wide, top + 1 - 2 * gap
    x = np.stack([left, right, right, left], axis=1)
    y = np.stack([top, top, bottom, bottom], axis=1)
    return np.stack([x, y], axis=2)
