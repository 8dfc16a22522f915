"""Step times by a formula that was fitted to a step log."""

from __future__ import annotations

from bisect import bisect_right
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from calibrate.host_link import PricesSwaps
from calibrate.roofline import attention_area
from sim.latency import LONGEST_STRETCH, Counts, Nanoseconds

if TYPE_CHECKING:
    from sim.plan import Plan

Floats = NDArray[np.float64]
_MOST_NS = 1e13
_NAMES = ("tokens", "decodes", "chunks", "area of chunks' attention")
_STEPS = np.arange(LONGEST_STRETCH, dtype=np.int64)


@dataclass(frozen=True, slots=True)
class Curve:
    """Nanoseconds over scheduled tokens: straight from each node to the next.

    Left of the first node it stays level; right of the last one it rises as the chord from
    the first to the last does, if that rises.
    """

    tokens: tuple[int, ...]
    ns: tuple[float, ...]

    def segments(self) -> tuple[list[float], list[float], list[float]]:
        """(from tokens, from ns, ns per token) of the pieces: one before each node, one after
        the last."""
        tokens, ns = self.tokens, self.ns
        slopes = [(ns[i + 1] - ns[i]) / (tokens[i + 1] - tokens[i]) for i in range(len(tokens) - 1)]
        chord = (ns[-1] - ns[0]) / (tokens[-1] - tokens[0])
        starts = [float(tokens[0]), *map(float, tokens)]
        return starts, [ns[0], *ns], [0.0, *slopes, max(0.0, chord)]

    def at(self, tokens: Counts) -> Floats:
        """In the shape of `tokens`, not rounded."""
        starts, values, slopes = map(np.array, self.segments())
        piece = np.searchsorted(self.tokens, tokens, side="right")
        ns: Floats = values[piece] + (tokens - starts[piece]) * slopes[piece]
        return ns


@dataclass(frozen=True, slots=True, kw_only=True)
class Prices:
    """A step costs curve(tokens) + decode x decodes + context token x their context + chunk x
    chunks + pair x the area of their attention, in nanoseconds.

    A decode is any row of one token, a chunk any other. A row of either kind yields one row
    of logits: the head's price is in these two.
    """

    curve: Curve
    decode_ns: float
    context_token_ns: float
    chunk_ns: float
    pair_ns: float

    def check(self) -> None:
        """Raise ValueError for prices under which a step might take no time, or for ever."""
        tokens, ns = self.curve.tokens, self.curve.ns
        if len(tokens) < 2 or list(tokens) != sorted(set(tokens)) or tokens[0] < 1:
            raise ValueError(f"found the nodes {tokens}; allowed: two or more, rising from 1")
        if len(ns) != len(tokens) or not all(0 < each <= _MOST_NS for each in ns):
            raise ValueError(f"found the times {ns}; allowed: above 0 ns, one for each node")
        for name in ("decode_ns", "context_token_ns", "chunk_ns", "pair_ns"):
            if not 0 <= getattr(self, name) <= _MOST_NS:
                raise ValueError(
                    f"{name}: found {getattr(self, name)}; allowed: 0 to {_MOST_NS:g} ns"
                )

    def engine_ns(
        self, tokens: Counts, decodes: Counts, context: Counts, chunks: Counts, area: Counts
    ) -> Floats:
        """Of steps as arrays of one shape; neither rounded nor with host time."""
        curve_ns, rows_ns = self.curve.at(tokens), self.rows_ns(decodes, chunks, area)
        priced: Floats = curve_ns + rows_ns + context * self.context_token_ns
        return priced

    def rows_ns(self, decodes: Counts, chunks: Counts, area: Counts) -> Any:
        """What does not change as the context grows, the curve aside."""
        return decodes * self.decode_ns + chunks * self.chunk_ns + area * self.pair_ns


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """What the steps had that the prices were fitted on; None where their log was silent."""

    tokens: tuple[int, int]
    """Fewest and most."""
    decodes: int | None
    decode_context: int | None
    chunks: int | None
    area: int | None


class StepModel(PricesSwaps):
    """A latency model: prices fitted on whole steps of a real engine.

    `notes` counts the steps that were priced and lie outside what was seen, stretches in full
    even where an arrival cut them short.
    """

    modelled = False
    knows_alone = True

    def __init__(self, prices: Prices, seen: Seen, *, host_ns: int = 0, source: str) -> None:
        self.host_ns = host_ns
        self.source = source
        self.notes: Counter[str] = Counter()
        self.prices = prices
        self._nodes = list(prices.curve.tokens)
        self._starts, self._values, self._slopes = prices.curve.segments()
        self._fewest = seen.tokens[0]
        self._too_few = f"steps of fewer tokens than the fitted {self._fewest:,}"
        self._most = (seen.tokens[1], seen.decodes, seen.chunks, seen.area)
        self._longest = seen.decode_context

    def durations(self, plan: Plan, k: int) -> list[int]:
        """Durations of the plan's step and of the k - 1 that repeat it.

        In the j-th step every decode's context is j tokens longer. The plan is not empty.
        """
        growth = tokens = decodes = len(plan.decodes)
        context = plan.decodes.context_sum
        chunks = area = 0
        for _, computed_before, n in plan.chunks:
            tokens += n
            if n == 1:
                decodes += 1
                context += computed_before + 1
            else:
                chunks += 1
                area += int(attention_area(computed_before, n))
        self._count(k, (tokens, decodes, chunks, area))
        self._count_context(k, context, growth)
        piece = bisect_right(self._nodes, tokens)
        curve_ns = self._values[piece] + (tokens - self._starts[piece]) * self._slopes[piece]
        rows_ns = self.prices.rows_ns(decodes, chunks, area)
        price_ns = self.prices.context_token_ns
        if k == 1:  # the same arithmetic, without an array of one
            return [self.host_ns + round(curve_ns + rows_ns + context * price_ns)]
        steps_ns = curve_ns + rows_ns + (context + growth * _STEPS[:k]) * price_ns
        durations: list[int] = (self.host_ns + np.rint(steps_ns).astype(np.int64)).tolist()
        return durations

    def alone(self, computed_before: Counts, n: Counts) -> Nanoseconds:
        """Engine time of each chunk of n tokens with nothing beside it, int64, in the shape of
        the two. Without host time; 0 where n is 0.
        """
        single = np.equal(n, 1)
        decodes, chunks = np.where(single, 1, 0), np.where(single, 0, 1)
        context = np.where(single, np.add(computed_before, 1), 0)
        area = np.where(single, 0, attention_area(computed_before, n))
        chunk_ns = np.rint(self.prices.engine_ns(n, decodes, context, chunks, area))
        return np.where(n, chunk_ns, 0).astype(np.int64)

    def _count(self, steps: int, work: tuple[int, int, int, int]) -> None:
        """Steps whose work is not like any that was seen."""
        if work[0] < self._fewest:
            self.notes[self._too_few] += steps
        for name, value, most in zip(_NAMES, work, self._most, strict=True):
            if most is not None and value > most:
                self.notes[_beyond(name, most)] += steps

    def _count_context(self, steps: int, context: int, growth: int) -> None:
        most = self._longest
        if most is None or context + growth * (steps - 1) <= most:
            return
        within = 0 if context > most else 1 + (most - context) // growth
        self.notes[_beyond("decode context", most)] += steps - within


def _beyond(name: str, most: int) -> str:
    return f"steps beyond the fitted {name} (up to {most:,})"
