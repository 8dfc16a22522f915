"""What many readings of one thing come to."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import median

NOISY = 0.10
"""A spread between passes above which a point is measured again."""


def deviation(values: Sequence[float]) -> float:
    """Median absolute deviation from the median."""
    middle = median(values)
    return float(median(abs(value - middle) for value in values))


def spread(medians: Sequence[float]) -> float:
    """Between passes: (slowest - fastest) / median; 0 of one pass."""
    return (max(medians) - min(medians)) / median(medians)


def settled(medians: Sequence[float]) -> bool:
    """Do passes agree? Two or three do within NOISY; of more, half lie within NOISY / 2 of their
    median. One agrees with nothing."""
    if len(medians) < 2:
        return False
    if len(medians) <= 3:
        return spread(medians) <= NOISY
    return deviation(medians) / median(medians) <= NOISY / 2
