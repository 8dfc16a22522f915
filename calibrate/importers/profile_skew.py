"""LLMServingSim's skew.csv: what decodes of mixed length take beyond those of their mean.

One row is one batch: most contexts short, `nb` of them long; t_mean_us is the time of as many
decodes of the mean context, t_skew_us that of these.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from calibrate.attention_curves import Decodes
from calibrate.importers.profile_file import need, read_csv
from calibrate.table_schema import TableError

Pairs = tuple[tuple[int, float], ...]

_FILES = ("skew.csv", "skew.csv.gz")
_MEASURED = ("kv_mean", "kv_big", "t_mean_us", "t_skew_us")
_REGIMES = {"decode": "pure", "mixed": "mixed"}


def read_skew(folder: Path, decodes: Decodes, *, splits_to: int | None) -> dict[str, Pairs]:
    """By number of decodes, nanoseconds of one call for each token by which the longest context
    exceeds the mean: the best fit, relatively; never below 0. Empty where nothing was measured.

    `decodes`: one call over equal contexts, in ns. Times of skew.csv are sums over repetitions,
    so they are scaled to agree with it. `splits_to`: the largest batch whose sequences the kernel
    shares out among blocks; between a measured batch that it splits and one that it does not,
    either's value holds up to there.
    """
    path = next((folder / name for name in _FILES if (folder / name).is_file()), None)
    if path is None:
        return {}
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
    if splits_to is not None:
        skew["decode"] = _step_at(splits_to, skew["decode"])
    return skew


def _fit(points: Any) -> float:
    """Microseconds per token."""
    mean_us = points["t_mean_us"].to_numpy()
    beyond = (points["kv_big"].to_numpy() - points["kv_mean"].to_numpy()) / mean_us
    longer = points["t_skew_us"].to_numpy() / mean_us - 1
    return max(0.0, float(beyond @ longer / (beyond @ beyond))) if beyond.any() else 0.0


def _step_at(last: int, pairs: Pairs) -> Pairs:
    below = [pair for pair in pairs if pair[0] <= last]
    above = [pair for pair in pairs if pair[0] > last]
    if not below or not above:
        return pairs
    step = {last: below[-1][1], last + 1: above[0][1]}
    return tuple(sorted({**step, **dict(pairs)}.items()))
