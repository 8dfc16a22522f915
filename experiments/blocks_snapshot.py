"""The KV memory of one replica at one moment, cell by cell: pure data, whoever draws it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import IntEnum
from typing import NamedTuple

from sim.kv.books import list_names
from sim.kv.paged import Paged
from sim.kv.pool import NULL_BLOCK
from sim.kv.swap import Swapped
from sim.record.memory import Slots, recount
from sim.request import Sequence
from sim.scheduling.face import Scheduler


class State(IntEnum):
    NULL = 0
    """vLLM's block 0, which nobody gets."""
    SHARED = 1
    """Held by several sequences."""
    HELD = 2
    """Held by one."""
    IDLE = 3
    """Held by nobody, but a look-up would find its content."""
    FREE = 4


class Cell(NamedTuple):
    """A piece of KV memory: a block of a pool, or a region where a cache is contiguous."""

    state: State
    slots: int
    """Tokens it has room for."""
    filled: int = 0
    """Tokens in it: computed ones where it is held, findable ones where it is idle."""
    keyed: bool = False
    """A look-up would find it."""
    holders: tuple[int, ...] = ()
    """Who holds it, in admission order: indices of requests in order of arrival."""


@dataclass(frozen=True, slots=True)
class Holder:
    """A running sequence."""

    index: int
    """In the order of arrival; unique."""
    id: str
    computed: int
    """Tokens in the cache, those of the step included."""
    tokens: int
    """Tokens of the prompt and of the answer so far."""
    cells: tuple[int, ...]
    """Its block table: where each logical block is, as a place in `Snapshot.cells`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Snapshot:
    """Memory as it is while a step runs, with the step's tokens counted as computed; between
    steps, where no step runs."""

    at_ns: int
    step: int | None
    """None where no step runs, and nobody holds anything."""
    cells: list[Cell]
    """All of the memory, in order of address."""
    holders: list[Holder]
    """In admission order."""
    waiting: int
    memory: Slots[int]
    """The same memory in token slots."""
    host: tuple[int, int] | None = None
    """(used, all) blocks of host memory, where sequences are swapped."""

    def count(self) -> Mapping[State, int]:
        """Cells by state."""
        return Counter(cell.state for cell in self.cells)

    @property
    def held(self) -> int:
        counts = self.count()
        return counts[State.HELD] + counts[State.SHARED]

    @property
    def slots(self) -> int:
        return sum(cell.slots for cell in self.cells)

    def holder(self, id_: str) -> Holder | None:
        """The running sequence of that name; None where there is none."""
        return next((holder for holder in self.holders if holder.id == id_), None)

    def shared_by(self, holder: Holder) -> int:
        """How many of its blocks others hold too."""
        return sum(self.cells[place].state is State.SHARED for place in holder.cells)

    def table(self, holder: Holder) -> Iterator[tuple[int, Cell, int]]:
        """(place, cell, tokens of this sequence in it), by logical block."""
        left = holder.computed
        for place in holder.cells:
            cell = self.cells[place]
            yield place, cell, min(left, cell.slots)
            left = max(0, left - cell.slots)


def photograph(
    scheduler: Scheduler,
    *,
    at_ns: int,
    step: int | None,
    waiting: int,
    final_tokens: Mapping[int, int],
) -> Snapshot:
    """What the block tables say now. `final_tokens` has, by index, how many tokens each
    running request will ever have in the cache. O(blocks)."""
    kv, running = scheduler.kv, scheduler.running
    assert isinstance(kv, Paged)
    return Snapshot(
        at_ns=at_ns,
        step=step,
        cells=_cells_of(kv, running),
        holders=[
            Holder(
                sequence.index,
                sequence.id,
                sequence.computed,
                sequence.num_tokens,
                tuple(sequence.blocks),
            )
            for sequence in running
        ],
        waiting=waiting,
        memory=recount(kv, running, dict(final_tokens), external=0),
        host=(kv.host.used, kv.host.num_blocks) if isinstance(kv, Swapped) else None,
    )


def _cells_of(kv: Paged, running: list[Sequence]) -> list[Cell]:
    """A cell for each block; equal cells are one object, so that many snapshots stay small."""
    size, named = kv.block_size, list_names(kv.pool.cached)
    holders: dict[int, tuple[int, ...]] = {}
    filled: dict[int, int] = {}
    for sequence in running:
        for index, block in enumerate(sequence.blocks):
            holders[block] = (*holders.get(block, ()), sequence.index)
            # Who shares a block has computed the same tokens of it: writers copy first.
            filled[block] = min(size, max(0, sequence.computed - index * size))
    free, idle = Cell(State.FREE, size), Cell(State.IDLE, size, size, True)
    known: dict[Cell, Cell] = {}
    cells = []
    for block in range(kv.num_blocks):
        if block == NULL_BLOCK:
            cell = Cell(State.NULL, size)
        elif block in holders:
            of = holders[block]
            state = State.HELD if len(of) == 1 else State.SHARED
            cell = Cell(state, size, filled[block], block in named, of)
            cell = known.setdefault(cell, cell)
        else:
            cell = idle if block in named else free
        cells.append(cell)
    return cells
