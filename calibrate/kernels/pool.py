"""A paged KV pool as tensors, and the formats that its numbers are kept in."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Self

import torch
from torch import Tensor

from calibrate.kernels.errors import KernelError

INT8 = "int8_per_token_head"
FP8 = "fp8_e4m3"
FORMATS: dict[str, torch.dtype] = {
    "float32": torch.float32,
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
    FP8: torch.float8_e4m3fn,
    INT8: torch.int8,
}
"""vLLM's names of what K and V may be kept in; float32 is ours, for CPUs."""
FP8_LARGEST = 448.0
INT8_LARGEST = 127


_Make = Callable[[tuple[int, ...], torch.dtype], Tensor]


@dataclass(frozen=True, slots=True, kw_only=True)
class KVPool:
    """Keys and values of every layer, in blocks; the frozen part is which tensors, not what's in.

    A slot is a token's place: block * block_size + offset within the block. int8 keeps one
    fp32 scale per (token, KV head) for K and one for V, written once with the token: the
    number is `scale * int8`. fp8 keeps none: numbers beyond +-448 saturate, as in vLLM with
    its default scale of 1.
    """

    format: str
    keys: Tensor
    """[layers, blocks, block_size, kv_heads, head_size]; so are the values."""
    values: Tensor
    key_scales: Tensor | None
    """[layers, blocks, block_size, kv_heads] in fp32; None for formats without scales."""
    value_scales: Tensor | None

    @classmethod
    def empty(
        cls,
        format: str,
        *,
        layers: int,
        blocks: int,
        block_size: int,
        kv_heads: int,
        head_size: int,
        device: torch.device | str = "cpu",
    ) -> Self:
        """A pool whose content is whatever memory held. Raises KernelError for unknown formats."""
        shape = (layers, blocks, block_size, kv_heads, head_size)

        def make(of: tuple[int, ...], dtype: torch.dtype) -> Tensor:
            return torch.empty(of, dtype=dtype, device=device)

        return cls._of(format, make, shape)

    def to(self, device: torch.device | str) -> KVPool:
        """A copy on another device; itself where it is there already."""
        keys, values, *scales = (tensor.to(device) for tensor in self.tensors)
        key_scales, value_scales = scales or (None, None)
        return replace(
            self, keys=keys, values=values, key_scales=key_scales, value_scales=value_scales
        )

    def on_host(self, blocks: int) -> KVPool:
        """A pool of so many blocks to swap to: in host memory, pinned where this is on CUDA.

        Its shape is that of the device's pool, its memory is ordered by blocks, so that a
        block with all its layers is one piece to copy.
        """
        pinned = self.keys.is_cuda

        def make(of: tuple[int, ...], dtype: torch.dtype) -> Tensor:
            by_block = (of[1], of[0], *of[2:])
            return torch.empty(by_block, dtype=dtype, pin_memory=pinned).transpose(0, 1)

        layers, _, *rest = self.keys.shape
        return self._of(self.format, make, (layers, blocks, *rest))

    @classmethod
    def _of(cls, format: str, make: _Make, shape: tuple[int, ...]) -> Self:
        dtype = FORMATS.get(format)
        if dtype is None:
            raise KernelError(f"unknown KV format {format!r}; known: {', '.join(FORMATS)}")
        scaled = format == INT8
        return cls(
            format=format,
            keys=make(shape, dtype),
            values=make(shape, dtype),
            key_scales=make(shape[:-1], torch.float32) if scaled else None,
            value_scales=make(shape[:-1], torch.float32) if scaled else None,
        )

    @property
    def layers(self) -> int:
        return self.keys.shape[0]

    @property
    def blocks(self) -> int:
        return self.keys.shape[1]

    @property
    def block_size(self) -> int:
        return self.keys.shape[2]

    @property
    def kv_heads(self) -> int:
        return self.keys.shape[3]

    @property
    def head_size(self) -> int:
        return self.keys.shape[4]

    @property
    def device(self) -> torch.device:
        return self.keys.device

    @property
    def tensors(self) -> tuple[Tensor, ...]:
        """All that a block consists of: keys, values and, where there are, their scales."""
        if self.key_scales is None or self.value_scales is None:
            return (self.keys, self.values)
        return (self.keys, self.values, self.key_scales, self.value_scales)

    @property
    def bytes_per_token(self) -> int:
        """Of all layers together, scales included."""
        slots = self.blocks * self.block_size
        return sum(tensor.numel() * tensor.element_size() for tensor in self.tensors) // slots
