"""Where every token slot of the KV pool goes, at each step and over time.

    pool = used + reserved + internal + external + idle cached + free + null block

taken during a step: its tokens count as computed, nothing it ends is freed yet. The levels
are sums of what admissions, chunks, decodes and departures change; `recount` counts them
anew from the block tables.
"""

from __future__ import annotations

from collections.abc import Iterable
from operator import mul
from typing import NamedTuple

import numpy as np

from sim.kv.cache import KVCache
from sim.log import Facts, Integers
from sim.request import Sequence
from sim.stays import NEVER, Segments, Stays


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


class Levels(NamedTuple):
    """What the slots follow from, during one step of each decision: blocks of the pool, and
    token slots."""

    held_blocks: Integers
    idle_blocks: Integers
    used: Integers
    internal: Integers
    savings: Integers


class Memory(NamedTuple):
    """The levels of each decision's first and last step, and all slots over time."""

    first: Levels
    last: Levels
    slot_ns: Slots
    """Integrals over the time that steps ran, in exact integers."""


def slots_of(
    held: int, idle: int, used: int, internal: int, savings: int, *, pool: tuple[int, int, int]
) -> Slots:
    """The identity's parts from the levels. `pool` is (blocks, block size, time): levels that
    are integrated over a time give integrals. Works alike on integers and on columns of them.
    """
    num_blocks, block_size, time = pool
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


def account(facts: Facts, stays: Stays, segments: Segments) -> Memory:
    """Work the levels out of what happened. AssertionError where the facts contradict it."""
    decisions, size = facts.decisions, facts.block_size
    step, steps, decodes = decisions.step, decisions.steps, decisions.decodes
    admissions, chunks, left = facts.admissions, facts.chunks, facts.departures
    n = len(step)
    preempted, finished = left.finished == 0, left.finished == 1

    def by_decision(decision: Integers, values: Integers) -> Integers:
        total = np.zeros(n, dtype=np.int64)
        np.add.at(total, decision, values)
        return total

    def standing(gained: Integers, lost: Integers) -> Integers:
        """The level in each decision's last step: what it ends itself is still there."""
        gone_before = by_decision(left.decision[preempted], lost[preempted])
        gone_after = by_decision(left.decision[finished], lost[finished])
        level: Integers = (gained - gone_before - gone_after).cumsum() + gone_after
        return level

    woken = admissions.woken_blocks * size
    shared = left.shared_blocks * size
    gained = by_decision(admissions.decision, woken) + by_decision(chunks.decision, chunks.tokens)
    last_used = standing(gained + decodes * steps, left.computed - shared)
    first_used = last_used - decodes * (steps - 1)
    savings = standing(by_decision(admissions.decision, admissions.hit_tokens - woken), shared)

    tail, taken_at = _last_blocks(facts, stays, segments)
    there = taken_at < NEVER
    tails, taken_step = tail[there], taken_at[there]
    taken_in = step.searchsorted(taken_step, side="right") - 1
    later = taken_step > step[taken_in]
    gone = stays.rows(left.request, left.stay)
    lost = np.where(there[gone], tail[gone], 0)
    last_internal = standing(by_decision(taken_in, tails), lost)
    first_internal = last_internal - by_decision(taken_in[later], tails[later])

    all_but_null = facts.num_blocks - 1
    held = all_but_null - decisions.free
    last_held = all_but_null - decisions.last_free
    first = Levels(held, decisions.idle, first_used, first_internal, savings)
    last = Levels(last_held, decisions.last_idle, last_used, last_internal, savings)
    for levels in (first, last):
        booked = levels.used + levels.internal
        assert (booked >= 0).all(), "fewer than no slots are in use"
        assert (booked <= levels.held_blocks * size).all(), "more slots in use than are held"
    takes = facts.takes
    grown = held + by_decision(takes.decision, takes.blocks)
    assert (grown == last_held).all(), "blocks were taken that nobody noted"

    duration_ns = decisions.end_ns - decisions.start_ns
    first_at = step.tolist()
    sums = np.add.reduceat(facts.step_ends, first_at) if n else facts.step_ends
    # Each change in a decision counts from the start of its step to the end of the last one.
    tokens_ns = steps * decisions.end_ns - sums
    take_ns = decisions.end_ns[takes.decision] - _start_ns(facts, takes.decision, takes.offset)
    was_idle = np.concatenate([[0], takes.idle[:-1]])[: len(takes.idle)]
    opens = np.concatenate([[True], takes.decision[1:] > takes.decision[:-1]])[: len(takes.idle)]
    was_idle = np.where(opens, decisions.idle[takes.decision], was_idle)
    tail_in = taken_in[later]
    tail_ns = decisions.end_ns[tail_in] - _start_ns(
        facts, tail_in, taken_step[later] - step[tail_in]
    )
    levels_ns = (
        _over_time(held, duration_ns) + _over_time(takes.blocks, take_ns),
        _over_time(decisions.idle, duration_ns) + _over_time(takes.idle - was_idle, take_ns),
        _over_time(first_used, duration_ns) + _over_time(decodes, tokens_ns),
        _over_time(first_internal, duration_ns) + _over_time(tails[later], tail_ns),
        _over_time(savings, duration_ns),
    )
    busy_ns = sum(duration_ns.tolist())
    return Memory(first, last, slots_of(*levels_ns, pool=(facts.num_blocks, size, busy_ns)))


def _last_blocks(facts: Facts, stays: Stays, segments: Segments) -> tuple[Integers, Integers]:
    """For each stay: slots of its last block that will never be written, and the step in
    which it takes that block; NEVER where a preemption came first.

    The last token of an answer is never computed, so it needs no slot.
    """
    arrivals, chunks, size = facts.arrivals, facts.chunks, facts.block_size
    arrived = arrivals.request.searchsorted(stays.request)
    final_tokens = (arrivals.prompt_tokens + arrivals.answer_tokens)[arrived] - 1
    before_last = (final_tokens - 1) // size * size
    taken_at = np.full(len(stays), NEVER, dtype=np.int64)
    rows = stays.rows(chunks.request, chunks.stay)
    reach = chunks.computed_before + chunks.tokens > before_last[rows]
    np.minimum.at(taken_at, rows[reach], facts.decisions.step[chunks.decision[reach]])
    missing = np.maximum(0, before_last[segments.stay] + 1 - segments.computed)
    reach = missing < segments.tokens
    np.minimum.at(taken_at, segments.stay[reach], segments.first_step[reach] + missing[reach])
    return -final_tokens % size, taken_at


def _start_ns(facts: Facts, decision: Integers, offset: Integers) -> Integers:
    """When a repetition of a decision starts: as the one before it ends."""
    starts: Integers = facts.step_ends[facts.decisions.step[decision] + offset - 1]
    return starts


def _over_time(levels: Integers, durations_ns: Integers) -> int:
    """The sum of the products, which 64 bits may not hold."""
    if not len(levels):
        return 0
    largest = int(abs(levels).max()) * int(abs(durations_ns).max())
    if largest * len(levels) < 1 << 63:
        return int(levels @ durations_ns)
    return sum(map(mul, levels.tolist(), durations_ns.tolist()))


def recount(kv: KVCache, running: Iterable[Sequence], final_tokens: dict[int, int]) -> Slots:
    """The slots as the block tables have them, during a step. AssertionError where they do
    not add up to the pool. Slow."""
    size = kv.block_size
    filled: dict[int, int] = {}
    wanted: dict[int, int] = {}
    savings = 0
    for sequence in running:
        final = final_tokens[sequence.index]
        for index, block in enumerate(sequence.blocks):
            here = min(size, max(0, sequence.computed - index * size))
            savings += min(here, filled.get(block, 0))
            filled[block] = max(here, filled.get(block, 0))
            ever = min(size, max(0, final - index * size))
            wanted[block] = max(ever, wanted.get(block, 0))
    slots = Slots(
        used=sum(filled.values()),
        reserved=sum(wanted.values()) - sum(filled.values()),
        internal=size * len(wanted) - sum(wanted.values()),
        external=0,
        idle=kv.idle_blocks * size,
        free=(kv.free_blocks - kv.idle_blocks) * size,
        null=size,
        savings=savings,
    )
    assert sum(slots[:-1]) == kv.num_blocks * size, "slots do not add up to the pool"
    return slots
