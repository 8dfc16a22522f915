"""Why a first token took as long as it did: TTFT, cut into parts that add up.

[arrival, first token] is cut at the starts and ends of steps, and every nanosecond goes to
one part, as docs/reference/metrics.md defines them:

- before the request's first step: queue, by cause (step in flight, seats, tokens, memory,
  behind a refused head);
- a step with a chunk of it: own (the chunk by itself), preemption (the share of it that had
  been computed before), host, and interference (the rest);
- admitted but without a chunk in a step: interference;
- preempted until it resumes: preemption.

Nothing is relabelled later. Nobody's waiting is counted step by step: one clock per cause
runs for all who wait, and a request reads the clocks when it joins and when it leaves.
"""

from __future__ import annotations

from bisect import bisect_left
from enum import IntEnum

from sim.latency import LatencyModel
from sim.plan import Chunk, Plan
from sim.request import Sequence


class Cause(IntEnum):
    """What kept a request in the queue during a step."""

    SEATS = 0
    TOKENS = 1
    MEMORY = 2
    BEHIND = 3


_CAUSE = (None, Cause.SEATS, Cause.TOKENS, Cause.MEMORY, Cause.MEMORY)
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
)


class Ttft:
    """The parts of one request's TTFT, in nanoseconds; complete once it has a first token."""

    __slots__ = (
        "arrival_ns",
        "causes",
        "flight",
        "host",
        "interference",
        "most_computed",
        "own",
        "preempted_at_ns",
        "preemption",
        "read_ns",
        "saved_by_prefix",
        "transfer",
    )

    def __init__(self, arrival_ns: int) -> None:
        self.arrival_ns = arrival_ns
        self.flight = 0
        self.causes = [0, 0, 0, 0]
        """By Cause; while the request waits: minus the clocks' reading when it joined."""
        self.own = self.interference = self.preemption = self.transfer = self.host = 0
        self.saved_by_prefix = 0
        """What the first hit would have cost by itself; beside the sum, not in it."""
        self.most_computed = 0
        """The most tokens ever computed for it, hits included."""
        self.preempted_at_ns = 0

    def parts(self) -> tuple[int, ...]:
        """In the order of PARTS."""
        return (
            self.flight,
            *self.causes,
            self.own,
            self.interference,
            self.preemption,
            self.transfer,
            self.host,
        )


class TtftBook:
    """Keeps the TTFT of every request of one replica that has no first token yet."""

    def __init__(self, latency: LatencyModel) -> None:
        self._latency = latency
        self._clocks = [0, 0, 0, 0]
        self._open: dict[Sequence, Ttft] = {}
        self._arrived: list[Ttft] = []
        self._prefilling: dict[Sequence, Ttft] = {}

    def arrived(self, sequence: Sequence, now_ns: int) -> None:
        self._open[sequence] = ttft = Ttft(now_ns)
        self._arrived.append(ttft)

    def began(self, plan: Plan, now_ns: int) -> None:
        """A plan starts: note who gave way, and whose wait is over."""
        for ttft in self._arrived:  # they found the engine idle
            self._join(ttft, now_ns, self._clocks)
        self._arrived.clear()
        for departure in plan.preempted:
            ttft_or_none = self._prefilling.pop(departure.sequence, None)
            if ttft_or_none is not None:
                ttft_or_none.preempted_at_ns = now_ns
        for sequence, hit_tokens, _, resumed in plan.admitted:
            ttft_or_none = self._open.get(sequence)
            if ttft_or_none is None:
                continue
            ttft = ttft_or_none
            self._prefilling[sequence] = ttft
            if resumed:
                ttft.preemption += now_ns - ttft.preempted_at_ns
            else:
                for cause, clock in enumerate(self._clocks):
                    ttft.causes[cause] += clock
                ttft.saved_by_prefix = self._alone(0, hit_tokens)
            ttft.most_computed = max(ttft.most_computed, hit_tokens)

    def ran(
        self, plan: Plan, start_ns: int, ends_ns: list[int], alone_ns: list[int]
    ) -> list[tuple[Sequence, Ttft]]:
        """The plan has run, whose chunks cost this much by themselves; returns whose first
        token it gave, and its TTFT."""
        self._wait(plan, start_ns, ends_ns)
        if not self._prefilling:
            return []
        end_ns = ends_ns[-1]
        duration_ns = end_ns - start_ns
        first_tokens = []
        idle = dict(self._prefilling)
        for chunk, chunk_ns in zip(plan.chunks, alone_ns, strict=True):
            sequence = chunk.sequence
            ttft = idle.pop(sequence, None)
            if ttft is None:
                continue
            self._compute(ttft, chunk, chunk_ns, duration_ns)
            if sequence.computed == sequence.num_tokens:
                del self._prefilling[sequence], self._open[sequence]
                assert sum(ttft.parts()) == end_ns - ttft.arrival_ns, sequence.id
                first_tokens.append((sequence, ttft))
        for ttft in idle.values():
            ttft.interference += duration_ns
        return first_tokens

    def _wait(self, plan: Plan, start_ns: int, ends_ns: list[int]) -> None:
        """Let the clocks run for those who waited, and let in who arrived meanwhile."""
        limit, head = plan.limit, plan.refused
        clocks = self._clocks
        cause = Cause.BEHIND if head is not None else _CAUSE[limit]
        for ttft in self._arrived:
            joined_ns = ends_ns[bisect_left(ends_ns, ttft.arrival_ns)]
            reading = list(clocks)
            if cause is not None:
                reading[cause] += joined_ns - start_ns
            self._join(ttft, joined_ns, reading)
        self._arrived.clear()
        if cause is None:
            return
        duration_ns = ends_ns[-1] - start_ns
        clocks[cause] += duration_ns
        if head is not None and not head.preemptions:
            causes = self._open[head].causes
            causes[Cause.BEHIND] -= duration_ns
            reason = _CAUSE[limit]
            assert reason is not None
            causes[reason] += duration_ns

    def _join(self, ttft: Ttft, now_ns: int, reading: list[int]) -> None:
        """The request is in the queue when the next step is decided."""
        ttft.flight = now_ns - ttft.arrival_ns
        ttft.causes = [-clock for clock in reading]

    def _compute(self, ttft: Ttft, chunk: Chunk, alone_ns: int, duration_ns: int) -> None:
        """A step of this duration computed this chunk of the request."""
        _, computed_before, n = chunk
        host_ns = self._latency.host_ns
        again = min(n, max(0, ttft.most_computed - computed_before))
        again_ns = self._alone(computed_before, again)
        ttft.own += alone_ns - again_ns
        ttft.preemption += again_ns
        ttft.host += host_ns
        ttft.interference += duration_ns - host_ns - alone_ns
        ttft.most_computed = max(ttft.most_computed, computed_before + n)

    def _alone(self, computed_before: int, n: int) -> int:
        return int(self._latency.alone(computed_before, n)[0]) if n else 0
