"""What is cached of one run of tokens: who holds it, and in what lots the rest was given back."""

from __future__ import annotations

from collections.abc import Collection

from sim.kv.tangled import Lot, Tangle


class Node:
    """The blocks that end in one run of tokens, behind one prefix (`sim.kv.names`)::

        offset      0   1   2   3   4   5   6
        blocks    [ 7 | 3 | 9 | 4 | 8 | 5 ]        what is cached, without a gap: not 6
                     held   | lots[1] | lots[0]    given back first, evicted first, from its end

    Without a gap, because who holds a block holds one of each before it, and gives it back no
    later than those. So whatever happens to blocks happens to slices of these.

    That is a *plain* node: all who came shared its blocks. It is *tangled* from when somebody has
    computed a block that was cached already, which then is there twice, until it is empty. What
    to do with blocks is asked of `node.tangle or node`.
    """

    __slots__ = ("__weakref__", "blocks", "lots", "number", "stream", "tangle")

    def __init__(self, number: int, *, stream: int) -> None:
        self.number = number
        self.stream = stream
        self.blocks: list[int] = []
        """By offset, what a look-up finds: the one published first, of those that are left."""
        self.lots: list[Lot] = []
        """Of a plain node, those that nobody holds."""
        self.tangle: Tangle | None = None

    @property
    def held(self) -> int:
        """How many leading blocks of a plain node somebody holds."""
        return self.lots[-1].start if self.lots else len(self.blocks)

    def publish(self, offset: int, blocks: list[int]) -> None:
        """These, which somebody holds, are cached from here on: the first at this offset."""
        known = len(self.blocks) - offset
        if known:
            assert known > 0, "a block is named before those that it follows"
            self.entangle().publish(offset, blocks[:known])
            blocks = blocks[known:]
        self.blocks += blocks

    def entangle(self) -> Tangle:
        """It is tangled from here on."""
        if self.tangle is None:
            self.tangle, self.lots = Tangle(self.blocks, self.lots), []
        return self.tangle

    def count_idle(self, n: int) -> int:
        """How many of the first n blocks nobody holds."""
        return max(0, n - self.held)

    def wake(self, n: int) -> tuple[list[int], list[Lot]]:
        """Idle ones of the first n blocks leave their lots; returns the others, and the lots that
        are empty now."""
        lots, held, empty = self.lots, self.blocks[: min(n, self.held)], []
        while lots and lots[-1].start < n:
            lot = lots[-1]
            del lot.blocks[: n - lot.start]
            lot.start = n
            if not lot.blocks:
                empty.append(lots.pop())
        return held, empty

    def without(self, blocks: list[int], held: Collection[int]) -> list[int]:
        """Leading blocks, but for those that are still held: the first ones."""
        if blocks[-1] in held:
            return []
        if blocks[0] not in held:
            return blocks
        return [block for block in blocks if block not in held]

    def park(self, lot: Lot) -> int:
        """The lot begins to wait; returns how many blocks that are."""
        self.lots.append(lot)
        return len(lot.blocks)

    def evict(self, lot: Lot, blocks: list[int]) -> list[int]:
        """Forget what these held, which stood at the lot's end; returns them."""
        del self.blocks[-len(blocks) :]
        if not lot.blocks:
            del self.lots[0]
        return blocks


Name = tuple[Node, int]
"""Of a block: its node, and its offset there."""
Part = tuple[Node, int]
"""So many leading blocks of a node."""
