"""Break one rule of vLLM's scheduler at a time: the recorded runs notice."""

from __future__ import annotations

from collections.abc import Sequence as Sequence_
from typing import Any

import pytest

import sim.scheduling.vllm as scheduling
from sim.kv.books import list_names
from sim.kv.cache import Hit
from sim.kv.cached import Cached
from sim.kv.names import Names
from sim.kv.node import Node, Part
from sim.kv.paged import Paged
from sim.kv.pool import Pool
from sim.kv.prefix import PrefixCached
from sim.kv.tangled import Lot, Tangle
from sim.plan import Departure, Limit, Plan
from sim.request import Sequence
from sim.scheduling.orders import Fcfs
from sim.scheduling.priority import Priority
from sim.scheduling.versions import VERSIONS
from sim.scheduling.versions import Rules as VersionRules
from sim.scheduling.vllm import VllmScheduler
from tests.broken_rules import Rules
from tests.shared import needs_shared

RULES = Rules()
rule = RULES.noticed_by


def other_rules(patch: pytest.MonkeyPatch, **changes: Any) -> None:
    patch.setitem(VERSIONS, "0.33", VersionRules(**changes))


# --- blocks


@rule("s3b_prefix_tight_preempt", "s8_same_block_other_prefix")
def every_freed_block_joins_the_tail(patch: pytest.MonkeyPatch) -> None:
    original = Pool.__init__

    def init(self: Pool, num_blocks: int, **_: Any) -> None:
        original(self, num_blocks, free_order="all_last")

    patch.setattr(Pool, "__init__", init)


@rule("s4c_priority_burst", "s8_same_block_other_prefix")
def unkeyed_blocks_join_the_tail_first(patch: pytest.MonkeyPatch) -> None:
    original = Pool.release

    def release(self: Pool, blocks: list[int], parts: Sequence_[Part] = ()) -> int:
        before = len(self._unkeyed)
        still_held = original(self, blocks, list(parts))
        self.cached.park_nameless(self._unkeyed[before:][::-1])
        del self._unkeyed[before:]
        return still_held

    patch.setattr(Pool, "release", release)


@rule("s3b_prefix_tight_preempt", "s8_same_block_other_prefix")
def blocks_are_freed_head_first(patch: pytest.MonkeyPatch) -> None:
    original = Pool.release

    def release(self: Pool, blocks: list[int], parts: Sequence_[Part] = ()) -> int:
        unkeyed, lots = len(self._unkeyed), len(self.cached.line)
        still_held = original(self, blocks, list(parts))
        self._unkeyed[unkeyed:] = self._unkeyed[unkeyed:][::-1]
        for lot in list(self.cached.line)[lots:][::-1]:
            self.cached.line.move_to_end(lot)
        return still_held

    patch.setattr(Pool, "release", release)


@rule("s3b_prefix_tight_preempt")
def the_newest_duplicate_wins(patch: pytest.MonkeyPatch) -> None:
    original = Cached.find

    def find(self: Cached, parts: list[Part]) -> tuple[list[int], int]:
        found, idle = original(self, parts)
        copies = [(node.entangle().copies, offset) for node, n in parts for offset in range(n)]
        newest = [
            of.get(offset, [block])[-1] for block, (of, offset) in zip(found, copies, strict=False)
        ]
        return newest, idle

    patch.setattr(Cached, "find", find)


@rule("s4b_priority_prefix")
def a_duplicate_gets_no_key(patch: pytest.MonkeyPatch) -> None:
    def release(self: Pool, blocks: list[int], parts: Sequence_[Part] = ()) -> int:
        named, held = list_names(self.cached), set(self._let_go(blocks))
        nameless = {block for block in blocks if block not in named}
        self._unkeyed += [block for block in blocks if block in nameless - held]
        for node, _ in parts:
            node.entangle()
        self.cached.park(blocks, list(parts), held | nameless)
        self.free += len(blocks) - len(held)
        self.given_back += len(blocks) - len(held)
        return len(held)

    patch.setattr(Tangle, "publish", lambda self, offset, blocks: None)
    patch.setattr(Pool, "release", release)


@rule("s7_bursts_same_instant", "s8_same_block_other_prefix")
def only_prompts_are_published(patch: pytest.MonkeyPatch) -> None:
    original = PrefixCached.grow

    def grow(self: PrefixCached, sequence: Sequence, n: int) -> bool:
        if (sequence.computed + n) // self.block_size > sequence.prompt_tokens // self.block_size:
            return Paged.grow(self, sequence, n)
        return original(self, sequence, n)

    patch.setattr(PrefixCached, "grow", grow)


@rule("s8_same_block_other_prefix")
def keys_name_the_block_and_not_its_prefix(patch: pytest.MonkeyPatch) -> None:
    original = Names.node

    def node(self: Names, stream: int, start: int, *before: int) -> Node:
        return original(self, stream, start, 0, 0, *before[2:])

    patch.setattr(Names, "node", node)


@rule("s3_prefix_chat", "s4b_priority_prefix")
def a_full_hit_leaves_nothing_to_compute(patch: pytest.MonkeyPatch) -> None:
    def match(self: PrefixCached, sequence: Sequence) -> Hit:
        parts = self._chain(sequence).leading(sequence.num_tokens // self.block_size)
        blocks, idle = self.pool.cached.find(parts)
        return Hit(blocks, len(blocks) * self.block_size, idle)

    patch.setattr(PrefixCached, "match", match)


@rule("s4c_priority_burst")
def victims_take_their_new_keys_with_them(patch: pytest.MonkeyPatch) -> None:
    original = Paged.release

    def release(self: Paged, sequence: Sequence) -> Departure:
        assert sequence.names is not None
        computed_blocks = sequence.computed // self.block_size
        for index in reversed(range(computed_blocks, sequence.published)):
            node, offset = sequence.names.name(index)
            block, lot = sequence.blocks[index], Lot(offset, [])
            node.entangle().waiting[block] = lot
            node.entangle().evict(lot, [block])
            if not node.blocks:
                self.pool.cached.nodes.discard(node)
        sequence.published = min(sequence.published, computed_blocks)
        return original(self, sequence)

    patch.setattr(Paged, "release", release)


# --- admission


@rule("s2b_tight_no_full_isl", "s4c_priority_burst")
def a_step_that_preempted_still_admits(patch: pytest.MonkeyPatch) -> None:
    original = VllmScheduler._admit_waiting

    def admit(self: VllmScheduler, plan: Plan, cap: int, budget: int) -> Limit:
        preempted, plan.preempted = plan.preempted, []
        limit = original(self, plan, cap, budget)
        plan.preempted = preempted
        return limit

    patch.setattr(VllmScheduler, "_admit_waiting", admit)


def change_limits(patch: pytest.MonkeyPatch, **changes: Any) -> None:
    original = VllmScheduler.__init__

    def init(self: VllmScheduler, **parts: Any) -> None:
        original(self, **parts)
        for name, value in changes.items():
            value = value(self.limits) if callable(value) else value
            object.__setattr__(self.limits, name, value)

    patch.setattr(VllmScheduler, "__init__", init)


@rule("s2_tight_preempt", "s3b_prefix_tight_preempt")
def no_gate_for_the_whole_sequence(patch: pytest.MonkeyPatch) -> None:
    change_limits(patch, scheduler_reserve_full_isl=False)


@rule("s2c_tight_watermark")
def the_watermark_is_ignored(patch: pytest.MonkeyPatch) -> None:
    change_limits(patch, watermark_blocks=0)


@rule("s5b_no_chunked_burst")
def prompts_are_cut_with_chunking_off(patch: pytest.MonkeyPatch) -> None:
    change_limits(patch, enable_chunked_prefill=True)


@rule("s7_bursts_same_instant")
def one_sequence_too_many(patch: pytest.MonkeyPatch) -> None:
    change_limits(patch, max_num_seqs=lambda limits: limits.max_num_seqs + 1)


@rule("s3b_prefix_tight_preempt")
def idle_hits_cost_nothing(patch: pytest.MonkeyPatch) -> None:
    original = Cached.find
    patch.setattr(Cached, "find", lambda self, parts: (original(self, parts)[0], 0))


@rule("s6_long_threshold")
def the_long_prefill_threshold_holds_for_a_lone_request(patch: pytest.MonkeyPatch) -> None:
    other_rules(patch, lone_request_exempt=False)


# --- preemption


@rule("s2_tight_preempt", "s6_long_threshold")
def a_preempted_request_goes_to_the_back(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Fcfs, "add_preempted", Fcfs.add)


@rule("s4c_priority_burst")
def among_equals_the_last_is_the_victim(patch: pytest.MonkeyPatch) -> None:
    def victim(self: Priority, running: list[Sequence]) -> int:
        keys = [(seq.priority, seq.arrival_ns, i) for i, seq in enumerate(running)]
        return max(keys)[-1]

    patch.setattr(Priority, "victim", victim)


@rule("s4_priority", "s4c_priority_burst")
def the_last_running_is_the_victim(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Priority, "victim", Fcfs.victim)


@rule("s4_priority", "s4c_priority_burst")
def a_self_preemption_ends_the_walk(patch: pytest.MonkeyPatch) -> None:
    other_rules(patch, self_preemption_stops=True)


@rule("s4d_priority_budget_return")
def a_victim_keeps_its_budget(patch: pytest.MonkeyPatch) -> None:
    original = scheduling._withdraw

    def withdraw(*args: Any) -> int:
        original(*args)
        return 0

    patch.setattr(scheduling, "_withdraw", withdraw)


@rule("s1_fcfs_ample", "s8_same_block_other_prefix")
def a_finished_prefill_gives_no_token(patch: pytest.MonkeyPatch) -> None:
    original = VllmScheduler.commit

    def commit(self: VllmScheduler, plan: Plan, ended: list[Sequence]) -> list[Departure]:
        completed = [
            sequence
            for sequence, _, _ in plan.chunks
            if sequence.computed == sequence.num_tokens and sequence not in ended
        ]
        departures = original(self, plan, ended)
        for sequence in completed:
            sequence.computed -= 1
            sequence.generated -= 1
        return departures

    patch.setattr(VllmScheduler, "commit", commit)


@needs_shared
@pytest.mark.parametrize("name", RULES)
def test_breaking_a_rule_is_noticed(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    RULES.check(name, monkeypatch)


def test_the_table_of_rules_is_complete() -> None:
    """All that docs/reference/vllm-rules.md lists, but the one that changes nothing."""
    assert len(RULES) == 22
