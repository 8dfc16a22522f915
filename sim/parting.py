"""Answers to one request that part: what is decided with the tokens of a step."""

from __future__ import annotations

from typing import NamedTuple

from sim.request import Sequence


class Fork(NamedTuple):
    """A sequence that parted from another one with the token that a step gave."""

    parent: Sequence
    child: Sequence


class Parting(NamedTuple):
    """What becomes of branches with the tokens of a step."""

    forks: list[Fork]
    pruned: list[Sequence]
    """They are given up: beams none of whose candidates goes on."""
