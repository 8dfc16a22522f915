"""Where every token slot of the KV pool goes, at each step and over time.

    pool = used + reserved + internal + external + idle cached + free + null block

taken during a step: its tokens count as computed, nothing it ends is freed yet. The levels
are sums of what admissions, chunks, decodes and departures change; `recount` counts them
anew from the block tables.
"""

from __future__ import annotations

from collections.abc import Iterable
from itertools import chain
from operator import mul
from typing import Generic, NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray

from sim.kv.cache import KVCache
from sim.log import Facts, Integers, spans
from sim.request import BRANCHES, Sequence
from sim.stays import NEVER, Segments, Stays

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


def account(facts: Facts, stays: Stays, segments: Segments) -> Memory:
    """Work the levels out of what happened. AssertionError where the facts contradict it."""
    decisions, size = facts.decisions, facts.block_size
    step, steps, decodes = decisions.step, decisions.steps, decisions.decodes
    oldest = decisions.oldest
    admissions, chunks, left = facts.admissions, facts.chunks, facts.departures
    copies = facts.copies
    n = len(step)
    preempted, finished = left.finished == 0, left.finished == 1

    def by_decision(decision: Integers, values: Integers) -> Integers:
        total = np.zeros(n, dtype=np.int64)
        np.add.at(total, decision, values)
        return total

    def standing(gained: Integers, lost: Integers) -> Integers:
        """The level in each decision's last step: what it ends itself is still there."""
        gone_before = by_decision(oldest[left.decision[preempted]], lost[preempted])
        gone_after = by_decision(left.decision[finished], lost[finished])
        level: Integers = (gained - gone_before - gone_after).cumsum() + gone_after
        return level

    woken, admitted = admissions.woken_blocks * size, oldest[admissions.decision]
    copied = by_decision(copies.decision, copies.position % size)
    gained = by_decision(admitted, woken) + by_decision(oldest[chunks.decision], chunks.tokens)
    gained += by_decision(oldest, decodes * steps)
    gained += by_decision(oldest[facts.swaps.decision], facts.swaps.tokens * (1 - facts.swaps.out))
    # Who ends by a stop token has rows in flight that hold nothing.
    wasted = np.where(
        finished, np.maximum(0, left.computed - _final_tokens(facts, left.sequence)), 0
    )
    last_used = standing(gained + copied, left.computed - left.shared_tokens)
    last_used -= by_decision(left.decision, wasted)
    first_used = last_used - decodes * (steps - 1)
    hits = by_decision(admitted, admissions.hit_tokens - woken)
    # Like what a step ends, what it forks is there from the next one on.
    forked = by_decision(facts.forks.decision, facts.forks.computed)
    savings = standing(hits - copied + forked, left.shared_tokens) - forked

    tail, taken_at, begins = _last_blocks(facts, stays, segments)
    there = taken_at < NEVER
    takes_it = there & ~begins
    tails, taken_step = tail[takes_it], taken_at[takes_it]
    taken_in = step.searchsorted(taken_step, side="right") - 1
    later = taken_step > step[taken_in]
    tail_in, tail_steps = taken_in[later], taken_step[later] - step[taken_in[later]]
    taken_in = oldest[taken_in]
    ends_stay = left.computed > 0
    gone = np.where(ends_stay, stays.rows(left.sequence, left.stay), 0)
    # Who leaves its partly filled block to others leaves what is behind it, too.
    unshared = left.shared_tokens % size == 0
    lost = np.where(ends_stay & there[gone] & unshared, tail[gone], 0)
    copied_tails = by_decision(copies.decision, _copied_tails(facts))
    last_internal = standing(by_decision(taken_in, tails) + copied_tails, lost)
    needless = (wasted > 0) & ((left.computed - wasted) % size == 0)
    last_internal += by_decision(left.decision, needless * size)
    first_internal = last_internal - by_decision(taken_in[later], tails[later])

    all_but_null = facts.num_blocks - facts.null_blocks
    # A step alone is as it ends: with batches in flight more may have been taken since.
    alone = steps == 1
    first_idle = np.where(alone, decisions.last_idle, decisions.idle)
    held = all_but_null - np.where(alone, decisions.last_free, decisions.free)
    last_held = all_but_null - decisions.last_free
    external = decisions.external
    first = Levels(held, first_idle, external, first_used, first_internal, savings)
    last = Levels(last_held, decisions.last_idle, external, last_used, last_internal, savings)
    for levels in (first, last):
        booked = levels.used + levels.internal
        assert (booked >= 0).all(), "fewer than no slots are in use"
        assert (booked <= levels.held_blocks * size).all(), "more slots in use than are held"
    takes = facts.takes
    grown = held + by_decision(takes.decision, takes.blocks)
    assert (grown == last_held).all(), "blocks were taken that nobody noted"

    started_ns, ended_ns = spans(decisions)
    duration_ns = ended_ns - started_ns
    first_at = step.tolist()
    sums = np.add.reduceat(facts.step_ends, first_at) if n else facts.step_ends
    # Each change in a decision counts from the start of its step to the end of the last one.
    tokens_ns = steps * decisions.end_ns - sums
    take_ns = decisions.end_ns[takes.decision] - _start_ns(facts, takes.decision, takes.offset)
    was_idle = np.concatenate([[0], takes.idle[:-1]])[: len(takes.idle)]
    opens = np.concatenate([[True], takes.decision[1:] > takes.decision[:-1]])[: len(takes.idle)]
    was_idle = np.where(opens, first_idle[takes.decision], was_idle)
    tail_ns = decisions.end_ns[tail_in] - _start_ns(facts, tail_in, tail_steps)
    levels_ns = Levels(
        _over_time(held, duration_ns) + _over_time(takes.blocks, take_ns),
        _over_time(first_idle, duration_ns) + _over_time(takes.idle - was_idle, take_ns),
        _over_time(external, duration_ns),
        _over_time(first_used, duration_ns) + _over_time(decodes, tokens_ns),
        _over_time(first_internal, duration_ns) + _over_time(tails[later], tail_ns),
        _over_time(savings, duration_ns),
    )
    busy_ns = sum(duration_ns.tolist())
    pool = Pool(facts.num_blocks, facts.null_blocks, size)
    return Memory(first, last, slots_of(levels_ns, pool, time=busy_ns), _host_blocks(facts, stays))


def _host_blocks(facts: Facts, stays: Stays) -> Integers:
    """From the decision that swaps a sequence out to the one before that in which it resumes."""
    swaps, change = facts.swaps, np.zeros(len(facts.decisions.step), dtype=np.int64)
    out = swaps.out == 1
    np.add.at(change, swaps.decision[out], swaps.blocks[out])
    # Who was preempted resumes: the next stay is the next row.
    resumed = stays.admitted[stays.rows(swaps.sequence[out], swaps.stay[out]) + 1]
    np.subtract.at(change, resumed, swaps.blocks[out])
    return change.cumsum()


def _final_tokens(facts: Facts, sequence: Integers) -> Integers:
    """How many tokens each of these will have computed in the end, as all branches of its
    request: the last token of an answer is never computed, so it needs no slot."""
    arrivals = facts.arrivals
    arrived = arrivals.sequence.searchsorted(sequence % BRANCHES)
    final: Integers = (arrivals.prompt_tokens + arrivals.answer_tokens)[arrived] - 1
    return final


def _copied_tails(facts: Facts) -> Integers:
    """For each copy: slots of it that nobody will ever write."""
    size, position = facts.block_size, facts.copies.position
    final_tokens = _final_tokens(facts, facts.copies.sequence)
    in_last = position // size == (final_tokens - 1) // size
    return np.where(in_last, -final_tokens % size, 0)


def _last_blocks(
    facts: Facts, stays: Stays, segments: Segments
) -> tuple[Integers, Integers, NDArray[np.bool_]]:
    """For each stay: slots of its last block, or of the room set aside for it, that it will
    never write; the step from which on it has them, NEVER where a preemption came first; and
    whether it was forked with them, so that nobody took anything.
    """
    chunks, size = facts.chunks, facts.block_size
    final_tokens = _final_tokens(facts, stays.sequence)
    before_last = (final_tokens - 1) // size * size
    taken_at = np.full(len(stays), NEVER, dtype=np.int64)
    rows = stays.rows(chunks.sequence, chunks.stay)
    reach = chunks.computed_before + chunks.tokens > before_last[rows]
    np.minimum.at(taken_at, rows[reach], facts.decisions.step[chunks.decision[reach]])
    missing = np.maximum(0, before_last[segments.stay] + 1 - segments.computed)
    reach = missing < segments.tokens
    np.minimum.at(taken_at, segments.stay[reach], segments.first_step[reach] + missing[reach])
    room = stays.room_blocks * size
    taken_at = np.where(room > 0, facts.decisions.step[stays.admitted], taken_at)
    tail = np.where(room > 0, np.maximum(0, room - final_tokens), -final_tokens % size)
    had = np.zeros(len(stays), dtype=np.int64)
    had[stays.rows(facts.forks.sequence, 0 * facts.forks.sequence)] = facts.forks.computed
    return tail, taken_at, had > before_last


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
