"""Who watches a replica: recorders, progress bars, debuggers."""

from __future__ import annotations

from typing import Protocol

from sim.moves import Takes
from sim.parting import Fork
from sim.plan import Departure, Plan
from sim.request import Request, Sequence


class Observer(Protocol):
    """Sees everything that happens on a replica and changes none of it. A subclass need not say
    what it does not look at."""

    __slots__ = ()

    # Each body returns, since one of `...` would be abstract.

    def arrived(
        self, sequence: Sequence, request: Request, answer_tokens: int, now_ns: int
    ) -> None:
        return

    def refused(self, request: Request, reason: str, now_ns: int) -> None:
        return

    def began(self, plan: Plan, now_ns: int) -> None:
        """A plan was made; it runs when those before it have. With several batches in flight it
        may be idle, and is no step then."""
        return

    def ran(self, plan: Plan, start_ns: int, ends_ns: list[int], takes: Takes) -> None:
        """The plan has run, once for each of these ends, its decodes taking these blocks
        after the first step; nothing was let go yet. Plans come in the order in which they were
        made. The last end is now: when the tokens are there."""
        return

    def forked(self, forks: list[Fork], now_ns: int) -> None:
        """These sequences have begun, each with a token of the step that just ran."""
        return

    def ended(self, departures: list[Departure], now_ns: int) -> None:
        """These answers are complete, or given up, and their blocks free."""
        return
