"""Compiling ahead of the first step what steps over a pool may need."""

from __future__ import annotations

import torch
import triton

from calibrate.kernels.pool import KVPool
from calibrate.kernels.rows import Rows
from calibrate.kernels.torch_attention import check_heads
from calibrate.kernels.triton_attention import count_processors, prepare, variants
from calibrate.kernels.triton_cache import TritonCache
from calibrate.kernels.triton_launch import check_device


def compile_kernels(pool: KVPool, heads: int, dtype: torch.dtype) -> None:
    """Launch once every variant of attention, for a token that sees what block 0 begins with, and
    a copy of that block to itself; everything else has one variant, which any step compiles. One
    takes half a second: the first step to need it would be thought slow."""
    check_heads(pool, heads)
    check_device(pool)
    if triton.knobs.runtime.interpret:
        return
    query = torch.zeros((1, heads, pool.head_size), dtype=dtype, device=pool.device)
    rows = Rows.of([(0, 1)], [[0]], block_size=pool.block_size, device=pool.device)
    for queries, splits in variants(pool, heads, processors=count_processors(pool)):
        attend = prepare(rows, pool, heads=heads, queries=queries, splits=splits)
        attend(query, 0, torch.empty_like(query))
    TritonCache().copy(pool, torch.zeros((1, 2), dtype=torch.int64, device=pool.device))
