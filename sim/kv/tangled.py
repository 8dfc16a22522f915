"""Nodes with blocks that are there twice: walked block by block, where plain ones are sliced.

Two sequences that computed the same content each keep their block. A look-up finds the one
published first that still has its name; each is held, given back and evicted on its own::

    offset       0   1   2
    found      [ 7 | 3 | 9 ]
    copies               5      found once 9 is gone, and
                         6      this one once 5 is, too
    waiting      5              in its lot; the others are held
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

GONE = 0
"""Stands for a block that left a lot from its middle: vLLM's null block, which never waits."""


@dataclass(slots=True, eq=False)
class Lot:
    """Blocks of one node, or nameless ones, that were given back together: the last goes first."""

    start: int
    """The offset of the first one in the node."""
    blocks: list[int]

    def trim(self) -> None:
        """Cut gaps off its ends, so that it costs what it spans, and shows when it is empty."""
        blocks = self.blocks
        while blocks and blocks[-1] == GONE:
            blocks.pop()
        gaps = next((at for at, block in enumerate(blocks) if block != GONE), 0)
        self.start += gaps
        del blocks[:gaps]


class Tangle:
    """A tangled node's blocks. Does what `sim.kv.node.Node` says."""

    __slots__ = ("copies", "found", "waiting")

    def __init__(self, found: list[int], lots: list[Lot]) -> None:
        self.found = found
        """The node's list: by offset, what a look-up finds."""
        self.copies: dict[int, list[int]] = {}
        """By offset, what would be found if that were gone, in order."""
        self.waiting: dict[int, Lot] = {}
        """The lot of each block that nobody holds: no lot has a gap at an end."""
        for lot in lots:
            self.park(lot)

    def publish(self, offset: int, blocks: list[int]) -> None:
        """These are copies of what is cached."""
        for at, block in enumerate(blocks, offset):
            self.copies.setdefault(at, []).append(block)

    def count_idle(self, n: int) -> int:
        return sum(map(self.waiting.__contains__, self.found[:n]))

    def wake(self, n: int) -> tuple[list[int], list[Lot]]:
        held = []
        left: dict[Lot, None] = {}
        for offset, block in enumerate(self.found[:n]):
            lot = self.waiting.pop(block, None)
            if lot is None:
                held.append(block)
            else:
                lot.blocks[offset - lot.start] = GONE
                left[lot] = None
        for lot in left:
            lot.trim()
        return held, [lot for lot in left if not lot.blocks]

    def without(self, blocks: list[int], held: Collection[int]) -> list[int]:
        """With a gap for each that is still held; none where all are."""
        rest = [GONE if block in held else block for block in blocks]
        return rest if any(rest) else []

    def park(self, lot: Lot) -> int:
        blocks = [block for block in lot.blocks if block != GONE]
        self.waiting.update(dict.fromkeys(blocks, lot))
        lot.trim()
        return len(blocks)

    def evict(self, lot: Lot, blocks: list[int]) -> list[int]:
        """Returns them but for gaps."""
        end = lot.start + len(lot.blocks) + len(blocks)
        evicted = []
        for offset, block in zip(range(end - 1, -1, -1), blocks, strict=False):
            if block == GONE:
                continue
            evicted.append(block)
            del self.waiting[block]
            others = self.copies.get(offset)
            if others is None:
                last = self.found.pop()
                assert last == block, "a block goes before those that follow it"
            elif self.found[offset] == block:
                self.found[offset] = others.pop(0)
            else:
                others.remove(block)
            if others == []:
                del self.copies[offset]
        lot.trim()
        return evicted
