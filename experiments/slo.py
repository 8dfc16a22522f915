"""Whether a run keeps its limits: by enough of its requests, and with no backlog that grows."""

from __future__ import annotations

from dataclasses import dataclass
from math import sqrt
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from experiments.attribution import read_parts
from experiments.metrics import keeps_limits
from experiments.resampling import BLOCK, FEWEST_BLOCKS
from experiments.results import RunResult
from experiments.windows import Level, Windows

_Z = 1.959964
"""Of 95 in 100 cases."""
_QUARTERS = 4
_CHANCE = 2
"""Standard deviations of a difference that say nothing."""


class Goal(NamedTuple):
    """What is asked of a run."""

    share: float
    """Of all requests, within all limits."""
    within: float
    """A load that exceeds what is served by no more than this is not told from one that does not:
    the tolerance of the search."""


class Backlog(NamedTuple):
    """How many requests were there and unanswered, in the mean over the second and over the last
    quarter of the time in which requests arrive, and how many arrived from the middle of the one
    to the middle of the other."""

    before: float
    after: float
    arrived: int

    def grows(self, within: float) -> bool:
        """Whether more piled up than `within` of those who arrived, and than chance would.

        What is served without limit has as many unanswered requests as a Poisson variable with
        their mean, so the difference of two such counts has a variance of their sum. Means over a
        quarter vary less.
        """
        grown = self.after - self.before
        return grown > max(within * self.arrived, _CHANCE * sqrt(self.before + self.after))


class Cause(NamedTuple):
    """What the first token of those who miss the limit of TTFT waits for most."""

    part: str
    """A key of PARTS_IN_WORDS."""
    share: float
    """Of the TTFT of those requests, in the mean."""


@dataclass(frozen=True, slots=True)
class Judgement:
    """How a run stands to its limits."""

    limits: dict[str, float]
    """In milliseconds, as in a config's `slo`."""
    arrived: int
    good: int
    """Within all limits."""
    bounds: tuple[float, float]
    """Between which the share lies in 95 of 100 cases."""
    refused: int
    missed: dict[str, int]
    """Answered requests outside of each limit."""
    cause: Cause | None
    backlog: Backlog

    @property
    def share(self) -> float:
        """Within all limits, of all requests; a refused one keeps nothing."""
        return self.good / self.arrived

    def keeps(self, goal: Goal) -> bool:
        return self.share >= goal.share and not self.backlog.grows(goal.within)

    def is_clear(self, goal: Goal) -> bool:
        """Whether the share is on one side of the goal with its bounds."""
        low, high = self.bounds
        return not low < goal.share <= high


def judge(result: RunResult) -> Judgement:
    """Hold a run, which has limits, against them."""
    requests, refused = result.requests, result.refused
    limits: dict[str, float] = result.summary["throughput"]["goodput"]["slo"]
    kept = keeps_limits(requests, limits)
    return Judgement(
        limits=limits,
        arrived=len(requests) + len(refused),
        good=int(kept.all(axis="columns").sum()),
        bounds=bound_share(_in_order(requests, refused, kept.all(axis="columns"))),
        refused=len(refused),
        missed={str(name): int((~column).sum()) for name, column in kept.items()},
        cause=_find_cause(requests, kept, knows_alone=result.summary["about"]["knows_alone"]),
        backlog=count_backlog(requests, refused),
    )


def bound_share(good: NDArray[np.bool_]) -> tuple[float, float]:
    """Between which two the share of good ones lies in 95 of 100 cases; [requests] in order of
    arrival, at least one.

    Wilson's interval (1927), with fewer requests than there are by as much as neighbours are
    alike: good and bad come in spells, so the means of blocks of BLOCK neighbours vary more than
    those of independent requests (Kish's design effect). It counts from FEWEST_BLOCKS blocks on,
    and only where it widens the interval.
    """
    share = float(good.mean())
    requests = len(good) / max(1.0, _measure_spells(good))
    middle = share + _Z**2 / (2 * requests)
    reach = _Z * (share * (1 - share) / requests + (_Z / (2 * requests)) ** 2) ** 0.5
    whole = 1 + _Z**2 / requests
    return max(0.0, (middle - reach) / whole), min(1.0, (middle + reach) / whole)


def count_backlog(requests: pd.DataFrame, refused: pd.DataFrame) -> Backlog:
    """Over the time between the first and the last arrival; refused requests never wait."""
    if requests.empty:
        return Backlog(0.0, 0.0, 0)
    arrivals, finishes = (requests[f"{name}_ns"].to_numpy() for name in ("arrival", "finish"))
    level = Level([(arrivals, 1), (finishes, -1)])
    every = np.concatenate([arrivals, refused["arrival_ns"]])
    first, last = int(every.min()), int(every.max())
    windows = Windows(first, last, count=_QUARTERS)
    means, _, _ = windows.follow(level)
    middles = windows.middles_ns + first
    between = (arrivals >= middles[1]) & (arrivals < middles[3])
    return Backlog(float(means[1]), float(means[3]), int(between.sum()))


def _in_order(
    requests: pd.DataFrame, refused: pd.DataFrame, good: pd.Series[bool]
) -> NDArray[np.bool_]:
    arrivals = np.concatenate([requests["arrival_ns"], refused["arrival_ns"]])
    flags = np.concatenate([good.to_numpy(dtype=bool), np.zeros(len(refused), dtype=bool)])
    return flags[np.argsort(arrivals, kind="stable")]


def _measure_spells(good: NDArray[np.bool_]) -> float:
    """The variance of block means over that of independent requests; 1 where nothing is known."""
    share, blocks = good.mean(), len(good) // BLOCK
    if blocks < FEWEST_BLOCKS or share in (0, 1):
        return 1.0
    means = good[: blocks * BLOCK].reshape(blocks, BLOCK).mean(axis=1)
    return float(means.var(ddof=1) * BLOCK / (share * (1 - share)))


def _find_cause(requests: pd.DataFrame, kept: pd.DataFrame, *, knows_alone: bool) -> Cause | None:
    """None where TTFT has no limit, or all keep it."""
    if "ttft_ms" not in kept or kept["ttft_ms"].all():
        return None
    late = requests[~kept["ttft_ms"]]
    means: Any = read_parts(late, knows_alone=knows_alone).mean()
    part = str(means.idxmax())
    return Cause(part, float(means[part] / late["ttft_ns"].mean()))
