"""Preemption by swapping: by hand, in worlds whose memory is really written, and under the law."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import HealthCheck, given, reject, settings
from hypothesis import strategies as st

import sim.executor
import sim.stuck
from experiments.conservation import check
from experiments.swapping import measure_swaps
from sim.executor import Simulated
from sim.fast.vllm import FastVllm
from sim.kv.cache import Hit
from sim.kv.swap import HostTier, Swapped
from sim.latency import Linear
from sim.moves import Swap
from sim.plan import Departure, Plan
from sim.record.rows import Event
from sim.request import Request, Sequence
from sim.scheduling.vllm import Limits, VllmScheduler
from sim.stuck import Livelocked
from tests.served import Frames, Server, ask, serve
from tests.test_forks import Written, watched
from tests.test_ttft_parts import parts_of, recorded
from tests.ttft_replay import recompute
from tests.worlds import SmallWorld, differences, several_answers, swapping, tell_apart
from tests.worlds import serve as serve_world

WORLDS = 240
BATCHES = 4


def draw(seed: int) -> SmallWorld:
    """By turns FCFS, priority, the priority of older versions, under which a plan may do nothing
    but swap, and static batches."""
    turn = seed % 4
    world = swapping(random.Random(seed), priority=turn in (1, 2))
    if turn == 2:
        return replace(world, version="0.32")
    return replace(world, static=True) if turn == 3 else world


@pytest.fixture(autouse=True)
def few_preemptions(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sim.stuck, "MOST_PREEMPTIONS", 300)


# --- by hand

SWAP_NS = 100
CLOCK = Linear(base_ns=1000, per_token_ns=10, per_context_token_ns=1, per_swapped_block_ns=SWAP_NS)


def tight(**more: Any) -> Server:
    """Five blocks of 4 tokens, and a clock under which a swapped block costs 100 ns."""
    options: dict[str, Any] = {
        "num_gpu_blocks": 6,
        "host_blocks": 10,
        "prefix_caching": False,
        "latency": CLOCK,
    }
    return Server(**(options | more))


class Swaps(Written):
    """Keeps the plans' swaps."""

    def __init__(self, scheduler: VllmScheduler) -> None:
        super().__init__(scheduler)
        self.swaps: list[tuple[int, Swap]] = []

    def ran(self, plan: Plan, *rest: Any) -> None:
        super().ran(plan, *rest)
        self.swaps += [(plan.step, swap) for swap in plan.swaps]


def swaps_of(requests: list[Request], server: Server) -> tuple[list[tuple[Any, ...]], Frames]:
    """(step, sequence, out, tokens, blocks, host blocks) of every swap."""
    made: list[Swaps] = []

    def watch(scheduler: VllmScheduler) -> Swaps:
        made.append(Swaps(scheduler))
        return made[-1]

    frames, context = serve(requests, replace(server, watch=watch, check_every=1))
    check(frames, context)
    return [(step, swap[0].index, *swap[1:]) for step, swap in made[0].swaps], frames


TWO = [ask(0, prompt=7, output=8), ask(1, prompt=7, output=4)]
"""They hold blocks 1, 2 and 3, 4; after a decode each needs a third block, and there are five."""


def test_a_decode_is_swapped_out_and_in() -> None:
    """Step 2 takes block 5 for the first request and none is left for the second, which has 8
    tokens in two blocks. It is back when the first one has ended, and computes one token."""
    swaps, frames = swaps_of(TWO, tight())
    assert swaps == [
        (2, 1, True, 8, [3, 4], [0, 1]),
        (8, 1, False, 8, swaps[1][4], [0, 1]),
    ]
    chunks = frames["chunks"][frames["chunks"]["request"] == 1]
    assert chunks[["step", "computed_before", "tokens"]].to_numpy().tolist() == [
        [0, 0, 7],
        [8, 8, 1],
    ]
    events = frames["events"][frames["events"]["request"] == 1]
    assert events[["step", "event", "tokens"]].to_numpy().tolist() == [
        [0, Event.ADMIT, 0],
        [2, Event.PREEMPT, 8],
        [2, Event.SWAP_OUT, 8],
        [8, Event.RESUME, 0],
        [8, Event.SWAP_IN, 8],
        [9, Event.FINISH, 4],
    ]


def test_swaps_are_paid_in_the_step_that_begins_with_them() -> None:
    """Step 2 decodes one token at context 9 and swaps two blocks out; step 8 computes one token
    at context 9 and swaps them in."""
    _, frames = swaps_of(TWO, tight())
    ends = frames["step_ends"]["end_ns"].tolist()
    assert ends[2] - ends[1] == 1000 + 10 + 9 + 2 * SWAP_NS
    assert ends[3] - ends[2] == 1000 + 10 + 10
    assert ends[8] - ends[7] == 1000 + 10 + 9 + 2 * SWAP_NS
    assert ends[9] - ends[8] == 1000 + 10 + 10
    steps = frames["steps"][frames["steps"]["swap_ns"] > 0]
    columns = ["first_step", "swapped_out_blocks", "swapped_in_blocks", "swap_ns", "host_blocks"]
    assert steps[columns].to_numpy().tolist() == [[2, 2, 0, 200, 2], [8, 0, 2, 200, 0]]


def test_a_way_back_for_nothing_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    def count(swaps: list[Swap]) -> tuple[int, int]:
        return sum(len(swap.blocks) for swap in swaps if swap.out), 0

    monkeypatch.setattr(sim.executor, "count_swapped", count)
    with pytest.raises(AssertionError):
        test_swaps_are_paid_in_the_step_that_begins_with_them()


def test_summary() -> None:
    _, frames = swaps_of(TWO, tight())
    told = measure_swaps(
        frames, {"num_gpu_blocks": 6, "block_size": 4, "num_cpu_blocks": 10, "block_bytes": 1000}
    )
    assert told is not None
    busy_ns = int(frames["step_ends"]["end_ns"].max())
    away_ns = int(frames["step_ends"]["end_ns"][7] - frames["step_ends"]["end_ns"][1])
    assert told == {
        "swapped": 1,
        "recomputed": 0,
        "resumed_from_host": 1,
        "out_blocks": 2,
        "in_blocks": 2,
        "out_bytes": 2000,
        "in_bytes": 2000,
        "copy_ms": 4 * SWAP_NS / 1e6,
        "share_of_busy_time": 4 * SWAP_NS / busy_ns,
        "num_cpu_blocks": 10,
        "host_used_share": 2 * away_ns / (10 * busy_ns),
        "host_peak_blocks": 2,
    }
    assert measure_swaps(frames, {"num_gpu_blocks": 6, "block_size": 4}) is None


@pytest.mark.parametrize("host_blocks", [0, 1])
def test_without_room_in_the_host_a_victim_is_recomputed(host_blocks: int) -> None:
    """Not half of it either: two blocks are wanted."""
    swaps, frames = swaps_of(TWO, tight(host_blocks=host_blocks))
    assert swaps == []
    assert frames["chunks"]["tokens"].tolist() == [7, 7, 9]
    again, _ = serve(TWO, tight(host_blocks=None))
    assert frames["step_ends"].equals(again["step_ends"])
    told = measure_swaps(frames, {"num_gpu_blocks": 6, "block_size": 4, "num_cpu_blocks": 1})
    assert told is not None
    assert (told["swapped"], told["recomputed"]) == (0, 1)


def test_blocks_found_on_the_device_do_not_come_back_from_the_host() -> None:
    """With prefix caching the victim's blocks 3 and 4 are full and keyed. The first request takes
    one more block at step 6, the last keyed one of the victim; the other is found again."""
    swaps, frames = swaps_of(TWO, tight(prefix_caching=True))
    assert [(step, out, tokens) for step, _, out, tokens, *_ in swaps] == [
        (2, True, 8),
        (8, False, 4),
    ]
    events = frames["events"]
    assert events["tokens"][events["event"] == Event.RESUME].tolist() == [4]
    assert swaps[1][5] == [1], "the second host block alone"


def test_a_prefill_that_is_swapped_computes_nothing_again() -> None:
    """The world of the test of the same name in tests/test_ttft_parts.py, where the prefill that
    gives way has 16 of 20 tokens; here it has them again when it is back, after one step."""
    limits = Limits(max_num_seqs=4, max_num_batched_tokens=4, scheduler_reserve_full_isl=False)
    server = tight(num_gpu_blocks=7, limits=limits)
    requests = [ask(0, prompt=3, output=8), ask(1, prompt=20, output=2)]
    swaps, frames = swaps_of(requests, server)
    assert [(out, tokens) for _, _, out, tokens, *_ in swaps] == [(True, 16), (False, 16)]
    parts = parts_of(frames, 1)
    assert parts["transfer"] == 2 * 4 * SWAP_NS
    assert parts["own"] == 6211 + 1000 + 4 * 10 + 20, "the last four tokens, once"
    chunks = frames["chunks"][frames["chunks"]["request"] == 1]
    assert chunks["tokens"].sum() == 20
    left_ns = frames["step_ends"]["end_ns"].tolist()
    out_step, in_step = (step for step, *_ in swaps)
    away_ns = left_ns[in_step - 1] - left_ns[out_step - 1]
    assert parts["preemption"] == away_ns - 4 * SWAP_NS


def test_a_copy_of_others_is_interference() -> None:
    """The third request waits behind the second one; both are admitted in step 8, which computes
    1 + 2 tokens at contexts 9 + 2 and swaps two blocks in, 1,022 ns of which are its own."""
    swaps, frames = swaps_of([*TWO, ask(2, at_ns=2500, prompt=2, output=1)], tight())
    assert [step for step, *_ in swaps] == [2, 8]
    parts = parts_of(frames, 2)
    assert (parts["own"], parts["interference"]) == (1022, 1000 + 30 + 11 + 2 * SWAP_NS - 1022)
    assert "transfer" not in parts


# --- the host tier


def test_host_blocks_go_out_in_order_and_come_back() -> None:
    host = HostTier(5)
    a, b, c = (Sequence.of(ask(i), index=i) for i in range(3))
    assert host.keep(a, blocks=2, tokens=7) == [0, 1]
    assert host.keep(b, blocks=2, tokens=5) == [2, 3]
    assert host.keep(c, blocks=2, tokens=5) is None
    assert (host.used, host.tokens(a), host.tokens(c)) == (4, 7, 0)
    assert host.free(a) == [0, 1]
    assert host.keep(c, blocks=3, tokens=12) == [0, 1, 4]
    host.check()
    with pytest.raises(KeyError):
        host.free(a)
    host._free.append(4)
    with pytest.raises(AssertionError, match="a host block was lost"):
        host.check()


def test_who_is_let_go_before_growing_leaves_nothing_in_the_host() -> None:
    cache = Swapped(6, block_size=4, host=HostTier(9))
    sequence = Sequence.of(ask(0, prompt=10), index=0)
    cache.admit(sequence, cache.match(sequence))
    assert cache.grow(sequence, 10)
    sequence.computed = 10
    cache.preempt(sequence)
    sequence.computed = 0
    hit = cache.match(sequence)
    assert (hit.tokens, hit.host_tokens, cache.host.used) == (10, 10, 3)
    cache.admit(sequence, hit)
    cache.release(sequence)
    assert cache.host.used == 0
    cache.check()


def test_host_blocks_that_nobody_takes_cost_nothing() -> None:
    host, sequence = HostTier(10**15), Sequence.of(ask(0), index=0)
    assert host.keep(sequence, blocks=3, tokens=9) == [0, 1, 2]
    assert host.used == 3
    host.check()


# --- worlds


def server_of(world: SmallWorld) -> Server:
    return replace(Server.of(world), replicas=1)


def test_tokens_are_read_back_and_parts_recomputed() -> None:
    """What happens there at all is counted, so that the worlds cannot become harmless."""
    happened: Counter[str] = Counter()
    for seed in (*range(24), 34, 54):
        world = draw(seed)
        _, frames = watched(world.requests, server_of(world))
        if not len(frames["requests"]):
            continue
        assert recorded(frames) == recompute(frames, server_of(world)), seed
        events, steps = frames["events"]["event"], frames["steps"]
        swapped = int((events == Event.SWAP_OUT).sum())
        happened["swapped"] += swapped
        happened["recomputed"] += int((events == Event.PREEMPT).sum()) - swapped
        happened["in"] += int((events == Event.SWAP_IN).sum())
        happened["all found on the device"] += swapped - int((events == Event.SWAP_IN).sum())
        happened["transfer"] += int((frames["requests"]["transfer_ns"] > 0).sum())
        idle = (steps["decodes"] + steps["chunks"] == 0) & (steps["swapped_out_blocks"] > 0)
        happened["nothing but swaps"] += int(idle.sum())
    assert all(happened[each] for each in happened), happened
    assert len(happened) == 6
    assert min(happened["swapped"], happened["recomputed"], happened["in"]) > 10, happened


def test_branches_are_swapped_once_they_share_nothing() -> None:
    """Configs refuse it; a cache recomputes who may share its last block, and keeps the others."""
    happened: Counter[str] = Counter()
    for seed in range(16):
        world = several_answers(random.Random(seed), forks=True)
        need = -(-world.max_model_len // world.block_size)
        limits = replace(world.limits, max_num_seqs=max(8, world.limits.max_num_seqs))
        world = replace(world, limits=limits, num_blocks=1 + need + seed % 3, host_blocks=9 * need)
        assert differences(world) == [], seed
        _, frames = watched(world.requests, server_of(world))
        if not len(frames["requests"]):
            continue
        assert recorded(frames) == recompute(frames, server_of(world)), seed
        events = frames["events"][frames["events"]["branch"] > 0]["event"]
        happened["preempted"] += int((events == Event.PREEMPT).sum())
        happened["swapped"] += int((events == Event.SWAP_OUT).sum())
    assert happened["preempted"] > happened["swapped"] > 5, happened


@pytest.mark.parametrize("batch", range(BATCHES))
def test_fast_equals_plain(batch: int) -> None:
    for seed in range(batch, WORLDS, BATCHES):
        assert differences(draw(seed)) == [], f"world {seed}"


@settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.integers(WORLDS, 1 << 32))
def test_fast_equals_plain_in_drawn_worlds(seed: int) -> None:
    try:
        plain = serve_world(draw(seed), check_every=50).content()
    except Livelocked:
        reject()  # small prompts may preempt each other for ever, as in tests/test_law_steady.py
    assert serve_world(draw(seed), fast=True, check_every=7).content() == plain


def test_steps_after_a_swap_repeat() -> None:
    """A decision stands for more than one step on average, also where sequences are swapped."""
    engines = [
        engine for seed in range(0, 60, 3) for engine in serve_world(draw(seed), fast=True).engines
    ]
    assert sum(each.steps for each in engines) > 1.5 * sum(each.decisions for each in engines)


# --- bugs put back

Break = Callable[[pytest.MonkeyPatch], None]


def bugs() -> dict[str, Break]:
    """In what both loops use: memory that is written, the books or the parts notice."""

    def host_blocks_are_not_freed(patch: pytest.MonkeyPatch) -> None:
        def free(self: HostTier, sequence: Sequence) -> list[int]:
            return self._held.pop(sequence)[0]

        patch.setattr(HostTier, "free", free)

    def what_was_computed_is_forgotten(patch: pytest.MonkeyPatch) -> None:
        patch.setattr(Swapped, "match", lambda self, sequence: super(Swapped, self).match(sequence))

    def hits_count_twice(patch: pytest.MonkeyPatch) -> None:
        def match(self: Swapped, sequence: Sequence) -> Hit:
            hit = super(Swapped, self).match(sequence)
            host = self.host.tokens(sequence)
            return hit._replace(tokens=hit.tokens + host, host_tokens=host)

        patch.setattr(Swapped, "match", match)

    def a_block_that_is_not_computed_is_swapped_out(patch: pytest.MonkeyPatch) -> None:
        patch.setattr(Swapped, "blocks_for", lambda self, tokens: 1 + -(-tokens // self.block_size))

    def the_last_block_is_left_behind(patch: pytest.MonkeyPatch) -> None:
        original = HostTier.keep

        def keep(self: HostTier, sequence: Sequence, *, blocks: int, tokens: int) -> Any:
            return original(self, sequence, blocks=max(1, blocks - 1), tokens=tokens)

        patch.setattr(HostTier, "keep", keep)

    def the_way_back_is_forgotten(patch: pytest.MonkeyPatch) -> None:
        def take_swaps(self: Swapped) -> tuple[Swap, ...]:
            swaps, self._swaps = self._swaps, []
            return tuple(swap for swap in swaps if swap.out)

        patch.setattr(Swapped, "take_swaps", take_swaps)

    def blocks_come_back_in_reverse(patch: pytest.MonkeyPatch) -> None:
        def take_swaps(self: Swapped) -> tuple[Swap, ...]:
            swaps, self._swaps = self._swaps, []
            return tuple(swap._replace(host_blocks=swap.host_blocks[::-1]) for swap in swaps)

        patch.setattr(Swapped, "take_swaps", take_swaps)

    def blocks_in_the_cache_come_back_once_more(patch: pytest.MonkeyPatch) -> None:
        original = HostTier.free

        def free(self: HostTier, sequence: Sequence) -> list[int]:
            blocks = original(self, sequence)
            return blocks + blocks[:1]

        patch.setattr(HostTier, "free", free)

    def host_blocks_are_free_while_they_are_held(patch: pytest.MonkeyPatch) -> None:
        original = HostTier.keep

        def keep(self: HostTier, sequence: Sequence, *, blocks: int, tokens: int) -> Any:
            kept = original(self, sequence, blocks=blocks, tokens=tokens)
            self._free += kept or []
            return kept

        patch.setattr(HostTier, "keep", keep)

    return {bug.__name__: bug for bug in locals().values() if callable(bug)}


@pytest.mark.parametrize("bug", bugs().values(), ids=bugs())
def test_a_bug_is_noticed(bug: Break, monkeypatch: pytest.MonkeyPatch) -> None:
    bug(monkeypatch)
    for seed in range(WORLDS):
        server, world = server_of(draw(seed)), draw(seed)
        try:
            _, frames = watched(world.requests, server)
            if len(frames["requests"]):
                assert recorded(frames) == recompute(frames, server)
        except (AssertionError, IndexError, KeyError, ValueError, RuntimeError):
            return
    pytest.fail("no world noticed")


def fast_bugs() -> dict[str, Break]:
    """In the fast loop, or in what is promised to it: the law notices."""

    def the_fast_loop_recomputes(patch: pytest.MonkeyPatch) -> None:
        original = FastVllm._preempt

        def preempt(self: FastVllm, victim: Sequence) -> Departure:
            with pytest.MonkeyPatch.context() as within:
                within.setattr(Swapped, "preempt", Swapped.release)
                return original(self, victim)

        patch.setattr(FastVllm, "_preempt", preempt)

    def the_fast_loop_forgets_swaps(patch: pytest.MonkeyPatch) -> None:
        original = FastVllm.schedule

        def schedule(self: FastVllm, now_ns: int) -> Plan:
            plan = original(self, now_ns)
            plan.swaps = ()
            return plan

        patch.setattr(FastVllm, "schedule", schedule)

    def a_decode_is_swapped_with_the_token_of_this_step(patch: pytest.MonkeyPatch) -> None:
        original = FastVllm._preempt

        def preempt(self: FastVllm, victim: Sequence) -> Departure:
            decodes = victim in self.group
            if decodes:
                self.group.withdraw(victim, in_step=False)
                victim.computed += 1
            with pytest.MonkeyPatch.context() as within:
                if decodes:
                    within.setattr(self.group, "withdraw", lambda *_, **__: True)
                return original(self, victim)

        patch.setattr(FastVllm, "_preempt", preempt)

    def what_came_from_the_host_counts_as_a_hit(patch: pytest.MonkeyPatch) -> None:
        original = FastVllm.schedule

        def schedule(self: FastVllm, now_ns: int) -> Plan:
            plan = original(self, now_ns)
            back = {swap.sequence: swap.tokens for swap in plan.swaps if not swap.out}
            plan.admitted = [
                each._replace(hit_tokens=each.hit_tokens + back.get(each.sequence, 0))
                for each in plan.admitted
            ]
            return plan

        patch.setattr(FastVllm, "schedule", schedule)

    def every_step_of_a_stretch_pays(patch: pytest.MonkeyPatch) -> None:
        """And a step that preempted repeats, or else there would be no such stretch."""
        original, stable_for = Simulated.run, FastVllm.stable_for

        def run(self: Simulated, plan: Plan, k: int) -> list[int]:
            first, *rest = original(self, plan, k)
            swap_ns = first - original(self, replace(plan, swaps=[]), 1)[0] if rest else 0
            return [first, *(ns + swap_ns for ns in rest)]

        def promise(self: FastVllm, plan: Plan) -> Any:
            return stable_for(self, replace(plan, preempted=[]) if len(plan.decodes) else plan)

        patch.setattr(Simulated, "run", run)
        patch.setattr(FastVllm, "stable_for", promise)

    return {bug.__name__: bug for bug in locals().values() if callable(bug)}


@pytest.mark.parametrize("bug", fast_bugs().values(), ids=fast_bugs())
def test_the_law_notices(bug: Break, monkeypatch: pytest.MonkeyPatch) -> None:
    bug(monkeypatch)
    assert tell_apart(map(draw, range(WORLDS))), "no world noticed"


def test_another_cache_that_swaps_is_recounted_but_for_its_host(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("sim.record.recorder.Swapped", type("NoneOfOurs", (), {}))
    for seed in range(20):
        serve_world(draw(seed))
