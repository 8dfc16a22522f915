"""Steps composed of a table's operators: sums by hand, and the laws of a latency model."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from calibrate.leave_one_out import HELD_OUT, leave_one_out
from calibrate.steptime import StepTime
from calibrate.table import Table
from calibrate.table_schema import TableError
from sim.contract import check_latency_model
from sim.moves import Copy
from tests.latency_tables import (
    LLAMA,
    TOLD,
    decode_ns,
    head_ns,
    linear_ns,
    make_rows,
    make_table,
    mixed_ns,
    prefill_ns,
)
from tests.test_roofline import plan_of

LAYERS = LLAMA.layers
SKEW = {"decode": ((2, 5.0), (4, 2.5)), "mixed": ((2, 10.0), (4, 7.5))}
PLAIN = StepTime(make_table())
BY_AREA = StepTime(make_table(contexts=False), host_ns=777)
MIXED = StepTime(make_table(mixed=True), host_ns=5, capture_sizes=(1, 8, 16))
SKEWED = StepTime(make_table(mixed=True, told=replace(TOLD, skew=SKEW)), capture_sizes=(4,))
RUN_ON = {"at_once": 2.0, "token_ns": 3.0, "whole_from": 4.0}
WAITING = StepTime(make_table(told=replace(TOLD, tail=RUN_ON, query_blocks={"bfloat16": 64})))
APART = StepTime(make_table(mixed=True, told=replace(TOLD, chunks_apart=True)))
CLOCKS = [PLAIN, BY_AREA, MIXED, SKEWED, WAITING, APART]

contexts = st.lists(st.integers(1, 40_000), max_size=8)
chunks = st.lists(st.tuples(st.integers(0, 20_000), st.integers(1, 4096)), max_size=4)


def step_ns(clock: StepTime, **plan: Any) -> int:
    return clock.durations(plan_of(**plan), 1)[0]


def fixed_ns(tokens: int, rows: int) -> float:
    return LAYERS * linear_ns(tokens) + head_ns(rows)


@pytest.mark.parametrize("clock", CLOCKS)
def test_the_contract(clock: StepTime) -> None:
    check_latency_model(clock)


def test_decodes_by_hand() -> None:
    expected = fixed_ns(16, 16) + LAYERS * decode_ns(16, 1024)
    assert step_ns(PLAIN, decodes=[1024] * 16) == round(expected)
    assert step_ns(PLAIN, decodes=[1000, 1048] * 8) == round(expected)


def test_a_chunk_by_hand() -> None:
    expected = fixed_ns(512, 1) + LAYERS * prefill_ns(512, 2048)
    assert step_ns(PLAIN, chunks=[(2048, 512)]) == round(expected)
    assert PLAIN.alone(2048, 512) == round(expected)


def test_chunks_one_after_another_by_hand() -> None:
    chunks = [(2048, 512), (0, 300), (100, 16)]
    attention = sum(prefill_ns(n, before) for before, n in chunks)
    assert step_ns(APART, chunks=chunks) == round(fixed_ns(828, 3) + LAYERS * attention)
    together = step_ns(StepTime(make_table()), chunks=chunks)
    assert together < step_ns(APART, chunks=chunks)
    # Beside decodes the sum is what is mixed, by the factor of the one chunk they are taken for.
    parts, area = [(n, before) for before, n in chunks], sum(n * (c + n / 2) for c, n in chunks)
    summed, one = (clock._price_mixed(parts, 16)(16 * 1024, 1024) for clock in (APART, MIXED))
    decodes = decode_ns(16, 1024)
    whole = prefill_ns(828, area / 828 - 414)
    assert summed / one == pytest.approx((attention + decodes) / (whole + decodes))


def test_a_prompt_of_a_table_without_contexts() -> None:
    expected = fixed_ns(512, 1) + LAYERS * prefill_ns(512, 0)
    assert BY_AREA.alone(0, 512) == round(expected)
    assert step_ns(BY_AREA, chunks=[(0, 512)]) == round(expected) + 777


def test_chunk_and_decodes_apart_and_mixed() -> None:
    fixed = fixed_ns(512 + 16, 17)
    apart = LAYERS * (prefill_ns(512, 2048) + decode_ns(16, 1024))
    plan = {"chunks": [(2048, 512)], "decodes": [1024] * 16}
    assert step_ns(PLAIN, **plan) == pytest.approx(fixed + apart, abs=1)
    together = LAYERS * mixed_ns(512, 2048, 16, 1024)
    assert step_ns(MIXED, **plan) == pytest.approx(fixed + together + 5, abs=1)


def test_a_chunk_of_one_token_is_a_decode() -> None:
    for clock in CLOCKS:
        as_chunk = step_ns(clock, chunks=[(1023, 1)], decodes=[1024] * 3)
        assert as_chunk == step_ns(clock, decodes=[1024] * 4)


def test_decodes_alone_are_padded_to_captured_sizes() -> None:
    clock = StepTime(make_table(), capture_sizes=(8, 64))
    attention = LAYERS * decode_ns(4, 1024)
    assert step_ns(clock, decodes=[1024] * 4) == round(
        LAYERS * linear_ns(8) + head_ns(4) + attention
    )
    for plan in ({"decodes": [1024] * 65}, {"decodes": [1024] * 4, "chunks": [(0, 16)]}):
        assert step_ns(clock, **plan) == step_ns(PLAIN, **plan)


def test_skew_is_paid_for_the_longest_beyond_the_mean() -> None:
    mean = fixed_ns(4, 4) + LAYERS * decode_ns(4, 1000)
    assert step_ns(SKEWED, decodes=[500, 500, 500, 2500]) == round(mean + LAYERS * 2.5 * 1500)
    # Of three decodes 3.75 ns, halfway between two and four; in a graph of four as of four.
    mean = step_ns(PLAIN, decodes=[1000] * 3)
    three = step_ns(StepTime(SKEWED.table), decodes=[500, 500, 2000])
    assert three == pytest.approx(mean + LAYERS * 3.75 * 1000, abs=1)
    in_graph = step_ns(SKEWED, decodes=[500, 500, 2000]) - step_ns(SKEWED, decodes=[1000] * 3)
    assert in_graph == pytest.approx(LAYERS * 2.5 * 1000, abs=1)
    factors = {"attention_decode": 2.0}
    twice = StepTime(replace(SKEWED.table, provenance=replace(TOLD, skew=SKEW, factors=factors)))
    alike, apart = (step_ns(twice, decodes=each) for each in ([1000] * 3, [500, 500, 2000]))
    assert apart - alike == pytest.approx(2 * LAYERS * 3.75 * 1000, abs=1)
    assert step_ns(SKEWED, decodes=[900]) == round(
        LAYERS * linear_ns(4) + head_ns(1) + LAYERS * decode_ns(1, 900)
    )
    unskewed = StepTime(SKEWED.table, skew=False)
    alike = step_ns(unskewed, decodes=[1000] * 4)
    assert step_ns(unskewed, decodes=[500, 500, 500, 2500]) == alike


def test_skew_of_a_mixed_step() -> None:
    plan = {"decodes": [500, 500, 500, 2500], "chunks": [(0, 512)]}
    mean = fixed_ns(516, 5) + LAYERS * mixed_ns(512, 0, 4, 1000)
    assert step_ns(SKEWED, **plan) == pytest.approx(mean + LAYERS * 7.5 * 1500, abs=1)


def test_the_longest_of_whole_sequences_runs_on_alone() -> None:
    told = replace(TOLD, skew=SKEW, tail={"at_once": 4.0, "share": 0.1})
    waiting = StepTime(make_table(told=told))
    alike = LAYERS * decode_ns(4, 1000)
    # Room for four: the longest takes 4 x 2,500 / 4,000 of the time, 2.5, and the mean 1.
    expected = fixed_ns(4, 4) + alike * (1 + 0.1 * (2.5 - 0.5 - 1 / 2))
    assert step_ns(waiting, decodes=[500, 500, 500, 2500]) == round(expected)
    # Sixteen of 1,000 and less: 4 x 1,000 / 8,000.
    alike = LAYERS * decode_ns(16, 500)
    expected = fixed_ns(16, 16) + alike * (1 + 0.1 * (0.5**2 - 0.25**2) / 2)
    assert step_ns(waiting, decodes=[1000, *[466] * 14, 476]) == round(expected)
    # Of three, fewer than 0.8 x 4, the kernel splits the keys.
    split = StepTime(make_table(told=replace(TOLD, skew=SKEW)))
    for decodes in ([500, 500, 2000], [1000] * 3):
        assert step_ns(waiting, decodes=decodes) == step_ns(split, decodes=decodes)
    check_latency_model(waiting)


def test_the_longest_runs_on_alone_at_its_own_pace() -> None:
    # Room for two, so that all together last for 2,000 tokens: the longest for 500 more.
    alike = step_ns(PLAIN, decodes=[1000] * 4)
    more = LAYERS * 3.0 * ((2500 - 1000) - (1000 / 2 - 1000**2 / 2 / 2000))
    assert more == LAYERS * 3.0 * (2000 * (2500 / 2000 - 1 / 2 - (1 / 2) ** 2 / 2))
    assert step_ns(WAITING, decodes=[500, 500, 500, 2500]) == pytest.approx(alike + more, abs=1)
    assert step_ns(WAITING, decodes=[1000] * 4) == alike
    # Fewer than are not split, or of another KV dtype than it is known of: nothing.
    three = [500, 500, 2000]
    assert step_ns(WAITING, decodes=three) == step_ns(PLAIN, decodes=[1000] * 3)
    other = StepTime(make_table(told=replace(TOLD, tail=RUN_ON, query_blocks={"fp8": 64})))
    assert step_ns(other, decodes=[500, 500, 500, 2500]) == alike


def test_steps_that_no_graph_replays_are_launched() -> None:
    plain, launched = (
        StepTime(make_table(mixed=True), capture_sizes=(1, 8), launch_ns=ns) for ns in (0, 5_000)
    )
    for plan, more in (
        ({"decodes": [100] * 8}, 0),
        ({"decodes": [100] * 9}, 5_000),
        ({"decodes": [100], "chunks": [(0, 2)]}, 5_000),
        ({"chunks": [(0, 1)]}, 0),
    ):
        found = step_ns(launched, **plan) - step_ns(plain, **plan)
        assert found == pytest.approx(more, abs=1)
    one, two = (step_ns(launched, chunks=[(0, n)]) for n in (1, 2))
    assert launched.alone(0, np.array([0, 1, 2])).tolist() == [0, one, two]
    without = StepTime(make_table(), launch_ns=5_000)
    assert step_ns(without, decodes=[100]) == step_ns(PLAIN, decodes=[100]) + 5_000
    assert "5000 ns more where no graph is replayed" in launched.source
    check_latency_model(launched)


def test_matrices_are_computed_in_whole_tiles() -> None:
    tiled = StepTime(make_table(told=replace(TOLD, tile=16)))
    for tokens, paid in ((256, 256), (257, 272), (272, 272), (273, 273), (600, 600), (1030, 1040)):
        whole = fixed_ns(paid, 1) + PLAIN.parts.chunks.one(tokens, 0)
        assert step_ns(tiled, chunks=[(0, tokens)]) == pytest.approx(whole, abs=1)
        assert tiled.alone(0, tokens) == step_ns(tiled, chunks=[(0, tokens)])


def test_block_copies() -> None:
    copy = {**next(make_rows()), "operator": "block_copy", "variant": "copy", "tokens": None}
    points = [{**copy, "blocks": n, "calls": 1, "median_ns": 100.0 * n} for n in (1, 8)]
    clock = StepTime(Table.of_rows([*make_rows(), *points], name="law", provenance=TOLD))
    plan = plan_of(decodes=[1024] * 4)
    without = clock.durations(plan, 1)[0]
    plan.copies.extend(Copy(1, 2, sequence, 0) for sequence in plan.decodes)
    assert clock.durations(plan, 1)[0] == without + 400
    assert PLAIN.durations(plan, 1)[0] == without


def test_factors_multiply_their_operator() -> None:
    told = replace(TOLD, factors={"attention_decode": 2.0, "linear": 0.5})
    expected = LAYERS * (0.5 * linear_ns(16) + 2 * decode_ns(16, 1024)) + head_ns(16)
    assert step_ns(StepTime(make_table(told=told)), decodes=[1024] * 16) == round(expected)
    with pytest.raises(TableError, match="law: factor of head: found -1; allowed: 0 or more"):
        StepTime(make_table(told=replace(TOLD, factors={"head": -1.0})))
    with pytest.raises(TableError, match="law: factor of haed: found no such operator"):
        StepTime(make_table(told=replace(TOLD, factors={"haed": 1.0})))


@pytest.mark.parametrize("operator", ["linear", "attention_decode", "attention_prefill"])
def test_a_table_without_what_every_step_needs(operator: str) -> None:
    rows = [row for row in make_rows() if row["operator"] != operator]
    with pytest.raises(TableError, match=f"law: found .*{operator}"):
        StepTime(Table.of_rows(rows, name="law", provenance=TOLD))


@pytest.mark.parametrize("clock", CLOCKS)
@given(decodes=contexts, chunks=chunks, k=st.integers(1, 40))
def test_k_steps_at_once_are_k_steps_one_by_one(
    clock: StepTime, decodes: list[int], chunks: list[tuple[int, int]], k: int
) -> None:
    if not decodes and not chunks:
        return
    at_once = clock.durations(plan_of(decodes=decodes, chunks=chunks), k)
    one_by_one = [
        clock.durations(plan_of(decodes=[c + j for c in decodes], chunks=chunks), 1)[0]
        for j in range(k)
    ]
    assert at_once == one_by_one


@pytest.mark.parametrize("clock", CLOCKS)
@given(st.lists(st.tuples(st.integers(0, 40_000), st.integers(0, 8192)), max_size=20))
def test_alone_is_its_scalar_calls(clock: StepTime, several: list[tuple[int, int]]) -> None:
    before, n = np.array(several, dtype=np.int64).reshape(-1, 2).T
    vector = clock.alone(before, n)
    assert vector.dtype == np.int64
    assert vector.tolist() == [clock.alone(*each) for each in several]


@pytest.mark.parametrize("clock", CLOCKS)
@given(c=st.integers(0, 40_000), n=st.integers(1, 8192))
def test_a_step_of_one_chunk_is_the_chunk_alone_and_the_host(
    clock: StepTime, c: int, n: int
) -> None:
    assert step_ns(clock, chunks=[(c, n)]) == clock.alone(c, n) + clock.host_ns


# So few tokens that all contexts together are within what a single sequence was measured with.
few = st.integers(1, 500)


@given(
    decodes=st.lists(few, max_size=8), chunks=st.lists(st.tuples(few, few), max_size=4), context=few
)
def test_within_the_table_one_more_decode_is_never_faster(
    decodes: list[int], chunks: list[tuple[int, int]], context: int
) -> None:
    if decodes or chunks:
        before = step_ns(PLAIN, decodes=decodes, chunks=chunks)
        assert step_ns(PLAIN, decodes=[*decodes, context], chunks=chunks) >= before - 1


def test_gaps_of_a_table_are_told() -> None:
    assert PLAIN.notes == ("no points of sampling, which take no time here",)
    rows = [
        row
        for row in make_rows(mixed=True)
        if (row["operator"], row.get("batch"), row.get("context")) != ("attention_mixed", 4, 16)
    ]
    told = StepTime(Table.of_rows(rows, name="law", provenance=TOLD)).notes[-1]
    assert told == "mixed points missing from the grid, priced as apart: 16"


def outside(clock: StepTime, *, chunks: list[tuple[int, int]] = [], **step: int) -> dict[str, int]:  # noqa: B006
    columns = dict.fromkeys(
        ("steps", "decodes", "decode_context", "chunks", "chunk_tokens", "copied_blocks"), 0
    )
    rows = {name: np.array([value]) for name, value in {**columns, "steps": 1, **step}.items()}
    before, tokens = np.array(chunks, dtype=np.int64).reshape(-1, 2).T
    return clock.outside(rows, {"computed_before": before, "tokens": tokens})


def test_leaving_the_table_is_counted() -> None:
    inside = {"steps": 9, "decodes": 64, "decode_context": 64 * 8192, "chunk_tokens": 1900}
    assert outside(PLAIN, chunks=[(8192, 2048), (10_240, 2560)], **inside) == {}
    assert outside(PLAIN, steps=3, chunk_tokens=2561) == {
        "steps of more scheduled tokens than the measured 2,048, extrapolated": 3
    }
    assert outside(PLAIN, steps=2, chunks=[(10_241, 3), (0, 2561), (20_000, 1)]) == {
        "chunks of more than the measured 2,048 tokens, extrapolated": 1,
        "chunks behind more than the measured 8,192 tokens, extrapolated": 1,
    }
    assert outside(BY_AREA, chunks=[(1, 16), (0, 16), (9, 1)]) == {
        "chunks behind a context, which was not measured, priced by area": 1
    }
    assert outside(PLAIN, decodes=81) == {
        "steps of more decodes than the measured 64, extrapolated": 1
    }
    assert outside(PLAIN, steps=4, copied_blocks=1) == {
        "steps that copy blocks, which was not measured, priced 0": 4
    }


@given(context=st.integers(1, 30_000), steps=st.integers(1, 3000), n=st.integers(1, 64))
def test_steps_of_a_stretch_beyond_the_table(context: int, steps: int, n: int) -> None:
    reach = PLAIN.parts.decodes.reach(n)
    expected = sum(n * context + j * n > reach for j in range(steps))
    counted = outside(PLAIN, steps=steps, decodes=n, decode_context=n * context)
    assert sum(counted.values()) == expected


def test_errors_between_points_of_a_law_that_is_interpolated_exactly() -> None:
    errors = leave_one_out(make_table().select(LLAMA)).set_index(["operator", "axis"])
    for key in (("linear", "tokens"), ("head", "rows"), ("attention_prefill", "chunk")):
        assert errors.loc[[key], "worst"].max() < 1e-9
    # Three numbers of rows lie between others, at four contexts each.
    assert errors.loc[[("attention_decode", "batch")], "points"].sum() == 2 * 4
    assert errors.loc[[("attention_decode", "context")], "worst"].max() < 1e-9


def test_errors_between_points_by_hand() -> None:
    # Without the point at 64, 16 and 256 say 1560 ns of what took 2000 ns.
    law = make_table({}, {"median_ns": 1000.0}, {"median_ns": 2000.0}, {"median_ns": 3800.0})
    errors = leave_one_out(law.select(LLAMA))
    row = errors.query("operator == 'linear' and region == '16-255'").squeeze()
    sixteen = (1007 + 993 * 15 / 63) / 1000 - 1
    sixty_four = (1000 + 2800 * 48 / 240) / 2000 - 1
    assert row["points"] == 2
    assert row["bias"] == pytest.approx((sixteen + sixty_four) / 2)
    assert row["worst"] == pytest.approx(max(abs(sixteen), abs(sixty_four)))


def test_errors_of_points_kept_aside() -> None:
    rows = list(make_rows(mixed=True))
    for row in rows:
        if row["operator"] == "attention_mixed" and row["context"] == 256:
            row |= {"split": "check", "median_ns": 2 * float(str(row["median_ns"]))}
    table = Table.of_rows(rows, name="law", provenance=TOLD).select(LLAMA)
    errors = leave_one_out(table)
    (row,) = errors[errors["axis"] == HELD_OUT].to_dict("records")
    assert (row["operator"], row["points"], row["region"]) == ("attention_mixed", 64, "256-4,095")
    assert row["bias"] == pytest.approx(-0.5)


def test_chunks_of_one_token_do_not_grow_over_a_stretch() -> None:
    told = replace(TOLD, skew={"decode": ((2, 5.0),), "mixed": ((2, 5.0),)})
    clock = StepTime(make_table(told=told))
    for chunks in ([(40, 1), (9000, 1)], [(0, 1), (4, 1), (0, 100)]):
        (step,) = clock.durations(plan_of(chunks=chunks), 1)
        assert clock.durations(plan_of(chunks=chunks), 64) == [step] * 64
