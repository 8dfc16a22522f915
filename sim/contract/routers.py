"""What every router must do: choose one of the engines, and touch none of them."""

from __future__ import annotations

import random
from collections.abc import Callable

import simpy

from sim.cluster import Cluster, Router
from sim.contract.trials import draw_requests, make_engine
from sim.engine import Engine
from sim.kv.paged import Paged
from sim.request import Request
from sim.scheduling.orders import Fcfs
from sim.scheduling.vllm import Limits, VllmScheduler


def check_router(make: Callable[[], Router], *, seed: int = 0) -> None:
    """Serve random requests by one, two and five engines, and watch every choice.

    Each is one of the engines, leaves engines, their list and the request as they are, and is what
    a second router, made alike and asked the same, chooses too.
    """
    for replicas in (1, 2, 5):
        env = simpy.Environment()
        engines = [make_engine(env, _make_scheduler(), replica=at) for at in range(replicas)]
        requests = draw_requests(random.Random(seed), 60, every_ns=150)
        Cluster(env, engines, router=_Watch(make(), make())).serve(requests)


class _Watch:
    """A router that asks two others, and doubts their answers."""

    def __init__(self, router: Router, twin: Router) -> None:
        self._router = router
        self._twin = twin

    def __call__(self, engines: list[Engine], request: Request) -> Engine:
        known, before, asked = list(engines), _look_at(engines), repr(request)
        chosen, again = (self._ask(each, engines, request) for each in (self._router, self._twin))
        assert engines == known, "the list of engines was changed"
        assert _look_at(engines) == before, "an engine was changed: a router reads only"
        assert repr(request) == asked, "the request was changed"
        assert chosen == again, (
            f"request {request.id} goes to engine {chosen}, and to engine {again} where a second"
            " router, made alike, is asked the same"
        )
        return engines[chosen]

    def _ask(self, router: Router, engines: list[Engine], request: Request) -> int:
        """The chosen engine's place in the list."""
        engine: object = router(engines, request)
        places = [place for place, each in enumerate(engines) if each is engine]
        assert places, f"request {request.id} goes to {engine!r}, which is none of the engines"
        return places[0]


def _look_at(engines: list[Engine]) -> list[tuple[int, ...]]:
    """What a router may read of each."""
    return [
        (
            engine.outstanding,
            engine.steps,
            engine.scheduler.num_waiting,
            engine.scheduler.num_running,
            engine.scheduler.kv.free_blocks,
        )
        for engine in engines
    ]


def _make_scheduler() -> VllmScheduler:
    limits = Limits(max_num_seqs=4, max_num_batched_tokens=32)
    return VllmScheduler(kv=Paged(30, block_size=4), order=Fcfs(), limits=limits)
