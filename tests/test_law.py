"""The law: the fast loop leaves behind exactly what the plain one does.

All tables, the memory integrals, every request's blocks at every admission, preemption and
finish, and the order of the free queue at the end. And it is a sharp law: bugs that one could
have are put back one at a time, and some world must notice each of them.
"""

from __future__ import annotations

import random
from bisect import bisect_right
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import sim.engine
import sim.fast.vllm
import sim.stuck
from sim.engine import Engine
from sim.fast.group import FOR_EVER, Group
from sim.fast.vllm import FastVllm
from sim.kv.node import Node
from sim.kv.tangled import Lot, Tangle
from sim.plan import Limit, Plan
from sim.request import Sequence
from sim.scheduling.orders import Fcfs
from sim.scheduling.priority import Priority
from tests.worlds import SmallWorld, differences, serve, small_world, tell_apart

FCFS_WORLDS = 1500
WORLDS = 2000
BATCHES = 24


def draw(seed: int) -> SmallWorld:
    """FCFS, and from FCFS_WORLDS on priority by the rules of 0.33: for those of older versions
    see tests/test_law_steady.py."""
    if seed < FCFS_WORLDS:
        return small_world(random.Random(seed), priority=False)
    return replace(small_world(random.Random(seed), priority=True), version="0.33")


@pytest.mark.parametrize("batch", range(BATCHES))
def test_fast_equals_plain(batch: int) -> None:
    """Worlds by seed, so that a failure names the world to look at."""
    for seed in range(batch, WORLDS, BATCHES):
        assert differences(draw(seed)) == [], f"world {seed}"


@pytest.mark.parametrize("seed", [760, 5631])
def test_a_run_is_the_same_twice(seed: int) -> None:
    """Also under rules of older versions, under which records once followed the order of a
    set."""
    assert differences(small_world(random.Random(seed), priority=True)) == []


@settings(max_examples=100, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.randoms(use_true_random=False))
def test_fast_equals_plain_in_drawn_worlds(rng: random.Random) -> None:
    """Worlds by Hypothesis, which shrinks what it finds."""
    assert differences(small_world(rng)) == []


def test_stretches_may_be_capped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sim.engine, "LONGEST_STRETCH", 3)
    for seed in range(100):
        assert differences(draw(seed)) == [], f"world {seed}"


def test_the_fast_loop_is_fast() -> None:
    """In these worlds a decision stands for more than two steps on average."""
    decisions = steps = 0
    for seed in range(60):
        for engine in serve(draw(seed), fast=True).engines:
            decisions += engine.decisions
            steps += engine.steps
    assert steps > 2 * decisions


# --- bugs put back

Break = Callable[[pytest.MonkeyPatch], None]
BUGS: list[Break] = []


def bug(break_it: Break) -> Break:
    BUGS.append(break_it)
    return break_it


@bug
def a_preemption_does_not_close_admission(patch: pytest.MonkeyPatch) -> None:
    original = FastVllm._admit_waiting

    def admit(self: FastVllm, plan: Plan, cap: int, budget: int) -> Limit:
        preempted, plan.preempted = plan.preempted, []
        limit = original(self, plan, cap, budget)
        plan.preempted = preempted
        return limit

    patch.setattr(FastVllm, "_admit_waiting", admit)


@bug
def a_step_that_preempted_repeats(
    patch: pytest.MonkeyPatch, scheduler: type[Any] = FastVllm
) -> None:
    original = scheduler.stable_for

    def stable_for(self: Any, plan: Plan) -> tuple[int, int | None, bool]:
        preempted, plan.preempted = plan.preempted, []
        promise = original(self, plan) if len(plan.decodes) else (1, None, True)
        plan.preempted = preempted
        return promise

    patch.setattr(scheduler, "stable_for", stable_for)


@bug
def a_stretch_runs_on_past_a_step_that_ends_at_an_arrival(patch: pytest.MonkeyPatch) -> None:
    def cut(self: Engine, stretch: Any, now_ns: int) -> None:
        steps = 1 + bisect_right(stretch.ends_ns, now_ns)
        if steps < len(stretch.ends_ns):
            del stretch.ends_ns[steps:]
            self._wait(stretch, now_ns)

    patch.setattr(Engine, "_cut", cut)


@bug
def arrivals_never_cut(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Engine, "_cut", lambda *_: None)


@bug
def fillers_are_one_step_off(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Group, "fillers", Group.takers)


@bug
def takers_are_one_step_off(patch: pytest.MonkeyPatch) -> None:
    original = Group.takers
    patch.setattr(Group, "takers", lambda self, step: original(self, step + 1))


@bug
def blocks_go_out_in_joining_order(patch: pytest.MonkeyPatch) -> None:
    original = Group.join

    def join(self: Group, sequence: Sequence) -> None:
        original(self, sequence)
        bucket = self._buckets[-self._base[sequence] % self._block_size]
        bucket.remove(sequence)
        bucket.append(sequence)

    patch.setattr(Group, "join", join)


@bug
def the_walk_is_in_joining_order(patch: pytest.MonkeyPatch) -> None:
    patch.setattr("sim.fast.vllm.ADMISSION", lambda sequence: -sequence.admission)


@bug
def one_step_too_many_before_blocks_run_out(patch: pytest.MonkeyPatch) -> None:
    original = Group.steps_within
    patch.setattr(Group, "steps_within", lambda self, free: original(self, free) + 1)


@bug
def one_step_too_many_before_an_answer_ends(patch: pytest.MonkeyPatch) -> None:
    original = sim.world.CalendarWorld.steps_left
    patch.setattr(
        sim.world.CalendarWorld, "steps_left", lambda self, plan: original(self, plan) + 1
    )


@bug
def a_refused_head_waits_for_its_need_to_be_free(patch: pytest.MonkeyPatch) -> None:
    """Retry when free >= need: but a hit that is evicted, computed anew and held by another
    lowers the need at the same free."""
    original = FastVllm._remember

    def remember(self: FastVllm, head: Sequence, hit: Any, spare: int) -> None:
        original(self, head, hit, spare)
        assert self._refusal is not None
        self._need = self.kv.blocks_for(head.num_tokens) - len(hit.blocks) + hit.idle + spare

    def still_refused(self: FastVllm, head: Sequence) -> bool:
        refusal, pool = self._refusal, self.kv.pool
        return (
            refusal is not None
            and refusal.head is head
            and bool(self._running)
            and self._need > pool.free
            and not pool.cached.has(refusal.missing)
        )

    patch.setattr(FastVllm, "_remember", remember)
    patch.setattr(FastVllm, "_still_refused", still_refused)


@bug
def a_refused_head_ignores_that_its_key_is_published(patch: pytest.MonkeyPatch) -> None:
    original = FastVllm._remember

    def remember(self: FastVllm, head: Sequence, hit: Any, spare: int) -> None:
        original(self, head, hit, spare)
        assert self._refusal is not None
        self._refusal.missing = None

    patch.setattr(FastVllm, "_remember", remember)


@bug
def the_watermark_outlives_the_running(patch: pytest.MonkeyPatch) -> None:
    def still_refused(self: FastVllm, head: Sequence) -> bool:
        refusal, pool = self._refusal, self.kv.pool
        return (
            refusal is not None
            and refusal.head is head
            and pool.given_back < refusal.given_back
            and not pool.cached.has(refusal.missing)
        )

    patch.setattr(FastVllm, "_still_refused", still_refused)


@bug
def a_refused_head_is_remembered_though_chunking_is_off(patch: pytest.MonkeyPatch) -> None:
    original = FastVllm._still_refused

    def still_refused(self: FastVllm, head: Sequence) -> bool:
        chunked = self.limits.enable_chunked_prefill
        object.__setattr__(self.limits, "enable_chunked_prefill", True)
        refused = original(self, head)
        object.__setattr__(self.limits, "enable_chunked_prefill", chunked)
        return refused

    patch.setattr(FastVllm, "_still_refused", still_refused)


@bug
def what_is_published_twice_keeps_one_block(patch: pytest.MonkeyPatch) -> None:
    def publish(self: Node, offset: int, blocks: list[int]) -> None:
        self.blocks[offset : offset + len(blocks)] = blocks

    patch.setattr(Node, "publish", publish)


@bug
def a_hit_leaves_its_idle_blocks_in_the_line(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Node, "wake", lambda self, n: (self.blocks[:n], []))


@bug
def what_others_hold_joins_the_line(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Node, "without", lambda self, blocks, held: blocks)


@bug
def a_copy_is_evicted_as_the_last_of_its_node(patch: pytest.MonkeyPatch) -> None:
    def evict(self: Tangle, lot: Lot, blocks: list[int]) -> list[int]:
        del self.found[-len(blocks) :]
        return blocks

    patch.setattr(Tangle, "evict", evict)


@bug
def a_tangled_node_is_taken_for_a_plain_one(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Tangle, "wake", lambda self, n: (self.found[:n], []))


@bug
def no_bound_by_publications(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Group, "steps_before_key", lambda *_: FOR_EVER)


@bug
def an_urgent_arrival_cuts_no_stretch(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Priority, "overtakes", False)


@bug
def a_victim_keeps_its_chunk(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(sim.fast.vllm, "_withdraw", lambda victim, plan: 0)


@bug
def the_last_of_the_running_gives_way(patch: pytest.MonkeyPatch) -> None:
    original = FastVllm._walk

    def walk(self: FastVllm, plan: Plan, cap: int) -> int:
        with pytest.MonkeyPatch.context() as within:
            within.setattr(type(self.order), "victim", Fcfs.victim)
            return original(self, plan, cap)

    patch.setattr(FastVllm, "_walk", walk)


@bug
def prefills_repeat(patch: pytest.MonkeyPatch, scheduler: type[Any] = FastVllm) -> None:
    original = scheduler.stable_for

    def stable_for(self: Any, plan: Plan) -> tuple[int, int | None, bool]:
        chunks, plan.chunks = plan.chunks, []
        promise = original(self, plan) if len(plan.decodes) else (1, None, True)
        plan.chunks = chunks
        return promise

    patch.setattr(scheduler, "stable_for", stable_for)


@pytest.mark.parametrize("break_it", BUGS, ids=lambda break_it: break_it.__name__)
def test_the_law_notices(break_it: Break, monkeypatch: pytest.MonkeyPatch) -> None:
    break_it(monkeypatch)
    monkeypatch.setattr(sim.stuck, "MOST_PREEMPTIONS", 200)
    # Those with priorities first: they notice most.
    assert tell_apart(map(draw, reversed(range(WORLDS)))), "no world noticed"
