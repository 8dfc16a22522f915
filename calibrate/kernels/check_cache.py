"""What a provider does to the KV pool, held to pure torch on the CPU: byte by byte where bytes
are moved, to fp64 where numbers are made of them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from functools import partial

import torch
from torch import Tensor

from calibrate.kernels.cases import ERROR_ALLOWED, LAYER, poisoned
from calibrate.kernels.face import Cache
from calibrate.kernels.finding import Asked
from calibrate.kernels.pool import FORMATS, INT8, KVPool
from calibrate.kernels.torch_cache import TorchCache, as_bytes

_BLOCKS = 6
_PAIRS = [(0, 3), (2, 1)]


def cache_checks(
    cache: Cache, device: torch.device | str, formats: Iterable[str]
) -> Iterator[Asked]:
    for format in formats:
        for kernel, run in (("write", _write), ("copy", _copy), ("swap", _swap)):
            dtype = "bfloat16" if kernel == "write" else ""
            yield Asked(kernel, format, dtype, 0.0, partial(run, cache, format, device))
        wide = partial(_dequantise, cache, format, device)
        yield Asked("dequantise", format, "float32", ERROR_ALLOWED[torch.float32], wide)


def _write(cache: Cache, format: str, device: torch.device | str) -> float:
    """The numbers are exact in the format, or int8's are rounded: how floats are rounded is the
    device's business."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(2, 5, 2, 128, generator=generator).to(torch.bfloat16)
    if FORMATS[format].is_floating_point:
        x = x.to(FORMATS[format]).to(torch.bfloat16)
    slots = torch.tensor([3, 17, -1, 40, 8])

    def written(by: Cache, where: torch.device | str) -> KVPool:
        pool = poisoned(format, blocks=_BLOCKS, block_size=16, kv_heads=2, head_size=128).to(where)
        key, value = x.to(where)
        by.write(key, value, pool, LAYER, slots.to(where))
        return pool

    return _differ(written(cache, device), written(TorchCache(), "cpu"))


def _copy(cache: Cache, format: str, device: torch.device | str) -> float:
    pool = _random_pool(format).to(device)
    cache.copy(pool, torch.tensor(_PAIRS, device=device))
    return _differ(pool, _moved(format))


def _swap(cache: Cache, format: str, device: torch.device | str) -> float:
    """Out to a pool of the host, and back into other blocks."""
    pool = _random_pool(format).to(device)
    host = pool.on_host(len(_PAIRS))
    out = [(source, place) for place, (source, _) in enumerate(_PAIRS)]
    back = [(place, target) for place, (_, target) in enumerate(_PAIRS)]
    cache.swap_out(pool, host, torch.tensor(out))
    cache.swap_in(host, pool, torch.tensor(back))
    return _differ(pool, _moved(format))


def _dequantise(cache: Cache, format: str, device: torch.device | str) -> float:
    """Relative to the largest number."""
    pool = _random_pool(format)
    blocks = torch.tensor([4, 0, 3])
    shape = (len(blocks), *pool.keys.shape[2:])
    outs = [torch.full(shape, torch.nan, device=device) for _ in range(2)]
    cache.dequantise(pool.to(device), LAYER, blocks.to(device), *outs)
    kept = ((pool.keys, pool.key_scales), (pool.values, pool.value_scales))
    errors = []
    for out, (numbers, scales) in zip(outs, kept, strict=True):
        expected = as_bytes(numbers)[LAYER][blocks].view(numbers.dtype).float().double()
        if scales is not None:
            expected = expected * scales[LAYER][blocks].double()[..., None]
        errors.append((out.cpu().double() - expected).abs().max() / expected.abs().max())
    # torch's maximum is not a number where one of them is none.
    return torch.stack(errors).max().item()


def _random_pool(format: str) -> KVPool:
    """Of two layers, the same each time."""
    generator = torch.Generator().manual_seed(0)
    pool = poisoned(format, blocks=_BLOCKS, block_size=16, kv_heads=2, head_size=128)
    for tensor in pool.tensors:
        numbers = torch.randn(tensor.shape, generator=generator)
        if format == INT8 and tensor.dtype == torch.int8:
            numbers = (45 * numbers).clamp(-127, 127)
        as_bytes(tensor).copy_(as_bytes(numbers.to(tensor.dtype)))
    return pool


def _moved(format: str) -> KVPool:
    """That pool when its blocks are copied, pair by pair."""
    pool = _random_pool(format)
    for tensor in map(as_bytes, pool.tensors):
        for source, target in _PAIRS:
            tensor[:, target] = tensor[:, source]
    return pool


def _differ(found: KVPool, expected: KVPool) -> float:
    """The largest share of bytes of one tensor that are not the same."""
    pairs = zip(map(_bytes_of, found.tensors), map(_bytes_of, expected.tensors), strict=True)
    return max((a != b).double().mean().item() for a, b in pairs)


def _bytes_of(tensor: Tensor) -> Tensor:
    return as_bytes(tensor).cpu().contiguous().view(torch.uint8)
