"""One number fitted on half of a case and judged on the other: host time per step."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from experiments.case import CaseError

if TYPE_CHECKING:
    import pandas as pd

Predict = Callable[[int], "pd.DataFrame"]
"""Predictions of all requests under so many nanoseconds of host time per step."""

_FIRST_STEP_NS = 1_000_000
_LONGEST_NS = 1_000_000_000
_CLOSE_NS = 1_000


@dataclass(frozen=True, slots=True, kw_only=True)
class HostFit:
    """What came of it."""

    ns: int
    first: pd.Index
    """Ids of the requests that it was fitted on: those that arrived first."""
    second: pd.Index
    runs: int
    """Simulations it took."""
    floored: bool
    """Even without host time the predictions are too long: nothing was fitted."""


def fit_host(real: pd.DataFrame, predict: Predict) -> HostFit:
    """The host time under which the first half of the requests take, in sum, what they took.

    `real` is in the order of arrival. The sum of end-to-end times grows with every step's
    length, so a bracket that is halved finds it, to 1 µs. All requests are served each time
    (later ones are in the way of earlier ones), but of the second half no outcome is looked
    at. Raises CaseError for fewer than four requests, and where not even 1 s a step is enough.
    """
    if len(real) < 4:
        raise CaseError(f"--fit-host: found {len(real)} requests; allowed: 4 or more")
    half = len(real) // 2
    first, second = real.index[:half], real.index[half:]
    runs = 0

    def excess_ns(host_ns: int) -> float:
        """Predicted minus real."""
        nonlocal runs
        runs += 1
        predicted = predict(host_ns)["e2e"].reindex(first)
        return float((predicted - real["e2e"].reindex(first)).sum())

    low, high = 0, _FIRST_STEP_NS
    if excess_ns(low) >= 0:
        return HostFit(ns=0, first=first, second=second, runs=runs, floored=True)
    while excess_ns(high) < 0:
        low, high = high, 2 * high
        if high > _LONGEST_NS:
            raise CaseError("--fit-host: requests took longer than with 1 s of host time a step")
    while high - low > _CLOSE_NS:
        middle = (low + high) // 2
        low, high = (low, middle) if excess_ns(middle) >= 0 else (middle, high)
    return HostFit(ns=high, first=first, second=second, runs=runs, floored=False)
