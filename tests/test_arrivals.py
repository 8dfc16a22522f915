"""Arrival processes: are they what they claim to be?"""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import islice

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import stats

from traces.synthetic.arrivals import (
    Arrivals,
    AtOnce,
    Constant,
    Diurnal,
    Gamma,
    OnOff,
    Poisson,
    Profile,
)
from traces.synthetic.draws import Draws

COUNT = 100_000
ALL = (
    Poisson(5.0),
    Gamma(5.0, 3.0),
    OnOff(20.0, 1.0, 2.0, 10.0),
    Diurnal(5.0, 0.8, 100.0, 400.0),
    Profile({0: 1.0, 50: 9.0}, 100.0),
    Constant(3.0),
    AtOnce(),
)


def draw(arrivals: Arrivals, count: int = COUNT, *, seed: int = 1) -> NDArray[np.int64]:
    return np.fromiter(islice(arrivals.arrivals_ns(Draws(seed)), count), dtype=np.int64)


def gaps_of(arrivals: Arrivals) -> NDArray[np.float64]:
    return np.diff(draw(arrivals), prepend=0) / 1e9


def expect_mean_and_cv(gaps_s: NDArray[np.float64], *, mean: float, cv: float) -> None:
    """Both within three standard errors, that of the CV by the delta method on batches."""
    error = gaps_s.std() / math.sqrt(len(gaps_s))
    assert abs(gaps_s.mean() - mean) < 3 * error
    batches = gaps_s.reshape(100, -1)
    cvs = batches.std(axis=1) / batches.mean(axis=1)
    # A batch's CV is biased a little; the whole sample's is hardly.
    assert abs(gaps_s.std() / gaps_s.mean() - cv) < 3 * cvs.std() / 10


def test_poisson_gaps_are_exponential_and_not_clipped() -> None:
    gaps_s = gaps_of(Poisson(4.0))
    assert stats.kstest(gaps_s, "expon", args=(0, 0.25)).pvalue > 0.01
    expect_mean_and_cv(gaps_s, mean=0.25, cv=1)
    beyond, tail = (gaps_s > 3 / 4.0).mean(), math.exp(-3)
    assert abs(beyond - tail) < 3 * math.sqrt(tail * (1 - tail) / COUNT)
    assert gaps_s.max() > 8 / 4.0


def test_poisson_gaps_are_independent() -> None:
    gaps_s = gaps_of(Poisson(4.0))
    correlation = np.corrcoef(gaps_s[:-1], gaps_s[1:])[0, 1]
    assert abs(correlation) < 3 / math.sqrt(COUNT)


@pytest.mark.parametrize("cv", [0.3, 1.0, 2.5])
def test_gamma_gaps_have_the_cv_asked_for(cv: float) -> None:
    gaps_s = gaps_of(Gamma(4.0, cv))
    claimed = stats.gamma(cv**-2, 0, cv**2 / 4.0)
    # At a high CV many gaps are below a nanosecond: arrivals in one.
    least_s = 1e-6
    below = claimed.cdf(least_s)
    longer = gaps_s[gaps_s > least_s]
    assert len(longer) == pytest.approx(COUNT * (1 - below), abs=3 * (COUNT * below) ** 0.5)
    test = stats.kstest(longer, lambda gap_s: (claimed.cdf(gap_s) - below) / (1 - below))
    assert test.pvalue > 0.01
    expect_mean_and_cv(gaps_s, mean=0.25, cv=cv)


def test_on_off_is_poisson_in_each_state() -> None:
    """Long periods: nearly every window of 10 s is in one of two states."""
    arrivals_s = draw(OnOff(40.0, 4.0, 500.0, 1000.0), 200_000) / 1e9
    counts = np.histogram(arrivals_s, np.arange(0, arrivals_s[-1], 10.0))[0]
    on = counts > 150
    assert abs(counts[on].mean() - 400) < 4
    assert abs(counts[~on].mean() - 40) < 1
    assert stats.variation(counts[~on][counts[~on] < 80]) == pytest.approx(40**-0.5, rel=0.1)
    states, lengths = runs_of(on)
    assert np.mean(lengths[states]) * 10 == pytest.approx(500, rel=0.35)
    assert np.mean(lengths[~states]) * 10 == pytest.approx(1000, rel=0.35)


def runs_of(flags: NDArray[np.bool_]) -> tuple[NDArray[np.bool_], NDArray[np.int64]]:
    edges = np.flatnonzero(np.diff(flags)) + 1
    starts = np.concatenate([[0], edges])
    return flags[starts], np.diff(np.concatenate([starts, [len(flags)]]))


def test_on_off_has_the_mean_rate_and_dispersion_of_theory() -> None:
    """Fischer and Meier-Hellstern, Performance Evaluation 18 (1993): the limit of var / mean."""
    high, low, on_s, off_s = 20.0, 2.0, 1.0, 4.0
    arrivals_s = draw(OnOff(high, low, on_s, off_s), 400_000) / 1e9
    mean = (high * on_s + low * off_s) / (on_s + off_s)
    counts = np.histogram(arrivals_s, np.arange(0, arrivals_s[-1], 50.0))[0]
    assert counts.mean() / 50 == pytest.approx(mean, rel=3 * counts.std() / mean / 50 / 37)
    up, down = 1 / off_s, 1 / on_s
    limit = 1 + 2 * (high - low) ** 2 * up * down / ((up + down) ** 2 * (high * up + low * down))
    assert counts.var() / counts.mean() == pytest.approx(limit, rel=0.15)


def test_on_off_begins_in_equilibrium() -> None:
    """In one of ten bursts, as often as at any other time."""
    process = OnOff(100.0, 0.0, 10.0, 90.0)
    early = sum(next(process.arrivals_ns(Draws(seed))) < 10**8 for seed in range(300))
    assert abs(early - 30) < 3 * (300 * 0.1 * 0.9) ** 0.5


def test_on_off_without_a_rate_between_bursts_is_silent_there() -> None:
    gaps_s = gaps_of(OnOff(100.0, 0.0, 1.0, 50.0))
    long = gaps_s[gaps_s > 1]
    assert stats.kstest(long - 1, "expon", args=(0, 50)).pvalue > 0.01


def test_changing_the_rate_leaves_the_bursts_where_they_are() -> None:
    """Under common random numbers; within the first burst, here."""
    slow = draw(OnOff(10.0, 0.0, 5.0, 1000.0), 200, seed=3)
    fast = draw(OnOff(20.0, 0.0, 5.0, 1000.0), 400, seed=3)
    ends = [arrivals[np.argmax(np.diff(arrivals) > 20e9)] for arrivals in (slow, fast)]
    assert abs(int(ends[0]) - int(ends[1])) < 1e9


@pytest.mark.parametrize("process", [ALL[3], ALL[4]], ids=["diurnal", "profile"])
def test_a_changing_rate_is_followed(process: Diurnal | Profile) -> None:
    """Counts by phase, against the integral of the rate."""
    period_s = process.period_s
    arrivals_s = draw(process) / 1e9
    periods = int(arrivals_s[-1] // period_s)
    phases = arrivals_s[arrivals_s < periods * period_s] % period_s
    edges = np.linspace(0, period_s, 21)
    counts = np.histogram(phases, edges)[0]
    fine = np.linspace(0, period_s, 20_001)
    middle = process.rate_at((fine[1:] + fine[:-1]) / 2).reshape(20, -1).mean(axis=1)
    expected = middle * period_s / 20 * periods
    chi_square = ((counts - expected) ** 2 / expected).sum()
    assert stats.chi2.sf(chi_square, 20) > 0.01


def test_the_peak_is_where_it_is_said_to_be() -> None:
    peak = ALL[3].rate_at(np.array([100.0, 300.0]))  # type: ignore[union-attr]
    assert peak == pytest.approx([9.0, 1.0])
    rates = Profile({0: 1.0, 50: 9.0}, 100.0).rate_at(np.array([0, 25.0, 50, 75, 100, 125]))
    assert rates == pytest.approx([1, 5, 9, 5, 1, 5])


def test_constant_arrivals_do_not_drift() -> None:
    arrivals = draw(Constant(3.0), 10_001)
    assert arrivals[:4].tolist() == [0, 333_333_333, 666_666_667, 1_000_000_000]
    assert arrivals[9_999] == 3_333 * 10**9


def test_at_once_is_at_0() -> None:
    assert draw(AtOnce(), 3).tolist() == [0, 0, 0]


@pytest.mark.parametrize("arrivals", ALL, ids=lambda arrivals: type(arrivals).__name__)
def test_arrivals_never_fall_and_repeat_with_the_seed(arrivals: Arrivals) -> None:
    drawn = draw(arrivals, 10_000)
    assert (np.diff(drawn) >= 0).all()
    assert drawn[0] >= 0
    assert draw(arrivals, 10_000).tolist() == drawn.tolist()
    assert draw(arrivals, 5_000).tolist() == drawn[:5_000].tolist()
    if not isinstance(arrivals, Constant | AtOnce):
        assert draw(arrivals, 10_000, seed=2).tolist() != drawn.tolist()


def test_arrivals_in_thousands_of_years_do_not_overflow() -> None:
    assert max(draw(Poisson(1e-12), 3)) == 2**62


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: Poisson(-1), "rate = -1: allowed a number above 0"),
        (lambda: Poisson(float("inf")), "rate = inf: allowed a number above 0"),
        (lambda: Gamma(1, 0), "cv = 0: allowed a number above 0"),
        (lambda: Constant(0), "rate = 0: allowed a number above 0"),
        (lambda: OnOff(1, -1, 1, 1), "rate_off = -1: allowed 0 or more"),
        (lambda: OnOff(1, 0, 1e-4, 9), "0.0001 requests expected per burst and pause: allowed 0.0"),
        (lambda: OnOff(1, 0, 1, 0), "off_s = 0: allowed a number above 0"),
        (lambda: Diurnal(1, 1.5), "swing = 1.5: allowed 0 to 1, or the rate falls below 0"),
        (lambda: Profile({}), "highest_rate = 0: allowed a number above 0"),
        (lambda: Profile({0: 1, 90_000: 2}), "a rate at 90000 s: allowed 0 to below period_s"),
    ],
)
def test_parameters_out_of_range_are_refused(make: Callable[[], object], said: str) -> None:
    with pytest.raises(ValueError, match=f"^{said}"):
        make()
