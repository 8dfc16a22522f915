"""What numbers a trace file may hold, and how errors say so."""

from __future__ import annotations

TOKENS = range(10**9 + 1)
"""Lengths a row may state."""
INT64 = range(2**63)
"""What fits the 64-bit columns in which results are kept."""
ARRIVALS = range(2**62)
"""In nanoseconds; leaves as much again for serving whoever arrives last."""
PRIORITIES = range(-(2**63), 2**63)


def whole_number(allowed: range) -> str:
    """The wording of a range in error messages."""
    return f"a whole number from {allowed.start} to {allowed.stop - 1}"
