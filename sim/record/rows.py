"""The tables that a run leaves behind, worked out of what happened on one replica."""

from __future__ import annotations

from enum import IntEnum

import numpy as np

from sim.latency import LatencyModel
from sim.record.account import account
from sim.record.columns import request_rows, sum_by
from sim.record.log import Facts, Integers, spans
from sim.record.memory import Memory, Pool, slots_of
from sim.record.stays import Segments, Stays
from sim.record.ttft import explain_ttft
from sim.request import BRANCHES

Columns = dict[str, Integers]


class Event(IntEnum):
    """What `events` rows tell of a request; `tokens` means something else in each."""

    ADMIT = 0
    """tokens: found in the prefix cache."""
    RESUME = 1
    """Admitted again after a preemption; tokens: found in the prefix cache."""
    PREEMPT = 2
    """tokens: computed ones that were given up, unless they are swapped out."""
    FINISH = 3
    """tokens: of the answer."""
    FORK = 4
    """A branch begins; tokens: computed ones that it shares with the branch it comes from."""
    PRUNE = 5
    """A beam is given up; tokens: computed ones that it held."""
    SWAP_OUT = 6
    """Copied to the host as it is preempted; tokens: computed ones, all that it had."""
    SWAP_IN = 7
    """Copied back as it resumes; tokens: computed ones behind those found in the prefix cache."""


def make_tables(
    facts: Facts, latency: LatencyModel, *, replica: int, front_end_ns: int
) -> tuple[dict[str, Columns], Memory]:
    """All tables of `sim.record.records.COLUMNS` by name, and the memory account they show."""
    stays = Stays(facts)
    segments = stays.segments(facts)
    memory = account(facts, stays, segments)
    chunks = facts.chunks
    alone_ns = latency.alone(chunks.computed_before, chunks.tokens)
    tables = {
        "requests": _requests(facts, stays, latency, alone_ns, front_end_ns=front_end_ns),
        **_steps(facts, memory, latency),
        "chunks": {
            "step": facts.decisions.step[chunks.decision],
            **_whose(chunks.sequence),
            "computed_before": chunks.computed_before,
            "tokens": chunks.tokens,
            "alone_ns": alone_ns,
        },
        "segments": _segments(stays, segments),
        "events": _events(facts),
        "step_ends": {"step": np.arange(len(facts.step_ends)), "end_ns": facts.step_ends},
    }
    for columns in tables.values():
        columns["replica"] = np.full(len(next(iter(columns.values()))), replica)
    return tables, memory


def _requests(
    facts: Facts, stays: Stays, latency: LatencyModel, alone_ns: Integers, *, front_end_ns: int
) -> Columns:
    """In the order of their last answers; their first token is that of any branch."""
    arrivals, left = facts.arrivals, facts.departures
    ttft = explain_ttft(facts, stays, latency, alone_ns)
    finished = np.flatnonzero(left.finished)
    whole = _is_whole(facts)[finished]
    begun = len(facts.forks.sequence) + len(arrivals.sequence)
    assert len(finished) == begun, "requests were never answered"
    request, whose = np.unique(left.sequence[finished] % BRANCHES, return_inverse=True)
    last = np.zeros(len(request), dtype=np.int64)
    np.maximum.at(last, whose, np.arange(len(finished)))
    order = np.argsort(last)

    def total(values: Integers) -> Integers:
        return sum_by(whose, values, len(request))[order]

    branches = total(whole)
    # Of the branches that arrived, the first of those that answered first.
    sooner = np.lexsort((arrivals.sequence, ttft.first_token_ns, arrivals.sequence % BRANCHES))
    _, first = np.unique(arrivals.sequence[sooner] % BRANCHES, return_index=True)
    row, finish = sooner[first[order]], finished[last[order]]
    parts = {f"{part}_ns": values[row] for part, values in ttft.parts.items()}
    parts["host_ns"] = parts["host_ns"] + front_end_ns
    first_token_ns = ttft.first_token_ns[row]
    first_shown_ns = first_token_ns + parts["search_ns"]
    return {
        "request": request[order],
        "branches": branches,
        "arrival_ns": arrivals.arrival_ns[row],
        "admit_ns": ttft.admit_ns[row],
        "first_token_ns": first_token_ns,
        "finish_ns": facts.decisions.end_ns[left.decision[finish]],
        "prompt_tokens": arrivals.prompt_tokens[row],
        "output_tokens": total(whole * left.generated[finished]),
        "wanted_tokens": arrivals.wanted_tokens[row] * branches,
        "hit_tokens": ttft.hit_tokens[row],
        "preemptions": total(left.stay[finished]),
        "priority": arrivals.priority[row],
        "beam": arrivals.beam[row],
        "ttft_ns": first_shown_ns - arrivals.arrival_ns[row] + front_end_ns,
        **parts,
        "saved_by_prefix_ns": ttft.saved_by_prefix[row],
    }


def _is_whole(facts: Facts) -> Integers:
    """1 for each departure with an answer as long as it was to be, else 0."""
    left = facts.departures
    wanted = facts.arrivals.answer_tokens[request_rows(facts, left.sequence)]
    whole: Integers = (left.generated == wanted).astype(np.int64)
    return whole


def _steps(facts: Facts, memory: Memory, latency: LatencyModel) -> dict[str, Columns]:
    """`steps` and `memory`: decisions that do the same work make one row."""
    decisions, n = facts.decisions, len(facts.decisions.step)
    admissions, chunks, left = facts.admissions, facts.chunks, facts.departures

    def count(decision: Integers, values: Integers | int = 1) -> Integers:
        return sum_by(decision, values, n)

    admitted, chunk_rows = count(admissions.decision), count(chunks.decision)
    preempted = count(left.decision[left.finished == 0])
    finished = count(left.decision[left.finished == 1])
    evicted = np.diff(decisions.evicted, prepend=0)
    swaps = facts.swaps
    swapped_out = count(swaps.decision, swaps.blocks * swaps.out)
    swapped_in = count(swaps.decision, swaps.blocks * (1 - swaps.out))
    eventful = (admitted + chunk_rows + preempted) > 0
    same = (np.diff(decisions.limit) == 0) & (np.diff(decisions.decodes) == 0)
    same &= np.diff(decisions.wasted) == 0
    same &= np.diff(decisions.external > 0) == 0  # so that levels are straight within a row
    start_ns, end_ns = spans(decisions)
    same &= start_ns[1:] == end_ns[:-1]
    goes_on = same & ~eventful[1:] & ~eventful[:-1] & (finished[:-1] == 0)
    first = np.flatnonzero(np.concatenate([[True], ~goes_on])[:n])
    last = np.append(first[1:], n)[: len(first)] - 1

    def total(values: Integers) -> Integers:
        return np.add.reduceat(values, first) if n else values

    steps = {
        "first_step": decisions.step[first],
        "steps": total(decisions.steps),
        "planned_ns": decisions.planned_ns[first],
        "start_ns": start_ns[first],
        "end_ns": end_ns[last],
        "limit": decisions.limit[first],
        "running": decisions.running[first],
        "waiting": decisions.waiting[first],
        "decodes": decisions.decodes[first],
        "decode_context": decisions.context[first],
        "wasted": decisions.wasted[first],
        "chunks": chunk_rows[first],
        "chunk_tokens": count(chunks.decision, chunks.tokens)[first],
        "admitted": admitted[first],
        "hit_tokens": count(admissions.decision, admissions.hit_tokens)[first],
        "preempted": preempted[first],
        "finished": finished[last],
        "copied_blocks": total(count(facts.copies.decision)),
        "swapped_out_blocks": swapped_out[first],
        "swapped_in_blocks": swapped_in[first],
        "swap_ns": latency.swap(swapped_out, swapped_in)[first],
        "host_blocks": memory.host_blocks[first],
        "evicted_blocks": total(evicted),
    }
    pool = Pool(facts.num_blocks, facts.null_blocks, facts.block_size)
    slots: Columns = {"first_step": steps["first_step"]}
    for when, levels, at in (("first", memory.first, first), ("last", memory.last, last)):
        for part, values in slots_of(levels, pool)._asdict().items():
            slots[f"{part}_{when}_slots"] = values[at]
    return {"steps": steps, "memory": slots}


def _whose(sequence: Integers) -> Columns:
    return {"request": sequence % BRANCHES, "branch": sequence // BRANCHES}


def _segments(stays: Stays, segments: Segments) -> Columns:
    return {
        **_whose(stays.sequence[segments.stay]),
        "first_step": segments.first_step,
        "tokens": segments.tokens,
    }


def _events(facts: Facts) -> Columns:
    """In the order in which they happened: a plan preempts and swaps out, then admits and swaps
    in; its end forks, then prunes and finishes."""
    decisions, admissions, left = facts.decisions, facts.admissions, facts.departures
    forks = facts.forks
    out, whole = left.finished == 0, _is_whole(facts) == 1
    done, pruned = (left.finished == 1) & whole, (left.finished == 1) & ~whole
    resumed = np.where(admissions.stay > 0, Event.RESUME, Event.ADMIT)
    last_step = decisions.step + decisions.steps - 1

    def swapped(out: int) -> tuple[Integers, Event, Integers, Integers]:
        swaps = facts.swaps
        at = swaps.out == out
        event = Event.SWAP_OUT if out else Event.SWAP_IN
        return swaps.decision[at], event, swaps.sequence[at], swaps.tokens[at]

    kinds = (
        (left.decision[out], Event.PREEMPT, left.sequence[out], left.computed[out]),
        swapped(1),
        (admissions.decision, resumed, admissions.sequence, admissions.hit_tokens),
        swapped(0),
        (forks.decision, Event.FORK, forks.sequence, forks.computed),
        (left.decision[pruned], Event.PRUNE, left.sequence[pruned], left.computed[pruned]),
        (left.decision[done], Event.FINISH, left.sequence[done], left.generated[done]),
    )
    decision = np.concatenate([kind[0] for kind in kinds])
    phase = np.repeat(np.arange(len(kinds)), [len(kind[0]) for kind in kinds])
    order = np.lexsort((phase, decision))
    event = np.concatenate([np.broadcast_to(kind[1], kind[0].shape) for kind in kinds])
    return {
        "step": np.where(phase < 4, decisions.step[decision], last_step[decision])[order],
        "event": event[order],
        **_whose(np.concatenate([kind[2] for kind in kinds])[order]),
        "tokens": np.concatenate([kind[3] for kind in kinds])[order],
    }
