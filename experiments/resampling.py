"""How far off a prediction could be with other requests of the same kind: blocks drawn anew."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from math import ceil

import numpy as np
from numpy.typing import NDArray

BLOCK = 32
"""Neighbours in order of arrival that are drawn together. They meet the same slow moments of an
engine, so their errors are alike: in three recorded runs of 300 requests the errors of TPOT and E2E
(their logarithms) correlate by 0.7 to 0.9 between neighbours, by 0.0 to 0.3 if 32 apart."""
FEWEST_BLOCKS = 4
"""Fewer say nothing of what others would be."""
LEVEL = 0.95
_DRAWS = 400
_CELLS = 1 << 20
"""Drawn values at a time: 8 MB."""

Floats = NDArray[np.float64]
Measure = Callable[[Floats], Floats]
"""Statistics of each row: [rows, requests] to [statistics, rows]."""


def bound_ratios(real: Floats, predicted: Floats, measure: Measure) -> Floats | None:
    """Between which two predicted / real - 1 would lie, in 95 of 100 cases, for every statistic:
    [statistics, 2], low and high.

    A paired moving-block bootstrap. Requests come in order of arrival; blocks of them are drawn
    with replacement, the same ones of both sides. A block may reach past the end to the
    beginning, so that all requests are drawn equally often (Politis and Romano 1992, A circular
    block-resampling procedure for stationary data). Quantiles of the draws are too near where
    blocks are few: their distances from the middle are widened as Student's t is. Distances are
    those of logarithms, so that no bound is below -100 %. Seeded: the same requests have the same
    bounds. NaN where a draw has a statistic of 0; None for fewer than FEWEST_BLOCKS * BLOCK
    requests.
    """
    if len(real) < FEWEST_BLOCKS * BLOCK:
        return None
    drawn = [_log_ratios(measure(predicted[at]), measure(real[at])) for at in _draw(len(real))]
    tail = (1 - LEVEL) / 2
    low, middle, high = np.quantile(np.concatenate(drawn, axis=1), (tail, 0.5, 1 - tail), axis=1)
    distances = _widen(len(real) / BLOCK) * np.stack([low - middle, high - middle], axis=1)
    bounds: Floats = np.expm1(middle[:, None] + distances)
    return bounds


def _draw(count: int) -> Iterator[NDArray[np.int64]]:
    """Positions of drawn requests, [rows, count], _DRAWS rows in all."""
    generator = np.random.default_rng(0)
    rows = max(1, _CELLS // count)
    for done in range(0, _DRAWS, rows):
        begins = generator.integers(count, size=(min(rows, _DRAWS - done), ceil(count / BLOCK), 1))
        blocks = (begins + np.arange(BLOCK)) % count
        yield blocks.reshape(len(begins), -1)[:, :count]


def _log_ratios(predicted: Floats, real: Floats) -> Floats:
    """NaN where either is 0."""
    ratios = np.full_like(real, np.nan)
    return np.log(np.divide(predicted, real, out=ratios, where=(predicted > 0) & (real > 0)))


def _widen(blocks: float) -> float:
    """The quantile of Student's t with n - 1 degrees of freedom over the normal one, times
    sqrt(n / (n - 1)), for n blocks. By Cornish and Fisher's expansion, 4 % short at four blocks,
    1 % at six."""
    z, freedom = 1.959964, blocks - 1
    t = z + (z**3 + z) / (4 * freedom) + (5 * z**5 + 16 * z**3 + 3 * z) / (96 * freedom**2)
    return float(t / z * np.sqrt(blocks / freedom))
