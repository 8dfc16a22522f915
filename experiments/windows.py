"""A long run on a narrow screen: exact means and extremes in equal windows of time."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from experiments.timeline import Ints

Floats = NDArray[np.float64]


class Windows:
    """Equal windows from `start_ns` to `end_ns`, and what happened in each of them."""

    def __init__(self, start_ns: int, end_ns: int, *, count: int) -> None:
        self.edges_ns: Floats = np.linspace(start_ns, max(end_ns, start_ns + 1), count + 1)

    @property
    def length_ns(self) -> float:
        return float(self.edges_ns[1] - self.edges_ns[0])

    @property
    def middles_ns(self) -> Floats:
        """Of the windows, since the start of the first one."""
        since = self.edges_ns - self.edges_ns[0]
        middles: Floats = (since[1:] + since[:-1]) / 2
        return middles

    def integrate_rows(self, steps: pd.DataFrame, first: Floats, last: Floats) -> Floats:
        """Integral over each window of a quantity that goes straight from `first` to `last`
        within each row of `steps` and is 0 where no step runs; replicas are added up."""
        rows = steps.assign(first=first, last=last)
        return sum(
            (np.diff(self._accumulate(of_one)) for _, of_one in rows.groupby("replica")),
            np.zeros(len(self.edges_ns) - 1),
        )

    def _accumulate(self, rows: pd.DataFrame) -> Floats:
        """The integral up to each edge."""
        start, end = rows["start_ns"].to_numpy(), rows["end_ns"].to_numpy()
        first, last = rows["first"].to_numpy(), rows["last"].to_numpy()
        length = np.maximum(end - start, 1)
        whole = np.concatenate([[0.0], np.cumsum((first + last) / 2 * (end - start))])
        at = np.searchsorted(start, self.edges_ns, side="right") - 1
        inside = np.clip(self.edges_ns - start[at], 0, (end - start)[at])
        partial = first[at] * inside + (last - first)[at] * inside**2 / (2 * length[at])
        return np.where(at < 0, 0.0, whole[at] + partial)

    def follow(self, level: Level) -> tuple[Floats, Floats, Floats]:
        """(mean, lowest, highest) of a level in each window; the extremes miss nothing."""
        times, values = level.times_ns, level.values.astype(np.float64)
        until = np.append(times, max(times[-1], self.edges_ns[-1]))
        whole = np.concatenate([[0.0], np.cumsum(values * np.diff(until))])
        means = np.diff(np.interp(self.edges_ns, until, whole)) / self.length_ns
        begins = self.edges_ns[:-1]
        at = np.searchsorted(times, begins, side="right") - 1
        before = np.where(at < 0, 0.0, values[at])
        inside = (times > begins[0]) & (times < self.edges_ns[-1])
        seen = np.concatenate([before, values[inside]])
        order = np.argsort(np.concatenate([begins, times[inside]]), kind="stable")
        firsts = np.flatnonzero(order < len(begins))
        return (
            means,
            np.minimum.reduceat(seen[order], firsts),
            np.maximum.reduceat(seen[order], firsts),
        )


class Level:
    """A count that goes up and down: its values from each moment of change on."""

    def __init__(self, changes: list[tuple[Any, int]]) -> None:
        """`changes` are (moments in ns, change at each of them)."""
        moments = np.concatenate([np.asarray(times, dtype=np.int64) for times, _ in changes])
        deltas = np.concatenate([np.full(len(times), delta) for times, delta in changes])
        self.times_ns: Ints
        self.times_ns, at = np.unique(moments, return_inverse=True)
        net = np.bincount(at, weights=deltas).astype(np.int64)
        self.values: Ints = np.cumsum(net)
