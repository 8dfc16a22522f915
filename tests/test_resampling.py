"""Bounds of errors: by hand, beside scipy's t, and how often they hold."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from experiments import resampling
from experiments.distribution import describe
from experiments.fidelity import STATISTICS, _measure, compare
from experiments.resampling import BLOCK, FEWEST_BLOCKS, Floats, bound_ratios

LATENCIES = np.random.default_rng(5).lognormal(18, 0.8, 300)


def means(values: Floats) -> Floats:
    return values.mean(axis=1)[None]


def frame(values: Floats) -> pd.DataFrame:
    count = len(values)
    columns = dict.fromkeys(("ttft", "ttft_from_queued", "tpot", "e2e"), values)
    return pd.DataFrame({**columns, "arrival_ns": np.arange(count)}, index=np.arange(count))


def correlated(generator: np.random.Generator, count: int, *, by: float) -> Floats:
    """Normal noise whose neighbours correlate `by` so much."""
    noise = generator.standard_normal(count)
    for at in range(1, count):
        noise[at] = by * noise[at - 1] + np.sqrt(1 - by**2) * noise[at]
    return noise


def test_equal_runs_and_a_constant_factor_leave_no_doubt() -> None:
    same = bound_ratios(LATENCIES, LATENCIES, _measure)
    assert same is not None
    assert same.tolist() == [[0, 0]] * len(STATISTICS)
    longer = compare(frame(LATENCIES), frame(1.1 * LATENCIES))["metrics"]
    for metric in ("ttft_ms", "ttft_from_queued_ms", "tpot_ms", "e2e_ms"):
        for name in STATISTICS:
            cell = longer[metric][name]
            assert (cell["low_pct"], cell["high_pct"]) == pytest.approx((10, 10), abs=1e-9)


@pytest.mark.parametrize("count", [160, 300])
def test_bounds_hold_in_about_95_of_100_runs(count: int) -> None:
    """Predictions are 5 % long. Real runs differ from what they take on average by noise that
    neighbours share."""
    generator, trials, held = np.random.default_rng(2), 200, 0
    for _ in range(trials):
        expected = generator.lognormal(0, 0.5, count)
        real = expected * (1 + 0.15 * correlated(generator, count, by=0.75))
        bounds = bound_ratios(real, 1.05 * expected, means)
        assert bounds is not None
        held += bool(bounds[0, 0] <= 0.05 <= bounds[0, 1])
    assert 0.9 <= held / trials <= 0.99


def test_what_neighbours_share_widens_the_bounds() -> None:
    noise = 1 + 0.15 * correlated(np.random.default_rng(3), 600, by=0.9)
    mixed = np.random.default_rng(4).permutation(noise)
    near, apart = (bound_ratios(np.ones(600), each, means) for each in (noise, mixed))
    assert near is not None
    assert apart is not None
    assert np.ptp(near) > 2 * np.ptp(apart)


def test_independent_requests_by_the_textbook() -> None:
    """Of constant real times the error is a mean: its bounds are those of Student's t."""
    values = np.random.default_rng(6).normal(1, 0.1, 3200)
    bounds = bound_ratios(np.ones(len(values)), values, means)
    assert bounds is not None
    assert bounds.mean() == pytest.approx(values.mean() - 1, abs=0.0005)
    assert np.ptp(bounds) == pytest.approx(2 * 1.96 * 0.1 / np.sqrt(3200), rel=0.15)


@pytest.mark.parametrize(("blocks", "within"), [(4, 0.04), (6, 0.01), (9.375, 0.003), (100, 1e-4)])
def test_few_blocks_are_widened_as_students_t(blocks: float, within: float) -> None:
    t = stats.t.ppf(0.975, blocks - 1) / stats.norm.ppf(0.975)
    expected = t * np.sqrt(blocks / (blocks - 1))
    assert resampling._widen(blocks) == pytest.approx(expected, rel=within)


def test_too_few_requests_say_nothing() -> None:
    enough = BLOCK * FEWEST_BLOCKS
    few = LATENCIES[: enough - 1]
    assert bound_ratios(few, few, means) is None
    assert bound_ratios(LATENCIES[:enough], LATENCIES[:enough], means) is not None
    cell = compare(frame(few), frame(few))["metrics"]["e2e_ms"]["mean"]
    assert (cell["error_pct"], cell["low_pct"], cell["high_pct"]) == (0, None, None)


def test_nothing_is_divided_by_zero() -> None:
    cells = compare(frame(np.full(300, 5e6)), frame(LATENCIES))["metrics"]["e2e_ms"]
    assert (cells["std"]["low_pct"], cells["std"]["high_pct"]) == (None, None)
    assert cells["mean"]["low_pct"] < cells["mean"]["error_pct"] < cells["mean"]["high_pct"]


def test_equal_values_are_spread_by_nothing() -> None:
    """12345678.9 times 300 rounds, and so would their mean."""
    same = frame(np.full(300, 12345678.9))
    cell = compare(same, frame(LATENCIES))["metrics"]["tpot_ms"]["std"]
    assert (cell["real"], cell["error_pct"], cell["low_pct"], cell["high_pct"]) == (0, *[None] * 3)
    cell = compare(frame(LATENCIES), same)["metrics"]["tpot_ms"]["std"]
    assert (cell["predicted"], cell["error_pct"], cell["low_pct"]) == (0, -100, None)


def test_nothing_is_less_than_nothing() -> None:
    """Of few requests, with long moods, almost nothing is known: but it is not below -100 %."""
    generator = np.random.default_rng(8)
    for _ in range(10):
        real, predicted = (np.exp(correlated(generator, 128, by=0.95)) for _ in range(2))
        bounds = bound_ratios(real, predicted, _measure)
        assert bounds is not None
        assert (bounds[:, 0] > -1).all()
        assert (bounds[:, 0] < bounds[:, 1]).all()


def test_bounds_go_by_arrival_and_not_by_row() -> None:
    real = frame(LATENCIES)
    predicted = frame(LATENCIES * (1 + 0.1 * np.sin(np.arange(300) / 20)))
    assert compare(real.sample(frac=1, random_state=1), predicted) == compare(real, predicted)


def test_many_requests_are_drawn_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    noisy = LATENCIES * np.random.default_rng(7).normal(1, 0.1, 300)
    whole = bound_ratios(LATENCIES, noisy, _measure)
    monkeypatch.setattr(resampling, "_CELLS", 7 * 300)
    assert sum(len(rows) for rows in resampling._draw(300)) == 400
    assert whole is not None
    assert bound_ratios(LATENCIES, noisy, _measure) == pytest.approx(whole)


@given(st.lists(st.integers(0, 10**12), min_size=1, max_size=40))
def test_drawn_statistics_are_those_of_the_table(values: list[int]) -> None:
    told = describe(values)
    measured = _measure(np.array([values], dtype=np.float64))[:, 0] / 1e6
    assert measured.tolist() == pytest.approx([told[name] for name in STATISTICS], abs=1e-6)
