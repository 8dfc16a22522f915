"""Forked sequences share their last, partly filled block too, and copy it before they write.

With 10 tokens and a block size of 4, where the parent writes first::

    parent   [ 7 | 3 | 9 ]   ->   [ 7 | 3 | 5 ]      9 is copied to 5
    child    [ 7 | 3 | 9 ]        [ 7 | 3 | 9 ]      has 9 for itself now
"""

from __future__ import annotations

from sim.kv.pool import Pool
from sim.moves import Copy
from sim.request import Sequence


class Forks:
    """Who may share its last block, and which copies are to be made (Kwon et al., SOSP 2023,
    section 4.4)."""

    def __init__(self, pool: Pool, block_size: int) -> None:
        self._pool = pool
        self._block_size = block_size
        self.sequences: set[Sequence] = set()
        """Those that may share their last block."""
        self._copies: list[Copy] = []

    def add(self, parent: Sequence, child: Sequence) -> None:
        self.sequences |= {parent, child}

    def shares_last(self, sequence: Sequence) -> bool:
        """Is the next token's block partly filled, and held by others too?"""
        index, offset = divmod(sequence.computed, self._block_size)
        return offset > 0 and self._pool.is_shared(sequence.blocks[index])

    def copy_last(self, sequence: Sequence) -> None:
        """Give it a block of its own instead; there is one."""
        index = sequence.computed // self._block_size
        shared = sequence.blocks[index]
        (own,) = self._pool.take(1)
        self._pool.release([shared])
        sequence.blocks[index] = own
        self._copies.append(Copy(shared, own, sequence, sequence.computed))

    def leave(self, sequence: Sequence) -> int:
        """It is about to give its blocks back. By how many tokens those that others go on holding
        differ from whole blocks: less where the last one is not full, more where its copy is not
        made any more, so that the original stands for it."""
        self.sequences.remove(sequence)
        if self.shares_last(sequence):
            return -(-sequence.computed % self._block_size)
        return sequence.computed % self._block_size if self._withdraw_copy(sequence) else 0

    def take_copies(self) -> list[Copy]:
        copies, self._copies = self._copies, []
        return copies

    def _withdraw_copy(self, sequence: Sequence) -> bool:
        """Who leaves before its copy was made has left the original to its other holders."""
        kept = [copy for copy in self._copies if copy.sequence is not sequence]
        withdrawn = len(kept) < len(self._copies)
        self._copies = kept
        return withdrawn
