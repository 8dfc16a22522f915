"""What schedulers and routers are tried on: random requests, and a small replica to serve them."""

from __future__ import annotations

import random

import simpy

from sim.engine import Engine
from sim.executor import Simulated
from sim.latency import Linear
from sim.observer import Observer
from sim.request import Request
from sim.scheduling.face import Scheduler
from sim.world import World

LATENCY = Linear(base_ns=100, per_token_ns=1, per_context_token_ns=0)


def draw_requests(rng: random.Random, number: int, *, every_ns: int) -> list[Request]:
    """Three at once, every so often. Each has at most 60 tokens, the first ones of the prompt in
    common with every fourth request, and is of one of three tenants and ten sessions."""
    return [
        Request(
            id=f"r{index}",
            arrival_ns=every_ns * (index // 3),
            prompt=((index % 4, 0, rng.randint(1, 16)), (100 + index, 0, rng.randint(1, 24))),
            output_tokens=rng.randint(1, 20),
            output_stream=1000 + index,
            priority=rng.randint(0, 2),
            tenant=f"tenant{index % 3}",
            session=f"session{7 * index % 10}",
        )
        for index in range(number)
    ]


def make_engine(
    env: simpy.Environment, scheduler: Scheduler, *observers: Observer, replica: int = 0
) -> Engine:
    return Engine(
        env,
        scheduler=scheduler,
        executor=Simulated(LATENCY),
        world=World(max_model_len=64),
        observers=list(observers),
        replica=replica,
    )
