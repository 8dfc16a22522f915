"""Token ids for tokens that are (stream, position), and whose K and V lie where in a pool."""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

Run = tuple[int, int, int]
"""(stream, start, length), as a prompt is made of."""

_WORD = 0xFFFF_FFFF_FFFF_FFFF


class TokenIds:
    """Which id of the vocabulary a token has.

    An answer's ids are those that were generated. Whatever is not an answer, or is not yet, is a
    seeded hash of stream and position. So that a token never changes its id, an answer that was
    quoted before it was generated (a turn that overtook its predecessor), or that another
    request gave already, is given the ids that it has: `forced` counts them.
    """

    def __init__(self, vocab_size: int, *, seed: int) -> None:
        self.forced = 0
        """Generated tokens whose id was settled before, and differs from the one sampled."""
        self._vocab_size = np.uint64(vocab_size)
        self._seed = seed
        self._given: dict[int, array[int]] = {}
        """By stream: ids of its first tokens, where they are an answer's."""
        self._quoted: dict[int, int] = {}
        """By stream: so many of its tokens a prompt may have shown."""

    def prompt(self, runs: Iterable[Run]) -> array[int]:
        """The ids of a prompt; they stand from here on."""
        ids = array("q")
        for stream, start, length in runs:
            end = start + length
            given = self._given.get(stream, _NOTHING)
            ids += given[start:end]
            hashed_from = max(start, len(given))
            if hashed_from < end:
                ids.frombytes(self._hash(stream, hashed_from, end).tobytes())
                self._quoted[stream] = max(end, self._quoted.get(stream, 0))
        return ids

    def settle(self, stream: int, position: int, sampled: int) -> int:
        """The id of an answer's token, for which `sampled` is proposed. Positions come in
        order, from 0."""
        given = self._given.setdefault(stream, array("q"))
        if position < len(given):
            token = given[position]
        else:
            assert position == len(given), "an answer's tokens come one after another"
            token = sampled
            if position < self._quoted.get(stream, 0):
                token = int(self._hash(stream, position, position + 1)[0])
            given.append(token)
        self.forced += token != sampled
        return token

    def _hash(self, stream: int, start: int, end: int) -> NDArray[np.int64]:
        key = np.array([stream & _WORD, self._seed & _WORD], dtype=np.uint64)
        of_stream = _mix(_mix(key[:1]) + key[1:])
        positions: NDArray[np.uint64] = np.arange(start, end, dtype=np.uint64)
        return (_mix(positions + of_stream) % self._vocab_size).astype(np.int64)


class SlotIds:
    """The token whose K and V each slot of a pool holds, so that a hit can be checked.

    Blocks of the host follow the pool's: block h of it is `blocks + h`.
    """

    def __init__(self, blocks: int, *, block_size: int, host_blocks: int = 0) -> None:
        self._ids = np.full((blocks + host_blocks, block_size), -1, dtype=np.int32)
        self._block_size = block_size

    def copy(self, source: int, target: int) -> None:
        self._ids[target] = self._ids[source]

    def write(self, blocks: Sequence[int], before: int, ids: Sequence[int]) -> None:
        """Tokens behind the first `before` of a sequence with this block table."""
        at, offset = np.divmod(np.arange(before, before + len(ids)), self._block_size)
        self._ids[np.asarray(blocks)[at], offset] = ids

    def count_others(self, blocks: Sequence[int], ids: Sequence[int]) -> int:
        """How many of these tokens are not there; they lie in these blocks, from their start."""
        return int(np.count_nonzero(self._ids[np.asarray(blocks)].ravel()[: len(ids)] != ids))


_NOTHING: array[int] = array("q")


def _mix(x: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """SplitMix64's next number after each of these states (Steele, Lea and Flood, 2014)."""
    x = x + np.uint64(0x9E3779B97F4A7C15)
    x = (x ^ x >> np.uint64(30)) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ x >> np.uint64(27)) * np.uint64(0x94D049BB133111EB)
    return x ^ x >> np.uint64(31)
