"""The plain schedulers, with promises for steps of nothing but decodes.

For what `sim.fast.vllm` does not know: contiguous caches, static batches, forks, and the policy
priority of versions before 0.33. A decision walks the batch, as theirs does, since it is theirs;
it stands until somebody comes or goes, or finds no room.
"""

from __future__ import annotations

from bisect import bisect_left

from sim.fast.group import FOR_EVER, Group
from sim.kv.contiguous import Contiguous
from sim.kv.paged import Paged
from sim.moves import NO_TAKES, Takes
from sim.plan import Decodes, Limit, Plan
from sim.scheduling.face import ONE_STEP
from sim.scheduling.static import StaticBatching
from sim.scheduling.vllm import VllmScheduler


class Steady(VllmScheduler):
    """Decides as `VllmScheduler` does, for a paged cache or a contiguous one.

    In a step of nothing but decodes, budget, seats and the order of the queue are what they will be
    in the next one; whom the budget leaves out stands behind all others, and stays there. What
    changes is the cache, and only for the worse: decodes take room. So a refused head stays
    refused, but for a prefix that is published meanwhile.

    Forks need no rule of their own. Whoever decodes has written into its last block, copied by
    then if it was shared, so its further steps copy nothing. Where beams may part the engine
    asks for no promise (`Branching.may_part`).
    """

    _group: Group
    """Who decoded in the step that was last promised to repeat, in a paged cache."""

    def stable_for(self, plan: Plan) -> tuple[int, int | None, bool]:
        if plan.chunks or plan.preempted:
            return ONE_STEP
        steps = 1
        if isinstance(self.kv, Contiguous):
            steps = _steps_in_pieces(self.kv, plan)
        elif isinstance(self.kv, Paged):
            self._group = group = _file(plan.decodes, self.kv)
            steps = min(group.steps_within(self.kv.pool.free), self._steps_refused(plan, group))
        may_lead = self.order.overtakes and plan.refused is not None
        return steps, None, plan.limit == Limit.NONE or may_lead

    def extend_by(self, plan: Plan, k: int) -> Takes:
        kv = self.kv
        if isinstance(kv, Contiguous):
            takes = _grow_pieces(kv, plan.decodes, k - 1)
        else:
            assert isinstance(kv, Paged)
            takes = _take_blocks(kv, self._group, k - 1)
        for sequence in plan.decodes:
            sequence.computed += k - 1
            sequence.generated += k - 1
        return takes

    def _steps_refused(self, plan: Plan, group: Group) -> int:
        """How often a head that finds no blocks will be refused again; see `FastVllm`, whose
        rules these are."""
        head, kv = plan.refused, self.kv
        if head is None or plan.limit == Limit.SEATS:
            return FOR_EVER
        if plan.limit != Limit.GATE or not self.limits.enable_chunked_prefill:
            return 1
        assert isinstance(kv, Paged)
        hit = kv.match(head)
        return group.steps_before_key(kv.key_after(head, hit), len(hit.blocks))


class SteadyStatic(Steady, StaticBatching):
    """Static batches. The step that closes one is labelled with what closed it, later ones are
    not."""

    def stable_for(self, plan: Plan) -> tuple[int, int | None, bool]:
        if not self._forming and (plan.limit, plan.refused) != (self._shut(), None):
            return ONE_STEP
        return super().stable_for(plan)


def _steps_in_pieces(kv: Contiguous, plan: Plan) -> int:
    """Until a sequence outgrows its piece and the hole above it, in which nobody else can grow.

    With a refused head, until one outgrows its piece: what is then free no longer tells
    whether scatter keeps the head out.
    """
    if plan.refused is not None:
        return 1 + min(kv.inside(sequence) for sequence in plan.decodes)
    return 1 + min(kv.inside(sequence) + kv.above(sequence) for sequence in plan.decodes)


def _grow_pieces(kv: Contiguous, decodes: Decodes, steps: int) -> Takes:
    """Make room for so many more tokens of each: a slot in each step after the last that a
    sequence has already."""
    inside = sorted(kv.inside(sequence) for sequence in decodes)
    if inside[0] >= steps:
        return NO_TAKES
    for sequence in decodes:
        grown = kv.grow(sequence, steps)
        assert grown, "a promised slot is not free"
    offsets = range(inside[0] + 1, steps + 1)
    slots = [bisect_left(inside, offset) for offset in offsets]
    return Takes(list(offsets), slots, [0] * len(slots))


def _file(decodes: Decodes, kv: Paged) -> Group:
    """The decodes, with the step just decided as number 0."""
    group = Group(kv.block_size)
    group.step = 0
    for sequence in decodes:
        group.join(sequence)
    return group


def _take_blocks(kv: Paged, group: Group, steps: int) -> Takes:
    takes = Takes([], [], [])
    for step in range(1, steps + 1):
        takers = group.takers(step)
        kv.extend(takers, group.fillers(step))
        if takers:
            takes.offsets.append(step)
            takes.blocks.append(len(takers))
            takes.idle_after.append(kv.idle_blocks)
    return takes
