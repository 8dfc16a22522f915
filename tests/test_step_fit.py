"""Fitting: known prices are found again, and neither noise nor a pause bends them."""

from __future__ import annotations

import sys
from dataclasses import replace

import numpy as np
import pytest

from calibrate.step_fit import Errors, contributions, fit_steps
from calibrate.step_log import FitError
from tests.step_logs import PRICES, draw_log, log_of


def test_known_prices_are_found_again() -> None:
    log = draw_log(3000)
    fit = fit_steps(log)
    # The nodes of the truth are among the fit's own, so nothing is left over.
    assert fit.errors.p90 < 1e-6
    assert fit.random.errors.p90 < 1e-6
    assert fit.prices.pair_ns == pytest.approx(PRICES.pair_ns)
    assert fit.prices.context_token_ns == pytest.approx(PRICES.context_token_ns)
    assert fit.prices.decode_ns == pytest.approx(PRICES.decode_ns)
    assert fit.prices.chunk_ns == pytest.approx(PRICES.chunk_ns)
    found = dict(zip(fit.prices.curve.tokens, fit.prices.curve.ns, strict=True))
    assert [found[node] for node in (2, 3, 4, 64)] == pytest.approx([20.1e6, 22.8e6, 16.8e6, 30e6])


def test_noise_moves_single_steps_and_not_the_clock() -> None:
    fit = fit_steps(draw_log(4000, noise=0.3))
    truth = draw_log(4000)
    clean = Errors.of(fit.prices.engine_ns(*truth.features.T), truth.duration_ns)
    assert fit.random.errors.mean > 0.2
    assert abs(clean.total) < 0.01  # 1 / measured as weights makes it 17 %
    assert clean.p90 < 0.1


def test_a_pause_of_the_machine_bends_nothing() -> None:
    log = draw_log(1000, noise=0.02)
    paused = log.duration_ns.copy()
    paused[17] *= 1000
    fit = fit_steps(replace(log, duration_ns=paused))
    usual = fit_steps(log)
    np.testing.assert_allclose(fit.predicted_ns, usual.predicted_ns, rtol=0.05)
    assert fit.slow_steps == 1
    assert usual.slow_steps == 0


def test_steps_that_are_held_out_are_not_seen() -> None:
    log = draw_log(400, noise=0.1)
    fit = fit_steps(log, holdout=0.25, seed=3)
    for trial in (fit.random, fit.last):
        changed = log.duration_ns.copy()
        changed[trial.rows] *= 3
        again = fit_steps(replace(log, duration_ns=changed), holdout=0.25, seed=3)
        same = again.random if trial is fit.random else again.last
        assert same.predicted_ns.tolist() == trial.predicted_ns.tolist()
        assert again.predicted_ns.tolist() != fit.predicted_ns.tolist()
    assert fit.random.errors.steps == fit.last.errors.steps == 100
    assert fit.last.rows.tolist() == list(range(300, 400))
    assert fit.random.rows.tolist() != fit_steps(log, holdout=0.25, seed=4).random.rows.tolist()


def test_errors_by_hand() -> None:
    errors = Errors.of(np.array([90.0, 110.0, 150.0]), np.array([100.0, 100.0, 100.0]))
    assert errors.steps == 3
    assert errors.mean == pytest.approx(0.7 / 3)
    assert (errors.p50, errors.p90) == pytest.approx((0.1, 0.42))
    assert errors.total == pytest.approx(1 / 6)


def test_contributions_add_up_to_the_prediction() -> None:
    log = draw_log(300)
    parts = contributions(PRICES, log)
    assert sum(parts.values()) == pytest.approx(log.duration_ns.sum())
    assert parts["every step"] == pytest.approx(300 * 11.4e6)
    assert parts["area"] == pytest.approx(250 * log.features[:, 4].sum())


def test_nodes_have_a_dozen_steps_each() -> None:
    # Decodes only. 40 steps of 1, 2 and 9 tokens, 5 of 3: so 3 is no node, and 9 lies at the end.
    tokens = np.repeat([1, 2, 3, 9], [40, 40, 5, 40])
    features = np.column_stack([tokens, tokens, 100 * tokens, 0 * tokens, 0 * tokens])
    fit = fit_steps(log_of(features, 1e6 * (10 + tokens)))
    assert fit.prices.curve.tokens == (1, 2, 9)
    assert fit.seen.tokens == (1, 9)
    assert (fit.seen.decodes, fit.seen.chunks, fit.seen.area) == (9, 0, 0)


def test_steps_at_the_end_that_are_unlike_any_before() -> None:
    tokens = np.concatenate([np.tile([4, 8], 40), np.full(20, 16), np.full(20, 2)])
    features = np.column_stack([tokens, tokens, 50 * tokens, 0 * tokens, 0 * tokens])
    fit = fit_steps(log_of(features, 1e6 * (10 + tokens)), holdout=1 / 3)
    assert fit.last.outside == 40
    assert fit.random.outside == 0


def test_no_step_is_free() -> None:
    # Times through the origin: without a floor the curve would begin at 0 ns.
    tokens = np.tile(np.arange(10, 110), 3)
    features = np.column_stack([tokens, tokens, tokens, 0 * tokens, 0 * tokens])
    prices = fit_steps(log_of(features, 1000.0 * (tokens - 9))).prices
    prices.check()
    assert min(prices.curve.ns) == pytest.approx(10, rel=0.01)


@pytest.mark.parametrize(
    ("tokens", "message"),
    [
        ([3] * 49, "made.csv: found 49 steps; allowed: 50 or more"),
        ([3] * 60, "made.csv: found steps of 3 tokens only, among 60 .*; allowed: steps of"),
    ],
)
def test_too_little_to_fit(tokens: list[int], message: str) -> None:
    features = [[n, 1, 10, 0, 0] for n in tokens]
    with pytest.raises(FitError, match=message):
        fit_steps(log_of(features, [1e6] * len(tokens)))


def test_scipy_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "scipy.optimize", None)
    with pytest.raises(FitError, match="fitting needs scipy: pip install scipy"):
        fit_steps(draw_log(100))
