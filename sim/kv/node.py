"""What is cached of a run of tokens, and in what lots it was given back."""

from __future__ import annotations


class Node:
    """A run of tokens behind a certain prefix (`sim.kv.names`), of which the leading whole blocks
    are cached, without a gap.

    Without a gap, because who holds a block holds one of each before it, and gives it back no
    later than those: so the last one is always the first to be evicted.

    A node is *plain* while all who came shared its blocks. It is *tangled* once somebody has
    computed a block that was cached already, which then is there twice (`sim.kv.tangled`).
    """

    __slots__ = ("blocks", "duplicates", "lots", "number")

    def __init__(self, number: int) -> None:
        self.number = number
        self.blocks: list[int] = []
        """By offset, what a look-up finds: the one published first, of those that are left."""
        self.lots: list[Lot] = []
        """Those that nobody holds. In a plain node earlier lots are further back, and what is held
        stands before all of them."""
        self.duplicates: dict[int, list[int]] | None = None
        """By offset, what would be found if that were gone, in order; None in a plain node."""

    @property
    def held(self) -> int:
        """How many leading blocks of a plain node somebody holds."""
        if not self.lots:
            return len(self.blocks)
        lot = self.lots[-1]
        return lot.end - len(lot.blocks)


class Lot:
    """Blocks of one node that were given back together, last one first; or, without a node,
    blocks that cannot be found."""

    __slots__ = ("blocks", "end", "node")

    def __init__(self, node: Node | None, end: int, blocks: list[int]) -> None:
        self.node = node
        self.end = end
        """Block i has offset end - 1 - i."""
        self.blocks = blocks


Name = tuple[Node, int]
"""Of a block: its node, and its offset there."""
Part = tuple[Node, int]
"""So many leading blocks of a node."""
