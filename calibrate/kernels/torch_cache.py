"""What is done to the KV pool beside attention, in pure torch, on any device."""

from __future__ import annotations

import torch
from torch import Tensor

from calibrate.kernels.pool import FORMATS, FP8, FP8_LARGEST, INT8, INT8_LARGEST, KVPool
from calibrate.kernels.rows import send


class TorchCache:
    """face.Cache."""

    def write(self, key: Tensor, value: Tensor, pool: KVPool, layer: int, slots: Tensor) -> None:
        kept = slots >= 0
        if not kept.all():
            key, value, slots = key[kept], value[kept], slots[kept]
        block, offset = slots // pool.block_size, slots % pool.block_size
        targets = ((key, pool.keys, pool.key_scales), (value, pool.values, pool.value_scales))
        for new, numbers, scales in targets:
            quantised, scale = quantise(new, pool.format)
            as_bytes(numbers)[layer, block, offset] = as_bytes(quantised)
            if scales is not None and scale is not None:
                scales[layer, block, offset] = scale

    def copy(self, pool: KVPool, pairs: Tensor) -> None:
        source, target = pairs.to(pool.device).unbind(1)
        for tensor in map(as_bytes, pool.tensors):
            tensor[:, target] = tensor[:, source]

    def swap_out(self, pool: KVPool, host: KVPool, pairs: Tensor) -> None:
        source, targets = send(pairs[:, 0].numpy(), pool.device), pairs[:, 1].tolist()
        for device, pinned in zip(pool.tensors, host.tensors, strict=True):
            # Gathered by block, each lands in one piece of the host's memory.
            gathered = as_bytes(device).transpose(0, 1)[source]
            for block, target in zip(gathered, targets, strict=True):
                as_bytes(pinned)[:, target].copy_(block, non_blocking=True)

    def swap_in(self, host: KVPool, pool: KVPool, pairs: Tensor) -> None:
        sources, target = pairs[:, 0].tolist(), send(pairs[:, 1].numpy(), pool.device)
        for device, pinned in zip(pool.tensors, host.tensors, strict=True):
            bytewise = as_bytes(device)
            layers, _, *rest = bytewise.shape
            arrived = bytewise.new_empty((len(sources), layers, *rest))
            for block, source in zip(arrived, sources, strict=True):
                block.copy_(as_bytes(pinned)[:, source], non_blocking=True)
            bytewise.transpose(0, 1)[target] = arrived

    def dequantise(
        self, pool: KVPool, layer: int, blocks: Tensor, keys: Tensor, values: Tensor
    ) -> None:
        sources = ((pool.keys, pool.key_scales, keys), (pool.values, pool.value_scales, values))
        for numbers, scales, out in sources:
            wide = as_bytes(numbers)[layer][blocks].view(numbers.dtype).float()
            if scales is not None:
                wide *= scales[layer][blocks][..., None]
            out.copy_(wide)


def quantise(x: Tensor, format: str) -> tuple[Tensor, Tensor | None]:
    """x [..., head_size] in the pool's format, and its scales [...] where it keeps some.

    int8: scale = largest |x| / 127, numbers rounded half to even; all zero has scale 0. Where the
    scale is itself next to nothing, and so inexact, numbers are kept within 127.
    """
    if format == INT8:
        wide = x.float()
        scale = wide.abs().amax(-1) / INT8_LARGEST
        numbers = (wide / scale[..., None].where(scale[..., None] > 0, 1.0)).round()
        return numbers.clamp(-INT8_LARGEST, INT8_LARGEST).to(torch.int8), scale
    if format == FP8:
        # Not every torch saturates by itself: older ones make NaN of what is too large.
        return x.float().clamp(-FP8_LARGEST, FP8_LARGEST).to(torch.float8_e4m3fn), None
    return x.to(FORMATS[format]), None


def as_bytes(tensor: Tensor) -> Tensor:
    """fp8 as the bytes that it is, which every torch can index; anything else as it stands."""
    return tensor.view(torch.uint8) if tensor.dtype == torch.float8_e4m3fn else tensor
