"""What FlashAttention-2 does that a table of its times does not say (Dao-AILab/flash-attention 2.x,
csrc/flash_attn; vLLM's attention on GPUs other than Hopper and data-centre Blackwell)."""

from __future__ import annotations

from math import ceil

from calibrate.device import DeviceError, load_device

QUERY_BLOCK = 64
"""Queries that its kernel for a paged cache computes at a time (kBlockM in flash_api.cpp). In a
call with chunks a decode's single query takes a whole block, for every head; by themselves decodes
take the queries of a KV head's group together."""


def find_splits_to(gpu: str, kv_heads: int) -> int | None:
    """The largest batch of decodes that it splits; None for an unknown GPU.

    It shares a sequence's keys out among blocks while sequences x KV heads are fewer than 0.8 x
    2 x multiprocessors (`num_splits_heuristic`). Whole sequences leave multiprocessors idle while
    the longest one runs. Nothing is split in a call with chunks.
    """
    try:
        multiprocessors = load_device(gpu).multiprocessors
    except DeviceError:
        return None
    return ceil(1.6 * multiprocessors / kv_heads) - 1
