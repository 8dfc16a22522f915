"""Nodes with blocks that are there twice: walked block by block, where plain ones are sliced.

Two sequences that computed the same content each keep their block. A look-up finds the one
published first that still has its name; each is held, given back and evicted on its own.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable

from sim.kv.node import Lot, Node

GONE = 0
"""Stands for a block that left a lot from its middle: vLLM's null block, which never waits."""


class Tangle:
    """What is to be known of a tangled node, beside the blocks that a look-up finds."""

    __slots__ = ("copies", "waiting")

    def __init__(self) -> None:
        self.copies: dict[int, list[int]] = {}
        """By offset, what would be found if that were gone, in order."""
        self.waiting: dict[int, Lot] = {}
        """The lot of each block that nobody holds: no lot has a gap at an end."""

    def park(self, lot: Lot) -> int:
        """Its blocks wait; returns how many there are but for gaps."""
        blocks = [block for block in lot.blocks if block != GONE]
        self.waiting.update(dict.fromkeys(blocks, lot))
        _trim(lot)
        return len(blocks)

    def count_idle(self, blocks: list[int]) -> int:
        """How many of these found blocks nobody holds."""
        return sum(map(self.waiting.__contains__, blocks))


def tangle(node: Node) -> Tangle:
    """The node is tangled from here on."""
    if node.tangle is None:
        node.tangle = Tangle()
        for lot in node.lots:
            node.tangle.park(lot)
        node.lots.clear()
    return node.tangle


def publish_again(node: Node, offset: int, blocks: list[int]) -> None:
    """These are copies of cached blocks, which tangles their node."""
    copies = tangle(node).copies
    for at, block in enumerate(blocks, offset):
        copies.setdefault(at, []).append(block)


def wake(node: Node, n: int) -> tuple[list[int], Iterable[Lot]]:
    """Of the node's first n blocks those that are idle leave their lots; returns the others, and
    the lots."""
    held = []
    left: dict[Lot, None] = {}
    waiting = tangle(node).waiting
    for offset, block in enumerate(node.blocks[:n]):
        lot = waiting.pop(block, None)
        if lot is None:
            held.append(block)
        else:
            lot.blocks[offset - lot.start] = GONE
            left[lot] = None
    for lot in left:
        _trim(lot)
    return held, left


def without(blocks: list[int], held: Collection[int]) -> list[int]:
    """The blocks, with a gap for each that is still held; none where all are."""
    rest = [GONE if block in held else block for block in blocks]
    return rest if any(rest) else []


def evict(node: Node, lot: Lot, blocks: list[int]) -> list[int]:
    """Forget what these blocks held, which stood at the lot's end; returns them but for gaps."""
    waiting, copies = tangle(node).waiting, tangle(node).copies
    end = lot.start + len(lot.blocks) + len(blocks)
    evicted = []
    for offset, block in zip(range(end - 1, -1, -1), blocks, strict=False):
        if block == GONE:
            continue
        evicted.append(block)
        del waiting[block]
        others = copies.get(offset)
        if others is None:
            last = node.blocks.pop()
            assert last == block, "a block goes before those that follow it"
        elif node.blocks[offset] == block:
            node.blocks[offset] = others.pop(0)
        else:
            others.remove(block)
        if others == []:
            del copies[offset]
    _trim(lot)
    return evicted


def _trim(lot: Lot) -> None:
    """Cut gaps off its ends, so that a lot costs what it spans, and an empty one shows."""
    blocks = lot.blocks
    while blocks and blocks[-1] == GONE:
        blocks.pop()
    gaps = next((at for at, block in enumerate(blocks) if block != GONE), 0)
    lot.start += gaps
    del blocks[:gaps]
