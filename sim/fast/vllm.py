"""vLLM's scheduler again, touching just what changed.

Decides what `sim.scheduling.vllm` decides, bit for bit; that one is the reference to read
first, and the law (tests/test_law.py) compares them. What is different here: decodes are not
walked (see `Group`), a refused head is not looked at again before anything can have changed
for it, and `stable_for` says for how long a decision stands.

That every decode computes its token in every step, whatever stands before it in the running
list, is a theorem: what running sequences ask for never grows, and nobody is admitted but
with tokens that are left over. (Under the priority policy of vLLM before 0.33 it is none: a
sequence that preempts itself leaves those behind it without tokens.)
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import count

from sim.fast.group import ADMISSION, Group
from sim.kv.cache import Hit
from sim.kv.node import Name
from sim.kv.paged import Paged
from sim.moves import Takes
from sim.plan import Admission, Chunk, Departure, Limit, Plan
from sim.request import Sequence
from sim.scheduling.orders import Order
from sim.scheduling.versions import VERSIONS, Rules
from sim.scheduling.vllm import Limits


@dataclass(slots=True)
class _Refusal:
    """A head of the queue that did not fit, and what must happen before it can.

    The gate is: blocks of the whole sequence + watermark > free + hit blocks in use. The left
    side is fixed. The right side rises by what is released, and when the first missing block
    of the hit is published; nothing else raises it.
    """

    head: Sequence
    given_back: int
    """How far `Pool.given_back` must have come before the head may fit."""
    index: int
    missing: Name | None
    """The name that ends its hit, block number `index`; None where everything is a hit."""


class FastVllm:
    """See `sim.scheduling.vllm.VllmScheduler`; needs a paged cache, and the rules of 0.33 where
    arrivals overtake."""

    def __init__(
        self, *, kv: Paged, order: Order, limits: Limits, rules: Rules = VERSIONS["0.33"]
    ) -> None:
        assert not (order.overtakes and rules.self_preemption_stops)
        self.kv = kv
        self.order = order
        self.limits = limits
        self.rules = rules
        self.group = Group(kv.block_size)
        self._running: dict[Sequence, None] = {}
        self._partial: dict[Sequence, None] = {}
        """Running sequences that are not in the group, in admission order."""
        self._refusal: _Refusal | None = None
        self._admissions = count()

    @property
    def running(self) -> list[Sequence]:
        return list(self._running)

    @property
    def num_running(self) -> int:
        return len(self._running)

    @property
    def num_waiting(self) -> int:
        return len(self.order)

    @property
    def has_work(self) -> bool:
        return bool(self._running) or len(self.order) > 0

    def add(self, sequence: Sequence) -> None:
        self.order.add(sequence)

    def schedule(self, now_ns: int) -> Plan:
        group, kv, limits = self.group, self.kv, self.limits
        group.step = step = group.step + 1
        plan = Plan(group)
        budget = limits.max_num_batched_tokens
        cap = self._cap() if limits.long_prefill_token_threshold else budget
        takers = group.takers(step)
        if self._partial or len(takers) > kv.pool.free:
            budget -= self._walk(plan, cap)
        else:
            kv.extend(takers, group.fillers(step))
        budget -= len(group)
        plan.limit = self._admit_waiting(plan, cap, budget)
        plan.swaps = kv.take_swaps()
        for sequence, _, n in plan.chunks:
            sequence.computed += n
            if sequence.computed == sequence.num_tokens:
                plan.completing.append(sequence)
        return plan

    def stable_for(self, plan: Plan) -> tuple[int, int | None, bool]:
        """A step of nothing but decodes repeats until blocks run out, or until a block that
        the refused head waits for is published; an arrival ends it only where it might be
        admitted."""
        if plan.chunks or plan.preempted:
            return 1, None, True
        steps = self.group.steps_within(self.kv.pool.free)
        if plan.refused is not None:
            steps = min(steps, self._steps_refused())
        may_lead = self.order.overtakes and plan.refused is not None
        return steps, None, plan.limit == Limit.NONE or may_lead

    def extend_by(self, plan: Plan, k: int) -> Takes:
        group, kv = self.group, self.kv
        offsets, blocks, takers = [], [], []
        for offset, bucket in enumerate(group.next_takers(k - 1), 1):
            if bucket:
                offsets.append(offset)
                blocks.append(len(bucket))
                takers += bucket
        fillers: list[Sequence] = []
        if kv.publishes:  # who fills a block in one step takes one in the next
            soonest = len(group.takers(group.step + 1))
            fillers = takers[soonest:] + group.fillers(group.step + k - 1)
        takes = Takes(offsets, blocks, kv.pool.idle_after(blocks))
        kv.extend(takers, fillers)
        group.step += k - 1
        return takes

    def commit(self, plan: Plan, ended: list[Sequence]) -> list[Departure]:
        for sequence in plan.completing:
            sequence.generated += 1
            sequence.decoding = True
            del self._partial[sequence]
            if sequence not in ended:
                self.group.join(sequence)
        departures = []
        for sequence in ended:
            if self.group.withdraw(sequence, in_step=True):
                sequence.generated += 1
            del self._running[sequence]
            departures.append(self.kv.release(sequence))
        return departures

    # --- running sequences

    def _walk(self, plan: Plan, cap: int) -> int:
        """Serve those that need blocks, publish one, or are partly computed, in admission order;
        where blocks are short, others give way. Returns the chunks' tokens.

        Decodes that do neither cannot fail; they can only be victims.
        """
        group, step = self.group, self.group.step
        chunk_tokens = 0
        work = {*group.takers(step), *self._partial}
        if self.kv.publishes:
            work.update(group.fillers(step))
        for sequence in sorted(work, key=ADMISSION):
            if sequence not in self._running:
                continue
            decodes = sequence in group
            if decodes:
                group.refresh(sequence, in_step=False)
                n = 1
            else:
                budget = self.limits.max_num_batched_tokens - len(group) - chunk_tokens
                n = min(sequence.num_tokens - sequence.computed, cap, budget)
                assert n > 0, "a running sequence was left without tokens"
            while not self.kv.grow(sequence, n):
                running = self.running
                victim = running[self.order.victim(running)]
                chunk_tokens -= _withdraw(victim, plan)
                plan.preempted.append(self._preempt(victim))
                if victim is sequence:
                    break
            else:
                if not decodes:
                    plan.chunks.append(Chunk(sequence, sequence.computed, n))
                    chunk_tokens += n
        return chunk_tokens

    def _preempt(self, victim: Sequence) -> Departure:
        self.group.withdraw(victim, in_step=False)
        self._partial.pop(victim, None)
        del self._running[victim]
        departure = self.kv.preempt(victim)
        victim.computed = 0
        victim.decoding = False
        victim.preemptions += 1
        self.order.add_preempted(victim)
        return departure

    # --- waiting sequences

    def _admit_waiting(self, plan: Plan, cap: int, budget: int) -> Limit:
        if plan.preempted:
            return Limit.BLOCKS
        limits, running, order, kv = self.limits, self._running, self.order, self.kv
        while True:
            if budget == 0:
                return Limit.TOKENS
            if len(running) == limits.max_num_seqs:
                return Limit.SEATS
            head = order.head()
            if head is None:
                return Limit.NONE
            plan.refused = head
            if self._refusal is not None and self._still_refused(head):
                return Limit.GATE
            hit, num_tokens = kv.match(head), head.num_tokens
            n = min(num_tokens - hit.tokens, cap)
            if n > budget and not limits.enable_chunked_prefill:
                return Limit.TOKENS
            n = min(n, budget)
            spare = limits.watermark_blocks if running else 0
            if limits.scheduler_reserve_full_isl:  # what the chunk needs is part of it
                if not kv.has_room(head, num_tokens, hit=hit, spare_blocks=spare):
                    self._remember(head, hit, spare)
                    return Limit.GATE
            elif not kv.has_room(head, hit.tokens + n, hit=hit, spare_blocks=spare):
                return Limit.BLOCKS
            order.pop()
            plan.refused = self._refusal = None
            woken = kv.admit(head, hit)
            head.computed = hit.tokens
            head.admission = next(self._admissions)
            running[head] = self._partial[head] = None
            kv.grow(head, n)
            plan.admitted.append(Admission(head, hit.tokens - hit.host_tokens, woken))
            plan.chunks.append(Chunk(head, hit.tokens, n))
            budget -= n

    def _remember(self, head: Sequence, hit: Hit, spare: int) -> None:
        pool = self.kv.pool
        needed = self.kv.blocks_for(head.num_tokens) - len(hit.blocks) + hit.idle + spare
        self._refusal = _Refusal(
            head,
            given_back=pool.given_back + needed - pool.free,
            index=len(hit.blocks),
            missing=self.kv.key_after(head, hit),
        )

    def _still_refused(self, head: Sequence) -> bool:
        """Can nothing have changed for the head since it was refused?"""
        refusal, pool = self._refusal, self.kv.pool
        return (
            refusal is not None
            and refusal.head is head
            # Unchunked, a head may instead be refused for its tokens, as its idle hits go.
            and self.limits.enable_chunked_prefill
            and bool(self._running)  # else the watermark no longer counts
            and pool.given_back < refusal.given_back
            and not self.kv.pool.cached.has(refusal.missing)
        )

    def _steps_refused(self) -> int:
        refusal = self._refusal
        if refusal is None or not self.limits.enable_chunked_prefill:
            return 1
        return self.group.steps_before_key(refusal.missing, refusal.index)

    def _cap(self) -> int:
        alone = len(self._running) + len(self.order) <= 1
        if alone and self.rules.lone_request_exempt:
            return self.limits.max_num_batched_tokens
        return self.limits.long_prefill_token_threshold

    def check(self) -> None:
        """Raise AssertionError where lists, group, cache and progress disagree. Slow."""
        for _ in self.group:  # brings its members up to date
            pass
        self.group.check()
        self.kv.check()
        assert set(self._running) == {*self.group, *self._partial}
        for members in (self._running, self._partial):
            admissions = [sequence.admission for sequence in members]
            assert admissions == sorted(set(admissions)), "not in admission order"
        assert len(self._running) <= self.limits.max_num_seqs


def _withdraw(victim: Sequence, plan: Plan) -> int:
    """Take a victim's chunk out of the plan, if it has one; returns the tokens it frees."""
    for at, chunk in enumerate(plan.chunks):
        if chunk.sequence is victim:
            del plan.chunks[at]
            return chunk.n
    return 0
