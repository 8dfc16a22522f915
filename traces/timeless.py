"""Arrivals for files that have none."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import repeat
from typing import TypedDict

import numpy as np

from traces.file import TraceFile
from traces.ranges import check_least, check_positive

TIMELESS = ("arrivals_per_second", "at_once")
ALLOWED = "arrivals_per_second: N (Poisson, drawn with the seed) or at_once: true"
_SHOWN = "0, given by the config"


class ArrivalOptions(TypedDict, total=False):
    """When whatever a file lists arrives; one of the first two must be given."""

    arrivals_per_second: float | None
    """The rate of a Poisson process."""
    at_once: bool
    """Everything arrives at 0."""
    seed: int


class GivenArrivals:
    """Arrivals as the config gives them: a Poisson process, or all at once."""

    shown = _SHOWN

    def __init__(
        self,
        file: TraceFile,
        *,
        arrivals_per_second: float | None = None,
        at_once: bool = False,
        seed: int = 0,
    ) -> None:
        if arrivals_per_second is not None:
            check_positive(arrivals_per_second=arrivals_per_second)
        check_least(0, seed=seed)
        self._file = file
        self._rate = arrivals_per_second
        self._at_once = at_once
        self._seed = seed

    @property
    def given(self) -> bool:
        return self._at_once or self._rate is not None

    def check(self, *, line: int, found: str) -> None:
        """Raise TraceError unless one of both options is given."""
        if not self.given:
            raise self._file.error(line, found=f"{found} without arrival times", allowed=ALLOWED)
        if self._at_once and self._rate is not None:
            found = "both arrivals_per_second and at_once"
            raise self._file.error(None, found=found, allowed="one of them")

    def times_ns(self) -> Iterator[int]:
        """Nanoseconds, without end."""
        if self._rate is None:
            yield from repeat(0)
            return
        random = np.random.default_rng(self._seed)
        arrival_ns = 0
        while True:
            arrival_ns += round(random.exponential(1 / self._rate) * 1e9)
            yield arrival_ns

    def parameters(self) -> dict[str, object]:
        if self._rate is None:
            return {"at_once": True} if self._at_once else {}
        return {"arrivals_per_second": float(self._rate), "seed": self._seed}
