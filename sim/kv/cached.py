"""Blocks that are found by their content, and the line in which those wait that nobody holds::

    taken first   [ lot of A | lot of B | lot of A | nameless | lot of C ]   given back last

What happens within a node is the node's business (`sim.kv.node`), so that what costs is the node,
not the block.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Collection, Iterator, Sequence
from itertools import chain

from sim.kv.node import Name, Node, Part
from sim.kv.tangled import Lot


class Cached:
    """Finds blocks by their names, and evicts those that were not used for longest."""

    def __init__(self) -> None:
        self.idle = 0
        """Blocks with a name that wait in the line."""
        self.evicted = 0
        """Blocks that lost their name, so far."""
        self.nodes: set[Node] = set()
        """Of which blocks are cached."""
        self.line: OrderedDict[Lot, Node | None] = OrderedDict()
        """Who waits, head first, and of which node. (No lot knows its own: the collector would have
        to free the two.)"""

    def publish(self, blocks: list[int], parts: list[tuple[Node, int, int]]) -> None:
        """Name held blocks: of each node so many from this offset on. Those before have names."""
        at = 0
        for node, offset, n in parts:
            if not node.blocks:
                self.nodes.add(node)
            node.publish(offset, blocks[at : at + n])
            at += n

    def find(self, parts: list[Part]) -> tuple[list[int], int]:
        """The blocks of the longest cached prefix of a chain, and how many of them are idle."""
        found: list[int] = []
        idle = 0
        for node, n in parts:
            blocks = node.blocks[:n]
            found += blocks
            if node.lots or node.tangle:  # somebody may wait
                idle += (node.tangle or node).count_idle(len(blocks))
            if len(blocks) < n:
                break
        return found, idle

    def has(self, name: Name | None) -> bool:
        """Is such a block cached? Then so are all before it."""
        return name is not None and name[1] < len(name[0].blocks)

    def __iter__(self) -> Iterator[int]:
        """Who waits, head first."""
        return filter(None, chain.from_iterable([reversed(lot.blocks) for lot in self.line]))

    def wake(self, parts: list[Part]) -> list[int]:
        """Of these blocks, which were found, idle ones leave the line; returns the others."""
        all_held: list[int] = []
        for node, n in parts:
            held = node.blocks[:n]
            if node.lots or node.tangle:
                held, empty = (node.tangle or node).wake(n)
                for lot in empty:
                    del self.line[lot]
                self.idle -= n - len(held)
            all_held += held
        return all_held

    def park(self, blocks: list[int], parts: Sequence[Part], held: Collection[int]) -> None:
        """The blocks of a chain join the line, the last one first, but for those still held."""
        end = sum([n for _, n in parts])
        for node, n in reversed(parts):
            left = blocks[end - n : end]
            end -= n
            if held:
                left = (node.tangle or node).without(left, held)
                if not left:
                    continue
            lot = Lot(n - len(left), left)
            self.line[lot] = node
            self.idle += (node.tangle or node).park(lot)

    def park_nameless(self, blocks: list[int]) -> None:
        """The rest of a table, which has no names, does the same."""
        if blocks:
            self.line[Lot(0, blocks.copy())] = None

    def take(self, n: int) -> list[int]:
        """The n blocks at the head leave the line, and lose their names."""
        taken: list[int] = []
        while n:
            assert self.line, "no block is free"
            lot, node = next(iter(self.line.items()))
            blocks = lot.blocks[: -n - 1 : -1]
            del lot.blocks[-n:]
            if node is not None:
                blocks = (node.tangle or node).evict(lot, blocks)
                if not node.blocks:
                    node.tangle = None
                    self.nodes.discard(node)
                self.idle -= len(blocks)
                self.evicted += len(blocks)
            if not lot.blocks:
                del self.line[lot]
            taken += blocks
            n -= len(blocks)
        return taken
