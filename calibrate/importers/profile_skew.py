"""LLMServingSim's skew.csv: what decodes of mixed length take beyond those of their mean.

One row is one batch: most contexts short, `nb` of them long; t_mean_us is the time of as many
decodes of the mean context, t_skew_us that of these.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from calibrate.attention_curves import Decodes
from calibrate.importers.profile_file import need, read_csv
from calibrate.skew import SPLIT_BELOW, alone
from calibrate.table_schema import TableError

Pairs = tuple[tuple[int, float], ...]

_FILES = ("skew.csv", "skew.csv.gz")
_MEASURED = ("kv_mean", "kv_big", "t_mean_us", "t_skew_us")
_REGIMES = {"decode": "pure", "mixed": "mixed"}


def read_skew(
    folder: Path, decodes: Decodes, *, at_once: float | None
) -> tuple[dict[str, Pairs], dict[str, float]]:
    """A table's `skew` and `tail`: the best fits, relatively; never below 0. Empty where nothing
    was measured.

    `decodes`: one call over equal contexts, in ns. Times of skew.csv are sums over repetitions,
    so they are scaled to agree with it. `at_once`: for how many whole sequences the kernel has
    room, if it is known; it splits those of smaller batches, and the law of the others is fitted.
    """
    path = next((folder / name for name in _FILES if (folder / name).is_file()), None)
    if path is None:
        return {}, {}
    frame = read_csv(path, _MEASURED, whole=("n",))
    need(frame, path, ("regime",))
    pure = frame[frame["regime"] == _REGIMES["decode"]]
    if pure.empty:
        raise TableError(f"{path}: found no rows of regime pure; allowed: what sets their scale")
    known_ns = [
        decodes.row(n).at(n * mean) for n, mean in zip(pure["n"], pure["kv_mean"], strict=True)
    ]
    per_us = float(np.median(np.array(known_ns) / pure["t_mean_us"].to_numpy()))
    skew = {}
    for kind, regime in _REGIMES.items():
        batches = frame[frame["regime"] == regime].groupby("n")
        pairs = tuple((int(n), per_us * _fit(points)) for n, points in batches)
        if pairs:
            skew[kind] = pairs
    whole = pure[pure["n"] >= SPLIT_BELOW * at_once] if at_once else pure.iloc[:0]
    if at_once is None or whole.empty:
        return skew, {}
    skew["decode"] = tuple(pair for pair in skew["decode"] if pair[0] < SPLIT_BELOW * at_once)
    return skew, {"at_once": at_once, "share": _fit_share(whole, at_once)}


def _fit(points: Any) -> float:
    """Microseconds per token."""
    mean_us = points["t_mean_us"].to_numpy()
    beyond = (points["kv_big"].to_numpy() - points["kv_mean"].to_numpy()) / mean_us
    return _slope(beyond, points)


def _fit_share(points: Any, at_once: float) -> float:
    """The law's, with no batch favoured."""
    n, mean = points["n"].to_numpy(), points["kv_mean"].to_numpy()
    longest = alone(at_once * points["kv_big"].to_numpy() / (n * mean))
    return _slope(longest - alone(at_once / n), points)


def _slope(x: NDArray[np.float64], points: Any) -> float:
    """Of what is measured beyond the mean, over x and through 0."""
    y = points["t_skew_us"].to_numpy() / points["t_mean_us"].to_numpy() - 1
    return max(0.0, float(x @ y / (x @ x))) if x.any() else 0.0
