"""Paged attention in pure torch, on any device: gather a row's K and V, then attend to them."""

from __future__ import annotations

from itertools import accumulate

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from calibrate.kernels.face import Attend, Unsupported
from calibrate.kernels.pool import KVPool
from calibrate.kernels.rows import Rows
from calibrate.kernels.torch_cache import as_bytes

_SCORES_AT_ONCE = 1 << 24
"""How many fp32 scores are held at once where they are held at all: 64 MiB."""


def attention(rows: Rows, pool: KVPool, *, heads: int) -> Attend:
    """face.Attention: any format, row by row."""
    check_heads(pool, heads)
    return attend_rows(rows, pool, range(len(rows.spans)))


def attend_rows(rows: Rows, pool: KVPool, some: range | list[int]) -> Attend:
    """Attention of some rows only; the others' tokens in `out` stay as they are."""
    starts = [0, *accumulate(n for _, n in rows.spans)]
    size = pool.block_size
    work = []
    for row in some:
        before, n = rows.spans[row]
        if n:
            blocks = rows.block_table[row, : -(-(before + n) // size)]
            work.append((slice(starts[row], starts[row] + n), before, blocks))

    def attend(query: Tensor, layer: int, out: Tensor) -> None:
        for tokens, before, blocks in work:
            length = before + tokens.stop - tokens.start
            keys, values, key_scales, value_scales = _gather(pool, layer, blocks, length)
            if key_scales is None or value_scales is None:
                keys, values = keys.to(query.dtype), values.to(query.dtype)
                out[tokens] = _attend(query[tokens], keys, values, before)
            else:
                scales = (key_scales, value_scales)
                out[tokens] = _attend_scaled(query[tokens], keys, values, scales, before)

    return attend


def check_heads(pool: KVPool, heads: int) -> None:
    """Raise Unsupported where heads cannot be shared out, or the pool is one to swap to."""
    if heads < 1 or heads % pool.kv_heads:
        raise Unsupported(f"{heads} query heads are no multiple of {pool.kv_heads} KV heads")
    if not pool.keys.is_contiguous():
        raise Unsupported("a host's pool is ordered by blocks, for swapping: not to attend to")


def _gather(
    pool: KVPool, layer: int, blocks: Tensor, length: int
) -> tuple[Tensor, Tensor, Tensor | None, Tensor | None]:
    """The first `length` tokens of these blocks: K, V [length, kv_heads, head_size], scales."""

    def gathered(tensor: Tensor | None) -> Tensor | None:
        if tensor is None:
            return None
        return as_bytes(tensor)[layer][blocks].view(tensor.dtype).flatten(0, 1)[:length]

    keys, values = gathered(pool.keys), gathered(pool.values)
    assert keys is not None
    assert values is not None
    return keys, values, gathered(pool.key_scales), gathered(pool.value_scales)


def _attend(query: Tensor, keys: Tensor, values: Tensor, before: int) -> Tensor:
    """[n, heads, head_size] of queries at before.. over K and V of as many tokens."""
    n, heads, head_size = query.shape
    keys, values = keys.transpose(0, 1)[None], values.transpose(0, 1)[None]
    if n == 1:
        # A decode masks nothing: the heads that share K and V may be taken for queries.
        grouped = query.view(1, keys.shape[1], -1, head_size)
        return scaled_dot_product_attention(grouped, keys, values).reshape(1, heads, head_size)
    attended = scaled_dot_product_attention(
        query.transpose(0, 1)[None],
        keys,
        values,
        attn_mask=_seen(0, n, before, query.device) if before else None,
        is_causal=not before,
        enable_gqa=True,
    )
    return attended[0].transpose(0, 1)


def _attend_scaled(
    query: Tensor, keys: Tensor, values: Tensor, scales: tuple[Tensor, Tensor], before: int
) -> Tensor:
    """The same over int8: the scales multiply scores and probabilities, not the numbers."""
    n, heads, head_size = query.shape
    length, kv_heads, _ = keys.shape
    key_scales, value_scales = (scale.transpose(0, 1)[:, None] for scale in scales)
    wide_keys, wide_values = (kept.transpose(0, 1).float() for kept in (keys, values))
    # [kv_heads, n, heads that share them, head_size]: one matrix of rows for each KV head.
    grouped = query.view(n, kv_heads, -1, head_size).transpose(0, 1).float()
    out = torch.empty_like(query)
    step = max(1, _SCORES_AT_ONCE // (heads * length))
    for first in range(0, n, step):
        last = min(n, first + step)
        rows = grouped[:, first:last].flatten(1, 2)
        scores = rows @ wide_keys.transpose(1, 2) * key_scales * head_size**-0.5
        if n > 1:
            seen = _seen(first, last, before, query.device, length=length)
            scores.masked_fill_(~seen.repeat_interleave(heads // kv_heads, 0), -torch.inf)
        attended = scores.softmax(-1) * value_scales @ wide_values
        by_token = attended.view(kv_heads, last - first, -1, head_size).transpose(0, 1)
        out[first:last] = by_token.reshape(-1, heads, head_size)
    return out


def _seen(
    first: int, last: int, before: int, device: torch.device, *, length: int | None = None
) -> Tensor:
    """Bool [last - first, length]: may token j of a chunk look at key i, i <= before + j?"""
    positions = torch.arange(before + first, before + last, device=device)
    keys = torch.arange(before + last if length is None else length, device=device)
    return keys <= positions[:, None]
