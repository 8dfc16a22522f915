"""Times between measured points: exact at them, the law between them, one code path."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.interpolate import RegularGridInterpolator

from calibrate.attention_curves import (
    Chunks,
    ChunksByArea,
    ChunksByContext,
    Decodes,
    together,
)
from calibrate.curves import Line, add
from calibrate.mixing import Mixing
from tests.latency_tables import BATCHES, BEFORE, CHUNKS, CONTEXTS, decode_ns, prefill_ns

DECODES = Decodes({n: Line(CONTEXTS, [decode_ns(n, c) for c in CONTEXTS]) for n in BATCHES})
BY_CONTEXT = ChunksByContext({q: Line(BEFORE, [prefill_ns(q, c) for c in BEFORE]) for q in CHUNKS})
BY_AREA = ChunksByArea(Line(CHUNKS, [prefill_ns(q, 0) for q in CHUNKS]))

times = st.floats(1, 1e6)
lines = st.lists(st.integers(0, 10_000), min_size=1, max_size=8, unique=True).flatmap(
    lambda nodes: st.lists(times, min_size=len(nodes), max_size=len(nodes)).map(
        lambda ns: Line(sorted(nodes), ns)
    )
)


def test_line_by_hand() -> None:
    line = Line([10, 20, 40], [100, 200, 300])
    assert [line.at(x) for x in (1, 10, 15, 20, 30, 40)] == [100, 100, 150, 200, 250, 300]
    assert line.at(80) == 600  # at the last point's rate, not at the last piece's slope


def test_a_line_in_tiles_by_hand() -> None:
    line = Line([1, 16, 64, 68], [100, 115, 163, 183]).in_tiles(16)
    told = {1: 100, 2: 115, 16: 115, 17: 131, 32: 131, 33: 132, 64: 163, 65: 183, 68: 183}
    assert {x: line.at(x) for x in told} == told


@given(line=lines, x=st.integers(0, 10_000), tile=st.integers(1, 64))
def test_a_line_in_tiles_keeps_its_nodes(line: Line, x: int, tile: int) -> None:
    tiled = line.in_tiles(tile)
    assert [tiled.at(node) for node in line.nodes] == line.times
    assert tiled.at(2 * line.last + x) == line.at(2 * line.last + x)
    known = {node % tile for node in line.nodes} == {0}
    if known and line.nodes[0] <= x <= line.last:
        beyond = max(node for node in line.nodes if node <= x)
        if beyond < x <= beyond + tile:
            assert tiled.at(x) == pytest.approx(line.at(beyond + tile))


@pytest.mark.parametrize("nodes", [[], [3, 2], [2, 2]])
def test_line_refuses_nodes_that_do_not_rise(nodes: list[int]) -> None:
    with pytest.raises(ValueError, match="nodes must rise"):
        Line(nodes, [1.0] * len(nodes))


@given(line=lines, xs=st.lists(st.integers(0, 50_000), max_size=20))
def test_a_line_of_arrays_is_that_of_numbers(line: Line, xs: list[int]) -> None:
    assert line.at_many(np.array(xs, dtype=np.int64)).tolist() == [line.at(x) for x in xs]


@given(line=lines)
def test_a_line_goes_through_its_nodes(line: Line) -> None:
    assert [line.at(node) for node in line.nodes] == line.times


@given(several=st.lists(lines, max_size=4), x=st.integers(0, 50_000))
def test_a_sum_of_lines(several: list[Line], x: int) -> None:
    assert add(several).at(x) == pytest.approx(sum(line.at(x) for line in several))


@given(st.data())
def test_more_is_never_faster_where_more_was_never_measured_faster(data: st.DataObject) -> None:
    rising = sorted(data.draw(st.lists(times, min_size=4, max_size=4)))
    line = Line(CONTEXTS, rising)
    x, y = sorted(data.draw(st.lists(st.integers(1, 20_000), min_size=2, max_size=2)))
    assert line.at(x) <= line.at(y) * (1 + 1e-12)


@pytest.mark.parametrize("n", BATCHES)
@pytest.mark.parametrize("context", CONTEXTS)
def test_decodes_are_exact_where_measured(n: int, context: int) -> None:
    assert DECODES.row(n).at(n * context) == decode_ns(n, context)


@given(n=st.integers(4, 64), context=st.integers(256, 8192))
def test_decodes_follow_the_law_between(n: int, context: int) -> None:
    # a + b n + c n context is linear in n at equal n x context, up to the smaller batch's reach.
    expected = decode_ns(n, context)
    if n * context <= 4 * 8192:
        assert DECODES.row(n).at(n * context) == pytest.approx(expected)
    assert DECODES.row(n).at(n * context) == pytest.approx(expected, rel=0.12)


def test_more_decodes_than_measured_cost_the_last_batch_each() -> None:
    assert DECODES.row(128).at(128 * 1024) == pytest.approx(2 * decode_ns(64, 1024))


def test_decodes_reach_a_quarter_beyond_the_last_context() -> None:
    assert DECODES.reach(64) == 1.25 * 64 * 8192
    assert DECODES.reach(128) == 1.25 * 128 * 8192


@given(q=st.integers(16, 2048), c=st.integers(0, 8192))
def test_chunks_follow_the_law_everywhere(q: int, c: int) -> None:
    assert BY_CONTEXT.one(q, c) == pytest.approx(prefill_ns(q, c))


@given(q=st.integers(16, 2048), c=st.integers(0, 8192))
def test_a_chunk_by_area_costs_what_a_prompt_of_equal_area_does(q: int, c: int) -> None:
    area = q * (c + q / 2)
    if area <= 2048 * 1024:
        assert BY_AREA.one(q, c) == pytest.approx(prefill_ns(q, c))
    else:
        assert BY_AREA.one(q, c) == pytest.approx(prefill_ns(2048, 0) * area / (2048 * 1024))


def test_chunks_outside_the_table() -> None:
    assert BY_CONTEXT.one(4, 256) == prefill_ns(16, 256)
    assert BY_CONTEXT.one(4096, 0) == pytest.approx(4 * prefill_ns(2048, 0))
    assert BY_CONTEXT.one(512, 16_384) == pytest.approx(2 * prefill_ns(512, 8192))


@pytest.mark.parametrize("chunks", [BY_CONTEXT, BY_AREA])
@given(
    several=st.lists(st.tuples(st.integers(1, 9000), st.integers(0, 40_000)), max_size=20),
)
def test_chunks_of_arrays_are_those_of_numbers(
    chunks: Chunks, several: list[tuple[int, int]]
) -> None:
    q, c = np.array(several, dtype=np.int64).reshape(-1, 2).T
    assert chunks.many(q, c).tolist() == [chunks.one(*each) for each in several]


@pytest.mark.parametrize("chunks", [BY_CONTEXT, BY_AREA])
@given(q=st.integers(64, 2048), c=st.integers(0, 4096), data=st.data())
def test_a_chunk_cut_in_two_costs_no_more_than_whole(
    chunks: Chunks, q: int, c: int, data: st.DataObject
) -> None:
    cut = data.draw(st.integers(1, q - 1))
    whole, tokens, before = together(chunks, [(q, c)], apart=False)
    halves, of_both, before_both = together(chunks, [(cut, c), (q - cut, c + cut)], apart=False)
    assert halves == pytest.approx(whole)
    assert (tokens, before) == (of_both, pytest.approx(before_both))


def test_prompts_together_lie_between_their_area_and_their_sum() -> None:
    price, tokens, before = together(BY_CONTEXT, [(512, 0)] * 4, apart=False)
    assert (tokens, before) == (2048, 0)
    least, most = prefill_ns(2048, 0) / 4, 4 * prefill_ns(512, 0)
    assert price == pytest.approx(math.sqrt(least * most))
    # So short that the longest takes more than their area would, the sum more than one of all.
    many, *_ = together(BY_CONTEXT, [(16, 0)] * 100, apart=False)
    assert many == pytest.approx(math.sqrt(prefill_ns(16, 0) * prefill_ns(1600, 0)))


@given(
    st.lists(st.tuples(st.integers(16, 256), st.integers(0, 8192)), min_size=2, max_size=8),
)
def test_together_is_no_less_than_the_longest_and_no_more_than_apart(
    parts: list[tuple[int, int]],
) -> None:
    at_once, *_ = together(BY_CONTEXT, parts, apart=False)
    alone = [BY_CONTEXT.one(*part) for part in parts]
    slack = 1 + 1e-9
    assert max(alone) <= at_once <= sum(alone) * slack
    # It ends where the area of one prompt does: there is no jump.
    tokens = sum(n for n, _ in parts)
    if together(BY_CONTEXT, parts, apart=False)[2] == 0:
        assert at_once <= BY_CONTEXT.one(tokens, 0) * slack


def test_together_is_no_less_than_the_longest_where_larger_chunks_are_quicker() -> None:
    """32 tokens lie a third of the way, by area, from 500 ns to 20; 16 of them alone take 500."""
    quicker = ChunksByContext({16: Line([0, 1000], [500, 500]), 64: Line([0, 1000], [10, 20])})
    assert quicker.one(32, 992) < 400
    assert together(quicker, [(16, 1000)] * 2, apart=False) == (500, 32, 992)


def test_chunks_apart_take_the_sum_of_their_times() -> None:
    parts = [(512, 0), (16, 2048), (300, 40)]
    price, tokens, before = together(BY_CONTEXT, parts, apart=True)
    assert price == pytest.approx(sum(prefill_ns(q, c) for q, c in parts))
    # What they are taken for beside decodes is the same chunk.
    assert (tokens, before) == together(BY_CONTEXT, parts, apart=False)[1:]
    one, *_ = together(BY_CONTEXT, [(300, 40)], apart=True)
    assert one == together(BY_CONTEXT, [(300, 40)], apart=False)[0]


def test_mixing_is_linear_in_each_axis_and_ends_at_the_edges() -> None:
    axes = [(1, 3), (0, 4), (2, 4), (10, 20)]
    grid = np.arange(16, dtype=float).reshape(2, 2, 2, 2)
    mixing = Mixing(axes, grid)
    assert mixing.at(1, 0, 2, 10) == 0
    assert mixing.at(3, 4, 4, 20) == 15
    assert mixing.at(2, 0, 2, 10) == 4  # half of 8
    assert mixing.at(1, 1, 2, 10) == 1  # a quarter of 4
    assert mixing.at(2, 2, 3, 15) == 7.5
    assert mixing.at(99, 99, 99, 99) == 15
    assert mixing.at(0, 0, 1, 1) == 0


@given(st.tuples(*[st.floats(0, 30)] * 4))
def test_mixing_agrees_with_scipy(point: tuple[float, ...]) -> None:
    axes = [(1, 3, 9), (0, 4), (2, 4, 5, 8), (10, 20)]
    grid = np.random.default_rng(0).random([3, 2, 4, 2])
    inside = [min(max(x, axis[0]), axis[-1]) for x, axis in zip(point, axes, strict=True)]
    expected = RegularGridInterpolator(axes, grid)(inside)[0]
    assert Mixing(axes, grid).at(*point) == pytest.approx(expected)


def test_a_second_grid_refines_the_contexts_of_the_first() -> None:
    first = Mixing([(16, 64), (0,), (1,), (16, 64)], np.full([2, 1, 1, 2], 2.0))
    second = np.array([3.0, 4.0, 6.0, np.nan]).reshape(2, 1, 1, 2)
    mixing = first.refined([(16, 48), (0,), (1,), (32, 64)], second)
    # Half as much again at a context of 32, three times as much for a chunk of 48 and more; where
    # the first grid has points it is right.
    assert [mixing.at(chunk, 0, 1, 32) for chunk in (16, 48, 64)] == [3.0, 5.0, 6.0]
    assert [mixing.at(16, 0, 1, context) for context in (16, 24, 48, 64)] == [2.0, 2.5, 2.5, 2.0]


def test_what_was_not_measured_mixed_mixes_for_nothing() -> None:
    grid = np.full([1, 1, 1, 2], np.nan)
    grid[..., 1] = 3
    mixing = Mixing([(16,), (0,), (1,), (16, 32)], grid)
    assert mixing.filled == 1
    assert mixing.at(16, 0, 1, 24) == 2
