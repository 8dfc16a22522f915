"""Random paged pools and what attention over them must be, in fp64, for kernels to be held to.

Whatever a kernel has no business with is poison: slots that no token owns are NaN (int8: their
scales are), outputs begin as NaN, and block tables go on behind their last block with ids that
no pool has.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import accumulate

import numpy as np
import torch
from torch import Tensor

from calibrate.kernels.face import Attention
from calibrate.kernels.pool import FORMATS, FP8, INT8, KVPool
from calibrate.kernels.rows import Rows
from calibrate.kernels.torch_cache import as_bytes

NO_BLOCK = 1 << 30
LAYER = 1
"""Of two: the other is all poison."""
_FP8_NAN = 0x7F

Spans = list[tuple[int, int]]
MIXED: Spans = [(37, 1), (0, 19), (0, 1), (50, 7), (16, 16), (63, 1), (15, 2)]
DECODES: Spans = [(0, 1), (15, 1), (16, 1), (99, 1), (31, 1)]
LONG: Spans = [(900, 1), (700, 130), (0, 1)]

ERROR_ALLOWED = {torch.float32: 5e-6, torch.float16: 3e-3, torch.bfloat16: 2e-2}
"""By the query's dtype, the arithmetic's."""


@dataclass(frozen=True, slots=True)
class Case:
    """A step over a random pool."""

    pool: KVPool
    rows: Rows
    query: Tensor
    expected: Tensor
    """fp64, of the numbers that the pool really holds."""

    def to(self, device: torch.device | str) -> Case:
        """The same on another device."""
        query, expected = self.query.to(device), self.expected.to(device)
        return Case(self.pool.to(device), self.rows.to(device), query, expected)

    def error(self, attention: Attention) -> float:
        """The largest error of one head's output for one token, relative to its length.

        Not a number where any output is none.
        """
        out = torch.full_like(self.query, torch.nan)
        attention(self.rows, self.pool, heads=self.query.shape[1])(self.query, LAYER, out)
        error = (out.double() - self.expected).norm(dim=-1) / self.expected.norm(dim=-1)
        return error.max().item() if error.numel() else 0.0

    def check(self, attention: Attention) -> None:
        """Raise AssertionError where the error is more than the query's dtype explains."""
        error = self.error(attention)
        assert error <= ERROR_ALLOWED[self.query.dtype], f"off by {error:.2%}"


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
    sharpness: float = 1.0,
) -> Case:
    """A step over sequences whose K and V lie in blocks chosen at random.

    `sharpness` is the spread of the scores: from 100 on, exp(score) is beyond fp32.
    """
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
    query = (qkv * sharpness).to(dtype)[:, :heads]
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


def poisoned(format: str, *, blocks: int, block_size: int, kv_heads: int, head_size: int) -> KVPool:
    """A pool of two layers with nothing in it that may be used."""
    pool = KVPool.empty(
        format,
        layers=2,
        blocks=blocks,
        block_size=block_size,
        kv_heads=kv_heads,
        head_size=head_size,
    )
    for tensor in pool.tensors:
        if tensor.dtype == torch.int8:
            tensor.fill_(77)
        else:
            as_bytes(tensor).fill_(_FP8_NAN if format == FP8 else torch.nan)
    return pool


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
    position = torch.arange(length)
    block = torch.tensor(table, dtype=torch.int64)[position // pool.block_size]
    place = (LAYER, block, position % pool.block_size)
    as_bytes(pool.keys if which == "keys" else pool.values)[place] = as_bytes(stored)
    if scales is not None:
        kept = pool.key_scales if which == "keys" else pool.value_scales
        assert kept is not None
        kept[place] = scales
    wide = stored.float().double()
    return wide if scales is None else wide * scales.double()[..., None]


def _reference(query: Tensor, keys: Tensor, values: Tensor) -> Tensor:
    """fp64 attention of one token: query [heads, size], K and V [seen, kv_heads, size]."""
    heads, head_size = query.shape
    keys, values = (x.repeat_interleave(heads // x.shape[1], dim=1) for x in (keys, values))
    scores = torch.einsum("hd,khd->hk", query.double(), keys) / head_size**0.5
    return torch.einsum("hk,khd->hd", torch.softmax(scores, -1), values)
