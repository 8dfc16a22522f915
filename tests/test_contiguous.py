"""One piece of memory for each sequence: what is set aside, wasted, refused; static batches."""

from __future__ import annotations

import random
from collections.abc import Callable

import pytest

from sim.contract import check_kv_cache
from sim.kv.contiguous import Contiguous, Reserve, reserve_max, reserve_now
from sim.kv.space import Holes
from sim.plan import Limit
from sim.record.rows import Event
from sim.request import Request
from sim.scheduling.static import StaticBatching
from sim.scheduling.vllm import Limits
from sim.world import World
from tests.served import Frames, Server, ask, serve
from tests.worlds import RESERVES, SPACES, small_world


def contiguous(
    slots: int, *, reserve: str = "max_model_len", space: str = "first_fit", longest: int = 20
) -> Callable[[World], Contiguous]:
    return lambda world: Contiguous(SPACES[space](slots), reserve=RESERVES[reserve](world, longest))


def slots(frames: Frames, part: str) -> list[int]:
    """A part of the memory identity in the first step of each row."""
    return list(frames["memory"][f"{part}_first_slots"])


@pytest.mark.parametrize("space", SPACES)
@pytest.mark.parametrize("reserve", [reserve_max(120), reserve_now])
def test_contract(space: str, reserve: Reserve) -> None:
    for seed in range(3):
        check_kv_cache(lambda: Contiguous(SPACES[space](500), reserve=reserve), seed=seed)


@pytest.mark.parametrize("space", SPACES)
@pytest.mark.parametrize("reserve", RESERVES)
def test_every_slot_is_accounted_for_in_every_step(space: str, reserve: str) -> None:
    """Random worlds; the recorder recounts from the pieces in every step."""
    for seed in range(4):
        world = small_world(random.Random(seed))
        pool = 1 << (2 * world.max_model_len).bit_length()
        cache = contiguous(pool, reserve=reserve, space=space, longest=world.max_model_len)
        frames, _ = serve(world.requests, Server.of(world, cache=cache, check_every=1))
        assert sum(frames["memory"]["null_first_slots"]) == 0
        assert len(frames["requests"]) + len(frames["refused"]) == len(world.requests)


@pytest.mark.parametrize(
    ("reserve", "reserved", "internal"),
    # A prompt of 5 and an answer of 6: 10 tokens are ever computed, 5 of them at first.
    [("max_model_len", 5, 10), ("oracle_pow2", 5, 3), ("oracle_exact", 5, 1), ("prompt", 0, 0)],
)
def test_what_is_set_aside(reserve: str, reserved: int, internal: int) -> None:
    server = Server(cache=contiguous(100, reserve=reserve), max_model_len=20)
    frames, _ = serve([ask(0, prompt=5, output=6)], server)
    assert slots(frames, "used")[0] == 5
    assert slots(frames, "reserved")[0] == reserved
    assert slots(frames, "internal")[0] == internal
    assert slots(frames, "free")[0] == 100 - 5 - reserved - internal
    assert frames["memory"]["used_last_slots"].iloc[-1] == 10
    assert frames["memory"]["reserved_last_slots"].iloc[-1] == 0


def test_the_power_of_two_is_cut_at_max_model_len() -> None:
    server = Server(cache=contiguous(100, reserve="oracle_pow2", longest=12), max_model_len=12)
    frames, _ = serve([ask(0, prompt=5, output=6)], server)
    assert slots(frames, "internal")[0] == 2


def test_a_head_that_wants_more_than_is_free_is_not_fragmentation() -> None:
    kv = Contiguous(Holes(50, best=False), reserve=lambda _: 30)
    server = Server(cache=lambda _: kv, max_model_len=40)
    frames, _ = serve([ask(0, prompt=10), ask(1, prompt=10)], server)
    assert frames["requests"].set_index("id")["queue_memory_ns"]["r1"] > 0
    assert set(slots(frames, "external")) == {0}


def test_a_head_that_only_lacks_one_piece() -> None:
    """Pieces of 20, 20 and 20 in 60 slots; the outer ones end: 40 are free, none of 30."""
    requests = [
        ask(0, prompt=10, output=3),
        ask(1, prompt=10, output=9),
        ask(2, prompt=10, output=3),
        ask(3, at_ns=1, prompt=25, output=5),
    ]
    exact = {0: 20, 1: 20, 2: 20, 3: 30}
    kv = Contiguous(Holes(60, best=False), reserve=lambda sequence: exact[sequence.index])
    frames, _ = serve(requests, Server(cache=lambda _: kv, max_model_len=40))
    external = slots(frames, "external")
    assert set(external) == {0, 40}
    held_up = frames["steps"]["limit"][[at for at, each in enumerate(external) if each]]
    assert set(held_up) == {Limit.GATE}


def test_answers_without_room_die_in_decode_and_come_again() -> None:
    server = Server(cache=contiguous(30, reserve="prompt"), max_model_len=20)
    frames, _ = serve([ask(0, prompt=8, output=5), ask(1, prompt=8, output=5)], server)
    events = frames["events"]
    # The first one's next slot is the second one's first: the last of the running gives way.
    assert (events["event"] == Event.PREEMPT).sum() >= 1
    assert list(frames["requests"]["output_tokens"]) == [5, 5]


def test_a_static_batch_admits_nobody_until_its_last_answer() -> None:
    limits = Limits(max_num_seqs=2, max_num_batched_tokens=64)
    requests = [ask(0, output=3), ask(1, output=9), ask(2, output=1), ask(3, at_ns=1, output=2)]
    ends = {}
    for policy in (None, StaticBatching):
        server = Server(limits=limits, scheduler=policy)
        frames, _ = serve(requests, server)
        rows = frames["requests"].set_index("id")
        ends[policy] = rows["admit_ns"]["r2"], rows["finish_ns"]["r0"], rows["finish_ns"]["r1"]
    admitted, first_ends, _ = ends[None]
    assert admitted == first_ends
    admitted, _, last_ends = ends[StaticBatching]
    assert admitted == last_ends


def test_a_static_batch_may_take_several_steps_to_form() -> None:
    """Prompts of 10 tokens and a budget of 16: four of them form one batch, the fifth waits."""
    limits = Limits(max_num_seqs=4, max_num_batched_tokens=16)
    requests = [ask(index, prompt=10, output=6) for index in range(5)]
    frames, _ = serve(requests, Server(limits=limits, scheduler=StaticBatching))
    rows = frames["requests"].set_index("id")
    assert rows["admit_ns"]["r3"] < rows["finish_ns"].drop("r4").min()
    assert rows["admit_ns"]["r4"] == rows["finish_ns"].drop("r4").max()


def test_contiguous_sequences_share_nothing() -> None:
    kv = Contiguous(Holes(100, best=False), reserve=reserve_now)
    assert not hasattr(kv, "fork")
    twin = Request("a", 0, ((0, 0, 8),), 1, 1)
    server = Server(cache=lambda _: kv)
    frames, _ = serve([twin, Request("b", 0, ((0, 0, 8),), 1, 2)], server)
    assert list(frames["requests"]["hit_tokens"]) == [0, 0]
    assert slots(frames, "savings") == [0] * len(frames["memory"])
