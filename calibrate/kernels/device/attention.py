"""Paged attention for decodes and chunks alike: one kernel, and one that joins its splits.

The softmax is taken online over tiles of keys (Milakov and Gimelshein 2018, Dao 2023), and
the heads that share a KV head are rows of one matrix, as in vLLM's unified kernel. Where
there are too few programs to fill a GPU, the keys of each are split among several
(Flash-Decoding).
"""

import triton
import triton.language as tl


@triton.jit
def multiplied(a, b, UPCAST: tl.constexpr):
    """a @ b with fp32 sums, of numbers in the dtype of a."""
    if UPCAST:
        # Triton's interpreter multiplies, and converts to, the bits of bf16 as if integers.
        product = tl.dot(a.to(tl.float32), b.to(tl.float32), input_precision="ieee")
    else:
        product = tl.dot(a, b.to(a.dtype), input_precision="ieee")
    return product


@triton.jit(do_not_specialize=["table_width", "tokens"])
def attend_kernel(
    out,
    partial,
    partial_max,
    partial_sum,
    query,
    keys,
    values,
    key_scales,
    value_scales,
    work,
    query_starts,
    kv_lengths,
    block_table,
    table_width,
    tokens,
    query_stride,
    scale,
    HEADS: tl.constexpr,
    KV_HEADS: tl.constexpr,
    HEAD_SIZE: tl.constexpr,
    HEAD_PADDED: tl.constexpr,
    BLOCK_SIZE: tl.constexpr,
    QUERIES: tl.constexpr,
    ROWS: tl.constexpr,
    TILE: tl.constexpr,
    SPLITS: tl.constexpr,
    SCALED: tl.constexpr,
    UPCAST: tl.constexpr,
):
    """A program: QUERIES tokens of a row, one KV head, one split of the keys they see.

    work [programs, 2]: (row, the first of its tokens). ROWS >= QUERIES x HEADS / KV_HEADS. scale
    includes log2(e). With SPLITS > 1: partial [SPLITS, tokens, HEADS, HEAD_SIZE] gets the sums
    that are not yet divided, partial_max and partial_sum [SPLITS, tokens, HEADS] what to join
    them by; `out` is left alone.
    """
    SHARED_BY: tl.constexpr = HEADS // KV_HEADS
    item = tl.program_id(0)
    kv_head = tl.program_id(1)
    split = tl.program_id(2)
    row = tl.load(work + 2 * item)
    first = tl.load(work + 2 * item + 1)
    start = tl.load(query_starts + row)
    n = tl.load(query_starts + row + 1) - start
    before = tl.load(kv_lengths + row) - n

    index = tl.arange(0, ROWS)
    token = first + index // SHARED_BY
    head = kv_head * SHARED_BY + index % SHARED_BY
    live = (index < QUERIES * SHARED_BY) & (token < n)
    place = (start + token).to(tl.int64) * HEADS + head
    asked = (start + token).to(tl.int64) * query_stride + head * HEAD_SIZE
    dim = tl.arange(0, HEAD_PADDED)
    real = dim < HEAD_SIZE
    q = tl.load(
        query + asked[:, None] + dim[None, :],
        mask=live[:, None] & real[None, :],
        other=0.0,
    )

    end = before + tl.minimum(first + QUERIES, n)
    tiles = tl.cdiv(end, TILE)
    per_split = tl.cdiv(tiles, SPLITS)
    highest = tl.full([ROWS], float("-inf"), tl.float32)
    total = tl.zeros([ROWS], tl.float32)
    summed = tl.zeros([ROWS, HEAD_PADDED], tl.float32)
    for tile in range(split * per_split, tl.minimum(tiles, (split + 1) * per_split)):
        position = tile * TILE + tl.arange(0, TILE)
        there = position < end
        block = tl.load(
            block_table + row.to(tl.int64) * table_width + position // BLOCK_SIZE,
            mask=there,
            other=0,
        ).to(tl.int64)
        slot = (block * BLOCK_SIZE + position % BLOCK_SIZE) * KV_HEADS + kv_head
        k = tl.load(
            keys + slot[None, :] * HEAD_SIZE + dim[:, None],
            mask=there[None, :] & real[:, None],
            other=0.0,
        )
        scores = multiplied(q, k, UPCAST) * scale
        if SCALED:
            scores *= tl.load(key_scales + slot, mask=there, other=0.0)[None, :]
        seen = position[None, :] <= before + token[:, None]
        scores = tl.where(seen & there[None, :], scores, float("-inf"))

        new_highest = tl.maximum(highest, tl.max(scores, 1))
        # A token may see none of a split's keys: no -inf less -inf.
        reference = tl.where(new_highest == float("-inf"), 0.0, new_highest)
        p = tl.exp2(scores - reference[:, None])
        fade = tl.exp2(highest - reference)
        total = total * fade + tl.sum(p, 1)
        highest = new_highest
        v = tl.load(
            values + slot[:, None] * HEAD_SIZE + dim[None, :],
            mask=there[:, None] & real[None, :],
            other=0.0,
        )
        if SCALED:
            # Relative to the tile's largest: small scales would leave fp16's range.
            value_scale = tl.load(value_scales + slot, mask=there, other=0.0)
            largest = tl.maximum(tl.max(value_scale, 0), 1e-30)
            weights = (p * (value_scale / largest)[None, :]).to(q.dtype)
            gained = multiplied(weights, v, UPCAST) * largest
        else:
            gained = multiplied(p.to(q.dtype), v, UPCAST)
        summed = summed * fade[:, None] + gained

    if SPLITS == 1:
        tl.store(
            out + place[:, None] * HEAD_SIZE + dim[None, :],
            summed / total[:, None],
            mask=live[:, None] & real[None, :],
        )
    else:
        part = split.to(tl.int64) * tokens * HEADS + place
        tl.store(
            partial + part[:, None] * HEAD_SIZE + dim[None, :],
            summed,
            mask=live[:, None] & real[None, :],
        )
        tl.store(partial_max + part, highest, mask=live)
        tl.store(partial_sum + part, total, mask=live)


@triton.jit(do_not_specialize=["rows"])
def join_kernel(
    out,
    partial,
    partial_max,
    partial_sum,
    rows,
    HEAD_SIZE: tl.constexpr,
    HEAD_PADDED: tl.constexpr,
    SPLITS: tl.constexpr,
):
    """A program: one head of one token, `rows` = tokens x heads of them; SPLITS a power of 2."""
    row = tl.program_id(0).to(tl.int64)
    part = tl.arange(0, SPLITS).to(tl.int64) * rows + row
    dim = tl.arange(0, HEAD_PADDED)
    real = dim < HEAD_SIZE
    highest = tl.load(partial_max + part)
    weight = tl.exp2(highest - tl.max(highest, 0))
    total = tl.sum(weight * tl.load(partial_sum + part), 0)
    summed = tl.load(
        partial + part[:, None] * HEAD_SIZE + dim[None, :], mask=real[None, :], other=0.0
    )
    joined = tl.sum(summed * weight[:, None], 0) / total
    tl.store(out + row * HEAD_SIZE + dim, joined, mask=real)
