"""What a snapshot of memory says in words and numbers, on the screen and on figures alike."""

from __future__ import annotations

import re
from decimal import Decimal
from typing import TypeVar

from experiments.blocks_snapshot import Cell, Holder, Snapshot, State
from experiments.errors import ConfigError, shown
from experiments.story import count
from experiments.words import say_share

_UNITS_NS = {
    "ns": 1,
    "us": 10**3,
    "µs": 10**3,
    "ms": 10**6,
    "s": 10**9,
    "min": 60 * 10**9,
    "h": 3600 * 10**9,
}
_SHOWN_CHARACTERS = 14
_TAIL = 4

Row = TypeVar("Row")


def parse_moment(text: str, *, option: str) -> int:
    """Whole nanoseconds of `1.5s` or `250ms`. Raises ConfigError."""
    found = re.fullmatch(r"([0-9]+(?:\.[0-9]*)?|\.[0-9]+)\s*([a-zµ]+)", text.strip())
    if found is None or found[2] not in _UNITS_NS:
        raise ConfigError(
            f"{option}: found {shown(text)}; allowed: a time with its unit"
            f" ({', '.join(_UNITS_NS)}), as in 1.5s or 250ms"
        )
    ns = Decimal(found[1]) * _UNITS_NS[found[2]]
    if ns != int(ns):
        raise ConfigError(f"{option}: found {shown(text)}; allowed: whole nanoseconds")
    return int(ns)


def say_moment(ns: int) -> str:
    """12.345 s, 9.060 ms: to the thousandth."""
    for unit, size_ns in (("s", 10**9), ("ms", 10**6)):
        if ns >= size_ns:
            return f"{ns / size_ns:,.3f} {unit}"
    return f"{ns / 1e6:.3f} ms" if ns else "0 ms"


def say_headline(snapshot: Snapshot) -> str:
    """How full it is, in one sentence."""
    blocks, shared = len(snapshot.cells) - 1, snapshot.count()[State.SHARED]
    sharing = f", {shared:,} of them by several sequences" if shared else ""
    held = f"{snapshot.held:,} of {blocks:,} blocks are held"
    return f"{held} ({say_share(snapshot.held / blocks)}){sharing}"


def say_step(snapshot: Snapshot) -> str:
    """When, and who is there."""
    moment = f"at {say_moment(snapshot.at_ns)}"
    if snapshot.step is None:
        return f"{moment}: no step runs, nobody is there"
    return (
        f"{moment}, in step {snapshot.step:,}: {len(snapshot.holders):,} run,"
        f" {snapshot.waiting:,} wait"
    )


def split_memory(snapshot: Snapshot) -> list[tuple[str, int]]:
    """The identity: parts in token slots, which sum to all of them."""
    memory = snapshot.memory
    return [
        ("used", memory.used),
        ("reserved", memory.reserved),
        ("internal", memory.internal),
        ("idle cached", memory.idle),
        ("free", memory.free),
        ("null block", memory.null),
    ]


def say_memory(snapshot: Snapshot) -> str:
    """The identity in one line."""
    slots = snapshot.slots
    parts = " + ".join(
        f"{name} {part:,} ({say_share(part / slots)})"
        for name, part in split_memory(snapshot)
        if part
    )
    savings = snapshot.memory.savings
    saved = f"; sharing saves {savings:,} more" if savings else ""
    host = ""
    if snapshot.host is not None:
        used, blocks = snapshot.host
        host = f"; in host memory {used:,} of {blocks:,} blocks are used"
    return f"{slots:,} token slots = {parts}{saved}{host}"


def say_holder(holder: Holder, snapshot: Snapshot) -> str:
    """How much of a sequence is in memory."""
    shared = snapshot.shared_by(holder)
    sharing = f" ({shared:,} shared)" if shared else ""
    blocks = count(len(holder.cells), "block")
    tokens = f"{holder.computed:,} of {holder.tokens:,} tokens"
    if holder.computed == holder.tokens:
        tokens = f"all {holder.tokens:,} tokens"
    return f"{blocks}{sharing}, {tokens}"


def shorten(id_: str) -> str:
    """A request's id where there is little room."""
    return id_ if len(id_) <= _SHOWN_CHARACTERS else id_[: _SHOWN_CHARACTERS - 1] + "…"


def say_others(cell: Cell, holder: Holder, snapshot: Snapshot) -> str:
    """Who else holds a cell: their names, or how many they are."""
    others = [other.id for other in snapshot.holders if other.index in cell.holders]
    others.remove(holder.id)
    names = " ".join(others)
    return names if len(names) <= _SHOWN_CHARACTERS else f"{len(others):,} others"


def elide(rows: list[Row], *, most: int) -> list[Row | int]:
    """At most so many of the rows; in place of the middle of a longer list, how many it had."""
    if len(rows) <= most:
        return [*rows]
    head = most - 1 - _TAIL
    return [*rows[:head], len(rows) - head - _TAIL, *rows[-_TAIL:]]


def say_grouping(per_cell: int) -> str:
    """What a cell of a map stands for; nothing where it is one block."""
    if per_cell == 1:
        return ""
    return f"each cell stands for {per_cell} neighbours and shows what most of them are"
