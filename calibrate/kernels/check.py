"""A provider's kernels held to fp64 on the machine at hand, for where no test suite is."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from calibrate.kernels.cases import (
    ERROR_ALLOWED,
    LAYER,
    LONG,
    MIXED,
    make_case,
    poisoned,
)
from calibrate.kernels.errors import Unsupported
from calibrate.kernels.face import Attention, Cache, Dense, Kernels, rotary_angles
from calibrate.kernels.pool import FORMATS
from calibrate.kernels.torch_cache import TorchCache, as_bytes

_HEADS = {"heads": 8, "kv_heads": 2, "head_size": 128}


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """How far one kernel is off in one format."""

    kernel: str
    format: str
    """Of the KV pool; "" for dense parts."""
    dtype: str
    """Of queries, keys and values, or x."""
    error: float | None
    """Relative; None where the provider refuses."""
    allowed: float
    refused: str = ""
    """What it says where it refuses."""

    @property
    def bad(self) -> bool:
        """Is it off by more than it may be? So is what is not a number."""
        return self.error is not None and not self.error <= self.allowed


def check_kernels(kernels: Kernels, device: torch.device | str) -> Iterator[Finding]:
    """Attention in all formats and dtypes, then writing, then the dense parts."""
    for format in FORMATS:
        for dtype in ERROR_ALLOWED:
            yield _check_attention(kernels.attention, format, dtype, device)
    if kernels.cache is not None:
        for format in FORMATS:
            yield _check_write(kernels.cache, format, device)
    if kernels.dense is not None:
        for dtype in ERROR_ALLOWED:
            yield from _check_dense(kernels.dense, dtype, device)


def _check_attention(
    attention: Attention, format: str, dtype: torch.dtype, device: torch.device | str
) -> Finding:
    # An interpreter takes a second for what a GPU does in a microsecond.
    steps = (MIXED,) if torch.device(device).type == "cpu" else (MIXED, LONG)
    error, refused = None, ""
    try:
        cases = (make_case(format, dtype, spans, **_HEADS).to(device) for spans in steps)
        # torch's maximum is not a number where one of them is none.
        error = torch.tensor([case.error(attention) for case in cases]).max().item()
    except Unsupported as reason:
        refused = str(reason)
    return Finding(
        kernel="attention",
        format=format,
        dtype=_name(dtype),
        error=error,
        allowed=ERROR_ALLOWED[dtype],
        refused=refused,
    )


def _check_write(cache: Cache, format: str, device: torch.device | str) -> Finding:
    """The share of bytes that are not those of pure torch on the CPU: none may be.

    The numbers are exact in the format, or int8's are rounded: how floats are rounded is the
    device's business.
    """
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(2, 5, 2, 128, generator=generator).to(torch.bfloat16)
    if FORMATS[format].is_floating_point:
        x = x.to(FORMATS[format]).to(torch.bfloat16)
    slots = torch.tensor([3, 17, -1, 40, 8])

    def written(by: Cache, where: torch.device | str) -> list[Tensor]:
        pool = poisoned(format, blocks=4, block_size=16, kv_heads=2, head_size=128).to(where)
        key, value = x.to(where)
        by.write(key, value, pool, LAYER, slots.to(where))
        return [as_bytes(tensor).cpu().contiguous().view(torch.uint8) for tensor in pool.tensors]

    pairs = zip(written(cache, device), written(TorchCache(), "cpu"), strict=True)
    error = max((a != b).double().mean().item() for a, b in pairs)
    return Finding(kernel="write", format=format, dtype="bfloat16", error=error, allowed=0.0)


def _check_dense(dense: Dense, dtype: torch.dtype, device: torch.device | str) -> Iterator[Finding]:
    """Relative to the largest number."""
    generator = torch.Generator().manual_seed(0)
    numbers = torch.randn(7, 256, generator=generator).to(dtype)
    weights, positions = numbers[:1] + 1, 100 * torch.arange(7)
    x, weight, wide = numbers.to(device), weights.to(device), numbers.double()
    gate, up = wide.chunk(2, dim=-1)
    turns = positions[:, None] * 10_000.0 ** -(torch.arange(32, dtype=torch.float64) / 32)
    pairs = torch.complex(*wide.view(7, 4, 64).chunk(2, dim=-1)) * torch.exp(1j * turns)[:, None]

    outs = {name: torch.full_like(x, torch.nan) for name in ("rms_norm", "rotary")}
    outs["silu_mul"] = torch.full_like(x[:, :128], torch.nan)
    outs["linear"] = torch.full((7, 7), torch.nan, dtype=dtype, device=device)
    dense.rms_norm(x, weight[0], outs["rms_norm"], residual=None, epsilon=1e-5)
    heads = outs["rotary"].copy_(x).view(7, 4, 64)
    angles = rotary_angles(1000, 64, theta=10_000.0, device=device)
    dense.rotary(heads[:, :3], heads[:, 3:], angles, positions.to(device))
    dense.silu_mul(x, outs["silu_mul"])
    dense.linear(x, x, outs["linear"])

    mean_square = wide.square().mean(-1, keepdim=True)
    expected = {
        "rms_norm": wide / (mean_square + 1e-5).sqrt() * weights.double(),
        "rotary": torch.cat([pairs.real, pairs.imag], dim=-1).flatten(1),
        "silu_mul": gate / (1 + torch.exp(-gate)) * up,
        "linear": wide @ wide.T,
    }
    for name, out in outs.items():
        error = (out.cpu().double() - expected[name]).abs().max() / expected[name].abs().max()
        yield Finding(
            kernel=name,
            format="",
            dtype=_name(dtype),
            error=error.item(),
            allowed=ERROR_ALLOWED[dtype],
        )


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
