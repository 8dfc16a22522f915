"""One colour for each sequence on a map of memory, the same for as long as it runs."""

from __future__ import annotations

from collections.abc import Iterable

from experiments.blocks_snapshot import Cell, Holder, State

OWNERS = (
    "#4e79a7",
    "#f28e2b",
    "#59a14f",
    "#e15759",
    "#b07aa1",
    "#edc948",
    "#2aa9a1",
    "#ff8fab",
    "#9c755f",
    "#8cd17d",
)
OTHERS = "#aab7c8"
"""Sequences that have no colour of their own."""
STATES = {
    State.NULL: "#1c1c1c",
    State.SHARED: "#33415c",
    State.IDLE: "#ece3cc",
    State.FREE: "#ffffff",
}
MEANINGS = {
    State.NULL: "null block",
    State.SHARED: "shared by several",
    State.HELD: "held by one",
    State.IDLE: "idle, cached",
    State.FREE: "free",
}

Colours = dict[int, int]
"""By index of a request, its place in OWNERS."""


class Palette:
    """Gives colours to the sequences that hold most, and takes them back when they leave.

    The n-th request of a run prefers the n-th colour (they go round), so that a request looks
    alike on maps of several moments.
    """

    def __init__(self) -> None:
        self._given: Colours = {}

    def assign(self, holders: Iterable[Holder]) -> Colours:
        """Who has a colour now; whoever had one and still runs keeps it."""
        holders = list(holders)
        running = {holder.index for holder in holders}
        given = {index: at for index, at in self._given.items() if index in running}
        newcomers = [holder for holder in holders if holder.index not in given]
        newcomers.sort(key=lambda holder: -len(holder.cells))
        for holder in newcomers[: len(OWNERS) - len(given)]:
            taken = set(given.values())
            wanted = (holder.index + turn for turn in range(len(OWNERS)))
            given[holder.index] = next(
                at % len(OWNERS) for at in wanted if at % len(OWNERS) not in taken
            )
        self._given = given
        return dict(given)


def colour_of(index: int, colours: Colours) -> str:
    """Of a request's own blocks."""
    at = colours.get(index)
    return OTHERS if at is None else OWNERS[at]


def colour_in(cell: Cell, colours: Colours) -> str:
    """Of a cell on a map."""
    if cell.state is State.HELD:
        return colour_of(cell.holders[0], colours)
    return STATES[cell.state]


def rgb(colour: str) -> tuple[int, int, int]:
    """#ff8fab as 255, 143, 171."""
    red, green, blue = (int(colour[at : at + 2], 16) for at in (1, 3, 5))
    return red, green, blue


def tint(colour: str, share: float) -> str:
    """Mixed with white, of which this is the colour's share."""
    mixed = (round(255 + (channel - 255) * share) for channel in rgb(colour))
    return "#" + "".join(f"{channel:02x}" for channel in mixed)
