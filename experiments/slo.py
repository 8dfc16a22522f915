"""Whether a run keeps its limits: by enough of its requests, and with no backlog that grows."""

from __future__ import annotations

from dataclasses import dataclass
from math import inf, sqrt
from typing import NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from experiments.attribution import read_parts
from experiments.distribution import NS_PER_MS
from experiments.metrics import keeps_limits
from experiments.resampling import BLOCK, FEWEST_BLOCKS
from experiments.results import RunResult
from experiments.timeline import Ints
from experiments.windows import Floats, Level, Windows

_Z = 1.959964
"""Of 95 in 100 cases."""
_QUARTERS = 4
_ALONE = ("own", "host")
"""Parts of TTFT that a request has without any load."""
_MOST_LEFT = 0.03
_EARLY = 8
"""The first part, of so many, of the time in which requests arrive."""
_CHANCE = 2
"""Standard deviations of a difference that say nothing."""


class Goal(NamedTuple):
    """What is asked of a run."""

    share: float
    """Of all requests, within all limits."""
    within: float
    """How near what keeps and what fails shall come, as a share; a load that exceeds what is served
    by less is not told from one that does not."""


class Backlog(NamedTuple):
    """How many requests are there and unanswered while others arrive."""

    before: float
    """Mean over the second quarter of the time in which requests arrive."""
    after: float
    """Mean over the last quarter of it."""
    arrived: int
    """How many came from the middle of the one to the middle of the other."""
    filling: float = 0.0
    """By how much it grows under any load, since a run begins with nobody: whoever stays longer
    than the time since then cannot have left yet."""

    def grows(self, within: float) -> bool:
        """Whether more piled up than `exceeds` allows, and than chance explains."""
        return self.exceeds(within) and self._grown > self._chance

    def exceeds(self, within: float) -> bool:
        """Whether more of those who arrived piled up than `within` of them (at most 3 %, however
        coarse the search), be it by chance."""
        return self._grown > min(within, _MOST_LEFT) * self.arrived

    @property
    def unseen(self) -> float:
        """What may pile up by chance, as a share of those who arrived."""
        return self._chance / max(self.arrived, 1)

    @property
    def _grown(self) -> float:
        return self.after - self.before - self.filling

    @property
    def _chance(self) -> float:
        """Where everybody is served at once, as many are unanswered as a Poisson variable says, so
        the difference of two counts has a variance of their sum; means over a quarter vary less.
        """
        return _CHANCE * sqrt(self.before + self.after)


class Cause(NamedTuple):
    """What makes most of those who miss the limit of TTFT miss it.

    A request whose own prefill and host time are above the limit misses it in any case, by the
    larger of the two; all others by the largest of what the load puts on top.
    """

    part: str
    """A key of PARTS_IN_WORDS."""
    share: float
    """Of those who miss it."""


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
    doomed: int
    """Those whom no load, however small, would save: refused, or with a prefill and host time of
    their own above the limit of TTFT."""
    cause: Cause | None
    backlog: Backlog

    @property
    def share(self) -> float:
        """Within all limits, of all requests; a refused one keeps nothing."""
        return self.good / self.arrived

    def keeps(self, goal: Goal) -> bool:
        return self.share >= goal.share and not self.backlog.grows(goal.within)


def judge(result: RunResult) -> Judgement:
    """Hold a run, which has limits, against them."""
    requests, refused = result.requests, result.refused
    limits: dict[str, float] = result.summary["throughput"]["goodput"]["slo"]
    kept = keeps_limits(requests, limits)
    knows_alone = result.summary["about"]["knows_alone"]
    causes = _find_causes(requests, limits, knows_alone=knows_alone)
    return Judgement(
        limits=limits,
        arrived=len(requests) + len(refused),
        good=int(kept.all(axis="columns").sum()),
        bounds=bound_share(_in_order(requests, refused, kept.all(axis="columns"))),
        refused=len(refused),
        missed={str(name): int((~column).sum()) for name, column in kept.items()},
        doomed=len(refused) + int(causes.isin(_ALONE).sum()),
        cause=_find_most(causes),
        backlog=count_backlog(requests, refused),
    )


def bound_share(good: NDArray[np.bool_]) -> tuple[float, float]:
    """Between which two the share of good ones lies in 95 of 100 cases, in fewer if bad ones come
    in spells that are few, or long beside BLOCK; [requests] in order of arrival, at least one.

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
    return Backlog(
        before=float(means[1]),
        after=float(means[3]),
        arrived=int(between.sum()),
        filling=_fill(arrivals - first, finishes - first, windows.edges_ns - first),
    )


def _fill(arrivals: Ints, finishes: Ints, edges_ns: Floats) -> float:
    """By how much the mean backlog of the last quarter would exceed that of the second one if
    everybody stayed as long as the first ones, whom no backlog delays yet: at rate r and after a
    time t there are r E[min(stay, t)] (Little's law, for a system that starts empty).

    Nothing is excused where those stay longer than half of the time: then nobody can tell.
    """
    early = arrivals <= edges_ns[-1] / _EARLY
    stays = (finishes - arrivals)[early].astype(np.float64)
    if not len(stays) or stays.mean() > edges_ns[-1] / 2:
        return 0.0
    rate = (len(arrivals) - 1) / edges_ns[-1]
    levels = []
    for start, end in ((edges_ns[1], edges_ns[2]), (edges_ns[3], edges_ns[4])):
        until = np.clip(stays, start, end)
        integral = (until**2 - start**2) / 2 + stays * (end - until)
        levels.append(float(integral.mean()) / (end - start))
    return float(rate * (levels[1] - levels[0]))


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


def _find_causes(
    requests: pd.DataFrame, limits: dict[str, float], *, knows_alone: bool
) -> pd.Series[str]:
    """The part of TTFT by which each request that misses its limit does."""
    limit_ns = limits.get("ttft_ms", inf) * NS_PER_MS
    late = read_parts(requests[requests["ttft_ns"] > limit_ns], knows_alone=knows_alone)
    if late.empty:
        return pd.Series(dtype=str)
    alone = late[[part for part in _ALONE if part in late]]
    doomed = alone.sum(axis="columns") > limit_ns
    on_top = late.drop(columns=alone.columns).idxmax(axis="columns")
    return on_top.where(~doomed, alone.idxmax(axis="columns")).astype(str)


def _find_most(causes: pd.Series[str]) -> Cause | None:
    if causes.empty:
        return None
    counts = causes.value_counts()
    return Cause(str(counts.index[0]), float(counts.iloc[0] / len(causes)))
