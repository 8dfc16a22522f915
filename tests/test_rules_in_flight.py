"""Break one rule of batches in flight at a time: the recorded runs notice."""

from __future__ import annotations

from typing import Any

import pytest

from sim.engine import Engine
from sim.flight import Flight
from sim.kv.prefix import PrefixCached
from sim.plan import Departure, Plan
from sim.request import Sequence
from sim.scheduling.in_flight import BatchesInFlight
from sim.scheduling.vllm import VllmScheduler
from sim.world import World
from tests.broken_rules import Rules
from tests.shared import needs_shared

RULES = Rules()
rule = RULES.noticed_by


@rule("a6_async_bursts", "b1_pp2_sync", "b3_pp2_async")
def the_queue_has_one_more_place(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Flight, "is_full", lambda self: len(self) == self.depth + 1)


@rule("b3_pp2_async")
def an_empty_batch_makes_the_engine_wait(patch: pytest.MonkeyPatch) -> None:
    def is_full(self: Flight) -> bool:
        return len(self) == self.depth or self[-1].plan.is_empty

    patch.setattr(Flight, "is_full", is_full)


@rule("a6_async_bursts", "b3_pp2_async")
def nobody_is_told_what_finished(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(BatchesInFlight, "has_work", VllmScheduler.has_work)


@rule("a6_async_bursts", "b3_pp2_async")
def the_engine_never_sleeps(patch: pytest.MonkeyPatch) -> None:
    original = Engine.__init__

    def init(self: Engine, *args: Any, **options: Any) -> None:
        original(self, *args, **(options | {"empty_step_sleep_ns": 0}))

    patch.setattr(Engine, "__init__", init)


@rule("a6_async_bursts", "a5_async_long_prompts")
def the_last_token_is_not_foreseen(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(BatchesInFlight, "_most_tokens", lambda self, sequence: self._max_model_len)


@rule("a1b_async_nosleep", "a3_async_chat")
def stop_tokens_are_foreseen(patch: pytest.MonkeyPatch) -> None:
    """So that no row is wasted."""
    original = World.expect

    def expect(self: World, sequence: Sequence, output_tokens: int) -> int:
        sequence.max_tokens = output_tokens
        return original(self, sequence, output_tokens)

    patch.setattr(World, "expect", expect)


@rule("a2_async_tight", "b2_pp4_sync_tight")
def stale_tokens_are_thrown_away(patch: pytest.MonkeyPatch) -> None:
    original = BatchesInFlight.commit

    def commit(self: BatchesInFlight, plan: Plan, ended: list[Sequence]) -> list[Departure]:
        stale = [s for s in (*plan.completing, *plan.decodes) if self._is_stale(s)]  # type: ignore[attr-defined]
        departures = original(self, plan, ended)
        for sequence in stale:
            sequence.generated -= 1
        return departures

    def is_stale(self: BatchesInFlight, sequence: Sequence) -> bool:
        flight = self._flights.get(sequence)
        return flight is not None and flight.stale > 0

    patch.setattr(BatchesInFlight, "_is_stale", is_stale, raising=False)
    patch.setattr(BatchesInFlight, "commit", commit)


@rule("b2_pp4_sync_tight", "b3_pp2_async")
def who_waits_for_stale_tokens_blocks_the_queue(patch: pytest.MonkeyPatch) -> None:
    def head(self: BatchesInFlight) -> Sequence | None:
        first = self.order.head()
        return None if first is None or self._flights[first].stale else first

    patch.setattr(BatchesInFlight, "_head", head)


@rule("b2_pp4_sync_tight", "b3_pp2_async")
def nobody_waits_for_stale_tokens(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(BatchesInFlight, "_head", VllmScheduler._head)


@rule("a3_async_chat")
def answers_are_published_unseen(patch: pytest.MonkeyPatch) -> None:
    original = PrefixCached.grow

    def grow(self: PrefixCached, sequence: Sequence, n: int) -> bool:
        grown = original(self, sequence, n)
        if grown:
            self.publish(sequence, sequence.computed + n)
        return grown

    patch.setattr(PrefixCached, "grow", grow)


@rule("a3_async_chat")
def answers_are_never_published(patch: pytest.MonkeyPatch) -> None:
    original = BatchesInFlight.commit

    def commit(self: BatchesInFlight, plan: Plan, ended: list[Sequence]) -> list[Departure]:
        with pytest.MonkeyPatch.context() as inner:
            inner.setattr(type(self.kv), "publish", lambda *_: None)
            return original(self, plan, ended)

    patch.setattr(BatchesInFlight, "commit", commit)


@rule("b1_pp2_sync", "b2_pp4_sync_tight", "b3_pp2_async")
def stages_do_not_overlap(patch: pytest.MonkeyPatch) -> None:
    original = Flight.send

    def send(self: Flight, plan: Plan, now_ns: int, duration_ns: int) -> None:
        busy_until_ns = self[-1].ends_ns[-1] if self else now_ns
        original(self, plan, max(now_ns, busy_until_ns), duration_ns)

    patch.setattr(Flight, "send", send)


@rule("b3_pp2_async")
def decodes_rest_for_no_call(patch: pytest.MonkeyPatch) -> None:
    original = BatchesInFlight.__init__

    def init(self: BatchesInFlight, **options: Any) -> None:
        original(self, **(options | {"stages": 1}))

    patch.setattr(BatchesInFlight, "__init__", init)


@rule("b2_pp4_sync_tight")
def tokens_are_built_on_before_they_are_there(patch: pytest.MonkeyPatch) -> None:
    """Placeholders without asynchronous scheduling."""
    original = BatchesInFlight.__init__

    def init(self: BatchesInFlight, **options: Any) -> None:
        original(self, **(options | {"asynchronous": True, "stages": 1}))

    patch.setattr(BatchesInFlight, "__init__", init)


@needs_shared
@pytest.mark.parametrize("name", RULES)
def test_breaking_a_rule_is_noticed(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    RULES.check(name, monkeypatch)


def test_the_table_of_rules_is_complete() -> None:
    """All that docs/reference/vllm-rules.md lists."""
    assert len(RULES) == 14
