"""What FlashAttention-2 does that a table of its times does not say (Dao-AILab/flash-attention 2.x,
csrc/flash_attn; vLLM's attention on GPUs other than Hopper and data-centre Blackwell)."""

from __future__ import annotations

from calibrate.device import DeviceError, load_device

QUERY_BLOCK = 64
"""Queries that its kernel for a paged cache computes at a time (kBlockM in flash_api.cpp). In a
call with chunks a decode's single query takes a whole block, for every head; by themselves decodes
take the queries of a KV head's group together."""

_OTHER_KERNELS = ("H100", "H200", "B200")


def find_at_once(gpu: str, kv_heads: int) -> float | None:
    """How many sequences it has room for at once: two blocks on each multiprocessor, one for each
    KV head of a sequence (as its `num_splits_heuristic` counts). None for an unknown GPU, and for
    those on which vLLM takes other kernels."""
    try:
        device = load_device(gpu)
    except DeviceError:
        return None
    return None if device.name in _OTHER_KERNELS else 2 * device.multiprocessors / kv_heads
