"""Where every token slot of the KV pool goes, at each step and over time.

    pool = used + reserved + internal + external + idle cached + free + null block

taken during a step: its tokens count as computed, nothing it ends is freed yet. Kept by
counters that change only with admissions, chunks, takes and departures; `check` recounts.
"""

from __future__ import annotations

import heapq
from typing import NamedTuple

from sim.kv.cache import KVCache
from sim.plan import Departure, Plan
from sim.request import Sequence


class Slots(NamedTuple):
    """Token slots of a KV pool by what they are good for."""

    used: int
    """Hold a computed token, counted once however many sequences share it."""
    reserved: int
    """A holder will still write them."""
    internal: int
    """Allocated, and no holder will ever write them."""
    external: int
    """Free, but in pieces too small for the head of the queue (contiguous caches only)."""
    idle: int
    """Hold tokens that nobody holds but a look-up would find."""
    free: int
    null: int
    """vLLM's block 0."""
    savings: int
    """Beside the sum: filled slots that sharing saved, (holders - 1) x filled."""


class _Tail:
    """How a sequence's last block will be left: `internal` slots of it never written."""

    __slots__ = ("counted", "final_tokens", "gone", "internal")

    def __init__(self, final_tokens: int, internal: int) -> None:
        self.final_tokens = final_tokens
        self.internal = internal
        self.counted = False
        self.gone = False


class MemoryBook:
    """Counts the slots of one replica's pool."""

    def __init__(self, kv: KVCache) -> None:
        self._kv = kv
        self._used = 0
        self._internal = 0
        self._savings = 0
        self._final_tokens: dict[Sequence, int] = {}
        self._tails: dict[Sequence, _Tail] = {}
        self._last_block_at: list[tuple[int, int, _Tail]] = []
        """(step, index, tail): when a decoding sequence takes its last block."""

    def arrived(self, sequence: Sequence, answer_tokens: int) -> None:
        # The last token of an answer is never computed, so it needs no slot.
        self._final_tokens[sequence] = sequence.prompt_tokens + answer_tokens - 1

    def began(self, plan: Plan) -> None:
        """A plan was made: its victims have left, its newcomers hold their hits."""
        for departure in plan.preempted:
            self._left(departure)
        size = self._kv.block_size
        for sequence, hit_tokens, woken_blocks, _ in plan.admitted:
            self._used += woken_blocks * size
            self._savings += hit_tokens - woken_blocks * size
            final_tokens = self._final_tokens[sequence]
            self._tails[sequence] = _Tail(final_tokens, -final_tokens % size)

    def ran(self, plan: Plan) -> Slots:
        """The plan's step has run (once): its tokens are there."""
        size = self._kv.block_size
        self._used += len(plan.decodes)
        for sequence, _, n in plan.chunks:
            self._used += n
            tail = self._tails[sequence]
            if tail.counted:
                continue
            before_last = (tail.final_tokens - 1) // size * size
            if sequence.computed > before_last:
                self._take_last(tail)
            elif sequence.computed == sequence.num_tokens:  # decodes from the next step on
                at = plan.step + 1 + before_last - sequence.computed
                heapq.heappush(self._last_block_at, (at, sequence.index, tail))
        while self._last_block_at and self._last_block_at[0][0] <= plan.step:
            tail = heapq.heappop(self._last_block_at)[-1]
            if not tail.gone:
                self._take_last(tail)
        return self.slots()

    def ended(self, departures: list[Departure]) -> None:
        for departure in departures:
            self._left(departure)
            del self._final_tokens[departure.sequence]

    def slots(self) -> Slots:
        kv, size = self._kv, self._kv.block_size
        idle = kv.idle_blocks
        held = kv.num_blocks - 1 - kv.free_blocks
        return Slots(
            used=self._used,
            reserved=held * size - self._used - self._internal,
            internal=self._internal,
            external=0,
            idle=idle * size,
            free=(kv.free_blocks - idle) * size,
            null=size,
            savings=self._savings,
        )

    def check(self, running: list[Sequence]) -> None:
        """Recount from the block tables; AssertionError where the counters are off. Slow."""
        size = self._kv.block_size
        filled: dict[int, int] = {}
        wanted: dict[int, int] = {}
        savings = 0
        for sequence in running:
            final_tokens = self._final_tokens[sequence]
            for index, block in enumerate(sequence.blocks):
                here = min(size, max(0, sequence.computed - index * size))
                savings += min(here, filled.get(block, 0))
                filled[block] = max(here, filled.get(block, 0))
                ever = min(size, max(0, final_tokens - index * size))
                wanted[block] = max(ever, wanted.get(block, 0))
        recount = Slots(
            used=sum(filled.values()),
            reserved=sum(wanted.values()) - sum(filled.values()),
            internal=size * len(wanted) - sum(wanted.values()),
            external=0,
            idle=self._kv.idle_blocks * size,
            free=(self._kv.free_blocks - self._kv.idle_blocks) * size,
            null=size,
            savings=savings,
        )
        assert recount == self.slots(), f"recounted {recount}, booked {self.slots()}"
        assert sum(recount[:-1]) == self._kv.num_blocks * size, "slots do not add up to the pool"

    def _take_last(self, tail: _Tail) -> None:
        tail.counted = True
        self._internal += tail.internal

    def _left(self, departure: Departure) -> None:
        sequence, computed, _, shared_blocks = departure
        shared = shared_blocks * self._kv.block_size
        self._used -= computed - shared
        self._savings -= shared
        tail = self._tails.pop(sequence)
        tail.gone = True
        if tail.counted:
            self._internal -= tail.internal
