"""When requests come: arrival processes, drawn without clipping anything.

Each yields arrivals in nanoseconds from 0, which never fall. Rates are in requests per second.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from itertools import repeat
from typing import Protocol

import numpy as np

from traces.ranges import check_least, check_positive
from traces.schema import Trace
from traces.synthetic.draws import Draws, Floats, block_sizes

_LATEST_NS = 2.0**62
"""Later than any trace may last, and still an int64; whoever comes then is refused."""
_LEAST_EXPECTED = 1e-3
"""A process of bursts that hold next to nothing would take ages to come to a request."""


class Arrivals(Protocol):
    """A process of arrivals; equal draws give equal arrivals."""

    def arrivals_ns(self, draws: Draws) -> Iterator[int]: ...


@dataclass(frozen=True, slots=True)
class Poisson:
    """Independent clients without number: exponential gaps, of any length."""

    rate: float

    def __post_init__(self) -> None:
        check_positive(rate=self.rate)

    def arrivals_ns(self, draws: Draws) -> Iterator[int]:
        random = draws.generator("gaps")
        return _by_gaps(lambda size: random.standard_exponential(size) / self.rate)


@dataclass(frozen=True, slots=True)
class Gamma:
    """Independent gaps with the coefficient of variation `cv`: bursts above 1, order below.

    ServeGen draws the gaps of single clients so (Xiang et al., arXiv:2505.09999), as its
    repository describes it; not read in the paper. cv = 1 is distributed as Poisson.
    """

    rate: float
    cv: float

    def __post_init__(self) -> None:
        check_positive(rate=self.rate, cv=self.cv)

    def arrivals_ns(self, draws: Draws) -> Iterator[int]:
        random = draws.generator("gaps")
        shape = self.cv**-2.0
        return _by_gaps(lambda size: random.standard_gamma(shape, size) / (shape * self.rate))


@dataclass(frozen=True, slots=True)
class Constant:
    """Request k arrives at k / rate seconds."""

    rate: float

    def __post_init__(self) -> None:
        check_positive(rate=self.rate)

    def arrivals_ns(self, draws: Draws) -> Iterator[int]:
        first = 0
        for size in block_sizes():
            yield from _nanoseconds(np.arange(first, first + size) / self.rate)
            first += size


@dataclass(frozen=True, slots=True)
class AtOnce:
    """All requests arrive at 0: a batch, or the load under which throughput is measured."""

    def arrivals_ns(self, draws: Draws) -> Iterator[int]:
        return repeat(0)


@dataclass(frozen=True, slots=True)
class OnOff:
    """Bursts: Poisson at `rate_on` and at `rate_off` by turns, each for an exponential time.

    A Markov-modulated Poisson process of two states, started in equilibrium. Its intensity is
    integrated, and unit exponential gaps are laid on the integral: changing a rate or the
    gaps leaves the periods where they are.
    """

    rate_on: float
    rate_off: float
    on_s: float
    off_s: float
    """Mean seconds in each state."""

    def __post_init__(self) -> None:
        check_positive(rate_on=self.rate_on, on_s=self.on_s, off_s=self.off_s)
        check_least(0, rate_off=self.rate_off)
        expected = self.rate_on * self.on_s + self.rate_off * self.off_s
        if expected < _LEAST_EXPECTED:
            found = f"{expected:g} requests expected per burst and pause"
            raise ValueError(f"{found}: allowed {_LEAST_EXPECTED:g} or more")

    def arrivals_ns(self, draws: Draws) -> Iterator[int]:
        gaps, periods = draws.generator("gaps"), draws.generator("periods")
        means_s = np.array([self.on_s, self.off_s])
        rates = np.array([self.rate_on, self.rate_off])
        if draws.generator("first period").random() * means_s.sum() >= self.on_s:
            means_s, rates = means_s[::-1], rates[::-1]
        # Seconds at which the state changes, and the requests expected until then.
        edges_s, expected = np.zeros(1), np.zeros(1)
        last = 0.0
        for size in block_sizes():
            due = last + np.cumsum(gaps.standard_exponential(size))
            last = due[-1]
            parts_s, parts = [edges_s], [expected]
            while parts[-1][-1] <= last:
                lasting_s = periods.standard_exponential((128, 2)) * means_s
                parts_s.append(parts_s[-1][-1] + np.cumsum(lasting_s))
                parts.append(parts[-1][-1] + np.cumsum(lasting_s * rates))
            edges_s, expected = np.concatenate(parts_s), np.concatenate(parts)
            yield from _nanoseconds(np.interp(due, expected, edges_s))
            past = np.searchsorted(expected, last, side="right") - 1
            edges_s, expected = edges_s[past:], expected[past:]


@dataclass(frozen=True, slots=True)
class Diurnal:
    """Poisson at a rate that swings as a sine around `rate`, highest at `peak_s`.

    rate(t) = rate x (1 + swing x cos(2 pi (t - peak_s) / period_s)), by thinning a faster
    process: Lewis and Shedler, Naval Research Logistics Quarterly 26 (1979).
    """

    rate: float
    swing: float = 0.5
    peak_s: float = 14 * 3600.0
    period_s: float = 86_400.0

    def __post_init__(self) -> None:
        check_positive(rate=self.rate, period_s=self.period_s)
        check_least(0, swing=self.swing, peak_s=self.peak_s)
        if self.swing > 1:
            raise ValueError(f"swing = {self.swing}: allowed 0 to 1, or the rate falls below 0")

    def arrivals_ns(self, draws: Draws) -> Iterator[int]:
        return _thinned(self.rate_at, self.rate * (1 + self.swing), draws)

    def rate_at(self, times_s: Floats) -> Floats:
        turns = (times_s - self.peak_s) / self.period_s
        return self.rate * (1 + self.swing * np.cos(2 * np.pi * turns))


@dataclass(frozen=True, slots=True)
class Profile:
    """Poisson at a rate that is linear between the given ones, and repeats; by thinning.

    `rates` maps seconds within a period to rates; after the last the rate goes back to the
    first, which the next period begins with.
    """

    rates: Mapping[float, float]
    period_s: float = 86_400.0

    def __post_init__(self) -> None:
        check_positive(period_s=self.period_s, highest_rate=max(self.rates.values(), default=0))
        for at_s, rate in self.rates.items():
            check_least(0, rate=rate)
            if not 0 <= at_s < self.period_s:
                allowed = f"0 to below period_s = {self.period_s:g}"
                raise ValueError(f"a rate at {at_s:g} s: allowed {allowed}")

    def arrivals_ns(self, draws: Draws) -> Iterator[int]:
        return _thinned(self.rate_at, max(self.rates.values()), draws)

    def rate_at(self, times_s: Floats) -> Floats:
        known = sorted(self.rates.items())
        return np.interp(
            times_s, [at for at, _ in known], [rate for _, rate in known], period=self.period_s
        )


@dataclass(frozen=True, slots=True, eq=False)
class Replayed:
    """The arrivals of another trace, until it ends."""

    trace: Trace

    def arrivals_ns(self, draws: Draws) -> Iterator[int]:
        return (request.arrival_ns for request in self.trace)


def _by_gaps(draw_s: Callable[[int], Floats]) -> Iterator[int]:
    last_s = 0.0
    for size in block_sizes():
        times_s = last_s + np.cumsum(draw_s(size))
        last_s = times_s[-1]
        yield from _nanoseconds(times_s)


def _thinned(rate_at: Callable[[Floats], Floats], peak: float, draws: Draws) -> Iterator[int]:
    """Of candidates at the peak rate, each stays with probability rate / peak."""
    gaps, stays = draws.generator("gaps"), draws.generator("thinning")
    last_s = 0.0
    for size in block_sizes():
        times_s = last_s + np.cumsum(gaps.standard_exponential(size) / peak)
        last_s = times_s[-1]
        yield from _nanoseconds(times_s[stays.random(size) * peak < rate_at(times_s)])


def _nanoseconds(times_s: Floats) -> list[int]:
    times_ns = np.minimum(np.rint(times_s * 1e9), _LATEST_NS)
    whole: list[int] = times_ns.astype(np.int64).tolist()
    return whole
