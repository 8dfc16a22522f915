"""Paged KV cache: blocks on demand, shared by forks, copied on write.

Kwon et al., "Efficient Memory Management for Large Language Model Serving with
PagedAttention", SOSP 2023; block ids as vLLM V1 hands them out.
"""

from __future__ import annotations

from sim.kv.books import check_pool
from sim.kv.cache import Hit, KVCache
from sim.kv.forks import Forks
from sim.kv.node import Name, Part
from sim.kv.pool import FreeOrder, Pool
from sim.moves import Copy
from sim.plan import Departure
from sim.request import Sequence


class Paged(KVCache):
    """Each sequence holds just the blocks that its computed tokens need::

    block table      [ 7 | 3 | 9 ]           block size 4
    tokens            0123 4567 89..         10 computed, the next goes to block 9
    """

    null_blocks = 1
    publishes = False
    """Whether others can find a full block by its content."""

    def __init__(
        self, num_blocks: int, *, block_size: int, free_order: FreeOrder = "unkeyed_first"
    ) -> None:
        self.num_blocks = num_blocks
        self.block_size = block_size
        self.pool = Pool(num_blocks, free_order=free_order)
        self._members: set[Sequence] = set()
        self._forks = Forks(self.pool, block_size)

    @property
    def free_blocks(self) -> int:
        return self.pool.free

    @property
    def idle_blocks(self) -> int:
        return self.pool.cached.idle

    @property
    def evicted_blocks(self) -> int:
        return self.pool.cached.evicted

    def key_after(self, sequence: Sequence, hit: Hit) -> Name | None:
        """The name whose publication would lengthen the hit; None if nothing would."""
        return None

    def has_room(self, sequence: Sequence, tokens: int, *, hit: Hit, spare_blocks: int = 0) -> bool:
        new = self.blocks_for(tokens) - len(hit.blocks)
        return new + hit.idle + spare_blocks <= self.pool.free

    def blocks_for(self, tokens: int) -> int:
        return -(-tokens // self.block_size)

    def admit(self, sequence: Sequence, hit: Hit) -> int:
        self._members.add(sequence)
        return 0

    def grow(self, sequence: Sequence, n: int) -> bool:
        missing = -(-(sequence.computed + n) // self.block_size) - len(sequence.blocks)
        if sequence in self._forks.sequences and self._forks.shares_last(sequence):
            if missing + 1 > self.pool.free:
                return False
            self._forks.copy_last(sequence)
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
        self.pool.share(child.blocks)
        self._forks.add(parent, child)

    def release(self, sequence: Sequence) -> Departure:
        blocks = sequence.blocks
        in_part = self._forks.leave(sequence) if sequence in self._forks.sequences else 0
        still_held = self.pool.release(blocks, self._named(sequence))
        sequence.blocks, sequence.published = [], 0
        self._members.remove(sequence)
        shared_tokens = still_held * self.block_size + in_part
        return Departure(sequence, sequence.computed, blocks, shared_tokens)

    def take_copies(self) -> list[Copy]:
        return self._forks.take_copies()

    def translate(self, sequence: Sequence, position: int) -> tuple[int, int]:
        index, offset = divmod(position, self.block_size)
        return sequence.blocks[index], offset

    def check(self) -> None:
        check_pool(self.pool, (sequence.blocks for sequence in self._members))
        for sequence in self._members:
            assert len(sequence.blocks) >= self.blocks_for(sequence.computed), sequence.id

    def _named(self, sequence: Sequence) -> list[Part]:
        """Its leading blocks that can be found."""
        return []
