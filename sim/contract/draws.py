"""What arrives in a contract's trials."""

from __future__ import annotations

import random

from sim.request import Request


def draw_request(rng: random.Random, *, index: int, arrival_ns: int) -> Request:
    """At most 60 tokens, the first ones of the prompt in common with every fourth request; of
    one of three tenants and ten sessions."""
    return Request(
        id=f"r{index}",
        arrival_ns=arrival_ns,
        prompt=((index % 4, 0, rng.randint(1, 16)), (100 + index, 0, rng.randint(1, 24))),
        output_tokens=rng.randint(1, 20),
        output_stream=1000 + index,
        priority=rng.randint(0, 2),
        tenant=f"tenant{index % 3}",
        session=f"session{7 * index % 10}",
    )
