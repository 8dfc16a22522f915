"""Prompts as lists of token ids: streams such that equal prefixes are equal, exactly."""

from __future__ import annotations

from array import array
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from sim.request import Run
from traces.streams import Streams

_ROOT = -1
"""Stands before the first token of all prompts, where a stream number would be."""


class End(NamedTuple):
    """The place behind a prompt's last token."""

    stream: int
    position: int


class Prefixes:
    """A radix tree of all prompts and answers so far, whose edges are streams.

    Two prompts walk the same streams exactly as far as their ids agree; where one leaves a
    stream, it starts a new one::

        prompt 1: 5 6 7 8 9      stream 0: 5 6 7 8 9
        prompt 2: 5 6 7 1 2      stream 1:       1 2     runs (0, 0, 3) (1, 0, 2)

    Holds 8 bytes per distinct token, and compares prompts at the speed of memory.
    """

    def __init__(self, streams: Streams) -> None:
        self._streams = streams
        self._tokens: dict[int, NDArray[np.int64]] = {}
        self._branches: dict[tuple[int, int, int], int] = {}
        """(stream, position, next token) -> the stream in which that token comes first."""

    def runs(self, ids: array[int]) -> tuple[tuple[Run, ...], End]:
        """The prompt of these token ids (at least one), known from now on."""
        tokens = np.array(ids, dtype=np.int64)
        runs: list[Run] = []
        end = End(_ROOT, 0)
        done = 0
        while done < len(tokens):
            key = (*end, int(tokens[done]))
            stream = self._branches.get(key)
            if stream is None:
                stream = self._branches[key] = self._streams.private()
                self._tokens[stream] = tokens[done:]
            known = self._tokens[stream]
            shared = _common(known, tokens[done:])
            runs.append((stream, 0, shared))
            done += shared
            end = End(stream, shared)
        return tuple(runs), end

    def answer(self, end: End, ids: array[int]) -> int:
        """A stream for the answer to the prompt that ends there; later prompts may quote it.

        Where the same prompt was answered alike before, they quote the first such answer.
        """
        stream = self._streams.private()
        known = self._tokens[end.stream]
        if end.position == len(known) or known[end.position] != ids[0]:
            key = (*end, ids[0])
            if key not in self._branches:
                self._branches[key] = stream
                self._tokens[stream] = np.array(ids, dtype=np.int64)
        return stream


def _common(left: NDArray[np.int64], right: NDArray[np.int64]) -> int:
    """How many tokens both begin with alike."""
    length = min(len(left), len(right))
    differing = left[:length] != right[:length]
    first = int(differing.argmax())
    return first if differing[first] else length
