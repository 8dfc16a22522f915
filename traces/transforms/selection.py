"""Transforms that leave requests out."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Literal

from sim.request import Request
from traces.ranges import check_least
from traces.schema import Trace
from traces.transforms.transform import Transform


class Head(Transform):
    """The first `requests` requests; what comes after them is not read."""

    def __init__(self, trace: Trace, *, requests: int) -> None:
        super().__init__(trace)
        check_least(1, requests=requests)
        self._requests = requests

    @property
    def parameters(self) -> Sequence[object]:
        return (self._requests,)

    def change(self, requests: Iterator[Request], notes: Counter[str]) -> Iterator[Request]:
        for taken, request in enumerate(requests):
            if taken == self._requests:
                notes[f"cuts after {self._requests} requests, with the rest not read"] = 1
                return
            yield request


class Thin(Transform):
    """A random share `keep` of the sessions, or of the requests; whatever has no session
    counts as one.

    Who stays depends on a hash of seed and name, so a smaller share is part of a larger one,
    and a session stays or goes as a whole. Thinning keeps arrivals; the rate falls.
    """

    def __init__(
        self,
        trace: Trace,
        *,
        keep: float,
        by: Literal["session", "request"] = "session",
        seed: int = 0,
    ) -> None:
        super().__init__(trace)
        if not 0 < keep <= 1:
            raise ValueError(f"keep = {keep}: allowed above 0, up to 1")
        self._keep = keep
        self._by = by
        self._seed = seed

    @property
    def parameters(self) -> Sequence[object]:
        return self._keep, self._by, self._seed

    def change(self, requests: Iterator[Request], notes: Counter[str]) -> Iterator[Request]:
        for request in requests:
            if self._stays(request):
                yield request
            else:
                notes[f"requests dropped to keep {self._keep:g} of the {self._by}s"] += 1

    def _stays(self, request: Request) -> bool:
        whole = request.session if self._by == "session" else None
        # A session's name may be another request's id.
        name = f"request {request.id}" if whole is None else f"session {whole}"
        key = f"{self._seed} {name}".encode()
        drawn = int.from_bytes(hashlib.blake2b(key, digest_size=8).digest(), "big")
        return drawn < self._keep * 2**64
