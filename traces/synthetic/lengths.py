"""How long prompts and answers are, in tokens."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from traces.ranges import check_least, check_positive
from traces.synthetic.draws import Draws, Floats, Whole, by_rank, choose, endless

LONGEST = 10**8
"""Tokens of a prompt or an answer, whatever the distribution says."""


class Lengths(Protocol):
    """A distribution of lengths of at least one token.

    What is drawn above `longest` is clipped to it by the workload, and counted there.
    """

    @property
    def longest(self) -> int: ...

    def lengths(self, draws: Draws) -> Iterator[int]:
        """Independent lengths without end; equal draws give equal lengths."""
        ...


class Pairs(Protocol):
    """A joint distribution of (prompt, answer) lengths; see Lengths."""

    @property
    def longest(self) -> tuple[int, int]: ...

    def pairs(self, draws: Draws) -> Iterator[tuple[int, int]]: ...


@dataclass(frozen=True, slots=True)
class Constant:
    tokens: int
    longest = LONGEST

    def __post_init__(self) -> None:
        check_least(1, tokens=self.tokens)

    def lengths(self, draws: Draws) -> Iterator[int]:
        return endless(lambda size: np.full(size, self.tokens))


@dataclass(frozen=True, slots=True)
class Uniform:
    """Every whole number from `low` to `high`, both included, alike."""

    low: int
    high: int
    longest = LONGEST

    def __post_init__(self) -> None:
        check_least(1, low=self.low)
        check_least(self.low, high=self.high)

    def lengths(self, draws: Draws) -> Iterator[int]:
        random = draws.generator("lengths")
        count = self.high - self.low + 1
        return endless(lambda size: self.low + (random.random(size) * count).astype(np.int64))


@dataclass(frozen=True, slots=True)
class Lognormal:
    """Lognormal, rounded up to whole tokens, for nobody sends none."""

    median: float
    sigma: float
    longest: int = LONGEST

    def __post_init__(self) -> None:
        check_positive(median=self.median)
        check_least(0, sigma=self.sigma)
        check_least(1, longest=self.longest)

    def lengths(self, draws: Draws) -> Iterator[int]:
        random = draws.generator("lengths")
        return endless(
            lambda size: _round_up(self.median * np.exp(self.sigma * random.standard_normal(size)))
        )


@dataclass(frozen=True, slots=True)
class Exponential:
    """Exponential, rounded up; so ServeGen's repository describes the answers of one client."""

    mean: float
    longest: int = LONGEST

    def __post_init__(self) -> None:
        check_positive(mean=self.mean)
        check_least(1, longest=self.longest)

    def lengths(self, draws: Draws) -> Iterator[int]:
        random = draws.generator("lengths")
        return endless(lambda size: _round_up(self.mean * random.standard_exponential(size)))


@dataclass(frozen=True, slots=True)
class Zipf:
    """Whole numbers x from `low` to `high` with a weight of x**-exponent: a power law."""

    exponent: float
    low: int
    high: int
    longest = LONGEST

    def __post_init__(self) -> None:
        check_least(0, exponent=self.exponent)
        check_least(1, low=self.low)
        check_least(self.low, high=self.high)

    def lengths(self, draws: Draws) -> Iterator[int]:
        weights = by_rank(self.high, self.exponent)[self.low - 1 :]
        return (self.low + position for position in choose(weights, draws.generator("lengths")))


@dataclass(frozen=True, slots=True)
class Independent:
    """Prompts and answers that know nothing of each other."""

    prompt: Lengths
    output: Lengths

    @property
    def longest(self) -> tuple[int, int]:
        return self.prompt.longest, self.output.longest

    def pairs(self, draws: Draws) -> Iterator[tuple[int, int]]:
        return zip(
            self.prompt.lengths(draws.within("prompts")),
            self.output.lengths(draws.within("outputs")),
            strict=True,
        )


def sigma_of(*, mean: float, median: float) -> float:
    """The shape of the lognormal with this mean and median, as papers state them."""
    return math.sqrt(2 * math.log(mean / median))


def median_of(*, mean: float, sigma: float) -> float:
    """The median of the lognormal with this mean and shape."""
    return mean * math.exp(-(sigma**2) / 2)


def _round_up(tokens: Floats) -> Whole:
    # A zero would be drawn once in 2**64; whatever is beyond LONGEST is clipped anyway.
    return np.clip(np.ceil(tokens), 1, 2.0 * LONGEST).astype(np.int64)
