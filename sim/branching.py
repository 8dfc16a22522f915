"""Several answers to one request: as requests of their own, or as one that forks.

Kwon et al., "Efficient Memory Management for Large Language Model Serving with PagedAttention",
SOSP 2023, section 4.4, fork; vLLM V1 makes n requests of one (`ParentRequest`) and leaves
sharing to the prefix cache.
"""

from __future__ import annotations

from itertools import count
from typing import Protocol

from sim.beams import Searches
from sim.parting import Fork, Parting, branch_of
from sim.plan import Plan
from sim.request import Request, Sequence

NOBODY_PARTS = Parting([], [])


class Branching(Protocol):
    """How a request for several answers becomes sequences."""

    forks: bool
    """May sequences part at all? Else `may_part` and `part` are not asked."""

    def refusal(self, request: Request) -> str | None:
        """Why this engine cannot serve so many answers at once; None if it can."""
        ...

    def arriving(self, request: Request, *, index: int) -> list[Sequence]:
        """The sequences to be queued, in this order, when the request arrives."""
        ...

    def may_part(self, plan: Plan) -> bool:
        """May one of the plan's decodes part with the token that it is given?"""
        ...

    def part(self, plan: Plan) -> Parting:
        """Whom to fork and whom to give up, now that the plan has run and its tokens are about
        to be given."""
        ...


class _Streams:
    """Numbers for what answers after the first say: negative ones, which no trace has."""

    def __init__(self) -> None:
        self._numbers = count(-1, -1)

    def draw(self) -> int:
        return next(self._numbers)

    def branches(self, first: Sequence, n: int) -> list[Sequence]:
        """The other n - 1 answers to the request of the first."""
        return [branch_of(first, b, output_stream=self.draw()) for b in range(1, n)]


class Separately:
    """n requests that arrive together: branch b of request `r` is called `b_r`, as in vLLM V1."""

    forks = False

    def __init__(self) -> None:
        self._streams = _Streams()

    def refusal(self, request: Request) -> str | None:
        return "beam search needs engine.parallel_sampling fork" if request.beam else None

    def arriving(self, request: Request, *, index: int) -> list[Sequence]:
        first = Sequence.of(request, index=index)
        if request.n == 1:
            return [first]
        first.id = f"0_{request.id}"
        return [first, *self._streams.branches(first, request.n)]

    def may_part(self, plan: Plan) -> bool:
        return False

    def part(self, plan: Plan) -> Parting:
        return NOBODY_PARTS


class ByForking:
    """One sequence computes the prompt; with its first token it becomes several that share it:
    n answers, or the beams of a search, which go on forking."""

    forks = True

    def __init__(self, *, max_num_seqs: int, searches: Searches) -> None:
        self._streams = _Streams()
        self._max_num_seqs = max_num_seqs
        self._searches = searches

    def refusal(self, request: Request) -> str | None:
        width = request.beam or request.n
        if width > self._max_num_seqs:
            return f"{width} answers at once exceed max_num_seqs {self._max_num_seqs}"
        return None

    def arriving(self, request: Request, *, index: int) -> list[Sequence]:
        first = Sequence.of(request, index=index)
        if request.n > 1 or request.beam:
            first.id, first.width = f"0_{request.id}", request.beam or request.n
        if request.beam:
            self._searches.begin(first)
        return [first]

    def may_part(self, plan: Plan) -> bool:
        # Beams do so in every step; samples did with their first token.
        return self._searches.any_of(plan)

    def part(self, plan: Plan) -> Parting:
        forks = [
            Fork(sequence, child)
            for sequence in plan.completing
            if sequence.width > 1 and sequence.index not in self._searches
            for child in self._streams.branches(sequence, sequence.width)
        ]
        beams = self._searches.part(plan, self._streams.draw)
        return Parting([*forks, *beams.forks], beams.pruned)
