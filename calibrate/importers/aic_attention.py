"""Attention as aiconfigurator-core measured it: whole prompts, and decodes of equal contexts."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from calibrate.device import Device
from calibrate.importers.aic_mixed import model_calls
from calibrate.importers.aic_wheel import read_points
from calibrate.importers.flash_attention import Blocks
from calibrate.model import Model
from calibrate.table_schema import TableError

KV_DTYPES = ("bfloat16", "fp8")
_FA2 = "vllm_flash_attn_fa2"
_NEEDED = {"attention_prefill", "attention_decode"}
"""Without both of a KV dtype there is nothing to model from; the table tells who asks for it."""
_SURELY_COLD = 2
"""Times L2 that keys and values must take so that none of them are left in it."""


class Attention(NamedTuple):
    rows: list[dict[str, Any]]
    warm: int
    """Decodes of them whose keys and values had been in L2."""
    blocks: tuple[str, Blocks] | None = None
    """FlashAttention-2's, and the KV dtype it was measured with."""


def read_attention(
    folder: Path, model: Model, tp: int, device: Device, *, modelled: bool = True
) -> Attention:
    """Of a model's shape on one GPU; and `modelled` from that, where the kernel is
    FlashAttention-2, chunks behind a context, alone and beside decodes. Raises TableError for what
    is missing."""
    shape = {
        "num_heads": model.heads // tp,
        "num_key_value_heads": -(-model.kv_heads // tp),
        "head_dim": model.key_size,
    }
    common = {"variant": "attention", "calls": model.layers}
    context = _read(folder / "context_attention_perf.parquet", shape)
    whole = context[(context["batch_size"] == 1) & (context["step"] == 0)]
    prompts = [
        {"operator": "attention_prefill", **common, **point, "chunk": chunk, "chunk_context": 0}
        for point, chunk, _ in _list_points(whole, "isl")
    ]
    generation = _read(folder / "generation_attention_perf.parquet", shape)
    decodes = [
        {"operator": "attention_decode", **common, **point, "batch": batch, "context": step + 1}
        for point, batch, step in _list_points(generation, "batch_size")
    ]
    numbers = 2 * shape["num_key_value_heads"] * shape["head_dim"]
    token_bytes = {"bfloat16": 2 * numbers, "fp8": numbers}
    cold, warm = cool(decodes, l2_bytes=device.l2_bytes, token_bytes=token_bytes)
    rows = [*prompts, *cold]
    cache = _find_fa2(context) if modelled else None
    known = [row for row in rows if row["kv_dtype"] == cache]
    if cache is None or {row["operator"] for row in known} != _NEEDED:
        return Attention(rows, warm)
    own = context[(context["kv_cache_dtype"] == cache) & (context["step"] == 0)]
    several = own[own["isl"] > 1]
    if several.empty:
        raise TableError(f"{folder}: found no prompts of several tokens, kv_cache_dtype {cache}")
    least = several[several["isl"] == several["isl"].min()]
    beginnings = 1e6 * least.groupby("batch_size")["latency"].median()
    blocks, calls = model_calls(known, dict(beginnings), shape, device)
    rows += ({**common, "kv_dtype": cache, **point} for point in calls)
    return Attention(rows, warm, (cache, blocks))


def _read(path: Path, shape: Mapping[str, int]) -> Any:
    axes = ("batch_size", "isl", "step", "kv_cache_dtype", *shape)
    frame = read_points(path, axes, **shape, window_size=0, beam_width=1)
    return frame[frame["kv_cache_dtype"].isin(KV_DTYPES)]


def _list_points(frame: Any, outer: str) -> Iterator[tuple[dict[str, Any], int, int]]:
    """(what a row says of it, the outer axis, tokens before it)."""
    medians = frame.groupby(["kv_cache_dtype", outer, "step"])["latency"].median()
    for (cache, size, step), latency_ms in medians.items():
        yield {"kv_dtype": cache, "median_ns": latency_ms * 1e6}, int(size), int(step)


def _find_fa2(context: Any) -> str | None:
    """The KV dtype for which FlashAttention-2 alone was measured."""
    if "kernel_source" not in context.columns:
        return None
    kernels = context.groupby("kv_cache_dtype")["kernel_source"].unique()
    return next((cache for cache, names in kernels.items() if [*names] == [_FA2]), None)


def cool(
    points: Iterable[dict[str, Any]], *, l2_bytes: int, token_bytes: Mapping[str, int]
) -> tuple[list[dict[str, Any]], int]:
    """Decodes as in a step, where weights and other layers pass through L2 in between, while these
    were measured over and over on the same keys and values; and how many of them differ.

    Those of a batch that take less than twice L2 cost what the straight line through the two
    smallest larger ones says, if that is more; but no more beyond what was measured than reading
    all of their keys and values takes at that line's rate. `token_bytes`: of one token in one
    layer, by KV dtype. A batch without two larger points stays as it is.
    """
    batches: dict[tuple[str, int], list[dict[str, Any]]] = defaultdict(list)
    for point in points:
        batches[point["kv_dtype"], point["batch"]].append(point)
    cooled: list[dict[str, Any]] = []
    warm = 0
    for (cache, batch), line in batches.items():
        line.sort(key=lambda point: int(point["context"]))
        least = _SURELY_COLD * l2_bytes / (batch * token_bytes[cache])
        cold = [point for point in line if point["context"] >= least][:2]
        for point in line:
            if len(cold) == 2 and point["context"] < least:
                near, far = cold
                rate = (far["median_ns"] - near["median_ns"]) / (far["context"] - near["context"])
                line_ns = near["median_ns"] - rate * (near["context"] - point["context"])
                cold_ns = min(line_ns, point["median_ns"] + rate * point["context"])
                if cold_ns > point["median_ns"]:
                    cooled.append({**point, "median_ns": cold_ns, "flags": "l2_warm"})
                    warm += 1
                    continue
            cooled.append(point)
    return cooled, warm
