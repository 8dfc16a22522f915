"""The block pool: who holds a block, what it holds, and which one is handed out next."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from itertools import accumulate, chain, takewhile
from typing import Literal

NULL_BLOCK = 0

FreeOrder = Literal["unkeyed_first", "all_last"]
"""Where released blocks join the free queue: vLLM 0.33's rule, or that of old versions."""


class Pool:
    """Physical KV blocks 1 .. num_blocks - 1 (block 0 is vLLM's null block, never handed out).

    A block is *held* (by one or more sequences) or in the free queue; a block with a key
    can be found again by its content, also while it waits in the queue, until it is handed
    out anew. The queue, from which blocks are taken head first, is in two parts::

        head  [ unkeyed: last released first | idle: keyed blocks, longest unused first ]  tail
                      a stack                            a linked ring

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
        self.idle_cached = 0
        """Blocks in the queue that have a key."""
        self.evicted = 0
        """Blocks that were handed out anew although they had a key, so far."""
        self.given_back = 0
        """Blocks that joined the queue because their last holder let go, so far."""
        self._free_order = free_order
        self._more_holders: dict[int, int] = {}
        """Holders of a block beyond the first; absent where there is no second one."""
        self._key: list[int | None] = [None] * num_blocks
        self._first: dict[int, int] = {}
        """The block that a look-up of a key finds, and"""
        self._duplicates: dict[int, list[int]] = {}
        """those that it would find if that one were gone, in order."""
        self._unkeyed = list(range(num_blocks - 1, NULL_BLOCK, -1))
        self._in_ring = bytearray(num_blocks)
        self._next = [NULL_BLOCK] * num_blocks
        self._previous = [NULL_BLOCK] * num_blocks

    # --- taking and giving back

    def take(self, n: int) -> list[int]:
        """Hand out the n blocks at the head of the queue; cached content in them is lost."""
        stack = self._unkeyed
        self.free -= n
        split = len(stack) - n
        if split < 0:
            blocks = stack[::-1] + self._take_from_ring(-split)
            stack.clear()
            return blocks
        blocks = stack[split:]
        del stack[split:]
        blocks.reverse()
        return blocks

    def hold(self, blocks: Iterable[int]) -> int:
        """Add a holder to each; those that were idle leave the queue. Returns how many were."""
        woken = 0
        for block in blocks:
            if self._in_ring[block]:
                self._unlink(block)
                woken += 1
            else:
                self._more_holders[block] = self._more_holders.get(block, 0) + 1
        self.free -= woken
        self.idle_cached -= woken
        return woken

    def release(self, blocks: list[int], *, keyed: int) -> int:
        """Remove a holder from each block of a table, of which the first `keyed` have keys;
        returns how many blocks are still held.

        Those left without a holder are queued last block first: a prefix is worth most at
        its root, so the tail of a table goes first when blocks run short.
        """
        cached, rest = blocks[:keyed], blocks[keyed:]
        if self._more_holders:
            cached = [block for block in cached if not self._let_go(block)]
            rest = [block for block in rest if not self._let_go(block)]
        if self._free_order == "all_last":
            self._append_to_ring(reversed(rest))
        else:
            self._unkeyed += rest
        if cached:
            self._append_to_ring(reversed(cached))
        left = len(cached) + len(rest)
        self.free += left
        self.given_back += left
        self.idle_cached += len(cached)
        return len(blocks) - left

    # --- content

    def publish(self, blocks: list[int], keys: list[int]) -> None:
        """Give held blocks their keys, so that others can find them."""
        first, key_of = self._first, self._key
        for block, key in zip(blocks, keys, strict=True):
            key_of[block] = key
        if first.keys().isdisjoint(keys):
            known = len(first)
            # Backwards: where two of them are equal, the first one stays.
            first.update(zip(reversed(keys), reversed(blocks), strict=True))
            if len(first) == known + len(keys):
                return
        for block, key in zip(blocks, keys, strict=True):
            if first.setdefault(key, block) != block:
                self._duplicates.setdefault(key, []).append(block)

    def lookup(self, keys: list[int]) -> list[int]:
        """The blocks that hold the longest cached run of leading keys. Does not modify."""
        return list(takewhile(bool, map(self._first.get, keys)))  # type: ignore[arg-type]

    def has(self, key: int) -> bool:
        """Would a look-up of this key find a block?"""
        return key in self._first

    def idle(self, blocks: list[int]) -> int:
        """How many of these keyed blocks nobody holds."""
        return sum(map(self._in_ring.__getitem__, blocks))

    def is_shared(self, block: int) -> bool:
        """Does a held block have several holders?"""
        return block in self._more_holders

    # --- looking inside

    def queue(self) -> Iterator[int]:
        """The free queue, head first."""
        yield from reversed(self._unkeyed)
        yield from self._ring()

    def key(self, block: int) -> int | None:
        """What a look-up would find the block by; None where it has no key."""
        return self._key[block]

    def idle_after(self, takes: list[int]) -> list[int]:
        """What `idle_cached` will be after each of these takes, if they follow one another."""
        unkeyed = len(self._unkeyed)
        if sum(takes) <= unkeyed:  # the stack suffices, and nothing in it is cached
            return [self.idle_cached] * len(takes)
        if self._free_order == "all_last":
            queue = self.queue()
            keyed = [sum(self._key[next(queue)] is not None for _ in range(n)) for n in takes]
            return [self.idle_cached - lost for lost in accumulate(keyed)]
        return [self.idle_cached - max(0, taken - unkeyed) for taken in accumulate(takes)]

    def check(self, tables: Iterable[list[int]]) -> None:
        """Raise AssertionError where the books do not balance with these block tables, which
        are all there are. O(blocks)."""
        holders = Counter(chain.from_iterable(tables))
        ring = list(self._ring())
        queued = {*self._unkeyed, *ring}
        assert len(queued) == len(self._unkeyed) + len(ring) == self.free, "free count"
        assert queued.isdisjoint(holders), "a held block is queued"
        assert NULL_BLOCK not in holders, "the null block is held"
        assert len(holders) + self.free == self.num_blocks - 1, "a block was lost"
        shared = {block: n - 1 for block, n in holders.items() if n > 1}
        assert shared == self._more_holders, "holders"
        keyed = self.num_blocks - self._key.count(None)
        unkeyed_held = [*map(self._key.__getitem__, holders)].count(None)
        assert self.idle_cached == keyed - (len(holders) - unkeyed_held), "idle count"
        assert self._in_ring.count(1) == len(ring)
        keys = [*self._first, *(key for key, more in self._duplicates.items() for _ in more)]
        found = [*self._first.values(), *chain.from_iterable(self._duplicates.values())]
        assert [*map(self._key.__getitem__, found)] == keys, "the index finds other content"
        assert keyed == len(found) == len(set(found)), "keyed blocks that nobody finds"

    # --- the ring of idle blocks, with the null block as its sentinel

    def _ring(self) -> Iterator[int]:
        block = self._next[NULL_BLOCK]
        while block != NULL_BLOCK:
            yield block
            block = self._next[block]

    def _append_to_ring(self, blocks: Iterable[int]) -> None:
        following, previous, in_ring = self._next, self._previous, self._in_ring
        last = previous[NULL_BLOCK]
        for block in blocks:
            following[last] = block
            previous[block] = last
            in_ring[block] = 1
            last = block
        following[last] = NULL_BLOCK
        previous[NULL_BLOCK] = last

    def _take_from_ring(self, n: int) -> list[int]:
        following, in_ring = self._next, self._in_ring
        blocks = []
        block = following[NULL_BLOCK]
        for _ in range(n):
            blocks.append(block)
            in_ring[block] = 0
            block = following[block]
        following[NULL_BLOCK] = block
        self._previous[block] = NULL_BLOCK
        if self._free_order == "all_last":
            self._evict([block for block in blocks if self._key[block] is not None])
        else:
            self._evict(blocks)
        return blocks

    def _unlink(self, block: int) -> None:
        before, after = self._previous[block], self._next[block]
        self._next[before] = after
        self._previous[after] = before
        self._in_ring[block] = 0

    def _evict(self, blocks: list[int]) -> None:
        """Forget what these keyed blocks of the queue hold."""
        first, key_of, duplicates = self._first, self._key, self._duplicates
        for block in blocks:
            key: int = key_of[block]  # type: ignore[assignment]
            key_of[block] = None
            if duplicates and key in duplicates:
                self._evict_one_of_several(key, block)
            else:
                del first[key]
        self.idle_cached -= len(blocks)
        self.evicted += len(blocks)

    def _evict_one_of_several(self, key: int, block: int) -> None:
        others = self._duplicates[key]
        if self._first[key] == block:
            self._first[key] = others.pop(0)
        else:
            others.remove(block)
        if not others:
            del self._duplicates[key]

    def _let_go(self, block: int) -> bool:
        """Take one of several holders off a block; False if it has but one."""
        more = self._more_holders.get(block)
        if more is None:
            return False
        if more == 1:
            del self._more_holders[block]
        else:
            self._more_holders[block] = more - 1
        return True
