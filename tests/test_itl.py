"""Gaps between tokens, against writing every token down; percentiles, against numpy."""

from __future__ import annotations

import random

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from experiments.distribution import PERCENTILES, describe
from experiments.itl import measure_gaps
from tests.served import Frames, Server, serve
from tests.worlds import small_world


def write_down_gaps(frames: Frames) -> list[int]:
    """All gaps in ns, from the time of every single token."""
    end_ns = {(row.replica, row.step): row.end_ns for row in frames["step_ends"].itertuples()}
    tokens: dict[tuple[int, int], list[int]] = {}
    for row in frames["segments"].itertuples():
        steps = range(row.first_step, row.first_step + row.tokens)
        given = tokens.setdefault((row.request, row.branch), [])
        given.extend(end_ns[row.replica, step] for step in steps)
    return sorted(
        later - earlier
        for times in tokens.values()
        for earlier, later in zip(sorted(times), sorted(times)[1:], strict=False)
    )


@settings(deadline=None)
@given(st.integers(0, 2**32))
def test_gaps_are_those_of_all_tokens_written_down(seed: int) -> None:
    world = small_world(random.Random(seed))
    frames, _ = serve(world.requests, Server.of(world))
    gaps_ns, times = measure_gaps(frames["segments"], frames["step_ends"])
    assert sorted(np.repeat(gaps_ns, times).tolist()) == write_down_gaps(frames)
    requests = frames["requests"]
    assert times.sum() == (requests["output_tokens"] - 1).sum()


def test_an_interruption_is_one_gap() -> None:
    """The drawing in experiments/itl.py: B gives tokens in steps 1, 2, 4, 5, 6."""
    ends = [10, 30, 60, 100, 150, 210, 280]
    step_ends = pd.DataFrame({"replica": 0, "step": range(7), "end_ns": ends})
    segments = pd.DataFrame(
        {"request": [1, 0, 1], "branch": 0, "first_step": [4, 0, 1], "tokens": [3, 4, 2]}
    ).assign(replica=0)
    gaps_ns, times = measure_gaps(segments, step_ends)
    assert dict(zip(gaps_ns.tolist(), times.tolist(), strict=True)) == {
        20: 1,
        30: 2,
        40: 1,
        60: 1,
        70: 1,
        150 - 60: 1,
    }


def test_answers_of_one_token_have_no_gap() -> None:
    step_ends = pd.DataFrame({"replica": [0, 1], "step": [0, 0], "end_ns": [10, 20]})
    segments = pd.DataFrame(
        {"replica": [0, 1], "request": [0, 1], "branch": 0, "first_step": 0, "tokens": 1}
    )
    gaps_ns, times = measure_gaps(segments, step_ends)
    assert times.sum() == len(gaps_ns) == 0


@given(
    st.lists(st.tuples(st.integers(0, 10**13), st.integers(0, 6)), min_size=1).filter(
        lambda pairs: any(times for _, times in pairs)
    )
)
def test_a_weighted_distribution_is_that_of_the_values_written_out(
    pairs: list[tuple[int, int]],
) -> None:
    values, times = (np.array(column) for column in zip(*pairs, strict=True))
    written_out = np.repeat(values, times) / 1e6
    found = describe(values, weights=times)
    assert found["count"] == len(written_out)
    assert found["mean"] == pytest.approx(written_out.mean())
    rounding = 1e-14 * written_out.max() + 1e-9
    assert found["std"] == pytest.approx(written_out.std(), rel=1e-9, abs=rounding)
    assert (found["min"], found["max"]) == (written_out.min(), written_out.max())
    for q in PERCENTILES:
        assert found[f"p{q}"] == pytest.approx(np.percentile(written_out, q))


def test_no_values_have_no_distribution() -> None:
    assert describe([]) == {"count": 0}
