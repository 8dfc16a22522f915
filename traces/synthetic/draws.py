"""Randomness for synthetic workloads: a generator for each quantity, drawn in blocks."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping
from itertools import repeat
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

Key = TypeVar("Key")
Default = TypeVar("Default")
Floats = NDArray[np.float64]
Whole = NDArray[np.int64]

_FIRST_BLOCK = 64
_LARGEST_BLOCK = 4096


class Draws:
    """A seed from which every quantity has a random generator of its own.

    Generators are told apart by name (SeedSequence's spawn key is a hash of it), not by the
    order in which they are asked for. So a further quantity, or another distribution of one
    quantity, changes the draws of no other: what-ifs are compared under common random numbers.
    """

    def __init__(self, seed: int, *path: str) -> None:
        self._seed = seed
        self._path = path

    def within(self, name: str) -> Draws:
        """The draws of a part, such as one client of many."""
        return Draws(self._seed, *self._path, name)

    def generator(self, name: str) -> np.random.Generator:
        """The same generator, from its beginning, for the same name."""
        key = _digest(*self._path, name)
        words = tuple(int.from_bytes(key[at : at + 4], "big") for at in range(0, 16, 4))
        return np.random.Generator(
            np.random.PCG64(np.random.SeedSequence(self._seed, spawn_key=words))
        )


def seed_at(seed: int, place: str) -> int:
    """The seed of a part that stands at a place; the whole, at '', has the seed itself."""
    if not place:
        return seed
    return int.from_bytes(_digest(str(seed), place)[:8], "big") >> 1


def block_sizes() -> Iterator[int]:
    """How many values to draw at a time: few at first, for a workload may have many sources."""
    size = _FIRST_BLOCK
    while True:
        yield size
        size = min(2 * size, _LARGEST_BLOCK)


def endless(draw: Callable[[int], NDArray[np.generic]]) -> Iterator[int]:
    """Whole numbers, one by one, of a vectorised source without end."""
    for size in block_sizes():
        yield from draw(size).tolist()


def choose(weights: Floats, random: np.random.Generator) -> Iterator[int]:
    """Positions in `weights` (non-negative, of any sum), each drawn in proportion to its own."""
    return endless(lambda size: pick(weights, random, size))


def pick(weights: Floats, random: np.random.Generator, size: int) -> Whole:
    """`size` positions in `weights`, by inverse distribution: one uniform draw for each."""
    edges = np.cumsum(weights)
    drawn = np.searchsorted(edges, random.random(size) * edges[-1], side="right")
    # Rounding may lift a draw to the very end of the edges.
    positions: Whole = np.minimum(drawn, len(edges) - 1)
    return positions


def by_rank(count: int, skew: float) -> Floats:
    """Zipf's weights 1 / rank**skew; with skew 0 all are alike."""
    return np.arange(1, count + 1, dtype=np.float64) ** -float(skew)


def choose_key(
    weights: Mapping[Key, float] | None, random: np.random.Generator, *, default: Default
) -> Iterator[Key | Default]:
    """Keys in proportion to their weights; the default, always, where there are none."""
    if not weights:
        return repeat(default)
    keys = list(weights)
    positions = choose(np.array(list(weights.values()), dtype=np.float64), random)
    return (keys[position] for position in positions)


def _digest(*names: str) -> bytes:
    return hashlib.sha256("\0".join(names).encode()).digest()
