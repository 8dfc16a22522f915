"""vLLM V1's scheduler, synchronous: who computes how many tokens in the next step.

Matches vLLM 0.33 decision for decision, physical block ids included, and older versions as
far as `sim.scheduling.versions` knows them (`python -m experiments.conformance` compares
with recorded runs). No sequence outgrows max_model_len: the engine sees to that.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import count
from typing import cast

from sim.kv.cache import ForkingCache, Hit, KVCache
from sim.plan import Admission, Chunk, DecodeList, Departure, Limit, Plan
from sim.request import Sequence
from sim.scheduling.face import OneStep
from sim.scheduling.orders import Order
from sim.scheduling.versions import VERSIONS, Rules


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """vLLM's options of the same names; tokens and sequences."""

    max_num_seqs: int
    max_num_batched_tokens: int
    enable_chunked_prefill: bool = True
    long_prefill_token_threshold: int = 0
    """Most tokens of one sequence per step while there are others; 0 for no such cap."""
    scheduler_reserve_full_isl: bool = True
    """Admit a sequence only if all its known tokens would fit, not just its first chunk."""
    watermark_blocks: int = 0
    """Blocks an admission must leave free while others run: watermark x num_gpu_blocks."""


class VllmScheduler(OneStep):
    """Running sequences first, in order of admission; then the queue, head by head.

    There is no prefill phase and no decode phase: in each step each sequence is given
    tokens so that its computed tokens catch up with the tokens it has.
    """

    def __init__(
        self, *, kv: KVCache, order: Order, limits: Limits, rules: Rules = VERSIONS["0.33"]
    ) -> None:
        self.kv = kv
        self.order = order
        self.limits = limits
        self.rules = rules
        self.running: list[Sequence] = []
        self._admissions = count()

    # --- the four verbs of the engine

    def add(self, sequence: Sequence) -> None:
        """Queue a request that has arrived."""
        self.order.add(sequence)

    @property
    def has_work(self) -> bool:
        return bool(self.running) or len(self.order) > 0

    @property
    def num_running(self) -> int:
        return len(self.running)

    @property
    def num_waiting(self) -> int:
        return len(self.order)

    def schedule(self, now_ns: int) -> Plan:
        """Decide the next step. Its tokens count as computed from here on."""
        decodes = DecodeList()
        plan = Plan(decodes=decodes)
        cap = self._cap()
        budget = self._continue_running(plan, decodes, cap)
        plan.limit = self._admit_waiting(plan, cap, budget)
        plan.swaps, plan.copies = self.kv.take_swaps(), self.kv.take_copies()
        self._count(plan)
        return plan

    def commit(self, plan: Plan, ended: list[Sequence]) -> list[Departure]:
        """The plan's (latest) step ran and gave its tokens; `ended` are the sequences whose answers
        ended with these, in the order of the plan's rows. They are let go: the last token of an
        answer is never computed."""
        for sequence in plan.completing:
            sequence.generated += 1
            sequence.decoding = True
        for sequence in plan.decodes:
            sequence.generated += 1
        if not ended:
            return []
        gone = set(ended)
        self.running = [sequence for sequence in self.running if sequence not in gone]
        return [self.kv.release(sequence) for sequence in ended]

    def fork(self, parent: Sequence, child: Sequence) -> None:
        """Run `child` beside its parent, in a seat kept for it, or left in this very step; needs
        a cache that forks."""
        cast(ForkingCache, self.kv).fork(parent, child)
        child.generated = parent.generated + 1
        child.decoding = True
        child.admission = next(self._admissions)
        parent.width = max(1, parent.width - 1)
        self.running.append(child)

    # --- running sequences

    def _continue_running(self, plan: Plan, decodes: DecodeList, cap: int) -> int:
        """Give every running sequence its tokens while the budget lasts; returns the rest.

        Where blocks are short, others give way until it fits, or the sequence itself does:
        then it is gone from the list, and the walk goes on with whoever stands behind it.
        """
        running = self.running
        budget = self.limits.max_num_batched_tokens
        index = 0
        while index < len(running) and budget > 0:
            sequence = running[index]
            n = min(self._missing(sequence), cap, budget)
            if not n:
                index += 1
                continue
            while not self.kv.grow(sequence, n):
                at = self.order.victim(running)
                victim = running.pop(at)
                index -= at < index
                budget += _withdraw(victim, plan, decodes)
                plan.preempted.append(self._preempt(victim))
                if victim is sequence:
                    break
            else:
                if sequence.decoding:
                    decodes.add(sequence, context=sequence.computed + 1)
                else:
                    plan.chunks.append(Chunk(sequence, sequence.computed, n))
                budget -= n
                index += 1
                continue
            if self.rules.self_preemption_stops:
                break
        return budget

    def _missing(self, sequence: Sequence) -> int:
        """Tokens that a running sequence could compute now."""
        return sequence.num_tokens - sequence.computed

    def _preempt(self, victim: Sequence) -> Departure:
        """All its blocks go back; it queues to be computed anew, or what the cache cannot keep."""
        departure = self.kv.preempt(victim)
        victim.computed = 0
        victim.decoding = False
        victim.preemptions += 1
        self.order.add_preempted(victim)
        return departure

    # --- waiting sequences

    def _admit_waiting(self, plan: Plan, cap: int, budget: int) -> Limit:
        """Admit heads of the queue until one finds no room; returns what closed the step.

        Nobody overtakes a refused head, and a step that preempted admits nobody.
        """
        if plan.preempted:
            return Limit.BLOCKS
        limits, running = self.limits, self.running
        seats = limits.max_num_seqs - sum([sequence.width for sequence in running])
        while True:
            if budget == 0:
                return Limit.TOKENS
            if seats == 0:
                return Limit.SEATS
            head = self._head()
            if head is None:
                return Limit.NONE
            plan.refused = head
            if head.width > seats:
                return Limit.SEATS
            hit = self.kv.match(head)
            n = min(head.num_tokens - hit.tokens, cap)
            if n > budget and not limits.enable_chunked_prefill:
                return Limit.TOKENS
            n = min(n, budget)
            spare = limits.watermark_blocks if running else 0
            if limits.scheduler_reserve_full_isl and not self.kv.has_room(
                head, head.num_tokens, hit=hit, spare_blocks=spare
            ):
                return Limit.GATE
            if not self.kv.has_room(head, hit.tokens + n, hit=hit, spare_blocks=spare):
                return Limit.BLOCKS
            plan.refused = None
            self._admit(self.order.pop(), hit, plan)
            self.kv.grow(head, n)
            plan.chunks.append(Chunk(head, hit.tokens, n))
            budget -= n
            seats -= head.width

    def _head(self) -> Sequence | None:
        return self.order.head()

    def _admit(self, head: Sequence, hit: Hit, plan: Plan) -> None:
        woken = self.kv.admit(head, hit)
        head.computed = hit.tokens
        head.admission = next(self._admissions)
        self.running.append(head)
        plan.admitted.append(Admission(head, hit.tokens - hit.host_tokens, woken))

    def _count(self, plan: Plan) -> None:
        """The plan's tokens count as computed."""
        for sequence, _, n in plan.chunks:
            sequence.computed += n
            if sequence.computed == sequence.num_tokens:
                plan.completing.append(sequence)
        for sequence in plan.decodes:
            sequence.computed += 1

    def _cap(self) -> int:
        """Most tokens that one sequence may compute in this step."""
        limits = self.limits
        alone = len(self.running) + len(self.order) <= 1
        if not limits.long_prefill_token_threshold or (alone and self.rules.lone_request_exempt):
            return limits.max_num_batched_tokens
        return limits.long_prefill_token_threshold

    def check(self) -> None:
        """Raise AssertionError where running list, cache and progress disagree. Slow."""
        self.kv.check()
        admissions = [sequence.admission for sequence in self.running]
        assert admissions == sorted(set(admissions)), "running is not in admission order"
        assert sum(sequence.width for sequence in self.running) <= self.limits.max_num_seqs
        for sequence in self.running:
            assert sequence.computed > 0, sequence.id
            assert self._missing(sequence) >= 0, sequence.id


def _withdraw(victim: Sequence, plan: Plan, decodes: DecodeList) -> int:
    """Take a victim's row out of the plan, if it has one; returns the tokens it frees.

    Its blocks keep the keys they were given in this step although nothing will be computed:
    vLLM's quirk, matched here.
    """
    if decodes.withdraw(victim):
        return 1
    for at, chunk in enumerate(plan.chunks):
        if chunk.sequence is victim:
            del plan.chunks[at]
            return chunk.n
    return 0
