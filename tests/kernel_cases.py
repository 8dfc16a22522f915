"""Random paged pools and what attention over them must be, in fp64, for kernels to be held to.

Whatever a kernel has no business with is poison: slots that no token owns are NaN (int8: their
scales are), outputs begin as NaN, and block tables go on behind their last block with ids that
no pool has.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import accumulate

import numpy as np
import torch
from torch import Tensor

from calibrate.kernels.face import Attention
from calibrate.kernels.pool import FORMATS, INT8, KVPool
from calibrate.kernels.rows import Rows
from calibrate.kernels.torch_cache import as_bytes

NO_BLOCK = 1 << 30
LAYER = 1
"""Of two: the other is all poison."""

Spans = list[tuple[int, int]]
MIXED: Spans = [(37, 1), (0, 19), (0, 1), (50, 7), (16, 16), (63, 1), (15, 2)]
DECODES: Spans = [(0, 1), (15, 1), (16, 1), (99, 1), (31, 1)]
LONG: Spans = [(900, 1), (700, 130), (0, 1)]

ERROR_ALLOWED = {torch.float32: 5e-6, torch.float16: 3e-3, torch.bfloat16: 2e-2}
"""Of one head's output for one token, relative to its length, by the query's dtype."""


@dataclass(frozen=True)
class Case:
    pool: KVPool
    rows: Rows
    query: Tensor
    expected: Tensor
    """fp64, of the numbers that the pool really holds."""

    def check(self, attention: Attention) -> float:
        """The largest error, relative per (token, head). Raises AssertionError where too large."""
        out = torch.full_like(self.query, torch.nan)
        attention(self.rows, self.pool, heads=self.query.shape[1])(self.query, LAYER, out)
        assert not out.isnan().any()
        error = (out.double() - self.expected).norm(dim=-1) / self.expected.norm(dim=-1)
        worst = error.max().item() if error.numel() else 0.0
        assert worst <= ERROR_ALLOWED[self.query.dtype], f"off by {worst:.2%}"
        return worst


def make_case(
    format: str,
    dtype: torch.dtype,
    spans: Spans,
    *,
    heads: int = 4,
    kv_heads: int = 2,
    head_size: int = 64,
    block_size: int = 16,
    seed: int = 0,
) -> Case:
    """A step over sequences whose K and V lie in blocks chosen at random."""
    random = np.random.default_rng(seed)
    needed = [-(-(before + n) // block_size) for before, n in spans]
    ids = random.permutation(sum(needed) + 5).tolist()
    tables = [[ids.pop() for _ in range(count)] for count in needed]
    pool = poisoned(
        format,
        blocks=sum(needed) + 5,
        block_size=block_size,
        kv_heads=kv_heads,
        head_size=head_size,
    )
    rows = Rows.of(spans, tables, block_size=block_size)
    for row, count in enumerate(needed):
        rows.block_table[row, count:] = NO_BLOCK
    generator = torch.Generator().manual_seed(seed)
    qkv = torch.randn(rows.tokens, heads + 2 * kv_heads, head_size, generator=generator)
    query = qkv.to(dtype)[:, :heads]
    expected = torch.empty(query.shape, dtype=torch.float64)
    starts = [0, *accumulate(n for _, n in spans)]
    for start, (before, n), table in zip(starts, spans, tables, strict=False):
        keys, values = (
            _fill(pool, which, table, before + n, generator) for which in ("keys", "values")
        )
        for j in range(n):
            seen = before + j + 1
            expected[start + j] = _reference(query[start + j], keys[:seen], values[:seen])
    return Case(pool, rows, query, expected)


def poisoned(format: str, **sizes: int) -> KVPool:
    """A pool of two layers with nothing in it that may be used."""
    pool = KVPool.empty(format, layers=2, **sizes)
    for tensor in pool.tensors:
        if tensor.dtype == torch.int8:
            tensor.fill_(77)
        else:
            as_bytes(tensor).fill_(0x7F if format == "fp8_e4m3" else torch.nan)
    return pool


def on(case: Case, device: str) -> Case:
    """The same on another device."""

    def moved(tensor: Tensor | None) -> Tensor | None:
        return None if tensor is None else tensor.to(device)

    pool, rows = case.pool, case.rows
    return Case(
        replace(
            pool,
            keys=pool.keys.to(device),
            values=pool.values.to(device),
            key_scales=moved(pool.key_scales),
            value_scales=moved(pool.value_scales),
        ),
        replace(
            rows,
            query_starts=rows.query_starts.to(device),
            kv_lengths=rows.kv_lengths.to(device),
            block_table=rows.block_table.to(device),
        ),
        case.query.to(device),
        case.expected.to(device),
    )


def _fill(
    pool: KVPool, which: str, table: list[int], length: int, generator: torch.Generator
) -> Tensor:
    """Random numbers into a sequence's slots; returns them in fp64 [length, kv_heads, size]."""
    shape = (length, pool.kv_heads, pool.head_size)
    numbers = torch.randn(shape, generator=generator)
    scales = None
    if pool.format == INT8:
        scales = 0.002 + 0.02 * torch.rand(shape[:-1], generator=generator)
        stored = (numbers * 45).round().clamp(-127, 127).to(torch.int8)
    else:
        stored = numbers.to(FORMATS[pool.format])
    for position in range(length):
        place = (LAYER, table[position // pool.block_size], position % pool.block_size)
        as_bytes(getattr(pool, which))[place] = as_bytes(stored)[position]
        if scales is not None:
            (pool.key_scales if which == "keys" else pool.value_scales)[place] = scales[position]
    wide = stored.float().double()
    return wide if scales is None else wide * scales.double()[..., None]


def _reference(query: Tensor, keys: Tensor, values: Tensor) -> Tensor:
    """fp64 attention of one token: query [heads, size], K and V [seen, kv_heads, size]."""
    heads, head_size = query.shape
    shared_by = heads // keys.shape[1]
    out = torch.empty(heads, head_size, dtype=torch.float64)
    for head in range(heads):
        key, value = keys[:, head // shared_by], values[:, head // shared_by]
        scores = key @ query[head].double() / head_size**0.5
        out[head] = torch.softmax(scores, 0) @ value
    return out
