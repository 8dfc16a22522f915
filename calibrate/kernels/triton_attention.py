"""Our Triton kernel for paged attention: what the host decides before it is launched."""

from __future__ import annotations

from math import e, log2

import numpy as np
import torch
import triton
from numpy.typing import NDArray
from torch import Tensor

from calibrate.kernels.device.attention import attend_kernel, join_kernel
from calibrate.kernels.face import Attend
from calibrate.kernels.pool import KVPool
from calibrate.kernels.rows import Rows, send
from calibrate.kernels.torch_attention import check_heads
from calibrate.kernels.triton_launch import FUSED, check_device, padded

_LOG2_E = log2(e)
_NARROW_HEAD = 128
_MOST_SPLITS = 64
_KEYS_OF_A_SPLIT = 256
"""Fewer are not worth the second kernel that joins the splits."""


def attention(rows: Rows, pool: KVPool, *, heads: int) -> Attend:
    """face.Attention: decodes and chunks in one launch; two where the keys are split."""
    check_heads(pool, heads)
    check_device(pool)
    queries, splits = choose(rows, pool, heads=heads, processors=count_processors(pool))
    return prepare(rows, pool, heads=heads, queries=queries, splits=splits)


def choose(rows: Rows, pool: KVPool, *, heads: int, processors: int) -> tuple[int, int]:
    """(tokens to a program, splits of its keys) of a step."""
    most = _most_rows(pool)
    queries = _queries_at_once(rows.longest_query, heads // pool.kv_heads, most=most)
    programs = pool.kv_heads * sum(-(-n // queries) for _, n in rows.spans)
    return queries, _splits(programs, rows.longest_kv, processors)


def prepare(rows: Rows, pool: KVPool, *, heads: int, queries: int, splits: int) -> Attend:
    """Attention with so many tokens to a program, its keys in so many splits: a power of 2."""
    device = pool.device
    kv_heads, size = pool.kv_heads, pool.head_size
    matrix = padded(queries * heads // kv_heads)
    work = send(_work(rows, queries), device)
    tokens = rows.tokens
    joined = splits > 1
    partial = torch.empty((splits, tokens, heads, size) if joined else 0, device=device)
    partial_max, partial_sum = torch.empty(
        (2, splits, tokens, heads) if joined else (2, 0), device=device
    )
    scaled = pool.key_scales is not None

    def attend(query: Tensor, layer: int, out: Tensor) -> None:
        if not tokens:
            return
        scales = (pool.key_scales, pool.value_scales)
        # A multiprocessor has 227 KiB for the tiles in flight.
        large = query.dtype == torch.float32 or size > _NARROW_HEAD
        attend_kernel[(len(work), kv_heads, splits)](
            out,
            *(partial, partial_max, partial_sum),
            query,
            *(pool.keys[layer], pool.values[layer]),
            *(work if scale is None else scale[layer] for scale in scales),
            *(work, rows.query_starts, rows.kv_lengths, rows.block_table),
            rows.block_table.shape[1],
            *(tokens, query.stride(0)),
            size**-0.5 * _LOG2_E,
            HEADS=heads,
            KV_HEADS=kv_heads,
            HEAD_SIZE=size,
            HEAD_PADDED=padded(size),
            BLOCK_SIZE=pool.block_size,
            QUERIES=queries,
            ROWS=matrix,
            TILE=32 if large else 64,
            SPLITS=splits,
            SCALED=scaled,
            UPCAST=triton.knobs.runtime.interpret,
            num_warps=4 if matrix <= 64 else 8,
            num_stages=2 if large else 3,
            **FUSED,
        )
        if joined:
            join_kernel[(tokens * heads,)](
                *(out, partial, partial_max, partial_sum),
                tokens * heads,
                HEAD_SIZE=size,
                HEAD_PADDED=padded(size),
                SPLITS=splits,
                **FUSED,
            )

    return attend


def variants(pool: KVPool, heads: int, *, processors: int) -> list[tuple[int, int]]:
    """What `choose` may answer of steps that the pool has room for."""
    most, shared_by = _most_rows(pool), heads // pool.kv_heads
    at_once = {_queries_at_once(n, shared_by, most=most) for n in range(1, most + 1)}
    most_splits = _splits(pool.kv_heads, pool.blocks * pool.block_size, processors)
    powers = [1 << power for power in range(most_splits.bit_length())]
    return [(queries, splits) for queries in sorted(at_once) for splits in powers]


def _most_rows(pool: KVPool) -> int:
    """Of a program's matrix of queries."""
    return 128 if pool.head_size <= _NARROW_HEAD else 64


def _queries_at_once(longest: int, shared_by: int, *, most: int) -> int:
    """Tokens of a program: a matrix of 16 rows for decodes alone, `most` for long chunks."""
    return max(1, padded(min(most, longest * shared_by)) // shared_by)


def _splits(programs: int, longest_kv: int, processors: int) -> int:
    """A power of 2: enough to give each multiprocessor two programs, if the keys suffice."""
    if not programs:
        return 1
    useful = min(_MOST_SPLITS, 2 * processors // programs, longest_kv // _KEYS_OF_A_SPLIT)
    return 1 << max(0, useful.bit_length() - 1)


def count_processors(pool: KVPool) -> int:
    if not pool.keys.is_cuda:
        return 1
    return torch.cuda.get_device_properties(pool.device).multi_processor_count


def _work(rows: Rows, queries: int) -> NDArray[np.int32]:
    """int32 [programs, 2]: (row, first token) of each, those with most keys first.

    Programs start in order: the long ones must not be the last.
    """
    items = [
        (before + first, row, first)
        for row, (before, n) in enumerate(rows.spans)
        for first in range(0, n, queries)
    ]
    items.sort(key=lambda item: -item[0])
    return np.asarray([item[1:] for item in items], dtype=np.int32).reshape(-1, 2)
