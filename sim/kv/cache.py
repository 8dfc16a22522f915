"""What a scheduler asks of a KV cache. Full is an answer, not an exception."""

from __future__ import annotations

from typing import NamedTuple, Protocol

from sim.moves import Copy, Swap
from sim.plan import Departure
from sim.request import Sequence


class Hit(NamedTuple):
    """The part of a waiting sequence that need not be computed."""

    blocks: list[int]
    """Those in the cache already."""
    tokens: int
    """In them, and in host memory behind them."""
    idle: int
    """Blocks of it that nobody holds: taking them uses up free blocks all the same."""
    host_tokens: int = 0
    """How many of the tokens are in host memory alone: their blocks are yet to be taken."""


NO_HIT = Hit([], 0, 0)


class KVCache(Protocol):
    """Room for computed tokens, by sequence. `check_kv_cache` tests an implementation, which need
    not say what it inherits: that nothing is shared, scattered, swapped or copied.

    A sequence is *in* the cache from `admit` (or a `fork`) to `release` or `preempt`, and after
    `admit` it grows before anything else happens to it. The cache writes
    `blocks`, `published` and `names` of a sequence, and nothing else of it.
    """

    num_blocks: int
    """All blocks of the pool, null blocks included."""
    block_size: int
    null_blocks: int
    """Blocks of the pool that are never handed out: vLLM's null block."""
    reserves: bool = False
    """Whether a sequence is given all its room when it is admitted, rather than as it grows."""

    @property
    def free_blocks(self) -> int:
        """Blocks that can be had without taking one from a sequence."""
        ...

    @property
    def idle_blocks(self) -> int:
        """Those free blocks whose content can still be found."""
        return 0

    @property
    def evicted_blocks(self) -> int:
        """How many blocks lost findable content to a new holder, so far."""
        return 0

    def match(self, sequence: Sequence) -> Hit:
        """What of a sequence outside the cache is there already; one token is always left
        to compute. Does not modify."""
        return NO_HIT

    def has_room(self, sequence: Sequence, tokens: int, *, hit: Hit, spare_blocks: int = 0) -> bool:
        """Would the first `tokens` tokens of a sequence outside the cache, which begin with
        `hit`, fit and leave `spare_blocks` free?"""
        ...

    def is_scattered(self, sequence: Sequence) -> bool:
        """Is a sequence outside the cache kept there only because what is free is in pieces?"""
        return False

    def admit(self, sequence: Sequence, hit: Hit) -> int:
        """Let a sequence in, with the blocks of its hit. Returns how many of them were idle."""
        ...

    def grow(self, sequence: Sequence, n: int) -> bool:
        """Make room for the next n tokens after `sequence.computed`, and let others find the
        blocks this fills with known tokens. False, and nothing has changed, where blocks are
        short."""
        ...

    def publish(self, sequence: Sequence, tokens: int) -> None:
        """Let others find the blocks that are full with the first `tokens` tokens, whose
        content is known."""
        return

    def release(self, sequence: Sequence) -> Departure:
        """Let a sequence go: it holds nothing afterwards."""
        ...

    def preempt(self, sequence: Sequence) -> Departure:
        """Let a sequence go that will be back. What it has computed may be kept elsewhere, for
        `match` to tell."""
        return self.release(sequence)

    def take_swaps(self) -> tuple[Swap, ...]:
        """Blocks to copy to host memory and from it before the next step and its `take_copies`,
        each reported once."""
        return ()

    def take_copies(self) -> list[Copy]:
        """Block copies due before the next step, each reported once."""
        return []

    def translate(self, sequence: Sequence, position: int) -> tuple[int, int]:
        """Physical (block, offset) of a token that has room. IndexError where it has none."""
        ...

    def check(self) -> None:
        """Raise AssertionError where the books do not balance. Slow."""
        ...


class ForkingCache(KVCache, Protocol):
    """A cache whose sequences can share what they have in common."""

    def fork(self, parent: Sequence, child: Sequence) -> None:
        """Let `child` in, sharing every block of `parent`; its computed tokens are the
        parent's, and what follows is its own output stream from 0. Whoever writes first
        into a block that both hold copies it."""
        ...
