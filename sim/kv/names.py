"""Names for the content of blocks: equal exactly where the whole prefix is equal."""

from __future__ import annotations

from sim.request import Run

_OFFSET_BITS = 24
_AHEAD_BLOCKS = 32


class Names:
    """Gives every (prefix, block) an integer, without hashing a token.

    vLLM keys a full block by hash(parent's key, its tokens). Here a maximal run of tokens
    (one stream, consecutive positions) has one node, interned by what precedes it and where
    it starts, and its j-th whole block is called node << 24 | j. A block in which several
    runs meet has a node of its own. Two blocks get one name if and only if they and
    everything before them hold the same tokens; there is nothing to collide.
    """

    def __init__(self, block_size: int) -> None:
        self.block_size = block_size
        self._nodes: dict[tuple[object, ...], int] = {}

    def node(self, parent: int, *content: object) -> int:
        """The first name of a node: `content`, in a prefix that ends with block `parent`."""
        nodes = self._nodes
        return nodes.setdefault((parent, *content), len(nodes) + 1) << _OFFSET_BITS

    def chain(self, prompt: tuple[Run, ...], output_stream: int) -> Chain:
        return Chain(self, prompt, output_stream)


class Chain:
    """The names of one sequence's blocks, prompt and answer, made as they are asked for."""

    __slots__ = ("_at", "_names", "_run", "_runs", "_source", "_whole")

    def __init__(self, source: Names, prompt: tuple[Run, ...], output_stream: int) -> None:
        self._source = source
        self._runs = _maximal([*prompt, (output_stream, 0, 1 << 62)])
        self._run = 0
        """The run that the next block starts in,"""
        self._at = 0
        """at this offset,"""
        self._whole = False
        """and whether the block before it lies wholly in that run."""
        self._names: list[int] = []

    def upto(self, blocks: int) -> list[int]:
        """At least the first `blocks` names (the list is shared: do not change it)."""
        while len(self._names) < blocks:
            self._name_more(blocks - len(self._names) + _AHEAD_BLOCKS)
        return self._names

    def branch(self, tokens: int, stream: int) -> Chain:
        """The chain that has the first `tokens` tokens of this one, and then those of `stream`."""
        shared, left = [], tokens
        for of, start, length in self._runs:
            if left > 0:
                shared.append((of, start, min(length, left)))
                left -= length
        return Chain(self._source, tuple(shared), stream)

    def stream_at(self, position: int) -> int:
        """The stream of the token at this position of the sequence."""
        for stream, _, length in self._runs:
            if position < length:
                return stream
            position -= length
        raise IndexError(position)

    def _name_more(self, blocks: int) -> None:
        """Name whole blocks of the current run, at most `blocks`, or one block of mixed runs."""
        names, size = self._names, self._source.block_size
        stream, start, length = self._runs[self._run]
        parent = names[-1] if names else 0
        whole = min(blocks, (length - self._at) // size)
        if whole:
            follows = self._whole
            first = parent + 1 if follows else self._source.node(parent, stream, start + self._at)
            names.extend(range(first, first + whole))
            self._at += whole * size
            self._whole = True
        else:
            names.append(self._source.node(parent, *self._take(size)))
            self._whole = False
        if self._at == self._runs[self._run][2]:
            self._run, self._at, self._whole = self._run + 1, 0, False

    def _take(self, tokens: int) -> list[Run]:
        """The next tokens, as the pieces of runs that make them up."""
        pieces = []
        while tokens:
            stream, start, length = self._runs[self._run]
            n = min(tokens, length - self._at)
            pieces.append((stream, start + self._at, n))
            tokens -= n
            self._at += n
            if self._at == length and tokens:
                self._run, self._at = self._run + 1, 0
        return pieces


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
