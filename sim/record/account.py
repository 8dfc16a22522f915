"""The levels of memory at each step and over time, worked out of what happened.

A level is a running sum: what decisions gain (by admissions, chunks, decodes) less what departures
lose. What a plan changes counts from the decision that was the oldest in flight when it was made
(`Decisions.oldest`); what a decision ends is still there in its last step.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from sim.record.columns import over_time, request_rows, sum_by
from sim.record.log import Facts, Integers, spans
from sim.record.memory import Levels, Memory, Pool, Slots, slots_of
from sim.record.stays import Segments, Stays

_NEVER = 1 << 62


def account(facts: Facts, stays: Stays, segments: Segments) -> Memory:
    """Work the levels out of what happened. AssertionError where the facts contradict it."""
    decisions, size = facts.decisions, facts.block_size
    wasted = _wasted(facts)
    used, savings = _used(facts, wasted)
    tails = _tails(facts, stays, segments)
    internal, late = _internal(facts, stays, tails, wasted)
    all_but_null = facts.num_blocks - facts.null_blocks
    held = all_but_null - decisions.last_free
    last = Levels(held, decisions.last_idle, decisions.external, used, internal, savings)
    # A step alone is as it ends: with batches in flight more may have been taken since.
    alone = decisions.steps == 1
    first = last._replace(
        held_blocks=np.where(alone, held, all_but_null - decisions.free),
        idle_blocks=np.where(alone, decisions.last_idle, decisions.idle),
        used=used - decisions.decodes * (decisions.steps - 1),
        internal=internal - _by_decision(facts, late.decision, late.slots),
    )
    for levels in (first, last):
        booked = levels.used + levels.internal
        assert (booked >= 0).all(), "fewer than no slots are in use"
        assert (booked <= levels.held_blocks * size).all(), "more slots in use than are held"
    grown = first.held_blocks + _by_decision(facts, facts.takes.decision, facts.takes.blocks)
    assert (grown == held).all(), "blocks were taken that nobody noted"
    return Memory(first, last, _integrate(facts, first, late), _host_blocks(facts, stays))


def _by_decision(facts: Facts, decision: Integers, values: Integers) -> Integers:
    return sum_by(decision, values, len(facts.decisions.step))


def _standing(facts: Facts, gained: Integers, lost: Integers) -> Integers:
    """The level in each decision's last step, from what each decision gains and each departure
    loses: what a decision ends itself is still there."""
    left = facts.departures
    preempted, finished = left.finished == 0, left.finished == 1
    preempted_in = facts.decisions.oldest[left.decision[preempted]]
    gone_before = _by_decision(facts, preempted_in, lost[preempted])
    gone_after = _by_decision(facts, left.decision[finished], lost[finished])
    level: Integers = (gained - gone_before - gone_after).cumsum() + gone_after
    return level


# --- tokens


def _used(facts: Facts, wasted: Integers) -> tuple[Integers, Integers]:
    """In each last step: slots that hold a token, and filled slots that sharing saves."""
    decisions, admissions, chunks = facts.decisions, facts.admissions, facts.chunks
    copies, forks, swaps, left = facts.copies, facts.forks, facts.swaps, facts.departures
    oldest = decisions.oldest
    admitted, woken = oldest[admissions.decision], admissions.woken_blocks * facts.block_size
    copied = _by_decision(facts, copies.decision, copies.position % facts.block_size)
    gained = _by_decision(facts, admitted, woken) + copied
    gained += _by_decision(facts, oldest[swaps.decision], swaps.tokens * (1 - swaps.out))
    gained += _by_decision(facts, oldest[chunks.decision], chunks.tokens)
    gained += _by_decision(facts, oldest, decisions.decodes * decisions.steps)
    used = _standing(facts, gained, left.computed - left.shared_tokens)
    used -= _by_decision(facts, left.decision, wasted)

    hits = _by_decision(facts, admitted, admissions.hit_tokens - woken)
    # Like what a step ends, what it forks is there from the next one on.
    forked = _by_decision(facts, forks.decision, forks.computed)
    savings = _standing(facts, hits + forked - copied, left.shared_tokens) - forked
    return used, savings


def _wasted(facts: Facts) -> Integers:
    """For each departure: its rows in flight behind a stop token, which hold nothing."""
    left = facts.departures
    wasted = np.maximum(0, left.computed - _final_tokens(facts, left.sequence))
    return np.where(left.finished == 1, wasted, 0)


def _final_tokens(facts: Facts, sequence: Integers) -> Integers:
    """How many tokens each of these will have computed in the end, as all branches of its
    request: the last token of an answer is never computed, so it needs no slot."""
    arrivals, row = facts.arrivals, request_rows(facts, sequence)
    return arrivals.prompt_tokens[row] + arrivals.answer_tokens[row] - 1


# --- slots behind the last token


class _Tails(NamedTuple):
    """By stay: the slots of its last block, or of the room set aside for it, that it will never
    write::

        |<- block ->|<- block ->|<- last block ->|
        |<-- final tokens of the stay -->|<tail>|
    """

    slots: Integers
    first_step: Integers
    """From which on it has them; _NEVER where a preemption came first."""
    inherited: NDArray[np.bool_]
    """Whether it was forked with them, so that nobody took anything."""


class _Late(NamedTuple):
    """Tails that came with a step of a decision after its first."""

    decision: Integers
    offset: Integers
    """The step, counted from the decision's first."""
    slots: Integers


def _tails(facts: Facts, stays: Stays, segments: Segments) -> _Tails:
    """A stay takes its last block with the chunk, or the decode, that begins it."""
    chunks, forks, size = facts.chunks, facts.forks, facts.block_size
    steps, room = facts.decisions.step, stays.room_blocks * size
    final_tokens = _final_tokens(facts, stays.sequence)
    before_last = (final_tokens - 1) // size * size
    first_step = np.full(len(stays), _NEVER, dtype=np.int64)
    rows = stays.rows(chunks.sequence, chunks.stay)
    reach = chunks.computed_before + chunks.tokens > before_last[rows]
    np.minimum.at(first_step, rows[reach], steps[chunks.decision[reach]])
    missing = np.maximum(0, before_last[segments.stay] + 1 - segments.computed)
    reach = missing < segments.tokens
    np.minimum.at(first_step, segments.stay[reach], segments.first_step[reach] + missing[reach])
    shared = sum_by(stays.rows(forks.sequence, 0), forks.computed, len(stays))
    return _Tails(
        slots=np.where(room > 0, np.maximum(0, room - final_tokens), -final_tokens % size),
        first_step=np.where(room > 0, steps[stays.admitted], first_step),
        inherited=shared > before_last,
    )


def _internal(
    facts: Facts, stays: Stays, tails: _Tails, wasted: Integers
) -> tuple[Integers, _Late]:
    """In each last step: slots that no holder will ever write."""
    decisions, copies, left = facts.decisions, facts.copies, facts.departures
    size, there = facts.block_size, tails.first_step < _NEVER
    taken = there & ~tails.inherited
    slots, first_step = tails.slots[taken], tails.first_step[taken]
    decision = decisions.step.searchsorted(first_step, side="right") - 1
    offset = first_step - decisions.step[decision]
    late = _Late(*(column[offset > 0] for column in (decision, offset, slots)))

    gained = _by_decision(facts, decisions.oldest[decision], slots)
    gained += _by_decision(facts, copies.decision, _copied_tails(facts))
    ends_stay = left.computed > 0
    stay = np.where(ends_stay, stays.rows(left.sequence, left.stay), 0)
    # Who leaves its partly filled block to others leaves what is behind it, too.
    unshared = left.shared_tokens % size == 0
    lost = np.where(ends_stay & there[stay] & unshared, tails.slots[stay], 0)
    internal = _standing(facts, gained, lost)
    needless = (wasted > 0) & ((left.computed - wasted) % size == 0)
    internal += _by_decision(facts, left.decision, needless * size)
    return internal, late


def _copied_tails(facts: Facts) -> Integers:
    """For each copy: slots of it that nobody will ever write."""
    size, position = facts.block_size, facts.copies.position
    final_tokens = _final_tokens(facts, facts.copies.sequence)
    in_last = position // size == (final_tokens - 1) // size
    return np.where(in_last, -final_tokens % size, 0)


# --- over time, and in host memory


def _integrate(facts: Facts, first: Levels[Integers], late: _Late) -> Slots[int]:
    """Every level as it is in a decision's first step, and each change in a later one from the
    start of its step to the end of the last."""
    decisions, takes = facts.decisions, facts.takes
    started_ns, ended_ns = spans(decisions)
    duration_ns = ended_ns - started_ns
    take_ns = _remaining_ns(facts, takes.decision, takes.offset)
    opens = np.diff(takes.decision, prepend=-1) > 0
    was_idle = np.where(opens, first.idle_blocks[takes.decision], np.roll(takes.idle, 1))
    sum_ns = np.add.reduceat(facts.step_ends, decisions.step) if len(decisions.step) else 0
    # A token of each decode comes with every step, and the end of step j is the start of j + 1.
    decode_ns = decisions.steps * decisions.end_ns - sum_ns
    late_ns = _remaining_ns(facts, late.decision, late.offset)

    steady = Levels(*(over_time(level, duration_ns) for level in first))
    levels_ns = steady._replace(
        held_blocks=steady.held_blocks + over_time(takes.blocks, take_ns),
        idle_blocks=steady.idle_blocks + over_time(takes.idle - was_idle, take_ns),
        used=steady.used + over_time(decisions.decodes, decode_ns),
        internal=steady.internal + over_time(late.slots, late_ns),
    )
    pool = Pool(facts.num_blocks, facts.null_blocks, facts.block_size)
    return slots_of(levels_ns, pool, time=sum(duration_ns.tolist()))


def _remaining_ns(facts: Facts, decision: Integers, offset: Integers) -> Integers:
    """From the start of a repetition, which is the end of the one before it, to the end of the
    decision."""
    before = facts.decisions.step[decision] + offset - 1
    remaining: Integers = facts.decisions.end_ns[decision] - facts.step_ends[before]
    return remaining


def _host_blocks(facts: Facts, stays: Stays) -> Integers:
    """From the decision that swaps a sequence out to the one before that in which it resumes."""
    swaps, out = facts.swaps, facts.swaps.out == 1
    resumed = stays.resumed(swaps.sequence[out], swaps.stay[out])
    kept = _by_decision(facts, swaps.decision[out], swaps.blocks[out])
    return (kept - _by_decision(facts, resumed, swaps.blocks[out])).cumsum()
