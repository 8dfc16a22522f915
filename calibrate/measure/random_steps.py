"""Whole steps at random: what an engine's batches might look like, each kind as often."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from calibrate.measure.limits import Limits

KINDS = ("decode", "prefill", "mixed")
_MOST_CHUNKS = 4


class RandomStep(NamedTuple):
    kind: str
    spans: tuple[tuple[int, int], ...]
    """(tokens computed before, tokens in this step) of each row, decodes first."""
    format: str


def draw_steps(
    count: int, *, formats: tuple[str, ...], limits: Limits, seed: int
) -> list[RandomStep]:
    """Each kind and format as often; sizes even in their logarithms. The same seed gives the same.

    A step computes no more than `limits.tokens`, and its contexts fit the format's pool. They
    come in no order, so that what drifts while they are measured is not taken for a kind's.
    """
    random = np.random.default_rng(seed)
    made = [
        _draw(random, KINDS[i % 3], formats[i // 3 % len(formats)], limits) for i in range(count)
    ]
    return [made[i] for i in random.permutation(count)]


def _draw(random: np.random.Generator, kind: str, format: str, limits: Limits) -> RandomStep:
    room, spans = limits.pool_tokens[format], []
    budget = limits.tokens
    if kind != "prefill":
        batch = _log_uniform(random, 1, min(limits.batch, limits.tokens - 1))
        # Drawn around a context of the step's own, so that long steps are not all alike.
        middle = _log_uniform(random, 16, limits.context)
        for _ in range(batch):
            low, high = max(1, middle // 4), min(limits.context, middle * 2)
            context = int(random.integers(low, high + 1))
            if context + 1 > room // 2:
                break
            spans.append((context - 1, 1))
            room, budget = room - context, budget - 1
        if not spans:
            spans, room, budget = [(0, 1)], room - 1, budget - 1
    if kind != "decode":
        for _ in range(int(random.integers(1, _MOST_CHUNKS + 1))):
            most = min(budget, limits.context, room)
            if most < 2:
                break
            n = _log_uniform(random, 2, most)
            deepest = min(limits.context, room) - n
            before = int(random.integers(0, deepest + 1)) if random.random() < 0.5 else 0
            spans.append((before, n))
            room, budget = room - before - n, budget - n
    return RandomStep(kind, tuple(spans), format)


def _log_uniform(random: np.random.Generator, low: int, high: int) -> int:
    return int(np.exp(random.uniform(np.log(low), np.log(max(low, high) + 1))).clip(low, high))
