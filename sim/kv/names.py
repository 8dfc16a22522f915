"""Names for the content of blocks: equal exactly where the whole prefix is equal.

A token *is* (stream, position), and a prompt is a few runs of them, so nothing needs hashing::

    tokens   aaaaaaaa  aaabbccc  cccccccc  cccc         blocks of 8; runs of 11, 2 and 15
    names    (A, 0)    (C, 0)    (C, 1)

A *run* is consecutive tokens of one stream. All full blocks that end in one run, behind one prefix,
have one *node* (A and C, none for b), and the j-th of them is *named* (node, j). A sequence's
*chain* is its nodes, with how many blocks it has of each: A 1, C 2.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import count
from weakref import ref

from sim.kv.node import Name, Node, Part
from sim.request import Run

_ENDLESS = 1 << 62
_MANY = 10_000
"""Nodes that are made until the keys of those that are gone are forgotten."""


class Names:
    """Finds the node of a run by the name before it, by what its first block begins with, and by
    where it starts: so two blocks get one name if and only if they and everything before them
    hold the same tokens. vLLM keys a block by hash(parent's key, its tokens).
    """

    def __init__(self, block_size: int) -> None:
        self.block_size = block_size
        self._nodes: dict[tuple[int, ...], ref[Node]] = {}
        """Those that a chain has or of which something is cached. Once nothing is, nothing is of
        those behind it either: another number will do when its content comes back."""
        self._numbers = count(1)

    def node(self, *key: int) -> Node:
        """That of a run: its stream and where it starts there; node and offset of the block before
        it; what its first block begins with."""
        known = self._nodes.get(key)
        node = None if known is None else known()
        if node is None:
            node = Node(next(self._numbers), stream=key[0])
            self._nodes[key] = ref(node)
            if node.number % _MANY == 0:
                self._nodes = {k: each for k, each in self._nodes.items() if each() is not None}
        return node

    def chain(self, prompt: Iterable[Run], output_stream: int) -> Chain:
        """Of a prompt, and an answer as long as may be: a node for each run that fills a block."""
        size, find = self.block_size, self.node
        runs = _maximal([*prompt, (output_stream, 0, _ENDLESS)])
        parts: list[Part] = []
        starts: list[int] = []
        block = parent = last = filled = 0
        begun: tuple[int, ...] = ()
        for stream, start, length in runs:
            whole, filled = divmod(filled + length, size)
            if not whole:
                begun += stream, start, length
                continue
            node = find(stream, start, parent, last, *begun)
            parts.append((node, whole))
            starts.append(block)
            block, parent, last = block + whole, node.number, whole - 1
            begun = (stream, start + length - filled, filled) if filled else ()
        return Chain(runs, parts, starts, parts[-1][0], starts[-1])

    def branch(self, chain: Chain, tokens: int, output_stream: int) -> Chain:
        """Of who shares the first `tokens` tokens of a chain, and then says something else."""
        shared: list[Run] = []
        for stream, start, length in chain.runs:
            shared.append((stream, start, min(length, tokens)))
            tokens -= shared[-1][2]
        return self.chain(shared, output_stream)


@dataclass(slots=True, eq=False)
class Chain:
    """The names of one sequence's blocks."""

    runs: list[Run]
    parts: list[Part]
    """Its nodes, and how many blocks it has of each, which begin with"""
    starts: list[int]
    """these."""
    answer: Node
    """The last node, of blocks that end in the answer,"""
    answer_start: int
    """from this one on."""

    def name(self, index: int) -> Name:
        """Of one block."""
        at = bisect_right(self.starts, index) - 1
        return self.parts[at][0], index - self.starts[at]

    def leading(self, blocks: int) -> list[Part]:
        """The nodes of so many blocks from the first one on, with how many are of each."""
        nodes = bisect_left(self.starts, blocks)
        parts = self.parts[:nodes]
        if parts:
            parts[-1] = parts[-1][0], blocks - self.starts[nodes - 1]
        return parts

    def between(self, start: int, stop: int) -> list[tuple[Node, int, int]]:
        """The nodes of blocks start .. stop - 1: the offset of the first in each, and how many."""
        at = bisect_right(self.starts, start) - 1
        found = []
        while start < stop:
            node, count = self.parts[at]
            offset = start - self.starts[at]
            n = min(count - offset, stop - start)
            found.append((node, offset, n))
            start += n
            at += 1
        return found


def _maximal(runs: list[Run]) -> list[Run]:
    """The same tokens in as few runs as possible, so that equal content has equal runs."""
    merged: list[Run] = []
    stream_before = end_before = None
    for stream, start, length in runs:
        if length == 0:
            continue
        if stream == stream_before and start == end_before:
            merged[-1] = (stream, merged[-1][1], merged[-1][2] + length)
        else:
            merged.append((stream, start, length))
        stream_before, end_before = stream, start + length
    return merged
