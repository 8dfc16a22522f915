"""What a trace is, and how it says that its file is wrong."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Protocol

from sim.request import Request


class Trace(Protocol):
    """Requests in the order in which they arrive, as often as one asks for them.

    Every iteration starts over, yields equal requests and counts its oddities anew; two
    iterations at once share their notes. `traces.contract.check_trace` is this contract
    as a test.
    """

    @property
    def name(self) -> str:
        """What a user calls the trace; shown with every result."""
        ...

    @property
    def notes(self) -> Counter[str]:
        """What was dropped, clipped or cut, and how often; filled while iterating."""
        ...

    @property
    def shifted_by(self) -> str | None:
        """What was subtracted from every arrival, in the file's own words.

        None when arrivals are as recorded, and before the first request was read.
        """
        ...

    def __iter__(self) -> Iterator[Request]:
        """Yield requests by arrival_ns, which never falls; equal arrivals keep their order.

        Raises TraceError where the source says something that must not be guessed.
        """
        ...

    def fingerprint(self) -> str:
        """Sha256 (hex) of everything the requests depend on: two equal traces share it."""
        ...


class TraceError(ValueError):
    """A trace file that cannot be read: where, what was found, what is allowed."""

    # Positional, so that `args` rebuilds it: a sweep's workers send their errors pickled.
    def __init__(self, path: str | Path, line: int | None, found: str, allowed: str) -> None:
        super().__init__(str(path), line, found, allowed)
        self.path = str(path)
        self.line = line
        self.found = found
        self.allowed = allowed

    def __str__(self) -> str:
        place = self.path if self.line is None else f"{self.path}:{self.line}"
        return f"{place}: found {self.found}; allowed: {self.allowed}"
