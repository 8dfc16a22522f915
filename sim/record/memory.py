"""Where every token slot of the KV pool goes, at each step and over time.

    pool = used + reserved + internal + external + idle cached + free + null block

taken during a step: its tokens count as computed, nothing it ends is freed yet. A run's slots are
worked out of what happened (`sim.record.account`); `recount` takes them from the block tables.
"""

from __future__ import annotations

from collections.abc import Iterable
from itertools import chain
from typing import Generic, NamedTuple, TypeVar

import numpy as np

from sim.kv.cache import KVCache
from sim.record.log import Integers
from sim.request import Sequence

Count = TypeVar("Count", int, Integers)


class Slots(NamedTuple, Generic[Count]):
    """Token slots of a KV pool by what they are good for."""

    used: Count
    """Hold a computed token, counted once however many sequences share it."""
    reserved: Count
    """A holder will still write them."""
    internal: Count
    """Allocated, and no holder will ever write them."""
    external: Count
    """Free, but in pieces too small for the head of the queue (contiguous caches only)."""
    idle: Count
    """Hold tokens that nobody holds but a look-up would find."""
    free: Count
    null: Count
    """vLLM's block 0."""
    savings: Count
    """Beside the sum: filled slots that sharing saved, (holders - 1) x filled."""


class Levels(NamedTuple, Generic[Count]):
    """What the slots follow from, during one step of each decision: blocks of the pool, and
    token slots."""

    held_blocks: Count
    idle_blocks: Count
    external_blocks: Count
    used: Count
    internal: Count
    savings: Count


class Pool(NamedTuple):
    """How large a pool is."""

    num_blocks: int
    null_blocks: int
    block_size: int


class Memory(NamedTuple):
    """The levels of each decision's first and last step, and all slots over time."""

    first: Levels[Integers]
    last: Levels[Integers]
    slot_ns: Slots[int]
    """Integrals over the time that steps ran, in exact integers."""
    host_blocks: Integers
    """Of host memory, that hold what was swapped out, during each decision."""


def slots_of(levels: Levels[Count], pool: Pool, *, time: int = 1) -> Slots[Count]:
    """The identity's parts, or their integrals where the levels are integrated over `time`.
    Works alike on integers and on columns of them."""
    held, idle, external, used, internal, savings = levels
    num_blocks, null_blocks, size = pool
    nothing = 0 * used
    return Slots(
        used=used,
        reserved=held * size - used - internal,
        internal=internal,
        external=external * size,
        idle=idle * size,
        free=((num_blocks - null_blocks) * time - held - idle - external) * size,
        null=nothing + null_blocks * size * time,
        savings=savings,
    )


def recount(
    kv: KVCache, running: Iterable[Sequence], final_tokens: dict[int, int], *, external: int
) -> Slots[int]:
    """The slots as the block tables have them, during a step with so many external blocks.
    AssertionError where they do not add up to the pool. Slow."""
    size, sequences = kv.block_size, list(running)
    lengths = np.array([len(sequence.blocks) for sequence in sequences], dtype=np.int64)
    tables = chain.from_iterable(sequence.blocks for sequence in sequences)
    blocks = np.fromiter(tables, dtype=np.int64, count=int(lengths.sum()))
    start = (np.arange(len(blocks)) - np.repeat(lengths.cumsum() - lengths, lengths)) * size

    def most(reach: list[int]) -> tuple[int, int]:
        """Slots below the reach of any holder, and the sum over holders."""
        slots = np.clip(np.repeat(np.array(reach, dtype=np.int64), lengths) - start, 0, size)
        by_block = np.zeros(kv.num_blocks, dtype=np.int64)
        np.maximum.at(by_block, blocks, slots)
        return int(by_block.sum()), int(slots.sum())

    final = [final_tokens[sequence.index] for sequence in sequences]
    computed = [sequence.computed for sequence in sequences]
    filled, filled_by_all = most([*map(min, computed, final)])
    wanted, _ = most(final)
    slots = Slots(
        used=filled,
        reserved=wanted - filled,
        internal=size * len(np.unique(blocks)) - wanted,
        external=external * size,
        idle=kv.idle_blocks * size,
        free=(kv.free_blocks - kv.idle_blocks - external) * size,
        null=kv.null_blocks * size,
        savings=filled_by_all - filled,
    )
    assert sum(slots[:-1]) == kv.num_blocks * size, "slots do not add up to the pool"
    return slots
