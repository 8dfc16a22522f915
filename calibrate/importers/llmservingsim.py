"""LLMServingSim's layer profiles (casys-kaist/LLMServingSim 2.0, MIT; vLLM's layerwise profiler).

A folder has meta.yaml and, for each tensor-parallel size, tpN/ with microseconds of ONE layer
on one GPU: dense.csv, per_sequence.csv, attention.csv(.gz) and maybe skew.csv(.gz).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import yaml

from calibrate.importers.flash_attention import find_at_once
from calibrate.importers.profile_file import find, need, read_csv
from calibrate.importers.profile_skew import read_skew
from calibrate.model import Model
from calibrate.table import Provenance, Table, shape_of
from calibrate.table_curves import decodes_of, only
from calibrate.table_schema import TILE, TableError

_PER_LAYER = {
    "layernorm": 2,
    "qkv_proj": 1,
    "rotary_emb": 1,
    "o_proj": 1,
    "gate_up_proj": 1,
    "act_fn": 1,
    "down_proj": 1,
}
"""Calls in each layer; the norm is the one before attention and the one before the MLP."""
_PER_STEP = ("embedding", "final_layernorm")
_ROWS = {"lm_head": "head", "sampler": "sampling"}
_AXES = ("prefill_chunk", "kv_prefill", "n_decode", "kv_decode")


def import_llmservingsim(path: str | Path, model: Model, *, tensor_parallel_size: int = 1) -> Table:
    """The profile of one model and GPU count.

    Attention was measured on two grids (powers of 2, and of 1.5), each a variant of the mixed
    calls, which take whole grids. The profile has no all-reduce. Raises TableError for a folder
    that is no such profile, is of another model or GPU count, or lacks an operator.
    """
    folder = Path(path)
    meta = _read_meta(find(folder, "meta.yaml"))
    _check_model(folder, meta, model)
    tp = folder / f"tp{tensor_parallel_size}"
    if not tp.is_dir():
        held = ", ".join(sorted(p.name.removeprefix("tp") for p in folder.glob("tp*")))
        raise TableError(
            f"{folder}: found no profile of tensor_parallel_size {tensor_parallel_size};"
            f" allowed: {held or 'none'}"
        )
    dtype = _DTYPES.get(str(meta.get("variant")), str(meta.get("variant")))
    common = {
        "model": model.name,
        **shape_of(model),
        "tp": tensor_parallel_size,
        "dtype": dtype,
        "passes": meta.get("measurement_iterations"),
        "clock": "profiler",
    }
    rows = [
        *_read_dense(tp, model.layers),
        *_read_rows(tp),
        *({**row, "kv_dtype": dtype} for row in _read_attention(tp, model.layers)),
    ]
    told = Provenance(
        source=f"LLMServingSim's profile of {model.name}, vLLM {meta['vllm_version']}",
        device=str(meta["gpu"]),
        licence="MIT (casys-kaist/LLMServingSim)",
        date=str(meta["profiled_at"]) if "profiled_at" in meta else None,
        versions={
            name: str(meta[key])
            for name, key in (("vllm", "vllm_version"), ("cuda", "cuda_version"))
            if key in meta
        },
        settings={"tensor_parallel_size": tensor_parallel_size, "layers_measured": 1},
        notes=("measured in eager mode, kernels alone: without CUDA graphs and launches",),
        tile=TILE,
    )
    table = Table.of_rows(({**common, **row} for row in rows), name=str(folder), provenance=told)
    at_once = find_at_once(told.device, max(1, model.kv_heads // tensor_parallel_size))
    skew, tail = read_skew(tp, decodes_of(only(table, "attention_decode")), at_once=at_once)
    return replace(table, provenance=replace(told, skew=skew, tail=tail))


_DTYPES = {"bf16": "bfloat16", "fp16": "float16"}


def _read_meta(path: Path) -> dict[str, Any]:
    try:
        meta = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise TableError(f"{path}: cannot be read as YAML ({error})") from None
    for key in ("model", "gpu", "vllm_version", "variant"):
        if not isinstance(meta, dict) or key not in meta:
            raise TableError(f"{path}: found no key {key}; allowed: LLMServingSim's meta.yaml")
    passes = meta.get("measurement_iterations")
    if not isinstance(passes, int | None):
        raise TableError(
            f"{path}: found measurement_iterations {passes!r}; allowed: a whole number"
        )
    return dict(meta)


def _check_model(folder: Path, meta: dict[str, Any], model: Model) -> None:
    """The profile says the model's name, not its shape."""
    measured = str(meta["model"]).rpartition("/")[2]
    if measured.casefold().removeprefix("meta-") != model.name.casefold().removeprefix("meta-"):
        raise TableError(
            f"{folder}: found a profile of {measured}; allowed: model {measured}, or a profile of"
            f" {model.name}"
        )


def _read_dense(folder: Path, layers: int) -> Iterator[dict[str, object]]:
    path = find(folder, "dense.csv", "dense.csv.gz")
    frame = read_csv(path, ("time_us",), whole=("tokens",))
    need(frame, path, ("layer",))
    for name, calls in {**_PER_LAYER, **dict.fromkeys(_PER_STEP, 0)}.items():
        points = frame[frame["layer"] == name]
        if points.empty:
            raise TableError(f"{path}: found no rows of {name}; allowed: every layer's")
        for tokens, time_us in zip(points["tokens"], points["time_us"], strict=True):
            yield {
                "operator": "linear",
                "variant": name,
                "tokens": int(tokens),
                "calls": calls * layers or 1,
                "median_ns": time_us * 1e3,
            }


def _read_rows(folder: Path) -> Iterator[dict[str, object]]:
    path = find(folder, "per_sequence.csv", "per_sequence.csv.gz")
    frame = read_csv(path, ("time_us",), whole=("sequences",))
    need(frame, path, ("layer",))
    for name, operator in _ROWS.items():
        points = frame[frame["layer"] == name]
        if points.empty:
            raise TableError(f"{path}: found no rows of {name}; allowed: lm_head and sampler")
        for sequences, time_us in zip(points["sequences"], points["time_us"], strict=True):
            yield {
                "operator": operator,
                "variant": name,
                "rows": int(sequences),
                "calls": 1,
                "median_ns": time_us * 1e3,
            }


def _read_attention(folder: Path, layers: int) -> Iterator[dict[str, object]]:
    path = find(folder, "attention.csv", "attention.csv.gz")
    frame = read_csv(path, ("time_us",), whole=_AXES)
    for *point, time_us in frame[[*_AXES, "time_us"]].itertuples(index=False):
        chunk, before, batch, context = map(int, point)
        axes: dict[str, object] = {}
        if chunk:
            axes |= {"chunk": chunk, "chunk_context": before}
        if batch:
            axes |= {"batch": batch, "context": context}
        kind = "mixed" if chunk and batch else "prefill" if chunk else "decode"
        between = kind == "mixed" and any(v & (v - 1) for v in (chunk, before, context))
        yield {
            "operator": f"attention_{kind}",
            "variant": "attention, between" if between else "attention",
            **axes,
            "calls": layers,
            "median_ns": time_us * 1e3,
        }
