"""What is cached of a run of tokens, and in what lots it was given back."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sim.kv.tangled import Tangle


class Node:
    """The blocks that end in one run of tokens, behind a certain prefix (`sim.kv.names`); the
    leading ones are cached, without a gap.

    Without a gap, because who holds a block holds one of each before it, and gives it back no
    later than those: so the last one is always the first to be evicted.

    A node is *plain* while all who came shared its blocks. It is *tangled* once somebody has
    computed a block that was cached already, which then is there twice (`sim.kv.tangled`).
    """

    __slots__ = ("blocks", "lots", "number", "stream", "tangle")

    def __init__(self, number: int, *, stream: int) -> None:
        self.number = number
        self.stream = stream
        self.blocks: list[int] = []
        """By offset, what a look-up finds: the one published first, of those that are left."""
        self.lots: list[Lot] = []
        """Of a plain node, those that nobody holds: earlier lots are further back, and what is
        held stands before all of them."""
        self.tangle: Tangle | None = None

    @property
    def held(self) -> int:
        """How many leading blocks of a plain node somebody holds."""
        return self.lots[-1].start if self.lots else len(self.blocks)


class Lot:
    """Blocks of one node, or nameless ones, that were given back together: the last goes first."""

    __slots__ = ("blocks", "start")

    def __init__(self, start: int, blocks: list[int]) -> None:
        self.start = start
        """The offset of the first one in the node."""
        self.blocks = blocks


Name = tuple[Node, int]
"""Of a block: its node, and its offset there."""
Part = tuple[Node, int]
"""So many leading blocks of a node."""
