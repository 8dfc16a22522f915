"""How far predictions are from what a real engine took: every number defined once."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike

from experiments.case import METRICS
from experiments.distribution import NS_PER_MS, describe
from experiments.resampling import Floats, bound_ratios

if TYPE_CHECKING:
    import pandas as pd

STATISTICS = ("mean", "std", "p50", "p90", "p95", "p99")
"""Of all requests; the standard deviation divides by the count, percentiles interpolate."""
_QUANTILES = tuple(int(name[1:]) / 100 for name in STATISTICS if name.startswith("p"))


def compare(real: pd.DataFrame, predicted: pd.DataFrame) -> dict[str, Any]:
    """Each metric of METRICS that both have, over the requests that have it in both.

    `metrics`: {ttft_ms: {mean: {real, predicted, error_pct, low_pct, high_pct}, ..., ks,
    wasserstein_ms, requests}}, `per_request_mape_pct`: {ttft_ms: percent}. Between `low_pct` and
    `high_pct` lies the error with other requests of the same kind (`bound_ratios`); None where
    there are too few to tell.
    """
    real = real.sort_values("arrival_ns", kind="stable")
    metrics: dict[str, Any] = {}
    per_request: dict[str, float] = {}
    for metric in METRICS:
        both = real[metric].notna() & predicted[metric].reindex(real.index).notna()
        if not both.any():
            continue
        ours = predicted[metric].reindex(real.index)[both].to_numpy(dtype=np.float64)
        theirs = real[metric][both].to_numpy(dtype=np.float64)
        metrics[f"{metric}_ms"] = {
            **_compare_statistics(theirs, ours),
            "ks": kolmogorov_smirnov(ours, theirs),
            "wasserstein_ms": wasserstein(ours, theirs) / NS_PER_MS,
            "requests": len(ours),
        }
        per_request[f"{metric}_ms"] = per_request_error_pct(ours, theirs)
    return {"metrics": metrics, "per_request_mape_pct": per_request}


def _compare_statistics(real: Floats, predicted: Floats) -> dict[str, dict[str, float | None]]:
    truth, told = describe(real), describe(predicted)
    bounds = bound_ratios(real, predicted, _measure)
    cells = {}
    for at, name in enumerate(STATISTICS):
        low, high = (np.nan, np.nan) if bounds is None else 100 * bounds[at]
        cells[name] = {
            **_cell(truth[name], told[name]),
            "low_pct": None if np.isnan(low) else float(low),
            "high_pct": None if np.isnan(high) else float(high),
        }
    return cells


def _measure(values: Floats) -> Floats:
    """STATISTICS of each row, [rows, requests] to [statistics, rows]."""
    std = np.where(np.ptp(values, axis=1) == 0, 0, values.std(axis=1))
    return np.stack([values.mean(axis=1), std, *np.quantile(values, _QUANTILES, axis=1)])


def _cell(real: float, predicted: float) -> dict[str, float | None]:
    return {"real": real, "predicted": predicted, "error_pct": error_pct(predicted, real)}


def error_pct(predicted: float, real: float) -> float | None:
    """Predicted over real, minus 1; None of nothing."""
    return 100 * (predicted / real - 1) if real else None


def per_request_error_pct(predicted: Floats, real: Floats) -> float:
    """The mean absolute error of single requests, each as a share of its real value (MAPE)."""
    return float(100 * np.abs(predicted / real - 1).mean())


def kolmogorov_smirnov(a: ArrayLike, b: ArrayLike) -> float:
    """The largest distance between two empirical distribution functions, 0 to 1."""
    _, below_a, below_b = _cumulate(a, b)
    return float(np.abs(below_a - below_b).max())


def wasserstein(a: ArrayLike, b: ArrayLike) -> float:
    """The area between two empirical distribution functions, in the unit of the values: how far
    values have to be moved, on average, to make one distribution of the other."""
    at, below_a, below_b = _cumulate(a, b)
    return float(np.abs(below_a - below_b)[:-1] @ np.diff(at))


def _cumulate(a: ArrayLike, b: ArrayLike) -> tuple[Floats, Floats, Floats]:
    """Every value of either, rising, and the shares of both that lie up to there."""
    first, second = (np.sort(np.asarray(values, dtype=np.float64)) for values in (a, b))
    at = np.sort(np.concatenate([first, second]))
    below_a, below_b = (
        np.searchsorted(each, at, side="right") / len(each) for each in (first, second)
    )
    return at, below_a, below_b


def compare_totals(real: pd.DataFrame, predicted: pd.DataFrame) -> dict[str, Any]:
    """Makespan (first arrival to last token) and what came out of it per second, and preemptions.

    `preemptions` has None for `real` where they were not recorded.
    """
    spans = [
        (each["arrival_ns"] + each["e2e"]).max() - each["arrival_ns"].min()
        for each in (real, predicted)
    ]
    real_s, predicted_s = (float(span) / 1e9 for span in spans)
    tokens = float(real["output_tokens"].sum())
    recorded = int(real["preemptions"].sum()) if "preemptions" in real else None
    return {
        "preemptions": {"real": recorded, "predicted": int(predicted["preemptions"].sum())},
        "makespan_s": _cell(real_s, predicted_s),
        "requests_per_s": _cell(len(real) / real_s, len(predicted) / predicted_s),
        "output_tokens_per_s": _cell(
            tokens / real_s, float(predicted["output_tokens"].sum()) / predicted_s
        ),
    }
