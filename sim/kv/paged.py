"""Paged KV cache: blocks on demand, shared by forks, copied on write.

Kwon et al., "Efficient Memory Management for Large Language Model Serving with
PagedAttention", SOSP 2023; block ids as vLLM V1 hands them out.
"""

from __future__ import annotations

from sim.kv.cache import NO_HIT, Hit
from sim.kv.pool import FreeOrder, Pool
from sim.moves import Copy, Swap
from sim.plan import Departure
from sim.request import Sequence


class Paged:
    """Each sequence holds just the blocks that its computed tokens need::

    block table      [ 7 | 3 | 9 ]           block size 4
    tokens            0123 4567 89..         10 computed, the next goes to block 9
    """

    null_blocks = 1
    reserves = False
    publishes = False
    """Whether others can find a full block by its content."""

    def __init__(
        self, num_blocks: int, *, block_size: int, free_order: FreeOrder = "unkeyed_first"
    ) -> None:
        self.block_size = block_size
        self.pool = Pool(num_blocks, free_order=free_order)
        self._members: set[Sequence] = set()
        self._forked: set[Sequence] = set()
        """Sequences whose last, partly filled block may be shared."""
        self._copies: list[Copy] = []

    @property
    def num_blocks(self) -> int:
        return self.pool.num_blocks

    @property
    def free_blocks(self) -> int:
        return self.pool.free

    @property
    def idle_blocks(self) -> int:
        return self.pool.idle_cached

    @property
    def evicted_blocks(self) -> int:
        return self.pool.evicted

    def match(self, sequence: Sequence) -> Hit:
        return NO_HIT

    def key_after(self, sequence: Sequence, hit: Hit) -> int | None:
        """The key whose publication would lengthen the hit; None if nothing would."""
        return None

    def has_room(self, sequence: Sequence, tokens: int, *, hit: Hit, spare_blocks: int = 0) -> bool:
        new = self.blocks_for(tokens) - len(hit.blocks)
        return new + hit.idle + spare_blocks <= self.pool.free

    def is_scattered(self, sequence: Sequence) -> bool:
        return False

    def blocks_for(self, tokens: int) -> int:
        return -(-tokens // self.block_size)

    def admit(self, sequence: Sequence, hit: Hit) -> int:
        self._members.add(sequence)
        if not hit.blocks:
            return 0
        sequence.blocks = list(hit.blocks)
        return self.pool.hold(hit.blocks)

    def grow(self, sequence: Sequence, n: int) -> bool:
        missing = -(-(sequence.computed + n) // self.block_size) - len(sequence.blocks)
        if sequence in self._forked and self._shares_last(sequence):
            if missing + 1 > self.pool.free:
                return False
            self._copy_last(sequence)
        if missing > 0:
            if missing > self.pool.free:
                return False
            sequence.blocks += self.pool.take(missing)
        return True

    def extend(self, takers: list[Sequence], fillers: list[Sequence]) -> None:
        """Grow a decode group step by step, where the caller knows who needs a block in turn
        (`takers`), who fills one (`fillers`), and that there is room for it."""
        if takers:
            for sequence, block in zip(takers, self.pool.take(len(takers)), strict=True):
                sequence.blocks.append(block)

    def fork(self, parent: Sequence, child: Sequence) -> None:
        self._members.add(child)
        child.blocks = list(parent.blocks)
        child.computed = parent.computed
        child.published = parent.published
        self.pool.hold(child.blocks)
        self._forked |= {parent, child}

    def publish(self, sequence: Sequence, tokens: int) -> None:
        """Nobody looks for anything."""

    def release(self, sequence: Sequence) -> Departure:
        blocks, size = sequence.blocks, self.block_size
        in_part = 0
        if sequence in self._forked:
            self._forked.remove(sequence)
            if self._shares_last(sequence):
                in_part = -(-sequence.computed % size)
            elif self._withdraw_copy(sequence):
                in_part = sequence.computed % size
        still_held = self.pool.release(blocks, keyed=sequence.published)
        sequence.blocks, sequence.published = [], 0
        self._members.discard(sequence)
        return Departure(sequence, sequence.computed, blocks, still_held * size + in_part)

    def preempt(self, sequence: Sequence) -> Departure:
        return self.release(sequence)

    def take_swaps(self) -> tuple[Swap, ...]:
        return ()

    def take_copies(self) -> list[Copy]:
        copies, self._copies = self._copies, []
        return copies

    def translate(self, sequence: Sequence, position: int) -> tuple[int, int]:
        index, offset = divmod(position, self.block_size)
        return sequence.blocks[index], offset

    def check(self) -> None:
        self.pool.check(sequence.blocks for sequence in self._members)
        for sequence in self._members:
            assert len(sequence.blocks) >= self.blocks_for(sequence.computed), sequence.id

    def _shares_last(self, sequence: Sequence) -> bool:
        """Is the next token's block partly filled, and held by others too?"""
        index, offset = divmod(sequence.computed, self.block_size)
        return offset > 0 and self.pool.is_shared(sequence.blocks[index])

    def _copy_last(self, sequence: Sequence) -> None:
        index = sequence.computed // self.block_size
        shared = sequence.blocks[index]
        (own,) = self.pool.take(1)
        self.pool.release([shared], keyed=0)
        sequence.blocks[index] = own
        self._copies.append(Copy(shared, own, sequence, sequence.computed))

    def _withdraw_copy(self, sequence: Sequence) -> bool:
        """Who leaves before its copy was made has left the original to its other holders."""
        kept = [copy for copy in self._copies if copy.sequence is not sequence]
        withdrawn = len(kept) < len(self._copies)
        self._copies = kept
        return withdrawn
