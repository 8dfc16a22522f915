"""Break one rule of vLLM's scheduler at a time: the recorded runs notice."""

from __future__ import annotations

from typing import Any

import pytest

import sim.scheduling.vllm as scheduling
from sim.kv.cache import Hit
from sim.kv.names import Chain
from sim.kv.paged import Paged
from sim.kv.pool import Pool
from sim.kv.prefix import PrefixCached
from sim.plan import Departure, Limit, Plan
from sim.request import Sequence
from sim.scheduling.orders import Fcfs, Priority
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

    def release(self: Pool, blocks: list[int], *, keyed: int) -> int:
        before = len(self._unkeyed)
        still_held = original(self, blocks, keyed=keyed)
        self._append_to_ring(self._unkeyed[before:][::-1])
        del self._unkeyed[before:]
        return still_held

    patch.setattr(Pool, "release", release)


@rule("s3b_prefix_tight_preempt", "s8_same_block_other_prefix")
def blocks_are_freed_head_first(patch: pytest.MonkeyPatch) -> None:
    def release(self: Pool, blocks: list[int], *, keyed: int) -> int:
        left = [block for block in blocks if not self._let_go(block)]
        self._unkeyed += [block for block in left if self._key[block] is None][::-1]
        cached = [block for block in left if self._key[block] is not None]
        self._append_to_ring(cached)
        self.idle_cached += len(cached)
        self.free += len(left)
        self.given_back += len(left)
        return len(blocks) - len(left)

    patch.setattr(Pool, "release", release)


@rule("s3b_prefix_tight_preempt")
def the_newest_duplicate_wins(patch: pytest.MonkeyPatch) -> None:
    original = Pool.lookup

    def lookup(self: Pool, keys: list[int]) -> list[int]:
        found = original(self, keys)
        newest = (self._duplicates.get(key, [block]) for key, block in zip(keys, found))  # noqa: B905
        return [blocks[-1] for blocks in newest]

    patch.setattr(Pool, "lookup", lookup)


@rule("s4b_priority_prefix")
def a_duplicate_gets_no_key(patch: pytest.MonkeyPatch) -> None:
    original = Pool.publish

    def publish(self: Pool, blocks: list[int], keys: list[int]) -> None:
        new = [(b, k) for b, k in zip(blocks, keys, strict=True) if not self.has(k)]
        original(self, [b for b, _ in new], [k for _, k in new])

    def release(self: Pool, blocks: list[int], *, keyed: int) -> int:
        left = [block for block in blocks if not self._let_go(block)]
        self._unkeyed += [block for block in left if self._key[block] is None]
        cached = [block for block in left if self._key[block] is not None][::-1]
        self._append_to_ring(cached)
        self.idle_cached += len(cached)
        self.free += len(left)
        self.given_back += len(left)
        return len(blocks) - len(left)

    patch.setattr(Pool, "publish", publish)
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
    contents: dict[Any, int] = {}

    def upto(self: Chain, blocks: int) -> list[int]:
        size = self._source.block_size
        keys = []
        for block in range(blocks):
            tokens, skip = [], block * size
            for stream, start, length in self._runs:
                inside = range(max(0, skip), min(length, skip + size))
                tokens += [(stream, start + offset) for offset in inside]
                skip -= length
            keys.append(contents.setdefault(tuple(tokens), len(contents) + 1))
        return keys

    patch.setattr(Chain, "upto", upto)


@rule("s3_prefix_chat", "s4b_priority_prefix")
def a_full_hit_leaves_nothing_to_compute(patch: pytest.MonkeyPatch) -> None:
    def match(self: PrefixCached, sequence: Sequence) -> Hit:
        blocks = self.pool.lookup(self._keys(sequence, 0, sequence.num_tokens // self.block_size))
        return Hit(blocks, len(blocks) * self.block_size, self.pool.idle(blocks))

    patch.setattr(PrefixCached, "match", match)


@rule("s4c_priority_burst")
def victims_take_their_new_keys_with_them(patch: pytest.MonkeyPatch) -> None:
    original = Paged.release

    def release(self: Paged, sequence: Sequence) -> Departure:
        computed_blocks = sequence.computed // self.block_size
        for block in sequence.blocks[computed_blocks : sequence.published]:
            self.pool.idle_cached += 1
            self.pool._evict([block])
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
    patch.setattr(Pool, "idle", lambda self, blocks: 0)


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
