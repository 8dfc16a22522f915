"""Chunks behind a context, and calls of chunks and decodes together, which aiconfigurator-core has
not: as FlashAttention-2 would compute them, from what was measured of prompts and decodes."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from itertools import product
from typing import Any

from calibrate.attention_curves import ChunksByArea, Decodes, area_of
from calibrate.curves import Line
from calibrate.device import Device
from calibrate.importers.flash_attention import QUERY_BLOCK, Blocks

_LONG = (2048, 8192)
"""Prompts between which a block's time for a key is taken."""
_BEFORE = (1024, 4096, 16_384, 65_536)
"""Contexts of chunks."""
_NUMBER_BYTES = 2


def model_calls(
    rows: Iterable[Mapping[str, Any]],
    beginnings: Mapping[int, float],
    shape: Mapping[str, int],
    device: Device,
) -> tuple[Blocks, list[dict[str, Any]]]:
    """The kernel's blocks, and rows of chunks behind contexts, and of a whole grid of mixed calls.

    `rows`: prompts and decodes of one KV dtype; `beginnings`: ns by number of prompts, of so few
    tokens each that they take one block of queries and one of keys; `shape`: heads on one GPU.
    """
    prompts: dict[int, float] = {}
    by_batch: dict[int, dict[int, float]] = defaultdict(dict)
    for row in rows:
        if "chunk" in row:
            prompts[row["chunk"]] = row["median_ns"]
        else:
            by_batch[row["batch"]][row["context"]] = row["median_ns"]
    blocks = _find_blocks(ChunksByArea(_line(prompts)), beginnings, shape, device)
    chunks = {
        (chunk, before): blocks.chunk_ns(chunk, before, prompt_ns=prompt_ns)
        for (chunk, prompt_ns), before in product(sorted(prompts.items()), (0, *_BEFORE))
    }
    modelled = [
        _point("prefill", time_ns, chunk=chunk, chunk_context=before)
        for (chunk, before), time_ns in chunks.items()
        if before
    ]
    decodes = Decodes({batch: _line(times) for batch, times in by_batch.items()})
    contexts = sorted({context for times in by_batch.values() for context in times})
    for batch, context in product(sorted(by_batch), contexts):
        line = decodes.row(batch)
        read_ns = _read_ns(line, batch, context)
        for (chunk, before), chunk_ns in chunks.items():
            if chunk > 1:
                whole_ns = blocks.mixed_ns(
                    chunk, batch, context, chunk_ns=chunk_ns, read_ns=read_ns
                )
                axes = {"chunk": chunk, "chunk_context": before, "batch": batch}
                modelled.append(_point("mixed", whole_ns, **axes, context=context))
    return blocks, modelled


def _read_ns(line: Line, batch: int, context: int) -> float:
    """What so many decodes take longer than of one token each: at most at the rate of the longest,
    since shorter ones are limited by other things than memory."""
    longer_ns = line.at(batch * context) - line.at(batch)
    if len(line.nodes) > 1:
        rate = (line.times[-1] - line.times[-2]) / (line.nodes[-1] - line.nodes[-2])
        longer_ns = min(longer_ns, rate * batch * (context - 1))
    return max(0.0, longer_ns)


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


def _point(kind: str, median_ns: float, **axes: int) -> dict[str, Any]:
    told = {"operator": f"attention_{kind}", "median_ns": median_ns, "flags": "modelled"}
    return {**told, **axes}


def _line(times: Mapping[int, float]) -> Line:
    nodes = sorted(times)
    return Line(nodes, [times[node] for node in nodes])
