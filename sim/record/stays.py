"""Stays in the running list, and their segments: runs of steps that gave one token each.

What becomes of a sequence that is preempted once::

    admitted | chunk | last chunk, decode ... decode | preempted      admitted | chunk, ...
    |<-------------------- stay 0 ----------------->|                 |<----- stay 1 ------
                     |<---------- segment --------->|                          |<-- segment
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from sim.record.log import Facts, Integers, Pauses


class Segments(NamedTuple):
    """Uninterrupted runs of steps that each gave a sequence one token, by stay and step."""

    stay: Integers
    """Row of `Stays`."""
    first_step: Integers
    tokens: Integers
    computed: Integers
    """Tokens of the sequence that are computed after the first of these steps."""


class Stays:
    """All stays of a replica, sorted by sequence and number; a stay is named by its row here."""

    def __init__(self, facts: Facts) -> None:
        admissions, forks = facts.admissions, facts.forks
        nothing = np.zeros(len(forks.sequence), dtype=np.int64)

        def both(admitted: Integers, forked: Integers) -> Integers:
            return np.concatenate([admitted, forked])

        sequence, number = both(admissions.sequence, forks.sequence), both(admissions.stay, nothing)
        order = np.lexsort((number, sequence))
        self.sequence = sequence[order]
        self.number = number[order]
        self.admitted = both(admissions.decision, forks.decision)[order]
        """The decision that admitted it, or whose last step forked it;"""
        self.forked = order >= len(admissions.sequence)
        """True for the latter."""
        self.hit_tokens = both(admissions.hit_tokens, nothing)[order]
        self.room_blocks = both(admissions.room_blocks, nothing)[order]

    def __len__(self) -> int:
        return len(self.sequence)

    def rows(self, sequence: Integers, number: Integers | int) -> Integers:
        """The rows of these stays: nobody has a second one but after a first."""
        return self.sequence.searchsorted(sequence) + number

    def resumed(self, sequence: Integers, number: Integers) -> Integers:
        """The decisions that readmit who was preempted in these stays: the next stay is the next
        row."""
        return self.admitted[self.rows(sequence, number) + 1]

    def segments(self, facts: Facts) -> Segments:
        """A segment begins with the chunk that completes a sequence or with a fork, and ends
        with the stay; where plans left the sequence out, it ends there, and another begins
        later."""
        chunks, forks, left = facts.chunks, facts.forks, facts.departures
        steps, lengths = facts.decisions.step, facts.decisions.steps
        done = chunks.completes == 1
        completed = self.rows(chunks.sequence[done], chunks.stay[done])
        forked = self.rows(forks.sequence, 0)
        computed = np.zeros(len(self), dtype=np.int64)
        computed[completed] = (chunks.computed_before + chunks.tokens)[done]
        computed[forked] = forks.computed

        ends_stay = left.computed > 0
        gone = self.rows(left.sequence, left.stay)[ends_stay]
        gone_step = (steps[left.decision] + left.finished * lengths[left.decision])[ends_stay]
        pauses = self._pauses(facts, gone, left.decision[ends_stay])
        paused, away = self.rows(pauses.sequence, pauses.stay), pauses.paused == 1
        paused_step = steps[pauses.decision]

        begin = np.concatenate([completed, forked, paused[~away]])
        forked_step = (steps + lengths - 1)[forks.decision]
        begin_step = np.concatenate([steps[chunks.decision[done]], forked_step, paused_step[~away]])
        # Who leaves in a pause, or before its tokens were all computed, ends no segment.
        count = np.bincount(begin, minlength=len(self))
        ends_one = (count > np.bincount(paused[away], minlength=len(self)))[gone]
        end = np.concatenate([paused[away], gone[ends_one]])
        end_step = np.concatenate([paused_step[away], gone_step[ends_one]])

        begins, ends = np.lexsort((begin_step, begin)), np.lexsort((end_step, end))
        stay, first = begin[begins], begin_step[begins]
        assert np.array_equal(stay, end[ends]), "segments that begin and never end"
        tokens = end_step[ends] - first
        before = tokens.cumsum() - tokens
        earlier = before - before[stay.searchsorted(stay)]
        return Segments(stay, first, tokens, computed[stay] + earlier)

    def _pauses(self, facts: Facts, gone: Integers, last: Integers) -> Pauses:
        """Those within a stay: batches in flight when an answer ends do not matter any more."""
        last_decision = np.empty(len(self), dtype=np.int64)
        last_decision[gone] = last
        pauses = facts.pauses
        within = pauses.decision <= last_decision[self.rows(pauses.sequence, pauses.stay)]
        return Pauses(*(column[within] for column in pauses))
