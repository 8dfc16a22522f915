"""Nodes with blocks that are there twice: walked block by block, where plain ones are sliced.

Two sequences that computed the same content each keep their block. A look-up finds the one
published first that still has its name; each is held, given back and evicted on its own.
"""

from __future__ import annotations

from collections.abc import Collection

from sim.kv.node import Node

GONE = 0
"""Stands for a block that left a lot from its middle: vLLM's null block, which never waits."""


def publish_again(node: Node, offset: int, blocks: list[int]) -> None:
    """These are copies of cached blocks: the node is tangled from here on."""
    if node.duplicates is None:
        node.duplicates = {}
    for at, block in enumerate(blocks, offset):
        node.duplicates.setdefault(at, []).append(block)


def count_idle(node: Node, n: int) -> int:
    """How many of the node's first n blocks nobody holds."""
    waiting = {block for lot in node.lots for block in lot.blocks}
    return len(waiting.intersection(node.blocks[:n]))


def wake(node: Node, n: int) -> list[int]:
    """Those of the node's first n blocks that somebody holds; the others leave their lots."""
    waiting = {block: (lot, at) for lot in node.lots for at, block in enumerate(lot.blocks)}
    held = []
    for block in node.blocks[:n]:
        if block in waiting:
            lot, at = waiting[block]
            lot.blocks[at] = GONE
        else:
            held.append(block)
    return held


def without(blocks: list[int], held: Collection[int]) -> list[int]:
    """The blocks, with a gap for each that is still held; none where all are."""
    rest = [GONE if block in held else block for block in blocks]
    return rest if any(rest) else []


def evict(node: Node, end: int, blocks: list[int]) -> list[int]:
    """Forget what these blocks hold, the first of which stands before offset `end`; returns those
    that are no gaps."""
    assert node.duplicates is not None
    for offset, block in zip(range(end - 1, -1, -1), blocks, strict=False):
        others = node.duplicates.get(offset)
        if block == GONE:
            continue
        if others is None:
            last = node.blocks.pop()
            assert last == block, "a block goes before those that follow it"
        elif node.blocks[offset] == block:
            node.blocks[offset] = others.pop(0)
        else:
            others.remove(block)
        if others == []:
            del node.duplicates[offset]
    return [block for block in blocks if block != GONE]
