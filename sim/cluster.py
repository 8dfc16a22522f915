"""Requests arrive, a router picks a replica, engines serve."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator

import simpy

from sim.engine import Engine
from sim.moment import Kind, Moment
from sim.request import Request

Router = Callable[[list[Engine], Request], Engine]


class RoundRobin:
    """One replica after the other, blind to their load."""

    def __init__(self) -> None:
        self._next = 0

    def __call__(self, engines: list[Engine], request: Request) -> Engine:
        engine = engines[self._next % len(engines)]
        self._next += 1
        return engine


class LeastOutstanding:
    """The replica with the fewest unanswered requests; the first among equals."""

    def __call__(self, engines: list[Engine], request: Request) -> Engine:
        return min(engines, key=lambda engine: engine.outstanding)


class Cluster:
    """Feeds a stream of requests, sorted by arrival, to its engines."""

    def __init__(self, env: simpy.Environment, engines: list[Engine], *, router: Router) -> None:
        self.engines = engines
        self.arrived = 0
        self._env = env
        self._router = router
        self._requests: Iterator[Request] = iter(())
        self._next: Request | None = None

    def serve(self, requests: Iterable[Request]) -> None:
        """Run until every request is answered or refused."""
        self._begin(requests)
        self._env.run()

    def events(self, requests: Iterable[Request]) -> Iterator[None]:
        """The same, with a pause after each event: for who has something to do meanwhile."""
        self._begin(requests)
        while self._env.peek() < math.inf:
            self._env.step()
            yield

    def _begin(self, requests: Iterable[Request]) -> None:
        self._requests = iter(requests)
        self._await_next(int(self._env.now))

    def _await_next(self, now_ns: int) -> None:
        self._next = request = next(self._requests, None)
        if request is not None:
            Moment(self._env, request.arrival_ns - now_ns, self._deliver, Kind.ARRIVAL)

    def _deliver(self, _: simpy.Event) -> None:
        """Hand the next request over, and wait for the one after it.

        Those of one instant come one by one, but all before anything else of that instant.
        """
        request = self._next
        assert request is not None
        self._router(self.engines, request).submit(request, index=self.arrived)
        self.arrived += 1
        self._await_next(request.arrival_ns)
