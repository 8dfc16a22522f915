"""Writing new tokens into a paged KV pool, copying its blocks, reading blocks as numbers."""

import triton
import triton.language as tl


@triton.jit
def quantised(x, FORMAT: tl.constexpr):
    """(numbers to store, their scales) of x [heads, head size].

    FORMAT: "int8" has a scale per head, "fp8" saturates, "plain" leaves x to the store.
    """
    wide = x.to(tl.float32)
    scale = tl.div_rn(tl.max(tl.abs(wide), 1), 127.0)
    if FORMAT == "int8":
        divided = tl.div_rn(wide, tl.where(scale > 0, scale, 1.0)[:, None])
        # Adding and taking away 1.5 * 2**23 rounds half to even.
        whole = (divided + 12582912.0) - 12582912.0
        numbers = tl.minimum(tl.maximum(whole, -127.0), 127.0).to(tl.int8)
    elif FORMAT == "fp8":
        numbers = tl.minimum(tl.maximum(wide, -448.0), 448.0).to(tl.float8e4nv)
    else:
        numbers = x
    return numbers, scale


@triton.jit
def write_kernel(
    key,
    value,
    keys,
    values,
    key_scales,
    value_scales,
    slots,
    key_stride,
    value_stride,
    HEADS: tl.constexpr,
    HEADS_PADDED: tl.constexpr,
    HEAD_SIZE: tl.constexpr,
    HEAD_PADDED: tl.constexpr,
    FORMAT: tl.constexpr,
):
    """A program: K and V of one token, all heads. A negative slot is not written."""
    token = tl.program_id(0).to(tl.int64)
    slot = tl.load(slots + token)
    if slot >= 0:
        head = tl.arange(0, HEADS_PADDED)
        dim = tl.arange(0, HEAD_PADDED)
        offset = head[:, None] * HEAD_SIZE + dim[None, :]
        there = (head < HEADS)[:, None] & (dim < HEAD_SIZE)[None, :]
        target = slot * HEADS * HEAD_SIZE + offset
        k = tl.load(key + token * key_stride + offset, mask=there, other=0.0)
        v = tl.load(value + token * value_stride + offset, mask=there, other=0.0)
        k, k_scale = quantised(k, FORMAT)
        v, v_scale = quantised(v, FORMAT)
        tl.store(keys + target, k, mask=there)
        tl.store(values + target, v, mask=there)
        if FORMAT == "int8":
            tl.store(key_scales + slot * HEADS + head, k_scale, mask=head < HEADS)
            tl.store(value_scales + slot * HEADS + head, v_scale, mask=head < HEADS)


@triton.jit
def copy_kernel(words, pairs, layer_stride, WORDS: tl.constexpr, PIECE: tl.constexpr):
    """A program: PIECE of the WORDS of one block of one layer; pairs [n, 2] of (from, to)."""
    pair = tl.program_id(0).to(tl.int64)
    layer = tl.program_id(1).to(tl.int64)
    word = tl.program_id(2) * PIECE + tl.arange(0, PIECE)
    there = word < WORDS
    source = tl.load(pairs + 2 * pair) * WORDS + layer * layer_stride
    target = tl.load(pairs + 2 * pair + 1) * WORDS + layer * layer_stride
    tl.store(words + target + word, tl.load(words + source + word, mask=there), mask=there)


@triton.jit
def dequantise_kernel(
    numbers,
    scales,
    blocks,
    out,
    SLICES: tl.constexpr,
    HEAD_SIZE: tl.constexpr,
    HEAD_PADDED: tl.constexpr,
    PIECE: tl.constexpr,
    SCALED: tl.constexpr,
):
    """A program: PIECE of the SLICES of head size, one per token and head, of one block."""
    item = tl.program_id(0).to(tl.int64)
    block = tl.load(blocks + item)
    piece = tl.program_id(1) * PIECE + tl.arange(0, PIECE)
    dim = tl.arange(0, HEAD_PADDED)
    there = (piece < SLICES)[:, None] & (dim < HEAD_SIZE)[None, :]
    offset = piece[:, None] * HEAD_SIZE + dim[None, :]
    x = tl.load(numbers + block * SLICES * HEAD_SIZE + offset, mask=there, other=0.0)
    x = x.to(tl.float32)
    if SCALED:
        scale = tl.load(scales + block * SLICES + piece, mask=piece < SLICES, other=0.0)
        x *= scale[:, None]
    tl.store(out + item * SLICES * HEAD_SIZE + offset, x, mask=there)
