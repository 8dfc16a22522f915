"""Beam search: which beams survive a step. The world decides, since only a model knows scores.

Kwon et al., SOSP 2023, section 4.4: after each step the k best candidates of all beams go on, so
beams share blocks, and part, as the search has it.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from sim.parting import Fork, Parting, branch_of
from sim.plan import Plan
from sim.request import BRANCHES, Sequence

CANDIDATES_PER_BEAM = 2
"""Times the width: how many next tokens each beam proposes, as in vLLM."""


class Search:
    """The beams of one request, and their scores: the sums of seeded random steps.

    A candidate's step is the log-softmax of 2k draws from a normal distribution of mean 0 and
    standard deviation `spread`: the log-probabilities of a next token. With a spread of 0
    all tokens are equally likely; the larger it is, the more a beam's best one stands out, so
    that beams seldom replace each other.
    """

    def __init__(self, first: Sequence, *, spread: float, seed: list[int]) -> None:
        self.first = first
        self.width = first.width
        self.scores = {first: 0.0}
        self._spread = spread
        self._random = np.random.default_rng(seed)
        self._branches = 1

    def part(self, beams: list[Sequence], *, wanted: int, stream: Callable[[], int]) -> Parting:
        """The `wanted` best candidates of these beams go on; a beam's best one as itself."""
        proposed = CANDIDATES_PER_BEAM * self.width
        draws = self._random.normal(0.0, self._spread, (len(beams), proposed))
        steps = draws - np.log(np.exp(draws).sum(axis=1, keepdims=True))
        scores = np.array([[self.scores[beam]] for beam in beams]) + steps
        best = np.argsort(-scores, axis=None, kind="stable")[:wanted].tolist()
        forks, going_on = [], set()
        for at in best:
            beam, score = beams[at // proposed], float(scores.flat[at])
            if beam in going_on:
                child = branch_of(self.first, self._branches, output_stream=stream())
                self._branches += 1
                forks.append(Fork(beam, child))
                beam = child
            going_on.add(beam)
            self.scores[beam] = score
        pruned = [beam for beam in beams if beam not in going_on]
        for beam in pruned:
            del self.scores[beam]
        return Parting(forks, pruned)


class Searches:
    """All beam searches of a replica.

    Beams that have come equally far in a step compete; so one that was preempted falls behind
    and goes on by itself, until its answer is as long as the others'.
    """

    def __init__(
        self, *, answer_tokens: Callable[[Sequence], int], spread: float, seed: tuple[int, int]
    ) -> None:
        self._answer_tokens = answer_tokens
        self._spread = spread
        self._seed = seed
        """Of the run, and the replica."""
        self._of: dict[int, Search] = {}

    def __contains__(self, request: int) -> bool:
        return request in self._of

    def any_of(self, plan: Plan) -> bool:
        """Is a decode of the plan a beam?"""
        if not self._of:
            return False
        return any(sequence.index % BRANCHES in self._of for sequence in plan.decodes)

    def begin(self, first: Sequence) -> None:
        """The first beam arrives; its `width` is that of the search."""
        seed = [*self._seed, first.index]
        self._of[first.index] = Search(first, spread=self._spread, seed=seed)

    def part(self, plan: Plan, stream: Callable[[], int]) -> Parting:
        """Whom to fork and whom to prune, now that each beam of the plan has candidates."""
        parting = Parting([], [])
        if not self._of:
            return parting
        level: dict[tuple[int, int], list[Sequence]] = {}
        for sequence in (*plan.completing, *plan.decodes):
            request = sequence.index % BRANCHES
            if request in self._of:
                level.setdefault((request, sequence.generated), []).append(sequence)
        for (request, generated), beams in sorted(level.items()):
            beams.sort(key=lambda beam: beam.index)
            search, first = self._of[request], beams[0]
            is_last = generated + 1 == self._answer_tokens(first)
            # With the last token nobody parts: k answers are there already.
            if first.width > 1 or not is_last:
                wanted = len(beams) + first.width - 1
                forks, pruned = search.part(beams, wanted=wanted, stream=stream)
                parting.forks.extend(forks)
                parting.pruned.extend(pruned)
                beams += [fork.child for fork in forks]
            if is_last:
                for beam in beams:
                    del search.scores[beam]
                if not search.scores:
                    del self._of[request]
        return parting
