"""What happened on one replica: bare facts, flat integers, a row each.

Writing a fact down must cost next to nothing, because a run has millions of them. So the
recorder notes only what cannot be told later, and everything a result shows is worked out of
the facts column by column when the run is over: rows of steps (sim.record.rows), the slots of
memory (sim.record.memory), the parts of TTFT (sim.record.ttft).

A sequence is named by its index (`sim.request.BRANCHES`). Its stay in the running list, from
an admission or a fork to the preemption or finish that ends it, is called its *stay*; the first
has the number 0.
"""

from __future__ import annotations

from array import array
from collections.abc import Callable
from struct import Struct
from typing import Any, NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray

from sim.kv.cache import KVCache

Integers = NDArray[np.int64]
Rows = TypeVar("Rows", bound=tuple[Any, ...])

NOBODY = -1


class Decisions(NamedTuple):
    """Plans, in the order in which they ran, each with its repetitions."""

    step: Integers
    """Number of the first of its steps."""
    oldest: Integers
    """The decision that was the first to end after this one was made: itself, but for batches in
    flight. From then on this one's blocks are taken, and its tokens count as computed."""
    planned_ns: Integers
    limit: Integers
    refused: Integers
    """The sequence that was the queue's head and found no room, or NOBODY."""
    refused_stays: Integers
    """How many stays that sequence has behind it."""
    running: Integers
    waiting: Integers
    decodes: Integers
    context: Integers
    """Tokens the decodes attend to in the first step."""
    free: Integers
    """Free blocks of the pool during the first step, idle cached ones included;"""
    idle: Integers
    """these alone."""
    external: Integers
    """Free blocks that the refused head could not have, because they are scattered."""
    steps: Integers
    start_ns: Integers
    """When it began to run, in the first pipeline stage."""
    end_ns: Integers
    """When the tokens of its last step were there."""
    last_free: Integers
    last_idle: Integers
    """As `free` and `idle`, during the last step."""
    evicted: Integers
    """Blocks evicted so far, on this replica."""
    wasted: Integers
    """Decodes of answers that had ended when the decision ran."""
    takes: Integers
    """How many of the rows of `Takes` are the decision's."""


def spans(decisions: Decisions) -> tuple[Integers, Integers]:
    """(start, end) of the time in which each decision was the oldest in flight: parts of the
    time that steps ran."""
    before = np.concatenate([decisions.start_ns[:1], decisions.end_ns[:-1]])
    return np.maximum(decisions.start_ns, before), decisions.end_ns


class Takes(NamedTuple):
    """Blocks that decodes took in the steps of a decision after its first."""

    decision: Integers
    offset: Integers
    """The step, counted from the decision's first."""
    blocks: Integers
    idle: Integers
    """Idle cached blocks afterwards."""


class Arrivals(NamedTuple):
    """Requests that this replica accepted, each answer of them by itself where they are treated
    as requests of their own; by sequence."""

    sequence: Integers
    arrival_ns: Integers
    prompt_tokens: Integers
    answer_tokens: Integers
    """As many as it will get, and"""
    wanted_tokens: Integers
    """as many as the trace has."""
    priority: Integers
    beam: Integers
    """Width of a beam search, whose answers are known when it ends; 0 for anything else."""


class Admissions(NamedTuple):
    """Beginnings of stays."""

    decision: Integers
    sequence: Integers
    stay: Integers
    hit_tokens: Integers
    woken_blocks: Integers
    room_blocks: Integers
    """Set aside for the whole stay; 0 where room is given as it is needed."""


class Chunks(NamedTuple):
    """Rows of plans that are no plain decodes."""

    decision: Integers
    sequence: Integers
    stay: Integers
    computed_before: Integers
    tokens: Integers
    completes: Integers
    """1 where it computes the last token there is, so that the step gives another."""


class Departures(NamedTuple):
    """Ends of stays, by preemption or because the answer is complete or given up; where its last
    token came after a preemption, the end of a wait, in which nothing is computed."""

    decision: Integers
    """Whose plan preempted it, or whose last step completed it."""
    sequence: Integers
    stay: Integers
    computed: Integers
    shared_tokens: Integers
    """Computed ones in blocks that others go on holding."""
    generated: Integers
    finished: Integers
    """1, when the decision's last step has run, or 0 for a preemption, when it was made."""


class Pauses(NamedTuple):
    """Decodes that a plan left out (1), and that were there again (0)."""

    decision: Integers
    sequence: Integers
    stay: Integers
    paused: Integers


class Forks(NamedTuple):
    """First stays that begin with a fork."""

    decision: Integers
    """At the end of whose last step."""
    sequence: Integers
    computed: Integers
    """Tokens that it shares with its parent."""


class Copies(NamedTuple):
    """Copies on write, before a plan's first step."""

    decision: Integers
    sequence: Integers
    """The writer, and"""
    position: Integers
    """the first token that it writes into its copy."""


class Swaps(NamedTuple):
    """Copies of a sequence's blocks to the host or back, before a plan's first step."""

    decision: Integers
    sequence: Integers
    stay: Integers
    """That this ends, or begins with."""
    out: Integers
    """1 to the host, 0 back."""
    tokens: Integers
    blocks: Integers


class Facts(NamedTuple):
    """All that is known of one replica when a run is over."""

    num_blocks: int
    null_blocks: int
    block_size: int
    decisions: Decisions
    step_ends: Integers
    takes: Takes
    arrivals: Arrivals
    admissions: Admissions
    chunks: Chunks
    departures: Departures
    pauses: Pauses
    forks: Forks
    copies: Copies
    swaps: Swaps


def packs(kind: type[tuple[Any, ...]]) -> Callable[..., bytes]:
    """What makes of the integers of a row the bytes that its `Log` takes. A third cheaper than an
    array's own way, which parses every integer like an argument."""
    return Struct(f"{len(kind.__annotations__)}q").pack


class Log:
    """Where a replica's facts are noted: each attribute takes the integers of a row, in the
    order of the class of the same name; takes come by column, and their decisions are counted."""

    def __init__(self) -> None:
        self.decisions = array("q")
        self.step_ends = array("q")
        self.takes = [array("q") for _ in Takes._fields[1:]]
        self.arrivals = array("q")
        self.admissions = array("q")
        self.chunks = array("q")
        self.departures = array("q")
        self.pauses = array("q")
        self.forks = array("q")
        self.copies = array("q")
        self.swaps = array("q")

    def read(self, kv: KVCache) -> Facts:
        """The facts by column."""
        arrivals = _columns(Arrivals, self.arrivals)
        by_sequence = np.argsort(arrivals.sequence)
        decisions = _columns(Decisions, self.decisions)
        whose = np.repeat(np.arange(len(decisions.takes)), decisions.takes)
        return Facts(
            num_blocks=kv.num_blocks,
            null_blocks=kv.null_blocks,
            block_size=kv.block_size,
            decisions=decisions,
            step_ends=np.array(self.step_ends, dtype=np.int64),
            takes=Takes(whose, *(np.array(column, dtype=np.int64) for column in self.takes)),
            arrivals=Arrivals(*(column[by_sequence] for column in arrivals)),
            admissions=_columns(Admissions, self.admissions),
            chunks=_columns(Chunks, self.chunks),
            departures=_columns(Departures, self.departures),
            pauses=_columns(Pauses, self.pauses),
            forks=_columns(Forks, self.forks),
            copies=_columns(Copies, self.copies),
            swaps=_columns(Swaps, self.swaps),
        )


def _columns(kind: type[Rows], flat: array[int]) -> Rows:
    rows = np.array(flat, dtype=np.int64).reshape(-1, len(kind.__annotations__))
    return kind(*rows.T.copy())
