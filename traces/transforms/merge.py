"""Several traces as one."""

from __future__ import annotations

import heapq
from collections import Counter
from collections.abc import Iterator, Mapping

from sim.request import Request
from traces.fingerprint import digest
from traces.schema import Trace
from traces.several import adopt

_VERSION = 1
"""Part of the fingerprint; to be raised whenever equal parameters give other requests."""


class Merge:
    """The requests of all traces by arrival; equal arrivals in the order of the traces.

    Each trace is read as it goes. Ids and sessions become `name/...`, content of different
    traces is never the same.
    """

    def __init__(self, traces: Mapping[str, Trace]) -> None:
        self._traces = dict(traces)
        self.name = " + ".join(trace.name for trace in self._traces.values())

    @property
    def notes(self) -> Counter[str]:
        notes: Counter[str] = Counter()
        for name, trace in self._traces.items():
            notes.update({f"{name}: {what}": number for what, number in trace.notes.items()})
        return notes

    @property
    def shifted_by(self) -> str | None:
        shifts = [
            f"{trace.shifted_by} ({name})"
            for name, trace in self._traces.items()
            if trace.shifted_by is not None
        ]
        return ", ".join(shifts) or None

    def __iter__(self) -> Iterator[Request]:
        each = (self._adopted(name, place) for place, name in enumerate(self._traces))
        return heapq.merge(*each, key=lambda request: request.arrival_ns)

    def fingerprint(self) -> str:
        return digest("merge", _VERSION, self._traces)

    def _adopted(self, name: str, place: int) -> Iterator[Request]:
        places = len(self._traces)
        for request in self._traces[name]:
            yield adopt(request, name=name, place=place, places=places)
