"""Runs in which nobody gets anywhere end with an error that says so."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest
import simpy

from sim.engine import Engine
from sim.executor import Simulated
from sim.kv.paged import Paged
from sim.latency import Linear
from sim.plan import DecodeList, Departure, Plan
from sim.request import Sequence
from sim.scheduling.in_flight import BatchesInFlight
from sim.scheduling.orders import Fcfs
from sim.scheduling.vllm import Limits, VllmScheduler
from sim.stuck import MOST_PREEMPTIONS, Livelocked, Stalled, Watchdog
from sim.world import World
from tests.served import ask

KV = Paged(20, block_size=4)
OPTIONS: dict[str, Any] = {
    "order": Fcfs(),
    "limits": Limits(max_num_seqs=4, max_num_batched_tokens=64),
}


def watchdog(*, depth: int) -> Watchdog:
    return Watchdog(VllmScheduler(kv=KV, **OPTIONS), replica=0, depth=depth)


def idle(*, step: int) -> Plan:
    return Plan(decodes=DecodeList(), step=step)


@pytest.mark.parametrize("depth", [1, 2, 5])
def test_it_gives_up_after_as_many_idle_plans_as_may_be_in_flight(depth: int) -> None:
    dog = watchdog(depth=depth)
    for _ in range(depth - 1):
        dog.see(idle(step=3), 0, steps_in_flight=0)
    with pytest.raises(Stalled, match="0 requests wait"):
        dog.see(idle(step=3), 0, steps_in_flight=0)


def test_a_step_in_between_or_in_flight_begins_the_count_anew() -> None:
    dog = watchdog(depth=2)
    for step in range(9):
        dog.see(idle(step=step), 0, steps_in_flight=0)
    dog.see(idle(step=8), 0, steps_in_flight=1)
    dog.see(idle(step=8), 0, steps_in_flight=0)
    with pytest.raises(Stalled):
        dog.see(idle(step=8), 0, steps_in_flight=0)


def test_a_request_may_be_preempted_often_but_not_for_ever() -> None:
    sequence = Sequence.of(ask(0), index=0)
    plan = Plan(decodes=DecodeList(), preempted=[Departure(sequence, 0, [], 0)])
    sequence.preemptions = MOST_PREEMPTIONS
    watchdog(depth=1).see(plan, 0, steps_in_flight=0)
    sequence.preemptions += 1
    with pytest.raises(Livelocked, match="request r0 was preempted 10001 times"):
        watchdog(depth=1).see(plan, 0, steps_in_flight=0)


@pytest.mark.parametrize("depth", [1, 2, 3])
def test_a_scheduler_that_plans_nothing_stalls(depth: int) -> None:
    """After an engine with several batches in flight has slept once for each of them but one."""
    policy: Any = VllmScheduler
    if depth > 1:
        policy = partial(BatchesInFlight, max_model_len=99, asynchronous=depth == 3, stages=2)
    # A request of 25 blocks never fits into 19.
    scheduler = policy(kv=Paged(20, block_size=4), **(OPTIONS | {"order": Fcfs()}))
    env = simpy.Environment()
    engine = Engine(
        env,
        scheduler=scheduler,
        executor=Simulated(Linear(base_ns=100, per_token_ns=0, per_context_token_ns=0)),
        world=World(max_model_len=200),
        observers=[],
        depth=depth,
        stages=2 if depth > 1 else 1,
        empty_step_sleep_ns=7,
    )
    engine.submit(ask(0, prompt=99), index=0)
    with pytest.raises(Stalled, match=f"stalled at {7 * (depth - 1)} ns: 1 requests wait"):
        env.run()
