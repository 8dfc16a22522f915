"""What is done to the KV pool beside attention, in Triton; swaps are torch's copies."""

from __future__ import annotations

import torch
import triton
from torch import Tensor

from calibrate.kernels.device.cache import copy_kernel, dequantise_kernel, write_kernel
from calibrate.kernels.face import Unsupported
from calibrate.kernels.pool import FP8, INT8, KVPool
from calibrate.kernels.torch_cache import TorchCache
from calibrate.kernels.triton_launch import FUSED, check_device, padded

_FORMATS = {INT8: "int8", FP8: "fp8"}
_PIECE_WORDS = 1024
_WORD_BYTES = 4


class TritonCache(TorchCache):
    """face.Cache, for contiguous pools on CUDA."""

    def write(self, key: Tensor, value: Tensor, pool: KVPool, layer: int, slots: Tensor) -> None:
        check_device(pool)
        if not len(slots):
            return
        write_kernel[(len(slots),)](
            *(key, value, pool.keys[layer], pool.values[layer]),
            *(slots if scales is None else scales[layer] for scales in _scales(pool)),
            *(slots, key.stride(0), value.stride(0)),
            HEADS=pool.kv_heads,
            HEADS_PADDED=triton.next_power_of_2(pool.kv_heads),
            HEAD_SIZE=pool.head_size,
            HEAD_PADDED=padded(pool.head_size),
            FORMAT=_FORMATS.get(pool.format, "plain"),
            **FUSED,
        )

    def copy(self, pool: KVPool, pairs: Tensor) -> None:
        check_device(pool)
        if pool.head_size * pool.keys.element_size() % _WORD_BYTES:
            raise Unsupported(f"a head of {pool.head_size} numbers is no multiple of 4 bytes")
        if not len(pairs):
            return
        for tensor in pool.tensors:
            words = tensor.view(torch.int32)
            size = words[0, 0].numel()
            copy_kernel[(len(pairs), pool.layers, triton.cdiv(size, _PIECE_WORDS))](
                *(words, pairs.to(pool.device), words.stride(0)),
                WORDS=size,
                PIECE=_PIECE_WORDS,
            )

    def dequantise(
        self, pool: KVPool, layer: int, blocks: Tensor, keys: Tensor, values: Tensor
    ) -> None:
        check_device(pool)
        if not len(blocks):
            return
        slices = pool.block_size * pool.kv_heads
        sources = (pool.keys, keys), (pool.values, values)
        for (numbers, out), scales in zip(sources, _scales(pool), strict=True):
            dequantise_kernel[(len(blocks), triton.cdiv(slices, 32))](
                numbers[layer],
                blocks if scales is None else scales[layer],
                *(blocks, out),
                SLICES=slices,
                HEAD_SIZE=pool.head_size,
                HEAD_PADDED=padded(pool.head_size),
                PIECE=32,
                SCALED=scales is not None,
                **FUSED,
            )


def _scales(pool: KVPool) -> tuple[Tensor | None, Tensor | None]:
    return pool.key_scales, pool.value_scales
