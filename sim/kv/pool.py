"""The block pool: who holds a block, what it holds, and which one is handed out next."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Sequence, Set
from itertools import accumulate, chain, islice
from typing import Literal

from sim.kv.books import list_names
from sim.kv.cached import Cached
from sim.kv.node import Part

NULL_BLOCK = 0

FreeOrder = Literal["unkeyed_first", "all_last"]
"""Where released blocks join the free queue: vLLM 0.33's rule, or that of old versions."""


class Pool:
    """Physical KV blocks 1 .. num_blocks - 1 (block 0 is vLLM's null block, never handed out).

    A block is *held* (by one or more sequences) or in the free queue; a block with a key
    can be found again by its content, also while it waits in the queue, until it is handed
    out anew. The queue, from which blocks are taken head first, is in two parts::

        head  [ unkeyed: last released first | idle: keyed blocks, longest unused first ]  tail
                      a stack                            a line (`Cached`)

    because vLLM 0.33 puts released blocks without a key at the head (their content is
    worthless) and those with a key at the tail. With `free_order="all_last"` every released
    block joins the tail, keyed or not, and the stack only holds what was never used.

    Keys are not unique: two sequences that computed the same content each keep their block,
    a look-up finds the one published first that still has its key.

    Nothing here checks that there is room: ask `free` first.
    """

    def __init__(self, num_blocks: int, *, free_order: FreeOrder = "unkeyed_first") -> None:
        self.num_blocks = num_blocks
        self.free = num_blocks - 1
        """Blocks in the queue."""
        self.given_back = 0
        """Blocks that joined the queue because their last holder let go, so far."""
        self.cached = Cached()
        self._free_order = free_order
        self.more_holders: dict[int, int] = {}
        """Holders of a block beyond the first; absent where there is no second one."""
        self._unkeyed = list(range(num_blocks - 1, NULL_BLOCK, -1))

    def take(self, n: int) -> list[int]:
        """Hand out the n blocks at the head of the queue; cached content in them is lost."""
        stack = self._unkeyed
        self.free -= n
        split = len(stack) - n
        if split < 0:
            blocks = stack[::-1] + self.cached.take(-split)
            stack.clear()
            return blocks
        blocks = stack[split:]
        del stack[split:]
        blocks.reverse()
        return blocks

    def wake(self, blocks: list[int], parts: list[Part]) -> int:
        """Add a holder to each of these, just found; returns how many leave the queue for it."""
        held = self.cached.wake(parts)
        self.share(held)
        woken = len(blocks) - len(held)
        self.free -= woken
        return woken

    def share(self, blocks: Iterable[int]) -> None:
        """Add a holder to each of these, which somebody holds."""
        more = self.more_holders
        for block in blocks:
            more[block] = more.get(block, 0) + 1

    def release(self, blocks: list[int], parts: Sequence[Part] = ()) -> int:
        """Remove a holder from each block of a table, of which the first have these keys; returns
        how many blocks are still held.

        Those left without a holder are queued last block first: a prefix is worth most at
        its root, so the tail of a table goes first when blocks run short.
        """
        held: Collection[int] = self._let_go(blocks) if self.more_holders else ()
        rest = blocks[sum([n for _, n in parts]) :] if parts else blocks
        if held:
            rest = [block for block in rest if block not in held]
        if self._free_order == "all_last":
            self.cached.park_nameless(rest)
        else:
            self._unkeyed += rest
        if parts:
            self.cached.park(blocks, parts, held)
        left = len(blocks) - len(held)
        self.free += left
        self.given_back += left
        return len(held)

    def is_shared(self, block: int) -> bool:
        """Does a held block have several holders?"""
        return block in self.more_holders

    def queue(self) -> Iterator[int]:
        """The free queue, head first."""
        return chain(reversed(self._unkeyed), self.cached)

    def idle_after(self, takes: list[int]) -> list[int]:
        """What `cached.idle` will be after each of these takes, if they follow one another."""
        unkeyed, idle = len(self._unkeyed), self.cached.idle
        if sum(takes) <= unkeyed:  # the stack suffices, and nothing in it is cached
            return [idle] * len(takes)
        if self._free_order == "all_last":
            named = list_names(self.cached)
            queue = self.queue()
            lost = [sum(map(named.__contains__, islice(queue, n))) for n in takes]
            return [idle - so_far for so_far in accumulate(lost)]
        return [idle - max(0, taken - unkeyed) for taken in accumulate(takes)]

    def _let_go(self, blocks: list[int]) -> Set[int]:
        """Take a holder off each of those that have several; returns them."""
        more = self.more_holders
        held = more.keys() & blocks
        for block in held:
            if more[block] == 1:
                del more[block]
            else:
                more[block] -= 1
        return held
