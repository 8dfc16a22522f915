"""Blocks that are copied before a step computes, or taken as it is repeated."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from sim.request import Sequence


class Copy(NamedTuple):
    """One block to copy before the step runs, since its holder is about to write into it and
    others go on holding the original (copy on write)."""

    source: int
    target: int
    sequence: Sequence
    """The writer, and"""
    position: int
    """the first token it writes: the block's tokens before that one are its content."""


class Swap(NamedTuple):
    """Blocks of one sequence to copy to host memory before the step runs, or back from it."""

    sequence: Sequence
    out: bool
    tokens: int
    """Computed ones, which fill these blocks but for the last one's rest."""
    blocks: list[int]
    """Of the device, in the order of the block table, and"""
    host_blocks: list[int]
    """the block of the host that goes with each."""


class Takes(NamedTuple):
    """Blocks that the decodes of a repeated plan took in its steps after the first: entry by
    entry, in lists of one length."""

    offsets: list[int]
    """The step, counted from the plan's first."""
    blocks: list[int]
    idle_after: list[int]
    """Idle cached blocks of the pool afterwards."""


NO_TAKES = Takes([], [], [])
