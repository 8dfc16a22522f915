"""Why a first token took as long as it did: TTFT, cut into parts that add up.

[arrival, first token] is cut at the starts and ends of steps, and every nanosecond goes to
one part, as docs/reference/metrics.md defines them:

- before the request's first step: queue, by cause (step in flight, seats, tokens, memory,
  behind a refused head);
- a step with a chunk of it: own (the chunk by itself), preemption (the share of it that had
  been computed before), host, and interference (the rest);
- admitted but without a chunk in a step: interference;
- preempted until it resumes: preemption;
- its own copies to the host and back, which steps begin with, by themselves: transfer, and neither
  preemption nor interference.

The answers of a beam search are known when it ends. Its TTFT lasts until then, and what comes after
the engine's first token is one part: search.

Nobody's waiting is counted step by step: one clock per cause runs for all who wait, and a
request reads the clocks when it joins the queue and when it leaves.
"""

from __future__ import annotations

from enum import IntEnum
from typing import NamedTuple

import numpy as np

from sim.latency import LatencyModel
from sim.record.columns import request_rows, sum_by
from sim.record.log import NOBODY, Facts, Integers
from sim.record.stays import Stays


class Cause(IntEnum):
    """What kept a request in the queue during a step."""

    SEATS = 0
    TOKENS = 1
    MEMORY = 2
    BEHIND = 3


_NO_CAUSE = len(Cause)
_CAUSE = np.array([_NO_CAUSE, Cause.SEATS, Cause.TOKENS, Cause.MEMORY, Cause.MEMORY])
"""By Limit."""

PARTS = (
    "queue_flight",
    "queue_seats",
    "queue_tokens",
    "queue_memory",
    "queue_behind",
    "own",
    "interference",
    "preemption",
    "transfer",
    "host",
    "search",
)


class Ttft(NamedTuple):
    """By row of `Arrivals`."""

    admit_ns: Integers
    """Start of the first step with a chunk of it."""
    first_token_ns: Integers
    """The engine's."""
    parts: dict[str, Integers]
    """In the order of PARTS."""
    hit_tokens: Integers
    """Found in the prefix cache when it was first admitted, and"""
    saved_by_prefix: Integers
    """what they would have cost by themselves; beside the sum, not in it."""


def explain_ttft(facts: Facts, stays: Stays, latency: LatencyModel, alone_ns: Integers) -> Ttft:
    """Cut the TTFT of every request; `alone_ns` is what each chunk costs by itself.

    AssertionError where a request has no first token, or the clocks disagree with its wait.
    """
    decisions, arrivals, chunks = facts.decisions, facts.arrivals, facts.chunks
    swaps, left = facts.swaps, facts.departures
    row_of, start_ns = arrivals.sequence.searchsorted, decisions.start_ns

    firsts = (stays.number == 0) & ~stays.forked
    queued = stays.sequence[firsts]
    assert np.array_equal(queued, arrivals.sequence), "a request was never admitted"
    admitted = stays.admitted[firsts]
    admit_ns = start_ns[admitted]
    first_token = _first_tokens(facts)
    first_token_ns = decisions.end_ns[first_token]

    def by_request(sequence: Integers, values: Integers | int) -> Integers:
        return sum_by(row_of(sequence), values, len(arrivals.sequence))

    def waiting(decision: Integers, sequence: Integers) -> Integers:
        """The rows about requests without a first token; forked ones have one when they begin."""
        rows = np.flatnonzero(np.isin(sequence, arrivals.sequence))
        return rows[decision[rows] <= first_token[row_of(sequence[rows])]]

    flight, causes = _queue(facts, admitted)
    waited_ns = flight + sum(causes)
    assert (waited_ns == admit_ns - arrivals.arrival_ns).all(), "queue clocks and wait disagree"

    at = waiting(chunks.decision, chunks.sequence)
    whose, again = chunks.sequence[at], _computed_again(facts)[at]
    again_ns = latency.alone(chunks.computed_before[at], again)
    own = by_request(whose, alone_ns[at] - again_ns)
    preemption = by_request(whose, again_ns)
    host = by_request(whose, latency.host_ns)

    at = waiting(left.decision, left.sequence)
    at = at[left.finished[at] == 0]
    whose, back = left.sequence[at], stays.resumed(left.sequence[at], left.stay[at])
    preemption += by_request(whose, start_ns[back] - start_ns[left.decision[at]])

    at = waiting(swaps.decision, swaps.sequence)
    whose, out, blocks = swaps.sequence[at], swaps.out[at], swaps.blocks[at]
    swap_ns = latency.swap(blocks * out, blocks * (1 - out))
    transfer = by_request(whose, swap_ns)
    preemption -= by_request(whose, swap_ns * out)

    interference = first_token_ns - admit_ns - own - preemption - transfer - host
    search = np.where(arrivals.beam > 0, _last_token_ns(facts) - first_token_ns, 0)
    parts = (flight, *causes, own, interference, preemption, transfer, host, search)
    hit_tokens = stays.hit_tokens[firsts]
    return Ttft(
        admit_ns,
        first_token_ns,
        dict(zip(PARTS, parts, strict=True)),
        hit_tokens,
        latency.alone(0 * hit_tokens, hit_tokens),
    )


def _first_tokens(facts: Facts) -> Integers:
    """By request: the decision that gives its first token."""
    chunks = facts.chunks
    done = np.flatnonzero(chunks.completes)
    answered, first = np.unique(chunks.sequence[done], return_index=True)
    # Forked ones have theirs already, though a chunk completes them when they resume.
    queued = np.isin(answered, facts.arrivals.sequence)
    everybody = np.array_equal(answered[queued], facts.arrivals.sequence)
    assert everybody, "a request has no first token"
    return chunks.decision[done[first[queued]]]


def _last_token_ns(facts: Facts) -> Integers:
    """When the last of a request's branches ends; 0 for a branch that is queued by itself."""
    left = facts.departures
    done = left.finished == 1
    last_ns = np.zeros(len(facts.arrivals.sequence), dtype=np.int64)
    row = request_rows(facts, left.sequence[done])
    np.maximum.at(last_ns, row, facts.decisions.end_ns[left.decision[done]])
    return last_ns


def _queue(facts: Facts, admitted: Integers) -> tuple[Integers, list[Integers]]:
    """The wait before the decision that admitted each request: for the step in flight to end,
    and by Cause."""
    decisions, arrival_ns = facts.decisions, facts.arrivals.arrival_ns
    # Until the next one begins to run, whoever waits waits because of this one.
    duration_ns = np.diff(decisions.start_ns, append=decisions.end_ns[-1:])
    reason = _CAUSE[decisions.limit]
    has_head = decisions.refused != NOBODY
    cause = np.where(has_head, Cause.BEHIND, reason)

    # The first step that was decided, or begun to be repeated, at or after the arrival.
    step = facts.step_ends.searchsorted(arrival_ns) + 1
    decided = decisions.planned_ns.searchsorted(arrival_ns)
    under_way = np.maximum(decided - 1, 0)
    offset = step - decisions.step[under_way]
    repeats = (offset > 0) & (offset < decisions.steps[under_way])
    during = np.where(repeats, under_way, decided)
    joined_ns = np.where(repeats, facts.step_ends[step - 1], decisions.start_ns[during])
    since_ns = joined_ns - decisions.start_ns[during]

    # A refused head is behind nobody: its wait has a reason of its own.
    new = has_head & (decisions.refused_stays == 0)
    heads = facts.arrivals.sequence.searchsorted(decisions.refused[new])
    causes = []
    for each in Cause:
        clock = np.where(cause == each, duration_ns, 0)
        before = clock.cumsum() - clock
        reading = before[during] + np.where(cause[during] == each, since_ns, 0)
        waited = before[admitted] - reading
        np.add.at(waited, heads, (np.where(reason == each, duration_ns, 0) - clock)[new])
        causes.append(waited)
    return joined_ns - arrival_ns, causes


def _computed_again(facts: Facts) -> Integers:
    """For each chunk, how many of its tokens had been computed for the request before: those
    below the most that it ever had, hits included."""
    admissions, chunks = facts.admissions, facts.chunks
    request = np.concatenate([admissions.sequence, chunks.sequence])
    decision = np.concatenate([admissions.decision, chunks.decision])
    is_chunk = np.repeat([0, 1], [len(admissions.sequence), len(chunks.sequence)])
    reached = np.concatenate([admissions.hit_tokens, chunks.computed_before + chunks.tokens])
    order = np.lexsort((is_chunk, decision, request))
    # Each request counts on a floor of its own, so that one running maximum serves all.
    floor = np.unique(request[order], return_inverse=True)[1] * (int(reached.max(initial=0)) + 1)
    most = np.maximum.accumulate(reached[order] + floor)
    most_before = np.empty_like(most)
    # An admission comes before any chunk: what precedes a chunk is of the same request.
    most_before[order] = np.concatenate([[0], most[:-1]])[: len(most)] - floor
    known = most_before[len(admissions.sequence) :]
    return np.clip(known - chunks.computed_before, 0, chunks.tokens)
