"""A distribution in the ten numbers that everybody asks for."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

PERCENTILES = (50, 75, 90, 95, 99)
NS_PER_MS = 1e6

Distribution = dict[str, float]
"""count; mean, std, min, p50 ... p99, max in milliseconds."""


def describe(values_ns: ArrayLike, *, weights: NDArray[np.int64] | None = None) -> Distribution:
    """Count, mean, spread and percentiles of durations, in milliseconds.

    `weights` says how often each value occurs: the result is that of the values written out
    so many times. The standard deviation divides by the count; percentiles interpolate
    linearly between the two nearest ranks, as numpy does by default. Nothing but
    `count` = 0 comes of no values.
    """
    values = np.asarray(values_ns, dtype=np.float64)
    times = np.ones(len(values), dtype=np.int64) if weights is None else weights
    order = np.argsort(values, kind="stable")
    values, upto = values[order] / NS_PER_MS, np.cumsum(times[order])
    count = int(upto[-1]) if len(upto) else 0
    if count == 0:
        return {"count": 0}
    share = times[order] / count
    mean = float(share @ values)
    # Of equal values nothing, and not what rounding leaves of the mean.
    std = 0.0 if values[0] == values[-1] else float(np.sqrt(share @ (values - mean) ** 2))
    return {
        "count": count,
        "mean": mean,
        "std": std,
        "min": _value_at(values, upto, rank=0.0),
        **{f"p{q}": _value_at(values, upto, rank=q / 100 * (count - 1)) for q in PERCENTILES},
        "max": _value_at(values, upto, rank=count - 1.0),
    }


def _value_at(values: NDArray[Any], upto: NDArray[np.int64], *, rank: float) -> float:
    """The value of a fractional rank (from 0); `upto` counts how many values stand up to each."""
    below = int(rank)
    above = min(below + 1, int(upto[-1]) - 1)
    low, high = values[np.searchsorted(upto, [below, above], side="right")].tolist()
    return float(low + (high - low) * (rank - below))
