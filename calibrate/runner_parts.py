"""What a runner is made of, by the names that a config has for it: device, kernels, model, pool.

Needs the standard library and torch only.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import torch

from calibrate.kernels.errors import KernelError
from calibrate.kernels.face import Kernels
from calibrate.kernels.pool import FORMATS, KVPool
from calibrate.kernels.providers import load_kernels
from calibrate.llama import Llama
from calibrate.llama_shape import LlamaShape

_MEMINFO = Path("/proc/meminfo")
_CGROUP = Path("/sys/fs/cgroup")


def find_device(name: str) -> torch.device:
    """cpu, cuda or cuda:1. Raises KernelError for what torch does not see."""
    device = torch.device(name)
    seen = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if device.type == "cuda" and (device.index or 0) >= seen:
        known = ", ".join(["cpu", *(f"cuda:{index}" for index in range(seen))])
        raise KernelError(
            f"found device {name}, which torch {torch.__version__} does not see; allowed: {known}"
        )
    return device


def name_device(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else "the CPU"


def say_clock(device: torch.device) -> str:
    """What a runner's nanoseconds are there, in words."""
    return "wall time" if device.type == "cuda" else "CPU time of one thread"


def find_kernels(provider: str) -> Kernels:
    """A provider's kernels, and torch's for what it has none for; the name says so. Raises
    MissingProvider."""
    kernels, plain = load_kernels(provider), load_kernels("torch")
    if kernels.cache is not None and kernels.dense is not None:
        return kernels
    return replace(
        kernels,
        name=f"{kernels.name} and torch",
        cache=kernels.cache or plain.cache,
        dense=kernels.dense or plain.dense,
    )


def draw_llama(
    shape: LlamaShape, *, dtype: str, device: torch.device, positions: int, seed: int
) -> Llama:
    """A model with random weights. Raises KernelError where memory does not hold it."""
    of = FORMATS[dtype]
    check_room(
        shape.parameters * of.itemsize,
        device,
        what=f"the weights of {shape.name} in {dtype}",
    )
    return Llama(shape, dtype=of, device=device, positions=positions, seed=seed)


def empty_pool(
    model: Llama, format: str, *, blocks: int, block_size: int, replicas: int = 1
) -> KVPool:
    """A pool for this model. Raises KernelError for a format that kernels do not have, and where
    memory does not hold so many of them."""
    if format not in FORMATS:
        known = ", ".join(FORMATS)
        raise KernelError(f"found a KV cache of {format}; kernels have {known}")
    shape = model.shape

    def make(blocks: int) -> KVPool:
        return KVPool.empty(
            format,
            layers=shape.layers,
            blocks=blocks,
            block_size=block_size,
            kv_heads=shape.kv_heads,
            head_size=shape.head_size,
            device=model.device,
        )

    check_room(
        make(1).bytes_per_token * blocks * block_size * replicas,
        model.device,
        what=f"{blocks * replicas:,} KV blocks of {block_size} tokens in {format}",
    )
    return make(blocks)


def host_pool(pool: KVPool, blocks: int, *, replicas: int = 1) -> KVPool:
    """A pool in host memory to swap to. Raises KernelError where memory does not hold so many of
    them."""
    check_room(
        pool.bytes_per_token * pool.block_size * blocks * replicas,
        torch.device("cpu"),
        what=f"{blocks * replicas:,} KV blocks of host memory",
    )
    return pool.on_host(blocks)


def check_room(needed_bytes: int, device: torch.device, *, what: str) -> None:
    """Raise KernelError where a device's free memory does not hold so many bytes."""
    free = _free_bytes(device)
    if free is not None and needed_bytes > free:
        raise KernelError(
            f"{what} take {needed_bytes / 2**30:.2f} GiB, of which {device} has"
            f" {free / 2**30:.2f} GiB free"
        )


def _free_bytes(device: torch.device) -> int | None:
    """None where the system does not say."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    free = [_left_in_group(), _available()]
    return min((count for count in free if count is not None), default=None)


def _available() -> int | None:
    """Bytes that the machine can give without swapping."""
    if not _MEMINFO.exists():
        return None
    lines = _MEMINFO.read_text(encoding="ascii").splitlines()
    told = dict(line.split(":", 1) for line in lines).get("MemAvailable")
    return None if told is None else int(told.split()[0]) * 1024


def _left_in_group() -> int | None:
    """Bytes that a container may still take; None where it has no limit."""
    limit, used = (_CGROUP / name for name in ("memory.max", "memory.current"))
    if not (limit.exists() and used.exists()):
        return None
    told = limit.read_text(encoding="ascii").strip()
    return None if told == "max" else int(told) - int(used.read_text(encoding="ascii"))
