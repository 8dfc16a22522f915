"""Answers to one request that part: what is decided with the tokens of a step."""

from __future__ import annotations

from typing import NamedTuple

from sim.request import BRANCHES, Sequence


class Fork(NamedTuple):
    """A sequence that parted from another one with the token that a step gave."""

    parent: Sequence
    child: Sequence


class Parting(NamedTuple):
    """What becomes of branches with the tokens of a step."""

    forks: list[Fork]
    pruned: list[Sequence]
    """They are given up: beams none of whose candidates goes on."""


def branch_of(first: Sequence, number: int, *, output_stream: int) -> Sequence:
    """A sequence like this one as it arrived, for another answer to the same request."""
    return Sequence(
        f"{number}_{first.id.partition('_')[2]}",
        first.index % BRANCHES + number * BRANCHES,
        first.arrival_ns,
        first.prompt,
        first.prompt_tokens,
        output_stream,
        first.max_tokens,
        first.priority,
        first.tenant,
        first.session,
    )
