"""vLLM V1's scheduler while batches are in flight: it decides before it knows the last tokens.

With asynchronous scheduling a sequence whose token is still being computed is scheduled for the
one after it, on a *placeholder*; with pipeline stages alone it has to wait. Matches
`AsyncScheduler` and `EngineCore.step_with_batch_queue` of vLLM 0.33 decision for decision
(`python -m experiments.conformance` compares with recorded runs).
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import chain

from sim.kv.cache import KVCache
from sim.kv.swap import Swapped
from sim.plan import Departure, Limit, Plan
from sim.request import Sequence
from sim.scheduling.orders import Order
from sim.scheduling.versions import VERSIONS, Rules
from sim.scheduling.vllm import Limits, VllmScheduler


@dataclass(slots=True)
class _Flight:
    """What of one sequence is in batches whose output has not come back."""

    placeholders: int = 0
    """Tokens to come that it may build on already."""
    tokens: int = 0
    """Of all its rows; of them"""
    stale: int = 0
    """those from before it was preempted: nothing of what they compute stays in the cache."""
    rests_until: int = 0
    """The schedule() call, counted from 0, that may take it again."""


class BatchesInFlight(VllmScheduler):
    """`Sequence.computed` is optimistic here: the tokens of batches in flight count, too.

    An answer that ends by a stop token has one more row under way then, which is ignored when it
    comes back. Who is preempted is given the tokens in flight all the same, and waits for them
    before it can resume.
    """

    def __init__(
        self,
        *,
        kv: KVCache,
        order: Order,
        limits: Limits,
        rules: Rules = VERSIONS["0.33"],
        max_model_len: int,
        asynchronous: bool,
        stages: int,
    ) -> None:
        assert not isinstance(kv, Swapped), "tokens in flight cannot be swapped out"
        super().__init__(kv=kv, order=order, limits=limits, rules=rules)
        self._max_model_len = max_model_len
        self._asynchronous = asynchronous
        self._stages = stages
        self._calls = -1
        self._flights: dict[Sequence, _Flight] = {}
        """Of those that wait or run."""
        self._aside: list[Sequence] = []
        """Heads of the queue that the latest call passed over."""
        self._unsaid = False
        """Answers have ended since the latest call: vLLM makes one more to tell the workers."""

    def add(self, sequence: Sequence) -> None:
        super().add(sequence)
        self._flights[sequence] = _Flight()

    @property
    def has_work(self) -> bool:
        return self._unsaid or super().has_work

    def schedule(self, now_ns: int) -> Plan:
        self._calls += 1
        self._unsaid = False
        return super().schedule(now_ns)

    def commit(self, plan: Plan, ended: list[Sequence]) -> list[Departure]:
        """Take in a batch's tokens, the oldest one's in flight; see `VllmScheduler.commit`.

        Blocks that these tokens fill are published now, since their content is known now.
        """
        departures = []
        self._unsaid |= bool(ended)
        gives = {*plan.completing, *plan.decodes}
        for sequence, n in _in_row_order(plan):
            flight = self._flights.get(sequence)
            if flight is None:  # its answer ended with an earlier batch
                continue
            flight.tokens -= n
            flight.stale = max(0, flight.stale - n)  # such rows come back first
            if sequence not in gives:
                continue
            sequence.generated += 1
            if flight.placeholders:  # a stale row has none
                flight.placeholders -= 1
                self.kv.publish(sequence, sequence.computed - flight.tokens)
            if sequence in ended:
                departures.append(self._let_go(sequence))
        return departures

    def _let_go(self, sequence: Sequence) -> Departure:
        del self._flights[sequence]
        if sequence in self.running:
            self.running.remove(sequence)
            return self.kv.release(sequence)
        self.order.withdraw(sequence)
        return Departure(sequence, 0, [], 0)

    # --- what the decision knows of batches in flight

    def _missing(self, sequence: Sequence) -> int:
        flight = self._flights[sequence]
        if self._calls < flight.rests_until:
            return 0
        computed, placeholders = sequence.computed, flight.placeholders
        if placeholders and computed + 2 - placeholders >= self._most_tokens(sequence):
            return 0  # the token in flight is the last one
        return sequence.num_tokens + placeholders - computed

    def _most_tokens(self, sequence: Sequence) -> int:
        """Prompt and answer, as far as the server knows."""
        if sequence.max_tokens is None:
            return self._max_model_len
        return min(self._max_model_len, sequence.prompt_tokens + sequence.max_tokens)

    def _count(self, plan: Plan) -> None:
        flights = self._flights
        for sequence, _, n in plan.chunks:
            flight = flights[sequence]
            sequence.computed += n
            flight.tokens += n
            if sequence.computed == sequence.num_tokens + flight.placeholders:
                plan.completing.append(sequence)
        for sequence in plan.decodes:
            sequence.computed += 1
            flights[sequence].tokens += 1
        for sequence in chain(plan.completing, plan.decodes):
            sequence.decoding = True
            if self._asynchronous:
                flights[sequence].placeholders += 1
                flights[sequence].rests_until = self._calls + self._stages

    def _preempt(self, victim: Sequence) -> Departure:
        flight = self._flights[victim]
        flight.placeholders = 0
        flight.stale = flight.tokens
        return super()._preempt(victim)

    def _admit_waiting(self, plan: Plan, cap: int, budget: int) -> Limit:
        """Who waits for stale tokens is set aside, and lets others pass."""
        limit = super()._admit_waiting(plan, cap, budget)
        for sequence in reversed(self._aside):
            self.order.add_preempted(sequence)
        self._aside.clear()
        return limit

    def _head(self) -> Sequence | None:
        while (head := self.order.head()) is not None and self._flights[head].stale:
            self._aside.append(self.order.pop())
        return head

    def check(self) -> None:
        super().check()
        assert self._flights.keys() == {*self.running, *self.order}
        for sequence, flight in self._flights.items():
            assert 0 <= flight.stale <= flight.tokens, sequence.id
            assert not (flight.stale and flight.placeholders), sequence.id


def _in_row_order(plan: Plan) -> list[tuple[Sequence, int]]:
    """Sequences of a batch with their tokens."""
    rows = [(sequence, n) for sequence, _, n in plan.chunks]
    rows += [(sequence, 1) for sequence in plan.decodes]
    rows.sort(key=lambda row: row[0].admission)
    return rows
