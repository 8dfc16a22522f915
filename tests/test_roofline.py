"""The roofline: two measured points, hand arithmetic, and the laws of a latency model."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from calibrate.device import load_device
from calibrate.model import Model, ModelError, load_model
from calibrate.roofline import Roofline, attention_area
from sim.moves import Copy
from sim.plan import Chunk, DecodeList, Plan
from sim.request import Request, Sequence
from tests.test_models import DEEPSEEK_V3

LLAMA = load_model("Llama-3.1-8B")
H200 = load_device("H200")
ROOFLINE = Roofline(LLAMA, H200)

MATRICES = 32 * (2 * 4096 * 4096 + 2 * 4096 * 1024 + 3 * 4096 * 14336)
HEAD = 128_256 * 4096
PAIR_FLOP = 4 * 32 * 32 * 128
KV_BYTES = 131_072

contexts = st.lists(st.integers(1, 130_000), max_size=8)
chunks = st.lists(st.tuples(st.integers(0, 100_000), st.integers(1, 8192)), max_size=4)


def sequence(index: int) -> Sequence:
    request = Request(
        id=str(index),
        arrival_ns=0,
        prompt=((index, 0, 1),),
        output_tokens=1,
        output_stream=index,
    )
    return Sequence.of(request, index=index)


def plan_of(*, decodes: list[int] = [], chunks: list[tuple[int, int]] = []) -> Plan:  # noqa: B006
    group = DecodeList()
    for index, context in enumerate(decodes):
        group.add(sequence(index), context=context)
    rows = [Chunk(sequence(1000 + index), c, n) for index, (c, n) in enumerate(chunks)]
    return Plan(decodes=group, chunks=rows)


def test_prefill_of_2048_tokens_as_measured_on_an_h200() -> None:
    assert ROOFLINE.alone(0, 2048) == pytest.approx(43.4e6, rel=0.02)


def test_decode_of_64_sequences_as_measured_on_an_h200() -> None:
    step = ROOFLINE.durations(plan_of(decodes=[2048] * 64), 1)
    assert step[0] == pytest.approx(9.47e6, rel=0.02)


def test_decode_step_by_hand() -> None:
    full = Roofline(LLAMA, H200, compute_efficiency=1, bandwidth_efficiency=1)
    moved = 2 * MATRICES + 2 * HEAD + KV_BYTES * (8 * 1000 + 8)
    assert full.durations(plan_of(decodes=[1000] * 8), 1)[0] == pytest.approx(
        moved / 4.8e12 * 1e9, abs=1
    )


def test_prefill_by_hand() -> None:
    full = Roofline(LLAMA, H200, compute_efficiency=1, bandwidth_efficiency=1)
    area = 4096 * (8192 + 4097 / 2)
    compute_s = (2 * MATRICES * 4096 + PAIR_FLOP * area) / 989e12
    moved_s = (2 * HEAD + KV_BYTES * 4096) / 4.8e12
    assert full.alone(8192, 4096) == pytest.approx((compute_s + moved_s) * 1e9, abs=1)


@given(decodes=contexts, chunks=chunks, k=st.integers(1, 20))
def test_k_steps_at_once_are_k_steps_one_by_one(
    decodes: list[int], chunks: list[tuple[int, int]], k: int
) -> None:
    at_once = ROOFLINE.durations(plan_of(decodes=decodes, chunks=chunks), k)
    one_by_one = [
        ROOFLINE.durations(plan_of(decodes=[c + j for c in decodes], chunks=chunks), 1)[0]
        for j in range(k)
    ]
    assert at_once == one_by_one


@given(st.lists(st.tuples(st.integers(0, 100_000), st.integers(0, 8192)), max_size=20))
def test_alone_is_its_scalar_calls(several: list[tuple[int, int]]) -> None:
    before, n = np.array(several, dtype=np.int64).reshape(-1, 2).T
    vector = ROOFLINE.alone(before, n)
    assert vector.dtype == np.int64
    assert vector.tolist() == [ROOFLINE.alone(*each) for each in several]


@given(c=st.integers(0, 100_000), n=st.integers(1, 8192), host_ns=st.integers(0, 10**7))
def test_a_step_of_one_chunk_is_the_chunk_alone_and_the_host(c: int, n: int, host_ns: int) -> None:
    roofline = Roofline(LLAMA, H200, host_ns=host_ns)
    step = roofline.durations(plan_of(chunks=[(c, n)]), 1)
    assert step[0] == roofline.alone(c, n) + host_ns


def test_no_chunk_costs_nothing() -> None:
    assert Roofline(LLAMA, H200, host_ns=5).alone(100, 0) == 0


def test_chunks_of_one_token_are_priced_as_decodes() -> None:
    # 600 rows make the output head compute-bound, so that a row left out shows.
    mixed = ROOFLINE.durations(plan_of(decodes=[1000] * 300, chunks=[(999, 1)] * 300), 1)
    decodes = ROOFLINE.durations(plan_of(decodes=[1000] * 600), 1)
    assert mixed[0] == pytest.approx(int(decodes[0]), abs=1)


@given(decodes=contexts, chunks=chunks, c=st.integers(0, 100_000), n=st.integers(1, 8192))
def test_more_work_is_never_faster(
    decodes: list[int], chunks: list[tuple[int, int]], c: int, n: int
) -> None:
    before = ROOFLINE.durations(plan_of(decodes=decodes, chunks=chunks), 1)[0]
    assert ROOFLINE.durations(plan_of(decodes=decodes, chunks=[*chunks, (c, n)]), 1)[0] >= before
    assert ROOFLINE.durations(plan_of(decodes=[*decodes, c + n], chunks=chunks), 1)[0] >= before
    assert ROOFLINE.alone(c + 1, n) >= ROOFLINE.alone(c, n)
    assert ROOFLINE.alone(c, n + 1) >= ROOFLINE.alone(c, n)


@given(cuts=st.lists(st.integers(1, 500), min_size=1, max_size=6))
def test_area_is_conserved_when_a_prompt_is_cut(cuts: list[int]) -> None:
    starts = [sum(cuts[:i]) for i in range(len(cuts))]
    parts = sum(attention_area(c, n) for c, n in zip(starts, cuts, strict=True))
    assert parts == attention_area(0, sum(cuts))


def test_kv_dtype_shrinks_the_cache_but_not_the_weights() -> None:
    bare = plan_of(decodes=[1])
    full = plan_of(decodes=[100_000])
    growth = {}
    for dtype in ("auto", "fp8", "int8"):
        roofline = Roofline(LLAMA, H200, kv_cache_dtype=dtype)
        growth[dtype] = roofline.durations(full, 1)[0] - roofline.durations(bare, 1)[0]
        assert roofline.durations(bare, 1)[0] == pytest.approx(
            ROOFLINE.durations(bare, 1)[0], rel=1e-4
        )
    assert growth["fp8"] / growth["auto"] == pytest.approx(1 / 2, rel=1e-3)
    assert growth["int8"] / growth["auto"] == pytest.approx(264 / 512, rel=1e-3)


def test_work_of_a_step() -> None:
    flop, moved = ROOFLINE.work(tokens=100, rows=3, area=5000, context=700)
    assert flop == 2 * MATRICES * 100 + 2 * HEAD * 3 + PAIR_FLOP * 5000
    assert moved == 2 * (MATRICES + HEAD) + KV_BYTES * (100 + 700)


def test_work_of_steps_adds_up() -> None:
    one = ROOFLINE.work(tokens=64, rows=64, area=64_000, context=64_000)
    ten = ROOFLINE.work(tokens=640, rows=640, area=640_000, context=640_000, steps=10)
    assert ten == (10 * one.flop, 10 * one.bytes)
    assert ten.intensity_flop_per_byte == one.intensity_flop_per_byte


def test_prefill_lies_above_the_ridge_and_decode_below() -> None:
    prefill = ROOFLINE.work(tokens=2048, rows=1, area=attention_area(0, 2048), context=2048)
    decode = ROOFLINE.work(tokens=64, rows=64, area=64 * 2048, context=64 * 2048)
    ridge = ROOFLINE.ridge_flop_per_byte
    assert decode.intensity_flop_per_byte < ridge / 4
    assert prefill.intensity_flop_per_byte > ridge * 4


def test_source_says_that_it_is_modelled() -> None:
    assert ROOFLINE.modelled
    assert ROOFLINE.source.startswith("modelled: roofline of Llama-3.1-8B on H200, efficiencies")


def test_mixture_is_refused() -> None:
    with pytest.raises(ModelError, match=r"DeepseekV3ForCausalLM is a mixture of experts.*step"):
        Roofline(Model.from_config(DEEPSEEK_V3, name="DeepSeek-V3"), H200)


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ({"tensor_parallel_size": 0}, "tensor_parallel_size must divide.*got 0"),
        ({"compute_efficiency": 0.0}, r"compute_efficiency must lie in \(0, 1\], got 0"),
        ({"bandwidth_efficiency": 1.5}, r"bandwidth_efficiency must lie in \(0, 1\], got 1.5"),
        ({"kv_cache_dtype": "int7"}, "unknown kv_cache_dtype 'int7'"),
    ],
)
def test_bad_options(option: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Roofline(LLAMA, H200, **option)  # type: ignore[arg-type]


@pytest.mark.parametrize("k", [1, 5])
def test_a_copied_block_is_read_and_written(k: int) -> None:
    """Three blocks of 32 tokens, before the first of the steps."""
    full = Roofline(LLAMA, H200, compute_efficiency=1, bandwidth_efficiency=1, block_size=32)
    plan = plan_of(decodes=[1000] * 3)
    without = full.durations(plan, k)
    plan.copies = [Copy(1, 2, sequence, 999) for sequence in plan.decodes]
    copies_ns = 3 * 2 * 32 * KV_BYTES / H200.bandwidth_bytes_per_s * 1e9
    more = [a - b for a, b in zip(full.durations(plan, k), without, strict=True)]
    assert more[0] == pytest.approx(copies_ns, abs=1)
    assert more[1:] == [0] * (k - 1)
