"""Figures: drawn for any run, from numbers that are right, and without a trace."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from experiments.figures import draw
from experiments.figures_over_time import count_load, draw_load
from experiments.metrics import summarize
from experiments.style import styled
from experiments.windows import Level, Windows
from experiments.words import say_count, say_share, say_source, say_time
from sim.latency import Linear
from tests.served import Frames, Server, ask, serve
from tests.worlds import small_world

NAMES = {
    "latency-cdf.png",
    "load-over-time.png",
    "ttft-over-arrival.png",
    "steps-over-time.png",
    "ttft-parts-by-percentile.png",
}


def draw_all(frames: Frames, context: Any, folder: Path) -> list[Path]:
    return draw(frames, summarize(frames, context), folder)


def read_settings() -> dict[str, Any]:
    """matplotlib's; looking at the backend alone would choose one."""
    return {name: mpl.rcParams[name] for name in mpl.rcParams if name != "backend"}


@pytest.mark.parametrize("seed", [1, 4, 5])
def test_all_figures_of_a_small_world(seed: int, tmp_path: Path) -> None:
    world = small_world(random.Random(seed))
    before = read_settings()
    paths = draw_all(*serve(world.requests, Server.of(world)), tmp_path)
    assert {path.name for path in paths} == NAMES
    assert all(path.read_bytes().startswith(b"\x89PNG") for path in paths)
    assert read_settings() == before
    assert not plt.get_fignums()


@pytest.mark.parametrize("replicas", [1, 3])
def test_the_load_of_several_replicas_says_whose_it_is(replicas: int) -> None:
    world = small_world(random.Random(1))
    frames, context = serve(world.requests, Server.of(world, replicas=replicas))
    with styled():
        figure = draw_load(frames, summarize(frames, context), "")
    running, waiting, pool = (axes.get_title(loc="left") for axes in figure.axes)
    title = figure.get_suptitle()
    several = replicas > 1
    assert title.startswith("3 replicas together: up to ") is several
    assert ("the fullest pool is at most" in title) is several
    assert ("the KV pool is at most" in title) is not several
    assert (", 3 replicas together: mean" in running) is several
    assert (", 3 replicas together: mean" in waiting) is several
    assert ("mean share of the slots over the replicas" in pool) is several


@pytest.mark.parametrize("output", [1, 2])
def test_figures_of_one_request(output: int, tmp_path: Path) -> None:
    assert len(draw_all(*serve([ask(0, at_ns=99, output=output)], Server()), tmp_path)) == 5


def test_no_answer_no_figure(tmp_path: Path) -> None:
    assert draw_all(*serve([ask(0, prompt=50)], Server(max_model_len=20)), tmp_path) == []
    assert list(tmp_path.iterdir()) == []


@settings(deadline=None)
@given(st.integers(0, 2**32))
def test_load_is_what_the_scheduler_saw_at_every_row(seed: int) -> None:
    world = small_world(random.Random(seed))
    frames, _ = serve(world.requests, Server.of(world, replicas=1))
    if frames["requests"].empty:
        return
    steps = frames["steps"]
    steps = steps[steps["start_ns"] < steps["end_ns"]]  # one that computes nothing takes no time
    for level, column in zip(count_load(frames), ("running", "waiting"), strict=True):
        at = np.searchsorted(level.times_ns, steps["start_ns"], side="right") - 1
        assert level.values[at].tolist() == steps[column].tolist()
        assert level.values[-1] == 0
        assert level.values.min() >= 0


@given(
    st.lists(st.tuples(st.integers(0, 60), st.integers(0, 5)), min_size=1, max_size=30),
    st.integers(1, 7),
)
def test_windows_follow_a_level_exactly(changes: list[tuple[int, int]], count: int) -> None:
    """Against the level written down at each of 60 ns."""
    level = Level([([0], 0), *(([at], by) for at, by in changes)])
    written_out = [sum(by for at, by in changes if at <= now) for now in range(60)]
    windows = Windows(0, 60 * count, count=count * 60)
    of_one_ns, low, high = windows.follow(level)
    assert of_one_ns[:60].tolist() == low[:60].tolist() == high[:60].tolist() == written_out
    for pieces in (1, 4, 12):
        mean, low, high = Windows(0, 60, count=pieces).follow(level)
        cut = np.array(written_out).reshape(pieces, -1)
        assert mean == pytest.approx(cut.mean(axis=1))
        assert low.tolist() == cut.min(axis=1).tolist()
        assert high.tolist() == cut.max(axis=1).tolist()


@settings(deadline=None)
@given(st.integers(0, 2**32), st.integers(1, 50))
def test_windows_lose_nothing_of_the_rows(seed: int, count: int) -> None:
    world = small_world(random.Random(seed))
    frames, _ = serve(world.requests, Server.of(world))
    if frames["requests"].empty:
        return
    steps, memory = frames["steps"], frames["memory"]
    first, last = (
        memory[f"used_{when}_slots"].to_numpy(dtype=np.float64) for when in ("first", "last")
    )
    length_ns = steps["end_ns"] - steps["start_ns"]
    windows = Windows(0, int(steps["end_ns"].max()), count=count)
    of_all = windows.integrate_rows(steps, first, last).sum()
    assert of_all == pytest.approx(float(((first + last) / 2 * length_ns).sum()))


def test_a_ramp_is_cut_where_it_stands() -> None:
    """From 0 to 10 within 10 ns: 1.25 of the area in the first half, 3.75 in the second."""
    row = pd.DataFrame({"replica": [0], "start_ns": [0], "end_ns": [10]})
    found = Windows(0, 10, count=2).integrate_rows(row, np.array([0.0]), np.array([10.0]))
    assert found == pytest.approx([12.5, 37.5])


def test_modelled_times_are_called_so() -> None:
    latency = Linear(base_ns=1, per_token_ns=2, per_context_token_ns=3)
    about = {"latency": latency.source, "modelled": True}
    assert say_source(about).startswith("modelled: linear")
    assert say_source({"latency": "modelled: roofline", "modelled": True}) == "modelled: roofline"
    assert say_source({"latency": "H200 table", "modelled": False}) == "H200 table"


def test_numbers_are_said_with_three_digits() -> None:
    said = [say_time(ms) for ms in (0, 1.2e-5, 0.0345, 4.2, 153.2, 13_940, 150_000, 9e6, None)]
    assert said == ["0", "12 ns", "34.5 µs", "4.2 ms", "153 ms", "13.9 s", "2.5 min", "2.5 h", "-"]
    assert [say_count(x) for x in (0, 4.468, 9218.2, 8_493_312)] == ["0", "4.47", "9,218", "8.49 M"]
    assert [say_share(x) for x in (0.714, 0.004, 0.0001, -0.0001, 1e-17, 0, -0.12, None)] == [
        "71 %",
        "0.4 %",
        "<0.1 %",
        ">-0.1 %",
        "0 %",
        "0 %",
        "-12 %",
        "-",
    ]
