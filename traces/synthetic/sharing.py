"""What prompts have in common: content around the part that is a request's own.

Shared content is in streams 0 to `streams` - 1. Lengths are drawn for the other part, the
*question*: a prompt is what stands before it, the question, and what stands behind it::

    [ before: shared ][ question: own ][ behind: shared ]

Only what stands before can be found by a prefix cache.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import repeat
from typing import Literal, Protocol

import numpy as np

from sim.request import Run
from traces.ranges import check_least
from traces.synthetic.draws import Draws, block_sizes, by_rank, choose, pick

Around = tuple[tuple[Run, ...], tuple[Run, ...]]
"""Runs before the question, and behind it."""


class Sharing(Protocol):
    """How prompts share content."""

    @property
    def streams(self) -> int:
        """How many streams of shared content there are."""
        ...

    def surroundings(self, draws: Draws) -> Iterator[Around]:
        """What stands around each question, without end."""
        ...


@dataclass(frozen=True, slots=True)
class Nothing:
    """Every prompt is its own."""

    streams = 0

    def surroundings(self, draws: Draws) -> Iterator[Around]:
        return repeat(((), ()))


NOTHING = Nothing()


@dataclass(frozen=True, slots=True)
class SystemPrompts:
    """Each prompt begins with one of `count` system prompts, by popularity (1 / rank**skew)."""

    count: int
    tokens: int
    skew: float = 1.0

    def __post_init__(self) -> None:
        check_least(1, count=self.count, tokens=self.tokens)
        check_least(0, skew=self.skew)

    @property
    def streams(self) -> int:
        return self.count

    def surroundings(self, draws: Draws) -> Iterator[Around]:
        chosen = choose(by_rank(self.count, self.skew), draws.generator("system prompts"))
        return ((((stream, 0, self.tokens),), ()) for stream in chosen)


@dataclass(frozen=True, slots=True)
class PromptTree:
    """Each prompt begins with a path from the root of a tree to a leaf.

    For instance instructions (the root), examples of a task, examples of a case. The tree has
    `depth` levels; a node has `branching` children, chosen by popularity (1 / rank**skew)::

        [root][child][grandchild][question]     depth 3
    """

    depth: int
    branching: int
    tokens_per_node: int
    skew: float = 0.0

    def __post_init__(self) -> None:
        check_least(1, depth=self.depth, branching=self.branching)
        check_least(1, tokens_per_node=self.tokens_per_node)
        check_least(0, skew=self.skew)

    @property
    def streams(self) -> int:
        return sum(self.branching**level for level in range(self.depth))

    def surroundings(self, draws: Draws) -> Iterator[Around]:
        random = draws.generator("paths")
        weights = by_rank(self.branching, self.skew)
        for size in block_sizes():
            steps = pick(weights, random, size * (self.depth - 1)).reshape(size, self.depth - 1)
            # Breadth first, the children of node i are i * branching + 1, + 2, ...
            nodes = np.zeros((size, self.depth), dtype=np.int64)
            for level in range(1, self.depth):
                nodes[:, level] = nodes[:, level - 1] * self.branching + 1 + steps[:, level - 1]
            for path in nodes.tolist():
                yield tuple((node, 0, self.tokens_per_node) for node in path), ()


@dataclass(frozen=True, slots=True)
class Rag:
    """Each prompt holds retrieved documents, before or after its question.

    The first `instructions` tokens are the same for all prompts. `retrieved` documents
    are drawn by popularity (1 / rank**skew), independently: one may come twice.
    """

    documents: int
    document_tokens: int
    skew: float = 1.0
    position: Literal["before", "after"] = "before"
    retrieved: int = 1
    instructions: int = 0

    def __post_init__(self) -> None:
        check_least(1, documents=self.documents, document_tokens=self.document_tokens)
        check_least(1, retrieved=self.retrieved)
        check_least(0, skew=self.skew, instructions=self.instructions)

    @property
    def streams(self) -> int:
        return self.documents + 1

    def surroundings(self, draws: Draws) -> Iterator[Around]:
        chosen = choose(by_rank(self.documents, self.skew), draws.generator("documents"))
        head: tuple[Run, ...] = ((0, 0, self.instructions),) if self.instructions else ()
        while True:
            found = tuple(
                (1 + next(chosen), 0, self.document_tokens) for _ in range(self.retrieved)
            )
            yield ((*head, *found), ()) if self.position == "before" else (head, found)
