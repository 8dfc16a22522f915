"""Paged attention by FlashInfer (https://docs.flashinfer.ai, written for 0.5.3): CUDA only."""

from __future__ import annotations

import torch
from torch import Tensor

from calibrate.kernels.errors import Unsupported
from calibrate.kernels.face import Attend
from calibrate.kernels.pool import FP8, KVPool
from calibrate.kernels.rows import Rows
from calibrate.kernels.torch_attention import check_heads

FORMATS = ("bfloat16", "float16", FP8)
_WORKSPACE_BYTES = 128 << 20
"""What its documentation recommends, for the partial results of split keys."""


class FlashInferAttention:
    """face.Attention: decodes and chunks in one call of its batch prefill kernel.

    Over fp8 the query is bf16. Its plan() waits for the device: it is part of preparing.
    """

    def __init__(self) -> None:
        self._workspace: Tensor | None = None

    def __call__(self, rows: Rows, pool: KVPool, *, heads: int) -> Attend:
        check_heads(pool, heads)
        check_pool(pool)
        from flashinfer import BatchPrefillWithPagedKVCacheWrapper

        if self._workspace is None:
            self._workspace = torch.empty(_WORKSPACE_BYTES, dtype=torch.uint8, device=pool.device)
        query_dtype = torch.bfloat16 if pool.format == FP8 else pool.keys.dtype
        # FA2 is the backend that takes 16-bit queries over fp8 keys.
        wrapper = BatchPrefillWithPagedKVCacheWrapper(self._workspace, "NHD", backend="fa2")
        pages = _pages(rows, pool.block_size)
        if rows.tokens:
            wrapper.plan(
                *pages,
                num_qo_heads=heads,
                num_kv_heads=pool.kv_heads,
                head_dim_qk=pool.head_size,
                page_size=pool.block_size,
                causal=True,
                q_data_type=query_dtype,
                kv_data_type=pool.keys.dtype,
            )

        def attend(query: Tensor, layer: int, out: Tensor) -> None:
            if query.dtype != query_dtype:
                raise Unsupported(
                    f"provider flashinfer attends to {pool.format} with {query_dtype}"
                    f" queries, not {query.dtype}"
                )
            if rows.tokens:
                # It takes the tokens one behind the other.
                wrapper.run(query.contiguous(), (pool.keys[layer], pool.values[layer]), out=out)

        return attend


def check_pool(pool: KVPool) -> None:
    """Raise Unsupported for a pool that FlashInfer has no kernel for."""
    if pool.format not in FORMATS or not pool.keys.is_cuda:
        raise Unsupported(
            f"provider flashinfer attends to {', '.join(FORMATS)} on CUDA,"
            f" not to {pool.format} on {pool.device}"
        )


def _pages(rows: Rows, block_size: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """qo_indptr, paged_kv_indptr, paged_kv_indices, paged_kv_last_page_len, int32.

    Rows without tokens are left out: a page list may not be empty.
    """
    device = rows.block_table.device
    working = [row for row, (_, n) in enumerate(rows.spans) if n]
    ns = torch.tensor([rows.spans[row][1] for row in working], dtype=torch.int32)
    lengths = torch.tensor([sum(rows.spans[row]) for row in working], dtype=torch.int32)
    pages = (lengths + block_size - 1) // block_size
    chosen = rows.block_table[torch.tensor(working, dtype=torch.int64, device=device)]
    used = torch.arange(chosen.shape[1]) < pages[:, None]
    return (
        _starts(ns).to(device),
        _starts(pages).to(device),
        chosen[used.to(device)],
        (lengths - (pages - 1) * block_size).to(device),
    )


def _starts(counts: Tensor) -> Tensor:
    """[0, the sums of the first, the first two, ...]."""
    return torch.nn.functional.pad(counts.cumsum(0, dtype=torch.int32), (1, 0))
