"""The tables that a run leaves behind, worked out of what happened on one replica."""

from __future__ import annotations

from enum import IntEnum

import numpy as np

from sim.latency import LatencyModel
from sim.log import Facts, Integers
from sim.memory import Levels, Memory, Pool, Slots, account, slots_of
from sim.stays import Segments, Stays
from sim.ttft import explain_ttft

Columns = dict[str, Integers]


class Event(IntEnum):
    """What `events` rows tell of a request; `tokens` means something else in each."""

    ADMIT = 0
    """tokens: found in the prefix cache."""
    RESUME = 1
    """Admitted again after a preemption; tokens: found in the prefix cache."""
    PREEMPT = 2
    """tokens: computed ones that were given up."""
    FINISH = 3
    """tokens: of the answer."""


def make_tables(
    facts: Facts, latency: LatencyModel, *, replica: int, front_end_ns: int
) -> tuple[dict[str, Columns], Memory]:
    """All tables of `sim.record.COLUMNS` by name, and the memory account they show."""
    stays = Stays(facts)
    segments = stays.segments(facts)
    memory = account(facts, stays, segments)
    chunks = facts.chunks
    alone_ns = latency.alone(chunks.computed_before, chunks.tokens)
    tables = {
        "requests": _requests(facts, stays, latency, alone_ns, front_end_ns=front_end_ns),
        **_steps(facts, memory),
        "chunks": {
            "step": facts.decisions.step[chunks.decision],
            "request": chunks.request,
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
    arrivals = facts.arrivals
    ttft = explain_ttft(facts, stays, latency, alone_ns)
    finished = np.flatnonzero(facts.departures.finished)
    request = facts.departures.request[finished]
    row = arrivals.request.searchsorted(request)
    assert len(request) == len(arrivals.request), "requests were never answered"
    parts = {f"{part}_ns": values[row] for part, values in ttft.parts.items()}
    parts["host_ns"] = parts["host_ns"] + front_end_ns
    return {
        "request": request,
        "arrival_ns": arrivals.arrival_ns[row],
        "admit_ns": ttft.admit_ns[row],
        "first_token_ns": ttft.first_token_ns[row],
        "finish_ns": facts.decisions.end_ns[facts.departures.decision[finished]],
        "prompt_tokens": arrivals.prompt_tokens[row],
        "output_tokens": facts.departures.generated[finished],
        "wanted_tokens": arrivals.wanted_tokens[row],
        "hit_tokens": ttft.hit_tokens[row],
        "preemptions": facts.departures.stay[finished],
        "priority": arrivals.priority[row],
        "ttft_ns": (ttft.first_token_ns - arrivals.arrival_ns)[row] + front_end_ns,
        **parts,
        "saved_by_prefix_ns": ttft.saved_by_prefix[row],
    }


def _steps(facts: Facts, memory: Memory) -> dict[str, Columns]:
    """`steps` and `memory`: decisions that do the same work make one row."""
    decisions, n = facts.decisions, len(facts.decisions.step)
    admissions, chunks, left = facts.admissions, facts.chunks, facts.departures

    def count(decision: Integers, values: Integers | None = None) -> Integers:
        total = np.zeros(n, dtype=np.int64)
        np.add.at(total, decision, 1 if values is None else values)
        return total

    admitted, chunk_rows = count(admissions.decision), count(chunks.decision)
    preempted = count(left.decision[left.finished == 0])
    finished = count(left.decision[left.finished == 1])
    evicted = np.diff(decisions.evicted, prepend=0)
    eventful = (admitted + chunk_rows + preempted) > 0
    same = (np.diff(decisions.limit) == 0) & (np.diff(decisions.decodes) == 0)
    goes_on = same & ~eventful[1:] & ~eventful[:-1] & (finished[:-1] == 0)
    first = np.flatnonzero(np.concatenate([[True], ~goes_on])[:n])
    last = np.append(first[1:], n)[: len(first)] - 1

    def total(values: Integers) -> Integers:
        return np.add.reduceat(values, first) if n else values

    steps = {
        "first_step": decisions.step[first],
        "steps": total(decisions.steps),
        "start_ns": decisions.start_ns[first],
        "end_ns": decisions.end_ns[last],
        "limit": decisions.limit[first],
        "running": decisions.running[first],
        "waiting": decisions.waiting[first],
        "decodes": decisions.decodes[first],
        "decode_context": decisions.context[first],
        "chunks": chunk_rows[first],
        "chunk_tokens": count(chunks.decision, chunks.tokens)[first],
        "admitted": admitted[first],
        "hit_tokens": count(admissions.decision, admissions.hit_tokens)[first],
        "preempted": preempted[first],
        "finished": finished[last],
        "copied_blocks": decisions.copies[first],
        "evicted_blocks": total(evicted),
    }
    slots: Columns = {"first_step": steps["first_step"]}
    for when, levels, at in (("first", memory.first, first), ("last", memory.last, last)):
        for part, values in _slots(facts, levels)._asdict().items():
            slots[f"{part}_{when}_slots"] = values[at]
    return {"steps": steps, "memory": slots}


def _slots(facts: Facts, levels: Levels[Integers]) -> Slots[Integers]:
    """A tuple of columns."""
    return slots_of(levels, Pool(facts.num_blocks, facts.null_blocks, facts.block_size))


def _segments(stays: Stays, segments: Segments) -> Columns:
    return {
        "request": stays.request[segments.stay],
        "first_step": segments.first_step,
        "tokens": segments.tokens,
    }


def _events(facts: Facts) -> Columns:
    """In the order in which they happened: a plan preempts, then admits; its end finishes."""
    decisions, admissions, left = facts.decisions, facts.admissions, facts.departures
    out, done = left.finished == 0, left.finished == 1
    resumed = np.where(admissions.stay > 0, Event.RESUME, Event.ADMIT)
    last_step = decisions.step + decisions.steps - 1
    kinds = (
        (left.decision[out], Event.PREEMPT, left.request[out], left.computed[out]),
        (admissions.decision, resumed, admissions.request, admissions.hit_tokens),
        (left.decision[done], Event.FINISH, left.request[done], left.generated[done]),
    )
    decision = np.concatenate([kind[0] for kind in kinds])
    phase = np.repeat([0, 1, 2], [len(kind[0]) for kind in kinds])
    order = np.lexsort((phase, decision))
    event = np.concatenate([np.broadcast_to(kind[1], kind[0].shape) for kind in kinds])
    return {
        "step": np.where(phase < 2, decisions.step[decision], last_step[decision])[order],
        "event": event[order],
        "request": np.concatenate([kind[2] for kind in kinds])[order],
        "tokens": np.concatenate([kind[3] for kind in kinds])[order],
    }
