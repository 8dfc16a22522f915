"""Preemption by swapping: what a victim has computed waits for it in host memory.

The PagedAttention paper, Kwon et al., SOSP 2023, section 4.5, and vLLM V0; V1 does not swap.
"""

from __future__ import annotations

from itertools import islice

from sim.kv.cache import Hit
from sim.kv.paged import Paged
from sim.kv.pool import FreeOrder
from sim.kv.prefix import PrefixCached
from sim.moves import Swap
from sim.plan import Departure
from sim.request import Sequence


class HostTier:
    """Blocks of host memory, each held by one sequence that waits, or free."""

    def __init__(self, num_blocks: int) -> None:
        self.num_blocks = num_blocks
        self.used = 0
        self._fresh = iter(range(num_blocks))
        """Blocks that nobody ever held, which cost nothing."""
        self._free: list[int] = []
        """Those that somebody did."""
        self._held: dict[Sequence, tuple[list[int], int]] = {}
        """Blocks, and the tokens in them."""

    def tokens(self, sequence: Sequence) -> int:
        """How many of its first tokens are here."""
        return self._held.get(sequence, ([], 0))[1]

    def keep(self, sequence: Sequence, *, blocks: int, tokens: int) -> list[int] | None:
        """Blocks for a sequence that has none here; None where so many are not free."""
        if self.used + blocks > self.num_blocks:
            return None
        taken = [self._free.pop() for _ in range(min(blocks, len(self._free)))]
        taken += islice(self._fresh, blocks - len(taken))
        self.used += blocks
        self._held[sequence] = taken, tokens
        return taken

    def free(self, sequence: Sequence) -> list[int]:
        """Take its blocks back; returns them. KeyError where it has none."""
        blocks, _ = self._held.pop(sequence)
        self._free += blocks[::-1]
        self.used -= len(blocks)
        return blocks

    def check(self) -> None:
        """Raise AssertionError unless every block is free or held, once. Slow."""
        held = [block for blocks, _ in self._held.values() for block in blocks]
        found = sorted([*self._free, *held])
        assert found == list(range(len(found))), "a host block was lost, or is there twice"
        assert len(held) == self.used <= self.num_blocks


class Swapped(Paged):
    """A paged cache whose victims' blocks are copied to the host, and back when they resume.

    A victim keeps all blocks that hold computed tokens, also those that can be found on the device;
    where the host has no room for all of them it keeps none, and is recomputed. When it resumes,
    blocks found on the device are shared as ever, and those behind come back::

        device    [ hit | hit ]                    host    [ . | . | 12 | 13 ]
        resumes   [ hit | hit | new | new ]                           copied back into the new

    Copies are made in order: a host block that is free again is read before anybody writes it.
    """

    def __init__(
        self,
        num_blocks: int,
        *,
        block_size: int,
        host: HostTier,
        free_order: FreeOrder = "unkeyed_first",
    ) -> None:
        super().__init__(num_blocks, block_size=block_size, free_order=free_order)
        self.host = host
        self._swaps: list[Swap] = []

    def match(self, sequence: Sequence) -> Hit:
        hit = super().match(sequence)
        more = self.host.tokens(sequence) - hit.tokens
        return hit._replace(tokens=hit.tokens + more, host_tokens=more) if more > 0 else hit

    def grow(self, sequence: Sequence, n: int) -> bool:
        found = len(sequence.blocks)
        if not super().grow(sequence, n):
            return False
        if tokens := self.host.tokens(sequence):  # it resumes, admitted with so many blocks
            tokens -= found * self.block_size
            if source := self.host.free(sequence)[found:]:
                target = sequence.blocks[found : found + len(source)]
                self._swaps.append(Swap(sequence, False, tokens, target, source))
        return True

    def preempt(self, sequence: Sequence) -> Departure:
        if sequence in self._forks.sequences:  # its last block may not have been copied yet
            return self.release(sequence)
        tokens = sequence.computed
        source = sequence.blocks[: self.blocks_for(tokens)]
        departure = self.release(sequence)
        if target := self.host.keep(sequence, blocks=len(source), tokens=tokens):
            self._swaps.append(Swap(sequence, True, tokens, source, target))
        return departure

    def release(self, sequence: Sequence) -> Departure:
        if self.host.tokens(sequence):  # it was admitted, and found no room
            self.host.free(sequence)
        return super().release(sequence)

    def take_swaps(self) -> tuple[Swap, ...]:
        swaps, self._swaps = tuple(self._swaps), []
        return swaps

    def check(self) -> None:
        super().check()
        self.host.check()


class SwappedPrefix(Swapped, PrefixCached):
    """The same, where full blocks stay findable by content."""
