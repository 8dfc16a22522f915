"""Blocks that are found by their content, and the line in which those of nobody wait."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Collection, Iterator, Sequence
from itertools import chain

from sim.kv import tangled
from sim.kv.node import Lot, Name, Node, Part


class Cached:
    """Finds blocks by their names, and evicts those that were not used for longest.

    What happens to blocks happens to slices of nodes: what costs is the node, not the block.
    """

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
            known = min(n, len(node.blocks) - offset)
            assert known >= 0, "a block is named before those that it follows"
            if known:
                tangled.publish_again(node, offset, blocks[at : at + known])
            node.blocks += blocks[at + known : at + n]
            at += n

    def find(self, parts: list[Part]) -> tuple[list[int], int]:
        """The blocks of the longest cached prefix of a chain, and how many of them are idle."""
        found: list[int] = []
        idle = 0
        for node, n in parts:
            blocks = node.blocks[:n]
            found += blocks
            if node.tangle is not None:
                idle += node.tangle.count_idle(blocks)
            elif node.lots:
                idle += max(0, len(blocks) - node.held)
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
        held: list[int] = []
        for node, n in parts:
            blocks = self._wake(node, n) if node.lots or node.tangle else node.blocks[:n]
            self.idle -= n - len(blocks)
            held += blocks
        return held

    def park(self, blocks: list[int], parts: Sequence[Part], held: Collection[int]) -> None:
        """The blocks of a chain join the line, the last one first, but for those still held."""
        end = sum([n for _, n in parts])
        for node, n in reversed(parts):
            left = blocks[end - n : end]
            end -= n
            if held:
                left = _without(left, held, node)
                if not left:
                    continue
            lot = Lot(n - len(left), left)
            self.line[lot] = node
            if node.tangle is None:
                node.lots.append(lot)
                self.idle += len(left)
            else:
                self.idle += node.tangle.park(lot)

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
                blocks = self._evict(node, lot, blocks)
            if not lot.blocks:
                del self.line[lot]
            taken += blocks
            n -= len(blocks)
        return taken

    def _wake(self, node: Node, n: int) -> list[int]:
        if node.tangle is not None:
            held, left = tangled.wake(node, n)
            for lot in left:
                if not lot.blocks:
                    del self.line[lot]
            return held
        lots, first_idle = node.lots, node.held
        while lots and lots[-1].start < n:
            lot = lots[-1]
            del lot.blocks[: n - lot.start]
            lot.start = n
            if not lot.blocks:
                del self.line[lots.pop()]
        return node.blocks[: min(n, first_idle)]

    def _evict(self, node: Node, lot: Lot, blocks: list[int]) -> list[int]:
        if node.tangle is not None:
            blocks = tangled.evict(node, lot, blocks)
        else:
            del node.blocks[-len(blocks) :]
            if not lot.blocks:
                del node.lots[0]
        if not node.blocks:
            node.tangle = None
            self.nodes.discard(node)
        self.idle -= len(blocks)
        self.evicted += len(blocks)
        return blocks


def _without(blocks: list[int], held: Collection[int], node: Node) -> list[int]:
    """A node's leading blocks, but for those still held."""
    if node.tangle is not None:
        return tangled.without(blocks, held)
    # Here they are the first ones.
    if blocks[-1] in held:
        return []
    if blocks[0] not in held:
        return blocks
    return [block for block in blocks if block not in held]
