"""The pace of the machine, told apart from what its steps computed."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from calibrate.step_fit import Floats, fit_steps
from calibrate.step_log import FEATURES, FitError, StepLog
from calibrate.step_model import Curve, Prices, Seen, StepModel
from experiments.pace import WINDOW, PacedSteps, find_pace, fit_paced
from sim.contract import check_latency_model
from tests.test_roofline import plan_of

PRICES = Prices(
    curve=Curve((1, 256), (1e6, 20e6)),
    decode_ns=3e4,
    context_token_ns=700,
    chunk_ns=2e5,
    pair_ns=90,
)
SEEN = Seen(tokens=(1, 512), decodes=64, decode_context=100_000, chunks=8, area=1_000_000)


def paced(paces: list[float]) -> PacedSteps:
    return PacedSteps(PRICES, SEEN, np.array(paces), source="here")


def draw_log(steps: int, *, slow: Floats) -> StepLog:
    """What PRICES say of steps on a machine that is so slow; when it is, batches are larger."""
    generator = np.random.default_rng(7)
    decodes = generator.poisson(6 * slow**3) + 1
    chunks = (generator.random(steps) < 0.3).astype(int)
    tokens = decodes + chunks * generator.integers(2, 200, steps)
    context = decodes * generator.integers(50, 200, steps)
    area = chunks * tokens**2 // 2
    features = np.column_stack([tokens, decodes, context, chunks, area]).astype(float)
    return StepLog(
        name="drawn",
        columns={feature: feature for feature in FEATURES},
        line=np.arange(steps) + 1,
        duration_ns=PRICES.engine_ns(*features.T) * slow * generator.normal(1, 0.03, steps),
        features=features,
        known=FEATURES,
        host_ns=0,
        notes=Counter(),
    )


def test_the_pace_by_hand() -> None:
    """100 steps are three windows, the last of 36."""
    price_ns = np.tile([1.0, 3.0], 50)
    measured_ns = price_ns * np.repeat([1.0, 2.0, 0.5], [32, 32, 36])
    measured_ns[0] += 6.4
    assert find_pace(measured_ns, price_ns).tolist() == [1.1] * 32 + [2.0] * 32 + [0.5] * 36
    assert find_pace(price_ns[:5], price_ns[:5]).tolist() == [1.0] * 5


def test_a_slow_machine_is_not_taken_for_the_price_of_large_batches() -> None:
    slow = np.repeat(np.tile([0.8, 1.0, 1.3, 1.0], 12), 2 * WINDOW)
    log = draw_log(len(slow), slow=slow)
    true_ns = PRICES.engine_ns(*log.features.T)
    fit, pace, settled = fit_paced(log)
    assert settled

    def slope(price_ns: Floats) -> float:
        """Of steps in the largest batches, beside those in the smallest: 1 is right."""
        ratio, large = price_ns / true_ns, log.features[:, 1]
        few, many = np.quantile(large, (0.2, 0.8))
        return float(ratio[large >= many].mean() / ratio[large <= few].mean())

    assert slope(fit.predicted_ns) == pytest.approx(1, abs=0.02)
    assert slope(fit_steps(log).predicted_ns) > 1.1
    assert pace.mean() == pytest.approx(1)
    assert pace == pytest.approx(slow / slow.mean(), rel=0.05)
    assert (fit.predicted_ns * pace).sum() == pytest.approx(log.duration_ns.sum(), rel=1e-3)


def test_a_steady_machine_has_one_pace() -> None:
    log = draw_log(20 * WINDOW, slow=np.ones(20 * WINDOW))
    fit, pace, _ = fit_paced(log)
    assert pace == pytest.approx(1, abs=0.02)
    assert fit.prices.decode_ns == pytest.approx(PRICES.decode_ns, rel=0.1)


def test_a_pace_that_changes_much_takes_more_rounds(monkeypatch: pytest.MonkeyPatch) -> None:
    slow = np.repeat(np.random.default_rng(2).uniform(0.6, 2.5, 23), WINDOW)
    log = draw_log(len(slow), slow=slow)
    _, found, settled = fit_paced(log)
    assert settled
    assert found == pytest.approx(slow / slow.mean(), rel=0.05)
    monkeypatch.setattr("experiments.pace._ROUNDS", 5)
    assert not fit_paced(log).settled


def test_fewer_steps_than_a_fit_needs() -> None:
    for steps in (0, 1, WINDOW):
        with pytest.raises(FitError, match=f"found {steps} steps; allowed: 50 or more"):
            fit_paced(draw_log(steps, slow=np.ones(steps)))
    # One window: the machine was as fast as it was on average.
    _, found, settled = fit_paced(draw_log(60, slow=np.ones(60)))
    assert settled
    assert found == pytest.approx(1)


def test_the_contract() -> None:
    check_latency_model(paced([0.5, 1.0, 1.7, 2.0]))


def test_a_step_costs_its_price_times_the_pace_of_its_number() -> None:
    plan = plan_of(decodes=[100, 150, 50], chunks=[(10, 31)])
    (price_ns,) = StepModel(PRICES, SEEN, source="here").durations(plan, 1)
    clock = paced([1.0, 1.5, 2.0])
    for step, times in ((0, 1.0), (1, 1.5), (2, 2.0), (3, 1.0), (9, 1.0)):
        assert clock.durations(replace(plan, step=step), 1) == [round(price_ns * times)]
    assert clock.notes == {"steps after the last one whose pace is known": 2}


@given(
    pace=st.lists(st.floats(0.1, 10), min_size=1, max_size=30),
    first=st.integers(0, 40),
    k=st.integers(1, 40),
)
def test_steps_at_once_are_steps_one_by_one(pace: list[float], first: int, k: int) -> None:
    together, single = paced(pace), paced(pace)
    contexts = [17, 900]
    at_once = together.durations(replace(plan_of(decodes=contexts, chunks=[]), step=first), k)
    one_by_one = [
        single.durations(
            replace(plan_of(decodes=[each + j for each in contexts], chunks=[]), step=first + j),
            1,
        )
        for j in range(k)
    ]
    assert [[each] for each in at_once] == one_by_one
    assert together.notes == single.notes


def test_a_runs_steps_are_priced_at_the_pace_of_theirs() -> None:
    log = draw_log(4, slow=np.ones(4))
    price_ns = PRICES.engine_ns(*log.features.T)
    assert (paced([1.0, 2.0, 3.0]).priced(log) / price_ns).tolist() == pytest.approx([1, 2, 3, 1])
