"""Where every token slot of the KV pool goes, at each step and over time.

    pool = used + reserved + internal + external + idle cached + free + null block

taken during a step: its tokens count as computed, nothing it ends is freed yet. Kept by
counters that change only with admissions, chunks, takes and departures, and integrated
change by change; `check` recounts.
"""

from __future__ import annotations

import heapq
from itertools import count
from typing import NamedTuple

from sim.kv.cache import KVCache
from sim.plan import Departure, Plan, Take
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

    __slots__ = ("before_last", "counted", "delay", "gone", "internal")

    def __init__(self, *, final_tokens: int, block_size: int) -> None:
        self.before_last = (final_tokens - 1) // block_size * block_size
        """Tokens in all blocks but the last."""
        self.internal = -final_tokens % block_size
        self.delay = 0
        """Steps that left the sequence out since its last block was expected."""
        self.counted = False
        self.gone = False


class Levels(NamedTuple):
    """What the slots follow from, during one step: blocks of the pool, and token slots."""

    held_blocks: int
    idle_blocks: int
    used: int
    internal: int
    savings: int


def slots_of(levels: Levels, *, num_blocks: int, block_size: int, time: int = 1) -> Slots:
    """The identity's parts, or their integrals if the levels are integrated over `time`.

    Works alike on integers and on columns of them.
    """
    held, idle, used, internal, savings = levels
    return Slots(
        used=used,
        reserved=held * block_size - used - internal,
        internal=internal,
        external=0 * used,
        idle=idle * block_size,
        free=((num_blocks - 1) * time - held - idle) * block_size,
        null=0 * used + block_size * time,
        savings=savings,
    )


class MemoryBook:
    """Counts the slots of one replica's pool."""

    def __init__(self, kv: KVCache) -> None:
        self._kv = kv
        self._used = 0
        self._internal = 0
        self._savings = 0
        self._held = 0
        self._idle = 0
        """Blocks with a holder, and idle cached ones, in the step last looked at."""
        self._busy_ns = self._used_ns = self._internal_ns = self._savings_ns = 0
        self._held_ns = self._idle_ns = 0
        """Integrals of the levels over the time that steps ran."""
        self._final_tokens: dict[Sequence, int] = {}
        self._tails: dict[Sequence, _Tail] = {}
        self._last_block_at: list[tuple[int, int, _Tail]] = []
        """(step, serial number, tail): when a decoding sequence takes its last block."""
        self._serials = count()

    def arrived(self, sequence: Sequence, answer_tokens: int) -> None:
        # The last token of an answer is never computed, so it needs no slot.
        self._final_tokens[sequence] = sequence.prompt_tokens + answer_tokens - 1

    def began(self, plan: Plan) -> Levels:
        """A plan was made: its victims have left, its newcomers hold their hits, and its
        tokens count as there. Returns the levels during its first step."""
        for departure in plan.preempted:
            self._left(departure)
        if plan.admitted:
            size = self._kv.block_size
            for sequence, hit_tokens, woken_blocks, _ in plan.admitted:
                self._used += woken_blocks * size
                self._savings += hit_tokens - woken_blocks * size
                self._tails[sequence] = _Tail(
                    final_tokens=self._final_tokens[sequence], block_size=size
                )
        self._used += len(plan.decodes)
        for sequence, _, n in plan.chunks:
            self._used += n
            tail = self._tails[sequence]
            if not tail.counted and (
                sequence.computed > tail.before_last or sequence.computed == sequence.num_tokens
            ):
                self._expect_last(tail, plan.step, tail.before_last + 1 - sequence.computed)
        if self._last_block_at and self._last_block_at[0][0] <= plan.step:
            self._internal += self._last_blocks_taken(plan.step)
        self._look()
        assert 0 <= self._used + self._internal <= self._held * self._kv.block_size
        return self.levels()

    def left_out(self, sequence: Sequence) -> None:
        """A plan was made that gives a decoding sequence no token."""
        self._tails[sequence].delay += 1

    def ran(self, plan: Plan, start_ns: int, ends_ns: list[int], takes: list[Take]) -> Levels:
        """The plan has run; returns the levels during its last step."""
        duration_ns = ends_ns[-1] - start_ns
        self._busy_ns += duration_ns
        self._used_ns += self._used * duration_ns
        self._internal_ns += self._internal * duration_ns
        self._savings_ns += self._savings * duration_ns
        self._held_ns += self._held * duration_ns
        self._idle_ns += self._idle * duration_ns
        if len(ends_ns) > 1:
            self._repeat(plan, ends_ns, takes)
        return self.levels()

    def _repeat(self, plan: Plan, ends_ns: list[int], takes: list[Take]) -> None:
        """Add what the steps after the first change: each change counts from the start of
        its step to the end of the last one."""
        steps, end_ns = len(ends_ns), ends_ns[-1]
        decodes = len(plan.decodes)
        self._used += decodes * (steps - 1)
        self._used_ns += decodes * (steps * end_ns - sum(ends_ns))
        for offset, blocks, idle_after in takes:
            left_ns = end_ns - ends_ns[offset - 1]
            self._held += blocks
            self._held_ns += blocks * left_ns
            self._idle_ns += (idle_after - self._idle) * left_ns
            self._idle = idle_after
        while self._last_block_at and self._last_block_at[0][0] < plan.step + steps:
            step = self._last_block_at[0][0]
            internal = self._last_blocks_taken(step)
            self._internal += internal
            self._internal_ns += internal * (end_ns - ends_ns[step - plan.step - 1])

    def ended(self, departures: list[Departure]) -> None:
        for departure in departures:
            self._left(departure)
            del self._final_tokens[departure.sequence]

    def levels(self) -> Levels:
        """As of the step last looked at."""
        return Levels(self._held, self._idle, self._used, self._internal, self._savings)

    def slot_ns(self) -> Slots:
        """Each part integrated over the time that steps ran."""
        levels_ns = Levels(
            self._held_ns, self._idle_ns, self._used_ns, self._internal_ns, self._savings_ns
        )
        return slots_of(
            levels_ns,
            num_blocks=self._kv.num_blocks,
            block_size=self._kv.block_size,
            time=self._busy_ns,
        )

    def check(self, running: list[Sequence]) -> None:
        """Recount from the block tables, before anything the latest step ends has left;
        AssertionError where the counters are off. Slow."""
        self._look()
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
        booked = slots_of(self.levels(), num_blocks=self._kv.num_blocks, block_size=size)
        assert recount == booked, f"recounted {recount}, booked {booked}"
        assert sum(recount[:-1]) == self._kv.num_blocks * size, "slots do not add up to the pool"

    def _look(self) -> None:
        self._held = self._kv.num_blocks - 1 - self._kv.free_blocks
        self._idle = self._kv.idle_blocks

    def _expect_last(self, tail: _Tail, step: int, missing: int) -> None:
        """The sequence lacks so many tokens until it begins its last block; it computes one
        a step from here on."""
        at = step + max(0, missing)
        heapq.heappush(self._last_block_at, (at, next(self._serials), tail))

    def _last_blocks_taken(self, step: int) -> int:
        """Internal slots of the last blocks that are taken in this step."""
        internal = 0
        while self._last_block_at and self._last_block_at[0][0] <= step:
            tail = heapq.heappop(self._last_block_at)[-1]
            if tail.gone:
                continue
            if tail.delay:
                self._expect_last(tail, step, tail.delay)
                tail.delay = 0
            else:
                tail.counted = True
                internal += tail.internal
        return internal

    def _left(self, departure: Departure) -> None:
        sequence, computed, _, shared_blocks = departure
        shared = shared_blocks * self._kv.block_size
        self._used -= computed - shared
        self._savings -= shared
        tail = self._tails.pop(sequence)
        tail.gone = True
        if tail.counted:
            self._internal -= tail.internal
