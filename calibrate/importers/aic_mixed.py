"""Calls of chunks and decodes together, which aiconfigurator-core has not: as FlashAttention-2
would compute them, from what was measured of both alone."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import product
from typing import Any

from calibrate.attention_curves import ChunksByArea, Decodes, area_of
from calibrate.curves import Line
from calibrate.device import Device
from calibrate.importers.flash_attention import QUERY_BLOCK, Blocks

_LONG = (2048, 8192)
"""Prompts between which a block's time for a key is taken."""
_BEFORE = (0, 1024, 4096, 16_384)
"""Contexts of the chunks."""
_NUMBER_BYTES = 2


def model_mixed(
    rows: Iterable[Mapping[str, Any]],
    beginnings: Sequence[tuple[int, float]],
    shape: Mapping[str, int],
    device: Device,
) -> tuple[Blocks, list[dict[str, Any]]]:
    """The kernel's blocks, and rows of a whole grid of mixed calls.

    `rows`: prompts and decodes of one KV dtype; `beginnings`: (prompts, ns) of so few tokens each
    that they take one block of queries and one of keys; `shape`: heads on one GPU.
    """
    prompts, by_batch = {}, defaultdict[int, dict[int, float]](dict)
    for row in rows:
        if "chunk" in row:
            prompts[row["chunk"]] = row["median_ns"]
        else:
            by_batch[row["batch"]][row["context"]] = row["median_ns"]
    chunks = ChunksByArea(_line(prompts))
    decodes = Decodes({batch: _line(times) for batch, times in by_batch.items()})
    blocks = _find_blocks(chunks, dict(beginnings), shape, device)
    sizes = [chunk for chunk in prompts if chunk > 1]
    contexts = sorted({context for times in by_batch.values() for context in times})
    grid = product(sorted(sizes), _BEFORE, sorted(by_batch), contexts)
    return blocks, list(_list_points(blocks, chunks, decodes, grid))


def _find_blocks(
    chunks: ChunksByArea, begin: Mapping[int, float], shape: Mapping[str, int], device: Device
) -> Blocks:
    heads, kv_heads = shape["num_heads"], shape["num_key_value_heads"]
    room = device.multiprocessors
    short, long = _LONG
    grown_ns = chunks.one(long, 0) - chunks.one(short, 0)
    key_ns = grown_ns / (area_of(long, 0) - area_of(short, 0)) * QUERY_BLOCK
    least = min(begin)
    return Blocks(
        room=room,
        heads=heads,
        kv_heads=kv_heads,
        cached_tokens=device.l2_bytes / (2 * _NUMBER_BYTES * shape["head_dim"]),
        token_ns=key_ns * room / heads,
        least_ns=begin[least],
        begin=_line({n: max(0.0, ns - begin[least]) for n, ns in begin.items()}),
    )


def _list_points(
    blocks: Blocks,
    chunks: ChunksByArea,
    decodes: Decodes,
    grid: Iterable[tuple[int, int, int, int]],
) -> Iterator[dict[str, Any]]:
    for chunk, before, batch, context in grid:
        row = decodes.row(batch)
        read_ns = max(0.0, row.at(batch * context) - row.at(batch))
        whole_ns = blocks.mixed_ns(
            chunk, batch, context, chunk_ns=chunks.one(chunk, before), read_ns=read_ns
        )
        yield {
            "operator": "attention_mixed",
            "chunk": chunk,
            "chunk_context": before,
            "batch": batch,
            "context": context,
            "median_ns": whole_ns,
            "flags": "modelled",
        }


def _line(times: Mapping[int, float]) -> Line:
    nodes = sorted(times)
    return Line(nodes, [times[node] for node in nodes])
