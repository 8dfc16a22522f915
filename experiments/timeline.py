"""Steps of all replicas on one axis, so that a question about many steps is one look-up."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

Ints = NDArray[np.int64]


class StepAxis:
    """Every step of a run has one position: replica after replica, step after step.

    Rows of `steps` follow each other on it without a gap, which `check` asserts.
    """

    def __init__(self, step_ends: pd.DataFrame) -> None:
        ordered = step_ends.sort_values(["replica", "step"], kind="stable")
        self.end_ns: Ints = ordered["end_ns"].to_numpy()
        """When each step ended, by position."""
        self._replica: Ints = ordered["replica"].to_numpy()

    def __len__(self) -> int:
        return len(self.end_ns)

    def position(self, replica: pd.Series[Any], step: pd.Series[Any]) -> Ints:
        """Where each of these steps is."""
        base = np.searchsorted(self._replica, replica.to_numpy())
        found: Ints = base + step.to_numpy()
        return found

    def start_ns(self, steps: pd.DataFrame) -> Ints:
        """When each step began, by position: when the one before ended, or where its row says."""
        starts = np.concatenate([[0], self.end_ns[:-1]])
        starts[self.position(steps["replica"], steps["first_step"])] = steps["start_ns"]
        return starts


def count_intervals(begins: Ints, ends: Ints, *, length: int) -> Ints:
    """How many of the intervals [begin, end) cover each of the positions 0 .. length - 1."""
    opened = np.bincount(begins, minlength=length + 1)
    closed = np.bincount(ends, minlength=length + 1)
    return np.cumsum(opened - closed)[:length]
