"""What numbers a trace file may hold, and how errors say so."""

from __future__ import annotations

import math

TOKENS = range(10**9 + 1)
"""Lengths a row may state."""
INT64 = range(2**63)
"""What fits the 64-bit columns in which results are kept."""
ARRIVALS = range(2**62)
"""In nanoseconds; leaves as much again for serving whoever arrives last."""
PRIORITIES = range(-(2**63), 2**63)


def whole_number(allowed: range) -> str:
    """The wording of a range in error messages."""
    if allowed.stop == allowed.start + 1:
        return str(allowed.start)
    return f"a whole number from {allowed.start} to {allowed.stop - 1}"


def check_positive(**parameters: float) -> None:
    """Raise ValueError for one that is not above 0, or infinite."""
    for name, value in parameters.items():
        if not 0 < value < math.inf:
            raise ValueError(f"{name} = {value}: allowed a number above 0")


def check_least(least: float, **parameters: float) -> None:
    """Raise ValueError for one below `least`, or infinite."""
    for name, value in parameters.items():
        if not least <= value < math.inf:
            raise ValueError(f"{name} = {value}: allowed {least:g} or more")
