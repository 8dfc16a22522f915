"""RMSNorm, rotary embedding and SwiGLU, each in one pass over its tokens."""

import triton
import triton.language as tl


@triton.jit
def rms_norm_kernel(
    x,
    residual,
    weight,
    out,
    epsilon,
    SIZE: tl.constexpr,
    SIZE_PADDED: tl.constexpr,
    ADDED: tl.constexpr,
):
    """A program: one token. ADDED: x + residual is kept in residual, and normed as kept."""
    place = tl.program_id(0).to(tl.int64) * SIZE
    dim = tl.arange(0, SIZE_PADDED)
    real = dim < SIZE
    numbers = tl.load(x + place + dim, mask=real, other=0.0)
    wide = numbers.to(tl.float32)
    if ADDED:
        wide += tl.load(residual + place + dim, mask=real, other=0.0).to(tl.float32)
        kept = wide.to(numbers.dtype)
        tl.store(residual + place + dim, kept, mask=real)
        wide = kept.to(tl.float32)
    inverse = 1.0 / tl.sqrt_rn(tl.sum(wide * wide, 0) / SIZE + epsilon)
    scale = tl.load(weight + dim, mask=real, other=0.0).to(tl.float32)
    tl.store(out + place + dim, wide * inverse * scale, mask=real)


@triton.jit
def rotary_kernel(
    x,
    angles,
    positions,
    token_stride,
    HEADS: tl.constexpr,
    HEADS_PADDED: tl.constexpr,
    HALF: tl.constexpr,
    HALF_PADDED: tl.constexpr,
):
    """A program: all heads of one token, in place; angles [positions, cosines then sines]."""
    token = tl.program_id(0).to(tl.int64)
    position = tl.load(positions + token)
    head = tl.arange(0, HEADS_PADDED)
    pair = tl.arange(0, HALF_PADDED)
    real = pair < HALF
    cosine = tl.load(angles + position * 2 * HALF + pair, mask=real, other=0.0)[None, :]
    sine = tl.load(angles + position * 2 * HALF + HALF + pair, mask=real, other=0.0)[None, :]
    there = (head < HEADS)[:, None] & real[None, :]
    first = x + token * token_stride + head[:, None] * 2 * HALF + pair[None, :]
    a = tl.load(first, mask=there, other=0.0).to(tl.float32)
    b = tl.load(first + HALF, mask=there, other=0.0).to(tl.float32)
    tl.store(first, a * cosine - b * sine, mask=there)
    tl.store(first + HALF, b * cosine + a * sine, mask=there)


@triton.jit
def silu_mul_kernel(gate_up, out, SIZE: tl.constexpr, PIECE: tl.constexpr):
    """A program: PIECE of one token; gate_up [tokens, 2 x SIZE], the gate first."""
    token = tl.program_id(0).to(tl.int64)
    dim = tl.program_id(1) * PIECE + tl.arange(0, PIECE)
    real = dim < SIZE
    gate = tl.load(gate_up + token * 2 * SIZE + dim, mask=real, other=0.0).to(tl.float32)
    up = tl.load(gate_up + token * 2 * SIZE + SIZE + dim, mask=real, other=0.0).to(tl.float32)
    tl.store(out + token * SIZE + dim, gate / (1.0 + tl.exp(-gate)) * up, mask=real)
