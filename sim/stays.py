"""Stays in the running list, and the runs of steps in which they gave one token each."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from sim.log import Facts, Integers

NEVER = 1 << 62


class Segments(NamedTuple):
    """Uninterrupted runs of steps that each gave a request one token, by stay and step."""

    stay: Integers
    """Row of `Stays`."""
    first_step: Integers
    tokens: Integers
    computed: Integers
    """Tokens of the sequence that are computed after the first of these steps."""


class Stays:
    """All stays of a replica, sorted by request and number; a stay is named by its row here."""

    def __init__(self, facts: Facts) -> None:
        admissions = facts.admissions
        order = np.lexsort((admissions.stay, admissions.request))
        self.request = admissions.request[order]
        self.number = admissions.stay[order]
        self.admitted = admissions.decision[order]
        self.hit_tokens = admissions.hit_tokens[order]
        self.room_blocks = admissions.room_blocks[order]

    def __len__(self) -> int:
        return len(self.request)

    def rows(self, request: Integers, number: Integers) -> Integers:
        """The rows of these stays: nobody is admitted a second time but after a first."""
        return self.request.searchsorted(request) + number

    def segments(self, facts: Facts) -> Segments:
        """A segment begins with the chunk that completes a sequence, and ends with the stay;
        where plans left the sequence out, it ends there, and another begins later."""
        steps, lengths = facts.decisions.step, facts.decisions.steps
        done = facts.chunks.completes == 1
        completed = self.rows(facts.chunks.request[done], facts.chunks.stay[done])
        computed = np.zeros(len(self), dtype=np.int64)
        computed[completed] = (facts.chunks.computed_before + facts.chunks.tokens)[done]

        pauses, left = facts.pauses, facts.departures
        paused = self.rows(pauses.request, pauses.stay)
        away = pauses.paused == 1
        begin = np.concatenate([completed, paused[~away]])
        begin_step = steps[np.concatenate([facts.chunks.decision[done], pauses.decision[~away]])]
        gone = self.rows(left.request, left.stay)
        gone_step = steps[left.decision] + left.finished * lengths[left.decision]
        # Who leaves in a pause, or before its tokens were all computed, ends no segment.
        count = np.bincount(begin, minlength=len(self))
        ends_one = (count > np.bincount(paused[away], minlength=len(self)))[gone]
        end = np.concatenate([paused[away], gone[ends_one]])
        end_step = np.concatenate([steps[pauses.decision[away]], gone_step[ends_one]])

        begins, ends = np.lexsort((begin_step, begin)), np.lexsort((end_step, end))
        assert (begin[begins] == end[ends]).all(), "segments that begin and never end"
        stay, first = begin[begins], begin_step[begins]
        tokens = end_step[ends] - first
        before = tokens.cumsum() - tokens
        earlier = before - before[stay.searchsorted(stay)]
        return Segments(stay, first, tokens, computed[stay] + earlier)
