"""Writing, copying, swapping and dequantising blocks: torch's kernels and Triton's alike."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st
from torch import Tensor

from calibrate.kernels.cases import LAYER, poisoned
from calibrate.kernels.face import Cache
from calibrate.kernels.pool import FORMATS, FP8, INT8, KVPool
from calibrate.kernels.rows import Rows
from calibrate.kernels.torch_cache import TorchCache, quantise
from sim.kv.spec import KVSpec

SIZES = {"blocks": 7, "block_size": 4, "kv_heads": 3, "head_size": 40}


def triton_cache() -> Cache:
    pytest.importorskip("triton", reason="Triton exists for Linux only")
    from calibrate.kernels.triton_cache import TritonCache

    return TritonCache()


@pytest.fixture(params=[TorchCache, triton_cache], ids=["torch", "triton"])
def cache(request: pytest.FixtureRequest) -> Cache:
    make: Callable[[], Cache] = request.param
    return make()


def raw(pool: KVPool) -> list[Tensor]:
    """A copy of all bytes: NaN equals itself."""
    return [tensor.clone().contiguous().view(torch.uint8) for tensor in pool.tensors]


def random_pool(format: str, seed: int = 0) -> KVPool:
    pool = KVPool.empty(format, layers=2, **SIZES)
    generator = torch.Generator().manual_seed(seed)
    for tensor in pool.tensors:
        numbers = torch.rand(tensor.shape, generator=generator) * 100 - 50
        tensor.copy_(numbers.to(tensor.dtype))
    return pool


def new_tokens(count: int, dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor]:
    """K and V as views of one tensor, as a fused projection leaves them."""
    generator = torch.Generator().manual_seed(count)
    qkv = 3 * torch.randn(count, 10, SIZES["head_size"], generator=generator).to(dtype)
    return qkv[:, 4:7], qkv[:, 7:10]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("format", FORMATS)
def test_write(cache: Cache, format: str, dtype: torch.dtype) -> None:
    pool = poisoned(format, **SIZES)
    before = raw(pool)
    key, value = new_tokens(4, dtype)
    if format == FP8 and type(cache) is not TorchCache:
        # Triton's interpreter loses the carry where fp8 is rounded to a power of 2.
        key, value = (x.to(torch.float8_e4m3fn).to(dtype) for x in (key, value))
    slots = torch.tensor([9, -1, 0, 26])
    cache.write(key, value, pool, LAYER, slots)
    untouched = torch.ones(7 * 4, dtype=torch.bool)
    for token, slot in enumerate(slots.tolist()):
        if slot < 0:
            continue
        untouched[slot] = False
        block, offset = divmod(slot, 4)
        for kept, scales, given_ in (
            (pool.keys, pool.key_scales, key[token]),
            (pool.values, pool.value_scales, value[token]),
        ):
            check_kept(
                kept[LAYER, block, offset],
                None if scales is None else scales[LAYER, block, offset],
                given_,
                ulps=rounding(cache),
            )
    for old, new in zip(before, raw(pool), strict=True):
        assert torch.equal(old[0], new[0]), "another layer was written"
        old_slots, new_slots = (t[LAYER].flatten(0, 1)[untouched] for t in (old, new))
        assert torch.equal(old_slots, new_slots), "another slot was written"


def rounding(cache: Cache) -> float:
    """Units in the last place that a number may be off: Triton's interpreter cuts them off."""
    return 0.5 if type(cache) is TorchCache else 1.0


def check_kept(kept: Tensor, scale: Tensor | None, x: Tensor, *, ulps: float) -> None:
    """One token's [heads, size] as its format can best keep it."""
    wide = x.double()
    if scale is not None:
        torch.testing.assert_close(scale.double(), wide.abs().amax(-1) / 127, rtol=1e-6, atol=0.0)
        assert (kept.int().abs().amax(-1) == 127).all()
        error = (kept.double() * scale.double()[:, None] - wide).abs()
        assert (error <= 0.50001 * scale.double()[:, None]).all()
    elif kept.dtype == torch.float8_e4m3fn:
        # Three bits behind the point, the smallest step being 2**-9.
        step = (wide.abs() / 8).clamp(min=2**-9)
        assert ((kept.double() - wide).abs() <= ulps * step).all()
    elif kept.dtype == torch.bfloat16:
        assert ((kept.double() - wide).abs() <= ulps * wide.abs() / 128).all()
    else:
        assert torch.equal(kept, x.to(kept.dtype))


def test_fp8_saturates(cache: Cache) -> None:
    pool = poisoned(FP8, **SIZES)
    key, value = new_tokens(1)
    cache.write(key.sign() * 1e4, value, pool, LAYER, torch.tensor([5]))
    assert torch.equal(pool.keys[LAYER, 1, 1].float(), key[0].sign() * 448)


def test_int8_keeps_zeros(cache: Cache) -> None:
    pool = poisoned(INT8, **SIZES)
    zeros = torch.zeros(1, 3, 40)
    cache.write(zeros, zeros, pool, LAYER, torch.tensor([5]))
    assert not pool.keys[LAYER, 1, 1].any()
    assert pool.key_scales is not None
    assert pool.key_scales[LAYER, 1, 1].tolist() == [0, 0, 0]


def test_triton_quantises_bit_for_bit_as_torch_does() -> None:
    pools = [poisoned(INT8, **SIZES) for _ in range(2)]
    # Halves between whole numbers among them: 127 is the largest, so the scale is 1.
    key = torch.arange(-60, 60).view(1, 3, 40) * 0.5
    key[..., 0] = 127.0
    key[:, 2] = 5.4e-43
    for each, pool in zip((TorchCache(), triton_cache()), pools, strict=True):
        each.write(key, key, pool, LAYER, torch.tensor([3]))
    assert torch.equal(pools[0].keys, pools[1].keys)
    assert pools[0].keys[LAYER, 0, 3, 0, 1:4].tolist() == [-30, -29, -28]
    assert pools[0].keys[LAYER, 0, 3, 1, 16:22].tolist() == [-2, -2, -1, 0, 0, 0]


@example([5.3809861030072976e-43])
@given(st.lists(st.floats(-1e4, 1e4, width=32), min_size=1, max_size=20))
def test_int8_is_off_by_half_a_step_at_most(numbers: list[float]) -> None:
    x = torch.tensor(numbers)
    kept, scale = quantise(x, INT8)
    assert scale is not None
    assert ((kept.double() * scale - x).abs() <= 0.5001 * scale + 1e-42).all()


@pytest.mark.parametrize("format", FORMATS)
def test_copy(cache: Cache, format: str) -> None:
    pool = random_pool(format)
    expected = raw(pool)
    for tensor in expected:
        tensor[:, 5], tensor[:, 0] = tensor[:, 2], tensor[:, 6]
    cache.copy(pool, torch.tensor([[2, 5], [6, 0]]))
    assert all(map(torch.equal, raw(pool), expected))


@pytest.mark.parametrize("format", FORMATS)
def test_swap_out_and_in(cache: Cache, format: str) -> None:
    pool = random_pool(format)
    before = raw(pool)
    host = pool.on_host(3)
    for tensor in host.tensors:
        tensor.zero_()
    cache.swap_out(pool, host, torch.tensor([[4, 2], [1, 0]]))
    for kept, from_device in zip(raw(host), before, strict=True):
        assert torch.equal(kept[:, [2, 0]], from_device[:, [4, 1]])
        assert not kept[:, 1].any()
    assert all(map(torch.equal, raw(pool), before))
    cache.swap_in(host, pool, torch.tensor([[0, 6], [2, 3]]))
    for after, old in zip(raw(pool), before, strict=True):
        old[:, 6], old[:, 3] = old[:, 1], old[:, 4]
        assert torch.equal(after, old)


def test_a_block_on_the_host_is_one_piece() -> None:
    host = random_pool(INT8).on_host(3)
    assert host.keys.shape == (2, 3, 4, 3, 40)
    assert all(tensor[:, 1].is_contiguous() for tensor in host.tensors)


@pytest.mark.parametrize("out_dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("format", FORMATS)
def test_dequantise(cache: Cache, format: str, out_dtype: torch.dtype) -> None:
    pool = random_pool(format)
    keys, values = torch.full((2, 2, 4, 3, 40), torch.nan, dtype=out_dtype)
    blocks = torch.tensor([6, 3])
    cache.dequantise(pool, LAYER, blocks, keys, values)
    for out, numbers, scales in (
        (keys, pool.keys, pool.key_scales),
        (values, pool.values, pool.value_scales),
    ):
        for item, block in enumerate(blocks.tolist()):
            wide = numbers[LAYER, block].float().double()
            if scales is not None:
                wide *= scales[LAYER, block].double()[..., None]
            torch.testing.assert_close(
                *(out[item].double(), wide),
                rtol=rounding(cache) / 128 if out_dtype == torch.bfloat16 else 1e-6,
                atol=0.0,
            )


def test_nothing_to_do(cache: Cache) -> None:
    pool = random_pool(INT8)
    before = raw(pool)
    none = torch.empty(0, 2, dtype=torch.int64)
    key, value = new_tokens(0)
    cache.write(key, value, pool, LAYER, none[:, 0])
    cache.copy(pool, none)
    cache.swap_out(pool, pool.on_host(1), none)
    cache.swap_in(pool.on_host(1), pool, none)
    out = torch.empty(0, 4, 3, 40)
    cache.dequantise(pool, LAYER, none[:, 0], out, out)
    assert all(map(torch.equal, raw(pool), before))


@pytest.mark.parametrize("format", [name for name in FORMATS if name != "float32"])
def test_a_pool_takes_what_the_simulator_counts(format: str) -> None:
    pool = KVPool.empty(format, layers=2, **SIZES)
    spec = KVSpec.of_heads(format, layers=2, kv_heads=3, key_size=40, value_size=40)
    assert pool.bytes_per_token == spec.bytes_per_token


def test_unknown_formats() -> None:
    with pytest.raises(ValueError, match=r"unknown KV format 'int4'; known: float32, bfloat16"):
        KVPool.empty("int4", layers=1, **SIZES)


def test_rows_by_hand() -> None:
    rows = Rows.of([(5, 3), (0, 0), (3, 1)], [[7, 2], [], [4]], block_size=4)
    assert rows.query_starts.tolist() == [0, 3, 3, 4]
    assert rows.kv_lengths.tolist() == [8, 0, 4]
    assert rows.positions.tolist() == [5, 6, 7, 3]
    assert rows.slots(4).tolist() == [2 * 4 + 1, 2 * 4 + 2, 2 * 4 + 3, 4 * 4 + 3]
    assert rows.last_tokens.tolist() == [2, 3]
    assert (rows.tokens, rows.longest_query, rows.longest_kv) == (4, 3, 8)


@pytest.mark.parametrize(
    ("spans", "tables", "says"),
    [
        ([(0, 1)], [], "1 rows but 0 block tables"),
        ([(4, 1)], [[3]], "row 0: 1 blocks of 4 hold 4 tokens, not 5"),
        ([(0, 1), (-1, 2)], [[1], [2]], "row 1: 2 tokens behind -1; neither may be negative"),
    ],
)
def test_rows_that_do_not_fit(
    spans: list[tuple[int, int]], tables: list[list[int]], says: str
) -> None:
    with pytest.raises(ValueError, match=says):
        Rows.of(spans, tables, block_size=4)
