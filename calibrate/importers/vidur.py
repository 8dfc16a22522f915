"""Vidur's profiling CSVs (microsoft/vidur, MIT; data/profiling/compute/<device>/<model>).

mlp.csv by num_tokens and attention.csv by batch, chunk and KV cache size, both with the
statistics `time_stats.<operator>.median` in milliseconds of one layer's call; all_reduce.csv
of data/profiling/network, by bytes, if it lies beside them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from calibrate.importers.profile_file import find, read_csv
from calibrate.link import all_reduces, token_bytes
from calibrate.model import Model
from calibrate.table import Provenance, Table, shape_of
from calibrate.table_schema import TableError

_PER_LAYER = (
    "input_layernorm",
    "attn_pre_proj",
    "attn_rope",
    "attn_post_proj",
    "post_attention_layernorm",
    "mlp_up_proj",
    "mlp_act",
    "mlp_down_proj",
    "add",
)
_MAY_LACK = ("input_layernorm", "post_attention_layernorm", "add", "emb")
"""Models with one norm a layer have no second one; Vidur counts the missing as 0, too."""


def import_vidur(path: str | Path, model: Model, *, tensor_parallel_size: int = 1) -> Table:
    """The profile of one model and GPU count. Rows of one point are reduced to their median.

    Vidur measured no output head and no sampling. Raises TableError where the files are
    missing, lack a column, or hold another model or GPU count.
    """
    folder, tp = Path(path), tensor_parallel_size
    notes: Counter[str] = Counter()
    common = {"model": model.name, **shape_of(model), "tp": tp, "dtype": "float16"}
    rows = [
        *_read_mlp(find(folder, "mlp.csv"), model, tp),
        *_read_attention(find(folder, "attention.csv"), model, tp, notes),
        *_read_allreduce(folder / "all_reduce.csv", model, tp),
    ]
    device = folder.resolve().parts[-3] if len(folder.resolve().parts) > 2 else "unknown"
    told = Provenance(
        source=f"Vidur's profile of {model.name}",
        device=device,
        licence="MIT (microsoft/vidur)",
        settings={"folder": "/".join(folder.parts[-3:])},
        notes=tuple(f"{what}: {count:,}" for what, count in notes.items()),
    )
    return Table.of_rows(({**common, **row} for row in rows), name=str(folder), provenance=told)


def _time(operator: str) -> str:
    return f"time_stats.{operator}.median"


def _medians(frame: Any, path: Path, by: Any, operator: str) -> Any:
    """Milliseconds at each point; rows without a time have no part. Raises TableError."""
    times = frame[_time(operator)]
    if times.dtype.kind not in "fiu":
        raise TableError(f"{path}: found words in column {_time(operator)}; allowed: numbers")
    return times.groupby(by).median().dropna()


def _only(frame: Any, path: Path, **wanted: object) -> Any:
    """The rows of one model and GPU count. Raises TableError, with what the file holds."""
    for column, value in wanted.items():
        held = sorted(set(frame[column].tolist()))
        frame = frame[frame[column] == value]
        if frame.empty:
            said = ", ".join(f"{found:g}" for found in held)
            raise TableError(f"{path}: found no rows of {column} {value}; allowed: {said}")
    return frame


def _read_mlp(path: Path, model: Model, tp: int) -> Iterator[dict[str, object]]:
    keys = ("num_tokens", "num_tensor_parallel_workers", "n_head", "n_kv_head", "n_embd")
    needed = tuple(_time(name) for name in _PER_LAYER if name not in _MAY_LACK)
    frame = read_csv(path, needed, whole=(*keys, "n_expanded_embd", "vocab_size"))
    frame = _only(
        frame,
        path,
        n_embd=model.hidden_size,
        n_head=model.heads,
        n_kv_head=model.kv_heads,
        n_expanded_embd=model.dense.mlp_size,
        num_tensor_parallel_workers=tp,
    )
    for operator in (*_PER_LAYER, "emb"):
        if operator in _MAY_LACK and _time(operator) not in frame.columns:
            continue
        times = _medians(frame, path, frame["num_tokens"], operator)
        for tokens, time_ms in times.items():
            yield {
                "operator": "linear",
                "variant": operator,
                "tokens": int(tokens),
                "calls": 1 if operator == "emb" else model.layers,
                "median_ns": time_ms * 1e6,
            }


def _read_attention(
    path: Path, model: Model, tp: int, notes: Counter[str]
) -> Iterator[dict[str, object]]:
    axes = ("batch_size", "prefill_chunk_size", "kv_cache_size")
    keys = ("n_embd", "n_q_head", "n_kv_head", "num_tensor_parallel_workers", *axes)
    frame = read_csv(path, (), whole=keys)
    frame = _only(
        frame,
        path,
        n_embd=model.hidden_size,
        n_q_head=model.heads,
        n_kv_head=model.kv_heads,
        num_tensor_parallel_workers=tp,
    )
    if "block_size" in frame.columns and frame["block_size"].nunique() > 1:
        size = frame["block_size"].mode().iloc[0]
        notes[f"points of other block sizes than {size} dropped"] += int(
            (frame["block_size"] != size).sum()
        )
        frame = frame[frame["block_size"] == size]
    chunks = frame["prefill_chunk_size"] > 0
    several = chunks & (frame["batch_size"] > 1)
    empty = ~chunks & (frame["kv_cache_size"] < 1)
    for what, dropped in (("prefills of several prompts", several), ("decodes of none", empty)):
        if dropped.any():
            notes[f"{what} dropped"] += int(dropped.sum())
    frame = frame[~several & ~empty]
    for operator, column, names in (
        ("attention_prefill", "attn_prefill", ("chunk", "chunk_context")),
        ("attention_decode", "attn_decode", ("batch", "context")),
    ):
        prefill = operator == "attention_prefill"
        if _time(column) not in frame.columns:
            raise TableError(f"{path}: found no column {_time(column)}")
        kind = frame[(frame["prefill_chunk_size"] > 0) == prefill]
        outer = "prefill_chunk_size" if prefill else "batch_size"
        times = _medians(kind, path, [kind[outer], kind["kv_cache_size"]], column)
        for point, time_ms in times.items():
            yield {
                "operator": operator,
                "variant": "attention",
                "kv_dtype": "float16",
                **dict(zip(names, map(int, point), strict=True)),
                "calls": model.layers,
                "median_ns": time_ms * 1e6,
            }
    yield from _read_kv_write(frame, path, model)


def _read_kv_write(frame: Any, path: Path, model: Model) -> Iterator[dict[str, object]]:
    if _time("attn_kv_cache_save") not in frame.columns:
        return
    tokens = frame[["prefill_chunk_size", "batch_size"]].max(axis=1)
    times = _medians(frame, path, tokens, "attn_kv_cache_save")
    for count, time_ms in times[times > 0].items():
        yield {
            "operator": "kv_write",
            "variant": "kv_write",
            "kv_dtype": "float16",
            "tokens": int(count),
            "calls": model.layers,
            "median_ns": time_ms * 1e6,
        }


def _read_allreduce(path: Path, model: Model, tp: int) -> Iterator[dict[str, object]]:
    """A call moves tokens x hidden_size numbers of two bytes; other sizes are no tokens'."""
    if tp == 1 or not path.is_file():
        return
    frame = read_csv(path, ("num_workers", "size", _time("all_reduce")))
    frame = _only(frame, path, num_workers=tp)
    times = frame.groupby("size")[_time("all_reduce")].median()
    for size, time_ms in times.items():
        if size % token_bytes(model) == 0:
            yield {
                "operator": "allreduce",
                "variant": "allreduce",
                "tokens": int(size) // token_bytes(model),
                "calls": all_reduces(model),
                "median_ns": time_ms * 1e6,
            }
