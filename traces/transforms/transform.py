"""What all transforms are: a trace made from another one."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Iterator, Sequence

from sim.request import Request
from traces.fingerprint import digest
from traces.schema import Trace, TraceError

_VERSION = 1
"""Part of the fingerprints; to be raised whenever equal parameters give other requests."""


class Transform(ABC):
    """A trace with something changed. A transform says what, in `change`, and by `parameters`.

    Streams: it holds one request at a time. Its notes are those of the trace within and its
    own. Iterating raises TraceError where no request is left.
    """

    def __init__(self, trace: Trace) -> None:
        self._trace = trace
        self._own: Counter[str] = Counter()

    @property
    @abstractmethod
    def parameters(self) -> Sequence[object]:
        """All that the change depends on."""

    @abstractmethod
    def change(self, requests: Iterator[Request], notes: Counter[str]) -> Iterator[Request]:
        """The requests as changed; whatever is dropped or cut is counted in `notes`."""

    @property
    def name(self) -> str:
        return self._trace.name

    @property
    def notes(self) -> Counter[str]:
        return self._trace.notes + self._own

    @property
    def shifted_by(self) -> str | None:
        return self._trace.shifted_by

    def __iter__(self) -> Iterator[Request]:
        self._own.clear()
        left = 0
        for request in self.change(iter(self._trace), self._own):
            left += 1
            yield request
        if not left:
            counted = ", ".join(f"{what}: {number}" for what, number in self.notes.items())
            found = f"no requests after {type(self).__name__.lower()} ({counted})"
            raise TraceError(self.name, None, found, "at least one request")

    def fingerprint(self) -> str:
        return digest(type(self).__name__, _VERSION, *self.parameters, self._trace)
