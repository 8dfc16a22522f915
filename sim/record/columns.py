"""What the makers of tables ask of columns alike: sums by row, and whose a sequence is."""

from __future__ import annotations

from operator import mul

import numpy as np

from sim.record.log import Facts, Integers
from sim.request import BRANCHES


def sum_by(rows: Integers, values: Integers | int, n: int) -> Integers:
    """int64[n]: by row, the sum of the values that go to it. (`np.bincount` would add floats.)"""
    total = np.zeros(n, dtype=np.int64)
    np.add.at(total, rows, values)
    return total


def over_time(levels: Integers, durations_ns: Integers) -> int:
    """The sum of the products, which 64 bits may not hold."""
    if not len(levels):
        return 0
    largest = int(abs(levels).max()) * int(abs(durations_ns).max())
    if largest * len(levels) < 1 << 63:
        return int(levels @ durations_ns)
    return sum(map(mul, levels.tolist(), durations_ns.tolist()))


def request_rows(facts: Facts, sequence: Integers) -> Integers:
    """The row of `Arrivals` of the request that each of these sequences answers; of its first
    branch, where they arrived as requests of their own."""
    rows: Integers = facts.arrivals.sequence.searchsorted(sequence % BRANCHES)
    return rows
