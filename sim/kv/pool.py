"""The block pool: who holds a block, what it holds, and which one is handed out next."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import takewhile
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
        self._holders = [0] * num_blocks
        self._key: list[int | None] = [None] * num_blocks
        self._first: dict[int, int] = {}
        self._duplicates: dict[int, list[int]] = {}
        self._unkeyed = list(range(num_blocks - 1, NULL_BLOCK, -1))
        self._next = [NULL_BLOCK] * num_blocks
        self._previous = [NULL_BLOCK] * num_blocks

    # --- taking and giving back

    def take(self, n: int) -> list[int]:
        """Hand out the n blocks at the head of the queue; cached content in them is lost."""
        stack = self._unkeyed
        split = max(0, len(stack) - n)
        blocks = stack[split:]
        blocks.reverse()
        del stack[split:]
        while len(blocks) < n:
            block = self._next[NULL_BLOCK]
            self._unlink(block)
            self._drop_key(block)
            blocks.append(block)
        for block in blocks:
            self._holders[block] = 1
        self.free -= n
        return blocks

    def hold(self, blocks: Iterable[int]) -> int:
        """Add a holder to each; those that were idle leave the queue. Returns how many were."""
        woken = 0
        for block in blocks:
            if self._holders[block] == 0:
                self._unlink(block)
                woken += 1
            self._holders[block] += 1
        self.free -= woken
        self.idle_cached -= woken
        return woken

    def release(self, blocks: list[int]) -> int:
        """Remove a holder from each block of a table; returns how many are still held.

        Those left without a holder are queued last block first: a prefix is worth most at
        its root, so the tail of a table goes first when blocks run short.
        """
        unkeyed, still_held = [], 0
        for block in reversed(blocks):
            self._holders[block] -= 1
            if self._holders[block]:
                still_held += 1
            elif self._key[block] is not None:
                self._append(block)
                self.idle_cached += 1
            elif self._free_order == "all_last":
                self._append(block)
            else:
                unkeyed.append(block)
        self._unkeyed.extend(reversed(unkeyed))
        self.free += len(blocks) - still_held
        self.given_back += len(blocks) - still_held
        return still_held

    # --- content

    def publish(self, blocks: list[int], keys: list[int]) -> None:
        """Give held blocks their keys, so that others can find them."""
        for block, key in zip(blocks, keys, strict=True):
            self._key[block] = key
            if key in self._first:
                self._duplicates.setdefault(key, []).append(block)
            else:
                self._first[key] = block

    def lookup(self, keys: list[int]) -> list[int]:
        """The blocks that hold the longest cached run of leading keys. Does not modify."""
        return list(takewhile(bool, map(self._first.get, keys)))  # type: ignore[arg-type]

    def has(self, key: int) -> bool:
        """Would a look-up of this key find a block?"""
        return key in self._first

    def idle(self, blocks: list[int]) -> int:
        """How many of these blocks nobody holds."""
        holders = self._holders
        return sum(not holders[block] for block in blocks)

    def holders(self, block: int) -> int:
        return self._holders[block]

    # --- looking inside

    def queue(self) -> Iterator[int]:
        """The free queue, head first."""
        yield from reversed(self._unkeyed)
        block = self._next[NULL_BLOCK]
        while block != NULL_BLOCK:
            yield block
            block = self._next[block]

    def key(self, block: int) -> int | None:
        return self._key[block]

    def check(self) -> None:
        """Raise AssertionError where the books do not balance. O(blocks)."""
        queued = list(self.queue())
        assert len(queued) == len(set(queued)) == self.free, "free count"
        assert all(self._holders[block] == 0 for block in queued), "a queued block is held"
        held = sum(1 for block in range(1, self.num_blocks) if self._holders[block])
        assert held + self.free == self.num_blocks - 1, "a block is neither held nor queued"
        assert min(self._holders) >= 0, "negative holders"
        assert self.idle_cached == sum(self._key[block] is not None for block in queued)
        keyed = {b: k for b, k in enumerate(self._key) if k is not None}
        indexed = dict.fromkeys(self._first.values()) | dict.fromkeys(
            block for blocks in self._duplicates.values() for block in blocks
        )
        assert keyed.keys() == indexed.keys(), "index and keys disagree"
        assert all(keyed[block] == key for key, block in self._first.items())

    # --- the ring of idle blocks, with the null block as its sentinel

    def _append(self, block: int) -> None:
        last = self._previous[NULL_BLOCK]
        self._next[last] = block
        self._previous[block] = last
        self._next[block] = NULL_BLOCK
        self._previous[NULL_BLOCK] = block

    def _unlink(self, block: int) -> None:
        before, after = self._previous[block], self._next[block]
        self._next[before] = after
        self._previous[after] = before

    def _drop_key(self, block: int) -> None:
        """Evict: forget the content of a block that leaves the queue to be reused."""
        key = self._key[block]
        if key is None:
            return
        self._key[block] = None
        self.idle_cached -= 1
        self.evicted += 1
        others = self._duplicates.get(key)
        if others is None:
            del self._first[key]
            return
        if self._first[key] == block:
            self._first[key] = others.pop(0)
        else:
            others.remove(block)
        if not others:
            del self._duplicates[key]
