"""Names for the content of blocks: equal exactly where the whole prefix is equal."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from itertools import count
from weakref import ref

from sim.kv.node import Name, Node, Part
from sim.request import Run

_ENDLESS = 1 << 62
_MANY = 10_000
"""Chains that are made until nodes of which there is no use are forgotten."""


class Names:
    """Names every (prefix, block), without hashing a token.

    vLLM keys a full block by hash(parent's key, its tokens). Here the blocks whose last tokens are
    of one maximal run (one stream, consecutive positions) have one node, and the j-th of them is
    called (node, j)::

        tokens   aaaaaaaa  aaabbccc  cccccccc  cccc
        names    (A, 0)    (C, 0)    (C, 1)

    A node is interned by the name before it, by what its first block begins with, and by where its
    run starts. Two blocks get one name if and only if they and everything before them hold the
    same tokens; there is nothing to collide.
    """

    def __init__(self, block_size: int) -> None:
        self.block_size = block_size
        self._nodes: dict[tuple[int, ...], Node] = {}
        self._numbers, self._made = count(1), count(1)
        self._chains: list[ref[Chain]] = []

    def node(self, *key: int) -> Node:
        """That of a run: its stream and where it starts there; node and offset of the block before
        it; what its first block begins with."""
        node = self._nodes.get(key)
        if node is None:
            node = self._nodes[key] = Node(next(self._numbers), stream=key[0])
        return node

    def chain(self, prompt: tuple[Run, ...], output_stream: int) -> Chain:
        if next(self._made) % _MANY == 0:
            self._forget()
        chain = Chain(self, prompt, output_stream)
        self._chains.append(ref(chain))
        return chain

    def _forget(self) -> None:
        """Let go of nodes that no chain has and of which nothing is cached. Then nothing is of
        those behind them either, so another number will do when their content comes back."""
        chains = [chain for each in self._chains if (chain := each()) is not None]
        used = {node for chain in chains for node, _ in chain.leading(_ENDLESS)}
        self._nodes = {k: node for k, node in self._nodes.items() if node.blocks or node in used}
        self._chains = list(map(ref, chains))


class Chain:
    """The names of one sequence's blocks, prompt and answer, node by node."""

    __slots__ = ("__weakref__", "_parts", "_runs", "_source", "_starts", "answer", "answer_start")

    def __init__(self, source: Names, prompt: tuple[Run, ...], output_stream: int) -> None:
        self._source = source
        self._runs = _maximal([*prompt, (output_stream, 0, _ENDLESS)])
        self._parts: list[Part] = []
        """Its nodes, and how many blocks it has of each, which begin with"""
        self._starts: list[int] = []
        """these."""
        self._name_all()
        self.answer = self._parts[-1][0]
        """The last node, of blocks that end in the answer,"""
        self.answer_start = self._starts[-1]
        """from this one on."""

    def name(self, index: int) -> Name:
        """Of one block."""
        at = bisect_right(self._starts, index) - 1
        return self._parts[at][0], index - self._starts[at]

    def leading(self, blocks: int) -> list[Part]:
        """The nodes of so many blocks from the first one on, with how many are of each."""
        nodes = bisect_left(self._starts, blocks)
        parts = self._parts[:nodes]
        if parts:
            parts[-1] = parts[-1][0], blocks - self._starts[nodes - 1]
        return parts

    def between(self, start: int, stop: int) -> list[tuple[Node, int, int]]:
        """The nodes of blocks start .. stop - 1: the offset of the first in each, and how many."""
        at = bisect_right(self._starts, start) - 1
        found = []
        while start < stop:
            node, count = self._parts[at]
            offset = start - self._starts[at]
            n = min(count - offset, stop - start)
            found.append((node, offset, n))
            start += n
            at += 1
        return found

    def branch(self, tokens: int, stream: int) -> Chain:
        """The chain that has the first `tokens` tokens of this one, and then those of `stream`."""
        shared, left = [], tokens
        for of, start, length in self._runs:
            if left > 0:
                shared.append((of, start, min(length, left)))
                left -= length
        return self._source.chain(tuple(shared), stream)

    def _name_all(self) -> None:
        """A node for each run that fills a block."""
        size, find = self._source.block_size, self._source.node
        parts, starts = self._parts, self._starts
        block = parent = last = filled = 0
        begun: tuple[int, ...] = ()
        for stream, start, length in self._runs:
            whole, filled = divmod(filled + length, size)
            if not whole:
                begun += stream, start, length
                continue
            node = find(stream, start, parent, last, *begun)
            parts.append((node, whole))
            starts.append(block)
            block, parent, last = block + whole, node.number, whole - 1
            begun = (stream, start + length - filled, filled) if filled else ()


def _maximal(runs: list[Run]) -> list[Run]:
    """The same tokens in as few runs as possible, so that equal content has equal runs."""
    merged: list[Run] = []
    for stream, start, length in runs:
        if length == 0:
            continue
        last = merged[-1] if merged else None
        if last is not None and last[0] == stream and last[1] + last[2] == start:
            merged[-1] = (stream, last[1], last[2] + length)
        else:
            merged.append((stream, start, length))
    return merged
