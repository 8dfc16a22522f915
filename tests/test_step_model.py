"""Step models: prices by hand, the laws of a latency model, and what leaves the fitted range."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from calibrate.step_model import Curve, Seen, StepModel
from sim.contract import check_latency_model
from tests.step_logs import PRICES
from tests.test_roofline import plan_of

SEEN = Seen(tokens=(2, 256), decodes=32, decode_context=5000, chunks=3, area=100_000)

contexts = st.lists(st.integers(1, 3000), max_size=40)
chunks = st.lists(st.tuples(st.integers(0, 5000), st.integers(1, 400)), max_size=4)


def model(*, host_ns: int = 0) -> StepModel:
    return StepModel(PRICES, SEEN, host_ns=host_ns, source="here")


def test_the_contract() -> None:
    check_latency_model(model(host_ns=1234))


def test_prices_by_hand() -> None:
    # 34 tokens lie half-way between the nodes 4 and 64; 3 decodes at 300 in all; a chunk of
    # 31 tokens behind 10, so 31 * 10 + 31 * 32 / 2 pairs.
    step = model(host_ns=7).durations(plan_of(decodes=[100, 150, 50], chunks=[(10, 31)]), 3)
    curve_ns = (16_800_000 + 30_000_000) // 2
    rows_ns = 3 * 200_000 + 700_000 + (310 + 496) * 250
    first = 7 + curve_ns + rows_ns + 300 * 900
    assert step == [first, first + 3 * 900, first + 6 * 900]


@pytest.mark.parametrize(
    ("tokens", "curve_ns"),
    [(1, 11.4e6), (2, 20.1e6), (3, 22.8e6), (4, 16.8e6), (256, 80e6), (511, 80e6 + 68.6e6)],
)
def test_the_curve_goes_through_its_nodes_and_on_along_its_chord(
    tokens: int, curve_ns: float
) -> None:
    assert PRICES.curve.at(tokens) == pytest.approx(curve_ns)


def test_a_falling_curve_ends_level() -> None:
    curve = Curve((4, 8), (9.0, 5.0))
    assert [float(curve.at(tokens)) for tokens in (1, 4, 6, 8, 100)] == [9, 9, 7, 5, 5]


@given(decodes=contexts, chunks=chunks, k=st.integers(1, 50))
def test_k_steps_at_once_are_k_steps_one_by_one(
    decodes: list[int], chunks: list[tuple[int, int]], k: int
) -> None:
    clock = model(host_ns=5)
    at_once = clock.durations(plan_of(decodes=decodes, chunks=chunks), k)
    counted = clock.notes.copy()
    clock.notes.clear()
    one_by_one = [
        clock.durations(plan_of(decodes=[c + j for c in decodes], chunks=chunks), 1)[0]
        for j in range(k)
    ]
    assert at_once == one_by_one
    assert clock.notes == counted


@given(st.lists(st.tuples(st.integers(0, 100_000), st.integers(0, 8192)), max_size=20))
def test_alone_is_its_scalar_calls(several: list[tuple[int, int]]) -> None:
    before, n = np.array(several, dtype=np.int64).reshape(-1, 2).T
    vector = model().alone(before, n)
    assert vector.dtype == np.int64
    assert vector.tolist() == [int(model().alone(*each)) for each in several]


@given(c=st.integers(0, 100_000), n=st.integers(1, 8192), host_ns=st.integers(0, 10**7))
def test_a_step_of_one_chunk_is_the_chunk_alone_and_the_host(c: int, n: int, host_ns: int) -> None:
    clock = model(host_ns=host_ns)
    assert clock.durations(plan_of(chunks=[(c, n)]), 1)[0] == clock.alone(c, n) + host_ns


def test_a_chunk_of_one_token_is_a_decode() -> None:
    mixed = model().durations(plan_of(decodes=[100] * 3, chunks=[(99, 1)]), 1)
    assert mixed == model().durations(plan_of(decodes=[100] * 4), 1)


@pytest.mark.parametrize(
    ("decodes", "chunks", "note"),
    [
        ([50], [], "steps of fewer tokens than the fitted 2"),
        ([50] * 33, [], "steps beyond the fitted decodes (up to 32)"),
        ([50], [(0, 256)], "steps beyond the fitted tokens (up to 256)"),
        ([], [(0, 9)] * 4, "steps beyond the fitted chunks (up to 3)"),
        (
            [],
            [(999, 100), (9, 9)],
            "steps beyond the fitted area of chunks' attention (up to 100,000)",
        ),
    ],
)
def test_leaving_the_range_is_counted(
    decodes: list[int], chunks: list[tuple[int, int]], note: str
) -> None:
    clock = model()
    clock.durations(plan_of(decodes=decodes, chunks=chunks), 4)
    clock.durations(plan_of(decodes=[50] * 32, chunks=[]), 1)
    assert clock.notes == {note: 4}


def test_context_leaves_the_range_in_the_middle_of_a_stretch() -> None:
    # 3 decodes: 4991, 4994, 4997, 5000 are inside, the 6 after them are not.
    clock = model()
    clock.durations(plan_of(decodes=[4000, 900, 91]), 10)
    assert clock.notes == {"steps beyond the fitted decode context (up to 5,000)": 6}


def test_what_the_log_did_not_tell_has_no_range() -> None:
    seen = replace(SEEN, decodes=None, decode_context=None, chunks=None, area=None)
    clock = StepModel(PRICES, seen, source="here")
    clock.durations(plan_of(decodes=[9000] * 40, chunks=[(9000, 50)] * 4), 9)
    assert not clock.notes


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"curve": Curve((4,), (1.0,))}, r"found the nodes \(4,\); allowed: two or more, rising"),
        ({"curve": Curve((4, 4), (1.0, 2.0))}, r"nodes \(4, 4\)"),
        ({"curve": Curve((0, 4), (1.0, 2.0))}, r"nodes \(0, 4\)"),
        ({"curve": Curve((1, 4), (0.0, 2.0))}, r"found the times \(0.0, 2.0\); allowed: above 0"),
        ({"curve": Curve((1, 4), (1.0,))}, r"times \(1.0,\)"),
        ({"curve": Curve((1, 4), (float("nan"), 2.0))}, r"times \(nan"),
        ({"pair_ns": -1.0}, r"pair_ns: found -1.0; allowed: 0 to"),
        ({"chunk_ns": float("nan")}, r"chunk_ns: found nan"),
    ],
)
def test_impossible_prices(wrong: dict[str, object], message: str) -> None:
    PRICES.check()
    with pytest.raises(ValueError, match=message):
        replace(PRICES, **wrong).check()  # type: ignore[arg-type]
