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
from numpy.typing import NDArray

from sim.latency import LatencyModel
from sim.log import NOBODY, Facts, Integers
from sim.request import BRANCHES
from sim.stays import Stays


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
    row_of = arrivals.sequence.searchsorted
    n = len(arrivals.sequence)

    def arrived(sequence: Integers) -> NDArray[np.bool_]:
        """Forked ones have a token from the beginning."""
        return np.isin(sequence, arrivals.sequence)

    firsts = (stays.number == 0) & ~stays.forked
    assert (stays.sequence[firsts] == arrivals.sequence).all(), "a request was never admitted"
    admitted = stays.admitted[firsts]
    admit_ns = decisions.start_ns[admitted]
    done = np.flatnonzero((chunks.completes == 1) & arrived(chunks.sequence))
    answered, first_done = np.unique(chunks.sequence[done], return_index=True)
    assert (answered == arrivals.sequence).all(), "a request has no first token"
    first_token = chunks.decision[done[first_done]]
    first_token_ns = decisions.end_ns[first_token]

    def by_request(request: Integers, values: Integers) -> Integers:
        total = np.zeros(n, dtype=np.int64)
        np.add.at(total, row_of(request), values)
        return total

    flight, causes = _queue(facts, admitted)
    waited_ns = flight + sum(causes)
    assert (waited_ns == admit_ns - arrivals.arrival_ns).all(), "queue clocks and wait disagree"

    before = np.flatnonzero(arrived(chunks.sequence))
    before = before[chunks.decision[before] <= first_token[row_of(chunks.sequence[before])]]
    request, alone = chunks.sequence[before], alone_ns[before]
    again = _computed_again(facts)[before]
    again_ns = latency.alone(chunks.computed_before[before], again)
    own = by_request(request, alone - again_ns)
    host = by_request(request, np.full(len(request), latency.host_ns))

    left = facts.departures
    out = np.flatnonzero((left.finished == 0) & arrived(left.sequence))
    out = out[left.decision[out] <= first_token[row_of(left.sequence[out])]]
    # Who was preempted resumes: the next stay is the next row.
    resumed = stays.admitted[stays.rows(left.sequence[out], left.stay[out]) + 1]
    away_ns = decisions.start_ns[resumed] - decisions.start_ns[left.decision[out]]
    away = by_request(left.sequence[out], away_ns)

    swaps = facts.swaps
    swapped = np.flatnonzero(arrived(swaps.sequence))
    swapped = swapped[swaps.decision[swapped] <= first_token[row_of(swaps.sequence[swapped])]]
    whose, goes_out = swaps.sequence[swapped], swaps.out[swapped]
    blocks = swaps.blocks[swapped]
    swap_ns = latency.swap(blocks * goes_out, blocks * (1 - goes_out))
    transfer = by_request(whose, swap_ns)
    preemption = by_request(request, again_ns) + away - by_request(whose, swap_ns * goes_out)
    parts = (flight, *causes, own)
    interference = first_token_ns - admit_ns - own - preemption - transfer - host
    search = np.where(arrivals.beam > 0, _last_token_ns(facts) - first_token_ns, 0)
    hit_tokens = stays.hit_tokens[firsts]
    return Ttft(
        admit_ns,
        first_token_ns,
        dict(zip(PARTS, (*parts, interference, preemption, transfer, host, search), strict=True)),
        hit_tokens,
        latency.alone(0 * hit_tokens, hit_tokens),
    )


def _last_token_ns(facts: Facts) -> Integers:
    """When the last of a request's branches ends; 0 for a branch that is queued by itself."""
    left = facts.departures
    done = left.finished == 1
    last_ns = np.zeros(len(facts.arrivals.sequence), dtype=np.int64)
    row = facts.arrivals.sequence.searchsorted(left.sequence[done] % BRANCHES)
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

    clocks = [np.where(cause == each, duration_ns, 0) for each in Cause]
    causes = []
    for each, clock in zip(Cause, clocks, strict=True):
        before = clock.cumsum() - clock
        reading = before[during] + np.where(cause[during] == each, since_ns, 0)
        causes.append(before[admitted] - reading)

    # A refused head is behind nobody: its wait has a reason of its own.
    new = has_head & (decisions.refused_stays == 0)
    heads = facts.arrivals.sequence.searchsorted(decisions.refused[new])
    np.add.at(causes[Cause.BEHIND], heads, -duration_ns[new])
    for each in (Cause.SEATS, Cause.TOKENS, Cause.MEMORY):
        np.add.at(causes[each], heads, np.where(reason[new] == each, duration_ns[new], 0))
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
