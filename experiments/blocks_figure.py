"""A picture of memory at one moment: the map, a sequence's block table, the token slots."""

from __future__ import annotations

from typing import Literal

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch, Rectangle

from experiments import style
from experiments.blocks_colours import OTHERS, OWNERS, STATES, Colours, Palette, colour_of, tint
from experiments.blocks_grid import lay_out
from experiments.blocks_map import BORDER, draw_map, explain_states, hide_frame
from experiments.blocks_snapshot import Holder, Snapshot, State
from experiments.blocks_words import (
    elide,
    say_grouping,
    say_headline,
    say_holder,
    say_others,
    say_step,
    shorten,
    split_memory,
)
from experiments.story import count
from experiments.words import say_share

_MOST_CELLS = 1 << 16
_ASPECT = 1.6
_ROWS = 26
"""Of a block table; the middle of a longer one is left out."""
_FEWEST_LINES = 18
_COLUMNS: dict[str, tuple[float, Literal["left", "center", "right"]]] = {
    "logical": (0.12, "right"),
    "physical": (0.32, "right"),
    "tokens": (0.6, "right"),
    "key": (0.68, "center"),
    "held too by": (0.75, "left"),
}
"""Where they are, between 0 and 1, and on which side."""
SLOT_COLOURS = {
    "used": "#1b7f79",
    "reserved": "#a6d8d3",
    "internal": "#e07a5f",
    "idle cached": STATES[State.IDLE],
    "free": STATES[State.FREE],
    "null block": STATES[State.NULL],
}


def draw_snapshot(snapshot: Snapshot, chosen: Holder | None, *, name: str, footer: str) -> Figure:
    """`chosen` is the sequence whose block table is shown, and outlined on the map."""
    colours = Palette().assign(snapshot.holders)
    grid = lay_out(snapshot.cells, aspect=_ASPECT, most=_MOST_CELLS)
    figure = style.begin(f"{name}: {say_headline(snapshot)}", footer=footer, size=(11, 7))
    wide = chosen is not None
    figure.set_layout_engine("constrained", w_pad=0.1)
    panels = figure.subplot_mosaic(
        [["map", "table"], ["slots", "table"]] if wide else [["map"], ["slots"]],
        height_ratios=(1, 0.05),
        width_ratios=(2.2, 1) if wide else None,
    )
    outlined = draw_map(panels["map"], grid, colours, outlined=chosen)
    said = f"{say_step(snapshot)}; blocks in order of their ids, {grid.columns} in a row"
    if grouping := say_grouping(grid.per_cell):
        said += f"\n{grouping}"
    panels["map"].set_title(said)
    _list_owners(panels["map"], snapshot, colours)
    _draw_slots(panels["slots"], snapshot)
    if chosen is not None:
        _draw_table(panels["table"], snapshot, chosen, colours, outlined=outlined)
    return figure


def _list_owners(axes: Axes, snapshot: Snapshot, colours: Colours) -> None:
    """A legend in rows: the sequences, then what is no sequence's own."""
    owners = [
        Patch(
            facecolor=OWNERS[colours[holder.index]],
            label=f"{shorten(holder.id)}  {len(holder.cells):,}",
        )
        for holder in snapshot.holders
        if holder.index in colours
    ]
    if others := len(snapshot.holders) - len(owners):
        owners.append(Patch(facecolor=OTHERS, label=count(others, "other sequence")))
    entries = _fill_row(owners, columns=4) + explain_states(snapshot.count())
    _list_in_rows(axes, entries, columns=4, below=0.005)


def _draw_slots(axes: Axes, snapshot: Snapshot) -> None:
    """The identity as one bar, its parts named below."""
    left, total = 0, snapshot.slots
    for part, slots in split_memory(snapshot):
        axes.barh(
            [0], [slots], left=left, color=SLOT_COLOURS[part], edgecolor=BORDER, linewidth=0.5
        )
        left += slots
    savings = snapshot.memory.savings
    saved = f"; sharing saves {savings:,} more" if savings else ""
    axes.set(xlim=(0, total), yticks=[], xticks=[], title=f"{total:,} token slots{saved}")
    hide_frame(axes)
    parts = [
        Patch(
            facecolor=SLOT_COLOURS[part],
            edgecolor=BORDER,
            linewidth=0.5,
            label=f"{part}  {slots:,} ({say_share(slots / total)})",
        )
        for part, slots in split_memory(snapshot)
        if slots
    ]
    _list_in_rows(axes, parts, columns=3, below=0.15)


def _list_in_rows(axes: Axes, entries: list[Patch], *, columns: int, below: float) -> None:
    """A legend below the axes, read row by row."""
    entries = _fill_row(entries, columns=columns)
    axes.legend(
        # matplotlib fills columns one after the other.
        handles=[entry for at in range(columns) for entry in entries[at::columns]],
        ncols=columns,
        loc="upper left",
        bbox_to_anchor=(0, -below),
        handlelength=1.2,
        handleheight=1,
        columnspacing=1.8,
        borderaxespad=0.2,
    )


def _fill_row(entries: list[Patch], *, columns: int) -> list[Patch]:
    """With invisible entries up to the end of a row."""
    return entries + [Patch(alpha=0, label=" ")] * (-len(entries) % columns)


def _draw_table(
    axes: Axes, snapshot: Snapshot, chosen: Holder, colours: Colours, *, outlined: bool
) -> None:
    rows = elide(list(enumerate(snapshot.table(chosen))), most=_ROWS)
    where = ", outlined on the map" if outlined else ""
    lines = max(_FEWEST_LINES, len(rows))
    axes.set(xlim=(0, 1), ylim=(lines + 0.3, -1), xticks=[], yticks=[])
    axes.set_title(f"block table of {shorten(chosen.id)}{where}:\n{say_holder(chosen, snapshot)}")
    hide_frame(axes)
    for title, (x, side) in _COLUMNS.items():
        axes.text(x, -0.4, title, ha=side, va="center", color=style.QUIET)
    for line, row in enumerate(rows):
        y = line + 0.5
        if isinstance(row, int):
            axes.text(0.06, y, f"... {row:,} more", va="center", color=style.QUIET)
            continue
        logical, (place, cell, tokens) = row
        own = cell.state is State.HELD
        colour = colour_of(chosen.index, colours) if own else STATES[State.SHARED]
        for share, shade in ((1.0, tint(colour, 0.3)), (tokens / cell.slots, colour)):
            axes.add_patch(Rectangle((0.37, y - 0.36), 0.14 * share, 0.72, color=shade, lw=0))
        texts = {
            "logical": f"{logical:,}",
            "physical": f"{place:,}",
            "tokens": f"{tokens:,}",
            "key": "✓" if cell.keyed else "",
            "held too by": say_others(cell, chosen, snapshot),
        }
        for title, text in texts.items():
            x, side = _COLUMNS[title]
            axes.text(x, y, text, ha=side, va="center")
