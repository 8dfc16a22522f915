"""When synthetic requests come, as a config describes it; rates are in requests per second."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from experiments.section import Section, refuse
from experiments.weights import ByNumber
from traces.synthetic import arrivals

Rate = Annotated[float, Field(ge=1e-6, le=1e6)]
RateOrNone = Annotated[float, Field(ge=0, le=1e6)]
Seconds = Annotated[float, Field(gt=0, le=1e9)]


class PoissonArrivals(Section):
    """Exponential gaps: many independent clients."""

    kind: Literal["poisson"]
    rate: Rate
    """Requests per second."""

    def build(self) -> arrivals.Arrivals:
        return arrivals.Poisson(self.rate)


class GammaArrivals(Section):
    """Gaps with a coefficient of variation: bursts above 1, order below."""

    kind: Literal["gamma"]
    rate: Rate
    """Requests per second."""
    cv: Annotated[float, Field(ge=0.01, le=100)]
    """Standard deviation of the gaps over their mean; 1: as poisson."""

    def build(self) -> arrivals.Arrivals:
        return arrivals.Gamma(self.rate, self.cv)


class OnOffArrivals(Section):
    """Bursts: Poisson at two rates by turns (a Markov-modulated Poisson process)."""

    kind: Literal["on_off"]
    rate_on: Rate
    """Requests per second within a burst."""
    rate_off: RateOrNone = 0
    """Requests per second between bursts."""
    on_s: Seconds
    """Mean length of a burst; exponential."""
    off_s: Seconds
    """Mean time between bursts; exponential."""

    @model_validator(mode="after")
    def _check_expected(self) -> OnOffArrivals:
        try:
            self.build()
        except ValueError as error:
            refuse(f"found {error}".replace(": allowed", "; allowed:"))
        return self

    def build(self) -> arrivals.Arrivals:
        return arrivals.OnOff(self.rate_on, self.rate_off, self.on_s, self.off_s)


class DiurnalArrivals(Section):
    """Poisson at a rate that swings over the day as a sine."""

    kind: Literal["diurnal"]
    rate: Rate
    """Mean requests per second over a period."""
    swing: Annotated[float, Field(ge=0, le=1)] = 0.5
    """The peak is at (1 + swing) x rate, the trough at (1 - swing) x rate."""
    peak_s: Annotated[float, Field(ge=0, le=1e9)] = 14 * 3600.0
    """When the rate is highest; 0 is where the workload begins."""
    period_s: Seconds = 86_400.0

    def build(self) -> arrivals.Arrivals:
        return arrivals.Diurnal(self.rate, self.swing, self.peak_s, self.period_s)


class ProfileArrivals(Section):
    """Poisson at a rate that is linear between given ones, and repeats."""

    kind: Literal["profile"]
    rates: ByNumber[RateOrNone]
    """Requests per second at seconds within a period, as in {0: 1, 43200: 8, 64800: 5}."""
    period_s: Seconds = 86_400.0

    @model_validator(mode="after")
    def _check_rates(self) -> ProfileArrivals:
        if not any(rate >= 1e-6 for rate in self.rates.values()):
            refuse("found no rate above 0; allowed: at least one of 1e-06 or more", at="rates")
        for at_s in self.rates:
            if not 0 <= at_s < self.period_s:
                allowed = f"0 to below period_s = {self.period_s:g}"
                refuse(f"found a rate at {at_s:g} s; allowed: {allowed}", at="rates")
        return self

    def build(self) -> arrivals.Arrivals:
        return arrivals.Profile(self.rates, self.period_s)


class ConstantArrivals(Section):
    """Equal gaps, from 0 on."""

    kind: Literal["constant"]
    rate: Rate
    """Requests per second."""

    def build(self) -> arrivals.Arrivals:
        return arrivals.Constant(self.rate)


class AtOnceArrivals(Section):
    """All requests arrive at 0."""

    kind: Literal["at_once"]

    def build(self) -> arrivals.Arrivals:
        return arrivals.AtOnce()


DrawnArrivals = (
    PoissonArrivals
    | GammaArrivals
    | OnOffArrivals
    | DiurnalArrivals
    | ProfileArrivals
    | ConstantArrivals
    | AtOnceArrivals
)
