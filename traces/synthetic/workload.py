"""A workload: the beginning of traffic that would go on for ever."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from itertools import islice
from typing import Protocol

from sim.request import Request
from traces.fingerprint import digest
from traces.ranges import ARRIVALS
from traces.schema import TraceError
from traces.synthetic.draws import Draws
from traces.synthetic.traffic import Drawn

_VERSION = 1
"""Part of the fingerprint; to be raised whenever equal parameters give other requests."""


class Source(Protocol):
    """Traffic of whatever kind: a dataclass, which is its own fingerprint."""

    @property
    def finite(self) -> bool:
        """It ends by itself."""
        ...

    @property
    def timeless(self) -> bool:
        """No time passes between its requests."""
        ...

    def requests(self, draws: Draws) -> Iterator[Drawn]:
        """Requests by arrival; equal draws give equal requests."""
        ...

    def notes(self) -> Counter[str]:
        """What was left out of what it is drawn from, once `requests` was read."""
        ...


class SyntheticWorkload:
    """The first `requests` requests of some traffic, or those before `duration_s`, or both.

    Equal seeds give equal requests, more of them continue fewer, and every quantity has a
    random generator of its own (see Draws). Requests are made as they are asked for. Raises
    ValueError for a workload without end, and TraceError, when iterated, for one without
    requests or one that lasts 2**62 ns (146 years).
    """

    shifted_by: None = None

    def __init__(
        self,
        source: Source,
        *,
        seed: int = 0,
        requests: int | None = None,
        duration_s: float | None = None,
        name: str = "synthetic",
    ) -> None:
        if requests is None and not source.finite and (duration_s is None or source.timeless):
            allowed = "requests" if source.timeless else "requests, duration_s or both"
            raise ValueError(f"found a workload without end; allowed: {allowed}")
        self.name = name
        self.notes: Counter[str] = Counter()
        self._source = source
        self._seed = seed
        self._requests = requests
        self._until_ns = ARRIVALS.stop if duration_s is None else round(duration_s * 1e9)

    def __iter__(self) -> Iterator[Request]:
        self.notes.clear()
        served, opened = 0, 0
        for drawn in islice(self._source.requests(Draws(self._seed)), self._requests):
            if drawn.request.arrival_ns >= self._until_ns:
                self._refuse_ages(drawn.request)
                break
            served += 1
            opened += drawn.opened
            self.notes.update(drawn.oddities)
            yield drawn.request
        else:
            missing = (self._requests or served) - served
            if missing:
                self.notes["requests missing, because the replayed arrivals end"] = missing
        if opened:
            self.notes["sessions cut by the end of the workload"] = opened
        self.notes.update(self._source.notes())
        if not served:
            found = f"no request within {self._until_ns / 1e9:g} s"
            raise TraceError(self.name, None, found, "a longer duration_s, or a higher rate")

    def fingerprint(self) -> str:
        end = (self._requests, self._until_ns)
        return digest("synthetic", _VERSION, self._seed, *end, self._source)

    def _refuse_ages(self, request: Request) -> None:
        if self._until_ns == ARRIVALS.stop:
            found = f"request {request.id!r} after more than 146 years (2**62 ns)"
            raise TraceError(self.name, None, found, "fewer requests, or a higher rate")
