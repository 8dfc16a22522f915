"""Requests without end: arrivals x lengths x sharing, put together."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import count
from typing import NamedTuple

from sim.request import Request
from traces.synthetic.arrivals import Arrivals, AtOnce, Replayed
from traces.synthetic.draws import Draws, choose_key
from traces.synthetic.empirical import Empirical, Joint
from traces.synthetic.lengths import Independent, Pairs
from traces.synthetic.sharing import NOTHING, Sharing


class Drawn(NamedTuple):
    """A request, and what is to be noted if it becomes part of a workload."""

    request: Request
    oddities: tuple[str, ...] = ()
    """What was clipped, and so on."""
    opened: int = 0
    """1 if a session has begun and is to go on, -1 if one that had gone on is over."""


@dataclass(frozen=True, kw_only=True)
class Traffic:
    """Single requests, each with an arrival, lengths and content of its own.

    Tenants, priorities and n are drawn by the weights given; None: no tenant, 0, 1.
    """

    arrivals: Arrivals
    lengths: Pairs
    sharing: Sharing = NOTHING
    tenants: Mapping[str, float] | None = None
    priorities: Mapping[int, float] | None = None
    n: Mapping[int, float] | None = None

    @property
    def finite(self) -> bool:
        """It ends by itself."""
        return isinstance(self.arrivals, Replayed)

    @property
    def timeless(self) -> bool:
        """No time passes between its requests."""
        return isinstance(self.arrivals, AtOnce)

    def requests(self, draws: Draws, *, tenant: str | None = None) -> Iterator[Drawn]:
        """Requests by arrival, until the arrivals end; `tenant` is whose they are by default.

        Equal draws give equal requests. Only what is asked for is drawn.
        """
        clip = Clip(self.lengths.longest)
        columns = zip(
            count(),
            self.arrivals.arrivals_ns(draws),
            self.lengths.pairs(draws),
            self.sharing.surroundings(draws),
            choose_key(self.tenants, draws.generator("tenants"), default=tenant),
            choose_key(self.priorities, draws.generator("priorities"), default=0),
            choose_key(self.n, draws.generator("n"), default=1),
            strict=False,  # arrivals may end
        )
        stream = self.sharing.streams
        for index, arrival_ns, pair, (before, behind), whose, priority, n in columns:
            (question, output), oddities = clip(pair)
            request = Request(
                f"r{index:05d}",
                arrival_ns,
                (*before, (stream, 0, question), *behind),
                output,
                stream + 1,
                None,
                priority,
                whose,
                None,
                n,
            )
            stream += 2
            yield Drawn(request, oddities)

    def notes(self) -> Counter[str]:
        """What was dropped from the traces and files that this is drawn from."""
        notes: Counter[str] = Counter()
        if isinstance(self.arrivals, Replayed):
            _add(notes, "replayed arrivals", self.arrivals.trace.notes)
        if isinstance(self.lengths, Joint):
            _add(notes, "lengths", self.lengths.trace.notes)
        if isinstance(self.lengths, Independent):
            for side in ("prompt", "output"):
                lengths = getattr(self.lengths, side)
                if isinstance(lengths, Empirical):
                    _add(notes, f"{side} lengths", lengths.notes)
        return notes


class Clip:
    """Cuts (prompt, answer) lengths to the longest allowed, and says when it did."""

    def __init__(self, longest: tuple[int, int]) -> None:
        self._question, self._output = longest

    def __call__(self, pair: tuple[int, int]) -> tuple[tuple[int, int], tuple[str, ...]]:
        question, output = pair
        if question <= self._question and output <= self._output:
            return pair, ()
        oddities = []
        if question > self._question:
            oddities.append(f"prompt lengths clipped to {self._question} tokens")
        if output > self._output:
            oddities.append(f"answers clipped to {self._output} tokens")
        return (min(question, self._question), min(output, self._output)), tuple(oddities)


def _add(notes: Counter[str], whose: str, found: Mapping[str, int]) -> None:
    notes.update({f"{whose}: {what}": number for what, number in found.items() if number})
