"""How far off predictions are: every number by hand, and host time found again."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from experiments.case import Case, CaseError, read_case
from experiments.case_clock import Choice, deploy, set_up
from experiments.case_fit import fit_host
from experiments.case_serve import serve
from experiments.fidelity import compare, compare_totals, kolmogorov_smirnov, wasserstein
from sim.latency import Linear
from tests.cases import write_step_case
from tests.step_logs import SAMPLE

values = st.lists(st.integers(0, 60), min_size=1, max_size=40)


@pytest.mark.filterwarnings("ignore:divide by zero:RuntimeWarning")  # of a p-value
@given(values, values)
def test_the_distances_are_those_of_scipy(a: list[int], b: list[int]) -> None:
    assert kolmogorov_smirnov(a, b) == pytest.approx(stats.ks_2samp(a, b, method="asymp").statistic)
    assert wasserstein(a, b) == pytest.approx(stats.wasserstein_distance(a, b), rel=1e-9, abs=1e-6)


def test_the_distances_by_hand() -> None:
    assert kolmogorov_smirnov([1, 2, 3, 4], [3, 4, 5, 6]) == 0.5
    assert wasserstein([1, 2, 3, 4], [3, 4, 5, 6]) == 2
    assert wasserstein([0], [0, 10]) == 5


def frame(ttft_ms: list[float], tpot_ms: list[float | None]) -> pd.DataFrame:
    count = len(ttft_ms)
    told = pd.DataFrame({"ttft": ttft_ms, "tpot": tpot_ms}, index=list("abcd")[:count]).astype(
        float
    )
    told *= 1e6
    told["ttft_from_queued"] = np.nan
    told["e2e"] = told["ttft"] + 10 * told["tpot"].fillna(0)
    told["arrival_ns"] = [1e9 * n for n in range(count)]
    told["output_tokens"] = [11 if tpot else 1 for tpot in tpot_ms]
    return told


REAL = frame([10, 20, 40, 50], [10, None, 20, 30])
PREDICTED = frame([11, 20, 30, 55], [10, None, 22, 30])


def test_metrics_by_hand() -> None:
    told = compare(REAL, PREDICTED)
    assert list(told["metrics"]) == ["ttft_ms", "tpot_ms", "e2e_ms"]  # nobody was queued
    ttft, tpot = told["metrics"]["ttft_ms"], told["metrics"]["tpot_ms"]
    assert ttft["mean"] == {
        **{"real": 30, "predicted": 29, "error_pct": pytest.approx(-100 / 30)},
        **{"low_pct": None, "high_pct": None},  # of four requests
    }
    assert ttft["std"]["real"] == pytest.approx(np.sqrt(250))
    assert (ttft["p50"]["real"], ttft["p50"]["predicted"]) == (30, 25)
    assert ttft["p90"]["real"] == pytest.approx(47)  # rank 2.7 of 0 to 3
    assert ttft["ks"] == 0.25
    assert ttft["wasserstein_ms"] == pytest.approx((1 + 0 + 10 + 5) / 4)
    assert (ttft["requests"], tpot["requests"]) == (4, 3)
    assert tpot["mean"]["predicted"] == pytest.approx(62 / 3)
    each = told["per_request_mape_pct"]
    assert each["ttft_ms"] == pytest.approx((10 + 0 + 25 + 10) / 4)
    assert each["tpot_ms"] == pytest.approx((0 + 10 + 0) / 3)


def test_totals_by_hand() -> None:
    told = compare_totals(REAL, PREDICTED.assign(preemptions=[0, 0, 2, 0]))
    assert told["makespan_s"]["real"] == pytest.approx(3.35)
    assert told["makespan_s"]["predicted"] == pytest.approx(3.355)
    assert told["output_tokens_per_s"]["real"] == pytest.approx(34 / 3.35)
    assert told["requests_per_s"]["real"] == pytest.approx(4 / 3.35)
    assert told["preemptions"] == {"real": None, "predicted": 2}
    recorded = compare_totals(REAL.assign(preemptions=1), PREDICTED.assign(preemptions=0))
    assert recorded["preemptions"] == {"real": 4, "predicted": 0}


def test_only_requests_with_both_are_compared() -> None:
    told = compare(REAL, PREDICTED.drop("c"))["metrics"]
    assert told["ttft_ms"]["mean"]["real"] == pytest.approx(80 / 3)
    assert told["tpot_ms"]["requests"] == 2


def test_from_queued_begins_when_the_step_in_flight_ends(tmp_path: Path) -> None:
    """Steps of 10 ms from 0.5 ms on; `second` comes at 11.5, is taken in at 20.5, and its 90
    tokens need two steps beside the other's decodes."""
    case = read_case(write_step_case(tmp_path / "two"))
    front_end = Choice(overrides=("latency.front_end_ns=5000000",))
    deployment, _ = deploy(case, front_end)
    clock = Linear(base_ns=10_000_000, per_token_ns=0, per_context_token_ns=0)
    told = serve(case, deployment, clock).predicted / 1e6
    assert told["ttft"].tolist() == [15, 34]
    assert told["ttft_from_queued"].tolist() == [10, 20]
    assert told["tpot"].tolist()[0] == 10
    assert told["e2e"].tolist() == [35, 34]


@pytest.fixture(scope="module")
def case() -> Case:
    return read_case(SAMPLE)


def test_host_time_is_found_again(case: Case) -> None:
    setting = set_up(case, Choice())

    def predict(host_ns: int) -> pd.DataFrame:
        return serve(case, setting.deployment, setting.build(host_ns)).predicted

    truth = predict(2_345_000)
    fit = fit_host(truth, predict)
    assert fit.ns == pytest.approx(2_345_000, rel=0.03)
    assert not fit.floored
    assert [*fit.first, *fit.second] == list(truth.index)
    # The second half has no part in it.
    altered = truth.copy()
    altered.loc[fit.second, "e2e"] *= 3
    assert fit_host(altered, predict).ns == fit.ns
    short = truth.copy()
    short["e2e"] = predict(0)["e2e"] / 2
    assert fit_host(short, predict).floored


def test_what_cannot_be_fitted(case: Case) -> None:
    with pytest.raises(CaseError, match="found 3 requests; allowed: 4 or more"):
        fit_host(case.real.iloc[:3], lambda _: case.real)
    with pytest.raises(CaseError, match="longer than with 1 s of host time a step"):
        fit_host(case.real, lambda _: case.real.assign(e2e=1.0))


def test_a_replay_of_recorded_steps_gives_the_recorded_times(case: Case) -> None:
    setting = set_up(case, Choice(kind="replay"))
    served = serve(case, setting.deployment, setting.build(None), requests=setting.requests)
    told = compare(case.real, served.predicted)
    # The engine's own stamps: neither the client's nor the front end's time is in them.
    assert told["per_request_mape_pct"]["ttft_from_queued_ms"] < 0.5
    assert told["per_request_mape_pct"]["e2e_ms"] < 1
    assert told["per_request_mape_pct"]["tpot_ms"] < 0.5
