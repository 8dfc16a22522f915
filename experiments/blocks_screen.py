"""Memory at one moment on a terminal: a compact map, who holds what, one block table."""

from __future__ import annotations

from collections.abc import Iterator

from rich import box
from rich.console import Console
from rich.style import Style
from rich.table import Table
from rich.text import Text

from experiments.blocks_colours import (
    MEANINGS,
    OWNERS,
    STATES,
    Colours,
    Palette,
    colour_in,
    colour_of,
)
from experiments.blocks_grid import Grid, lay_out
from experiments.blocks_snapshot import Cell, Holder, Snapshot, State
from experiments.blocks_words import (
    elide,
    say_grouping,
    say_headline,
    say_holder,
    say_memory,
    say_others,
    say_step,
)

_SIGNS = {State.NULL: "X", State.SHARED: "#", State.IDLE: "-", State.FREE: "."}
_OTHER = "Z"
_NUMBERED = 60
"""Cells that have room for their number."""
_LETTERS = 2_400
"""Cells with a letter each; more are drawn two in one character where there are colours."""
_HALF_BLOCKS = 4_800
_MARGIN = 10
_ROWS = 12


def show_snapshot(snapshot: Snapshot, chosen: Holder | None, screen: Console, *, name: str) -> None:
    """`chosen` is the sequence whose block table is shown."""
    colours = Palette().assign(snapshot.holders)
    screen.print(Text(f"{name}: {say_headline(snapshot)}", style="bold"))
    screen.print(Text(say_step(snapshot), style="dim"))
    screen.print()
    halves = screen.color_system is not None and len(snapshot.cells) > _LETTERS
    numbered = len(snapshot.cells) <= _NUMBERED
    # A character is twice as high as it is wide.
    aspect = 30 if numbered else 3 if halves else 6
    grid = lay_out(
        snapshot.cells,
        aspect=aspect,
        most=_HALF_BLOCKS if halves else _LETTERS,
        most_columns=25 if numbered else max(1, min(100, screen.width) - _MARGIN),
    )
    for line in _draw_halves(grid, colours) if halves else _draw_letters(grid, colours):
        screen.print(line, no_wrap=True, crop=True)
    if grouping := say_grouping(grid.per_cell):
        screen.print(Text(grouping, style="dim"))
    screen.print()
    screen.print(_explain(snapshot, letters=not halves))
    if snapshot.holders:
        screen.print()
        screen.print(_tabulate_holders(snapshot, colours))
    screen.print()
    screen.print(Text(say_memory(snapshot)))
    if chosen is not None:
        screen.print()
        title = f"block table of {chosen.id}: {say_holder(chosen, snapshot)}"
        screen.print(Text(title, style="bold"))
        screen.print(_tabulate_blocks(snapshot, chosen))


def _draw_letters(grid: Grid, colours: Colours) -> Iterator[Text]:
    """A letter for each cell: a small one where the block is not full."""
    numbered = len(grid.cells) <= _NUMBERED
    for row in range(grid.rows):
        first = row * grid.columns
        cells = grid.cells[first : first + grid.columns]
        margin = f"{first * grid.per_cell:>{_MARGIN - 2},}  "
        if numbered:
            margin = " " * len(margin)
            numbers = "".join(f"{first + at:>3}" for at in range(len(cells)))
            yield Text(margin + numbers, style="dim")
        line = Text(margin)
        for cell in cells:
            if numbered:
                line.append("  ")
            line.append(_sign(cell, colours), style=_paint(colour_in(cell, colours)))
        yield line


def _draw_halves(grid: Grid, colours: Colours) -> Iterator[Text]:
    """Two cells in one character, one above the other."""
    size, columns = len(grid.cells), grid.columns
    for row in range(0, grid.rows, 2):
        first = row * columns
        line = Text(f"{first * grid.per_cell:>{_MARGIN - 2},}  ")
        for at in range(first, min(first + columns, size)):
            below = at + columns
            upper = colour_in(grid.cells[at], colours)
            lower = colour_in(grid.cells[below], colours) if below < size else None
            line.append("▀", style=Style(color=upper, bgcolor=lower))
        yield line


def _explain(snapshot: Snapshot, *, letters: bool) -> Text:
    counts = snapshot.count()
    line = Text()
    for state, sign in _SIGNS.items():
        line.append(sign if letters else " ", style=_paint(STATES[state]))
        line.append(f" {MEANINGS[state]} {counts[state]:,}   ")
    if letters:
        line.append("\nA held by one and full   a held by one and not yet full")
    return line


def _tabulate_holders(snapshot: Snapshot, colours: Colours) -> Table:
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False)
    for column in ("", "sequence", "blocks", "shared", "tokens computed", "in the last block"):
        side = "left" if column in ("", "sequence") else "right"
        table.add_column(column, justify="right" if side == "right" else "left")
    shown = sorted(snapshot.holders, key=lambda holder: holder.index not in colours)
    for holder in shown[: len(OWNERS)]:
        *_, (_, last, filled) = snapshot.table(holder)
        table.add_row(
            Text(
                _letter(holder.index, colours),
                style=_paint(colour_of(holder.index, colours)),
            ),
            Text(holder.id),
            f"{len(holder.cells):,}",
            f"{snapshot.shared_by(holder):,}",
            f"{holder.computed:,} of {holder.tokens:,}",
            f"{filled:,} of {last.slots:,}",
        )
    if others := len(snapshot.holders) - len(shown[: len(OWNERS)]):
        table.add_row(_OTHER, f"{others:,} more")
    return table


def _tabulate_blocks(snapshot: Snapshot, chosen: Holder) -> Table:
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False)
    for column in ("logical", "physical", "tokens", "key", "held too by"):
        table.add_column(column, justify="right" if column != "held too by" else "left")
    for row in elide(list(enumerate(snapshot.table(chosen))), most=_ROWS):
        if isinstance(row, int):
            table.add_row("...", f"{row:,} more")
            continue
        logical, (place, cell, tokens) = row
        table.add_row(
            f"{logical:,}",
            f"{place:,}",
            f"{tokens:,} of {cell.slots:,}",
            "yes" if cell.keyed else "",
            Text(say_others(cell, chosen, snapshot)),
        )
    return table


def _sign(cell: Cell, colours: Colours) -> str:
    if cell.state is not State.HELD:
        return _SIGNS[cell.state]
    letter = _letter(cell.holders[0], colours)
    return letter if cell.filled == cell.slots else letter.lower()


def _letter(index: int, colours: Colours) -> str:
    at = colours.get(index)
    return _OTHER if at is None else chr(ord("A") + at)


def _paint(colour: str) -> Style:
    dark = colour in (STATES[State.NULL], STATES[State.SHARED])
    return Style(color="white" if dark else "black", bgcolor=colour)
