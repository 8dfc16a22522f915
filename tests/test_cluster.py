"""What a router reads, and where it sends requests."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable
from dataclasses import replace

import pytest

from sim.cluster import Cluster
from sim.record.records import COLUMNS
from sim.request import Request
from sim.scheduling.vllm import Limits
from tests.served import ask
from tests.worlds import SmallWorld, in_flight, serve, several_answers

TWO = SmallWorld(
    requests=[],
    limits=Limits(max_num_seqs=8, max_num_batched_tokens=64),
    num_blocks=50,
    block_size=4,
    max_model_len=100,
    prefix_caching=False,
    priority=False,
    version="0.33",
    latency=(100, 0, 0),
    replicas=2,
    router="least_outstanding",
)


@pytest.mark.parametrize(("forks", "asynchronous"), [(False, False), (False, True), (True, False)])
def test_a_request_goes_where_the_fewest_answers_are_awaited(
    forks: bool, asynchronous: bool
) -> None:
    requests = [
        ask(0, output=30),  # for 3,000 ns on replica 0
        ask(1, output=1, n=3),  # three answers on replica 1, all there at 100 ns
        ask(2, at_ns=50, output=30),  # 1 < 3
        ask(3, at_ns=350, output=30),  # 2 > 0
        ask(4, at_ns=350, output=30),  # 2 > 1
        ask(5, at_ns=350, output=30),  # 2 = 2
    ]
    world = replace(TWO, requests=requests, forks=forks, asynchronous=asynchronous)
    by_request = serve(world).records.arrays("requests")
    replicas = dict(
        zip(by_request["request"].tolist(), by_request["replica"].tolist(), strict=True)
    )
    assert replicas == {0: 0, 1: 1, 2: 0, 3: 1, 4: 1, 5: 0}


@pytest.mark.parametrize(
    "draw",
    [
        in_flight,
        lambda rng: several_answers(rng, forks=False),
        lambda rng: several_answers(rng, forks=True),
    ],
    ids=["in flight", "requests", "forks and beams"],
)
def test_in_the_end_nothing_is_awaited(draw: Callable[[random.Random], SmallWorld]) -> None:
    for seed in range(12):
        engines = serve(draw(random.Random(seed)), check_every=1000).engines
        assert [engine.outstanding for engine in engines] == [0] * len(engines), seed


def test_a_pause_after_each_event_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    pauses = []

    def pausing(self: Cluster, requests: Iterable[Request]) -> None:
        pauses.append(sum(1 for _ in self.events(requests)))

    worlds = [in_flight(random.Random(seed)) for seed in range(6)]
    at_once = [serve(world) for world in worlds]
    monkeypatch.setattr(Cluster, "serve", pausing)
    for world, expected in zip(worlds, at_once, strict=True):
        served = serve(world)
        assert served.trails == expected.trails
        for table in COLUMNS:
            wanted = expected.records.arrays(table)
            for name, column in served.records.arrays(table).items():
                assert column.tolist() == wanted[name].tolist(), (table, name)
    assert all(
        count >= len(world.requests) + len(expected.records.arrays("requests")["request"])
        for count, world, expected in zip(pauses, worlds, at_once, strict=True)
    )
