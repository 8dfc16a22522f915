"""Batches in flight: by hand, and recounted in random worlds."""

from __future__ import annotations

import random
from typing import Any

import pytest

from experiments.metrics import check, summarize
from sim.kv.paged import Paged
from sim.kv.swap import HostTier, Swapped
from sim.latency import Linear
from sim.request import Sequence
from sim.scheduling.in_flight import BatchesInFlight
from sim.scheduling.orders import Fcfs
from sim.scheduling.vllm import Limits
from tests.served import Frames, Server, ask, serve
from tests.worlds import in_flight
from tests.worlds import serve as serve_world

WORLDS = 240
BATCHES = 8
HUNDRED = Linear(base_ns=100, per_token_ns=0, per_context_token_ns=0)


@pytest.mark.parametrize("batch", range(BATCHES))
def test_the_books_balance_in_every_step(batch: int) -> None:
    """Two to four batches in flight, stop tokens, preemptions: every pool recounted in each
    step, every table checked against the others."""
    for seed in range(batch, WORLDS, BATCHES):
        world = in_flight(random.Random(seed))
        frames, context = serve(world.requests, Server.of(world, check_every=1))
        if len(frames["requests"]):
            check(frames, context)
            summarize(frames, context)


def test_worlds_hold_what_is_rare() -> None:
    """Preemptions with tokens in flight that turn out to be the last, and wasted rows."""
    ended_waiting = wasted = decided_ahead = 0
    for seed in range(100):
        outcome = serve_world(in_flight(random.Random(seed)), check_every=1000)
        requests, steps = outcome.records.arrays("requests"), outcome.records.arrays("steps")
        events = outcome.records.arrays("events")
        resumed = int((events["event"] == 1).sum())
        ended_waiting += int(requests["preemptions"].sum()) - resumed
        wasted += int(steps["wasted"].sum())
        decided_ahead += int((steps["planned_ns"] < steps["start_ns"]).sum())
    assert ended_waiting > 5
    assert wasted > 500
    assert decided_ahead > 5_000


def run(requests: list[Any], **options: Any) -> Frames:
    options = {"latency": HUNDRED, "check_every": 1, "sleep_ns": 10} | options
    frames, context = serve(requests, Server(**options))
    check(frames, context)
    return frames


def test_who_comes_during_a_batch_runs_in_the_one_after_the_next() -> None:
    requests = [ask(0, output=6, max_tokens=6), ask(1, at_ns=150, output=2, max_tokens=2)]
    one_at_a_time, two = run(requests), run(requests, asynchronous=True)
    assert one_at_a_time["requests"].set_index("id")["admit_ns"]["r1"] == 200
    of_r1 = two["requests"].set_index("id").loc["r1"]
    assert (of_r1["admit_ns"], of_r1["first_token_ns"]) == (300, 400)
    assert of_r1["queue_flight_ns"] == 150
    assert (two["steps"]["planned_ns"].iloc[1], two["steps"]["start_ns"].iloc[1]) == (0, 100)


def test_a_foreseen_end_wastes_nothing_and_a_stop_token_a_row() -> None:
    foreseen = run([ask(0, output=3, max_tokens=3)], asynchronous=True)
    assert foreseen["steps"]["steps"].sum() == 3
    assert foreseen["steps"]["wasted"].sum() == 0
    stopped = run([ask(0, output=3)], asynchronous=True)
    assert stopped["steps"]["steps"].sum() == 4
    assert stopped["steps"]["wasted"].sum() == 1
    assert stopped["requests"]["finish_ns"][0] == foreseen["requests"]["finish_ns"][0] == 300


@pytest.mark.parametrize("stages", [1, 2, 4])
def test_an_end_by_max_model_len_is_foreseen(stages: int) -> None:
    """Prompts have 10 tokens, so that answers end after 6, whatever the client allows."""
    requests = [ask(0, output=50, max_tokens=60), ask(1, output=50)]
    frames = run(requests, asynchronous=True, stages=stages, max_model_len=16)
    assert frames["requests"]["output_tokens"].tolist() == [6, 6]
    assert frames["steps"]["wasted"].sum() == 0


def test_answers_that_end_together_leave_in_order_of_admission() -> None:
    """A decode before a chunk that came later: so their blocks go back in this order, too."""
    requests = [ask(0, output=3, max_tokens=3), ask(1, at_ns=50, output=1, max_tokens=1)]
    ended = run(requests, asynchronous=True)["requests"]
    assert ended["finish_ns"].tolist() == [300, 300]
    assert ended["id"].tolist() == ["r0", "r1"]


def test_after_an_empty_batch_the_engine_sleeps() -> None:
    """Everybody is at the last token when r1 comes: an empty batch is in flight with it, and the
    engine looks again 10 ns after it."""
    requests = [ask(0, output=2, max_tokens=2), ask(1, at_ns=110, output=1, max_tokens=1)]
    frames = run(requests, asynchronous=True)
    assert frames["requests"].set_index("id")["admit_ns"].to_dict() == {"r0": 0, "r1": 210}


@pytest.mark.parametrize("asynchronous", [False, True])
def test_two_stages_share_a_step(asynchronous: bool) -> None:
    """A step of 100 ns is 50 ns in each stage, so that the second batch ends 50 ns later."""
    requests = [ask(index, output=1, max_tokens=1) for index in range(2)]
    one_each = Limits(max_num_seqs=8, max_num_batched_tokens=10)
    frames = run(requests, stages=2, asynchronous=asynchronous, limits=one_each)
    assert frames["requests"]["finish_ns"].tolist() == [100, 150]
    assert frames["requests"]["admit_ns"].tolist() == [0, 50]
    assert frames["steps"]["start_ns"].tolist() == [0, 100]
    assert frames["steps"]["planned_ns"].tolist() == [0, 0]


def test_who_waits_for_stale_tokens_keeps_the_place() -> None:
    scheduler = BatchesInFlight(
        kv=Paged(100, block_size=4),
        order=Fcfs(),
        limits=Limits(max_num_seqs=4, max_num_batched_tokens=64),
        max_model_len=99,
        asynchronous=False,
        stages=4,
    )
    waiting = [Sequence.of(ask(index), index=index) for index in range(4)]
    for sequence in waiting:
        scheduler.add(sequence)
    for sequence in waiting[:2]:
        scheduler._flights[sequence].stale = 1
    plan = scheduler.schedule(0)
    assert [admission.sequence for admission in plan.admitted] == waiting[2:]
    assert list(scheduler.order) == waiting[:2]


def test_nobody_is_swapped_out_of_a_flight() -> None:
    kv = Swapped(9, block_size=4, host=HostTier(8))
    limits = Limits(max_num_seqs=4, max_num_batched_tokens=16)
    with pytest.raises(AssertionError, match="tokens in flight"):
        BatchesInFlight(
            kv=kv, order=Fcfs(), limits=limits, max_model_len=64, asynchronous=True, stages=1
        )
